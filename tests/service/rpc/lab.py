"""A server over a whole control plane on simulated hosts, in this process and on an in-memory database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeVar

import grpc
import pytest
from corral.v1 import deploy_pb2, deploy_pb2_grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection

from service.app.feed import Feed
from service.app.groups import Groups
from service.app.logs import Logs
from service.contract.frame import CallFrame, CallLimits
from service.domain.fleet import MEMORY, VCPU, Overcommit
from service.drivers.simulated import SimulatedDriver
from service.listening import ListenAddress
from service.rpc.interceptors import Identify
from service.rpc.server import RpcServer, anonymous
from service.telemetry.call_metrics import CallMetrics
from service.telemetry.metrics import Metrics
from tests.support.builders import ENTRY, ZONE, entry, host
from tests.support.control_plane import ControlPlane, control_plane

__all__ = ["ENTRY", "ZONE"]

GIB = 1 << 30
HOSTS = (host(1).uuid, host(2).uuid)
# What the fleet has by default: ten virtual CPUs for each CPU of a host, memory as it is, 1 GiB kept for the host.
OVERCOMMIT = Overcommit({VCPU: Fraction(10)}, {MEMORY: GIB})
SIZE = {"cpu": "16", "memory": str(64 * GIB), "boot_ms": "1"}
M = TypeVar("M", bound=Message)


@dataclass
class Lab:
    """One running server and its control plane. Hosts answer while `going` is set, as it is at first."""

    plane: ControlPlane
    server: RpcServer
    registry: CollectorRegistry
    channel: grpc.aio.Channel
    going: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def stub(self) -> Any:
        """The generated stub of DistributedModelService, on the asynchronous channel."""
        stub: Any = deploy_pb2_grpc.DistributedModelServiceStub
        return stub(self.channel)

    @property
    def groups(self) -> Groups:
        """The use cases."""
        return self.plane.groups

    @property
    def feed(self) -> Feed:
        """The event feed."""
        return self.plane.feed

    async def left_behind(self) -> dict[str, int]:
        """What a deploy leaves: rows by table, and machines on the hosts."""
        tables = ("groups", "instances", "claims", "events", "requests")

        def count(connection: Connection) -> dict[str, int]:
            return {t: connection.exec_driver_sql(f"SELECT count(*) FROM {t}").scalar_one() for t in tables}

        return {**await self.plane.store.read(count), "machines": len(self.plane.machines())}

    def hold_hosts(self) -> None:
        """Let no host answer until `going` is set again."""
        self.going.clear()

    def _gate(self) -> None:
        for driver in self.plane.drivers.values():
            answer = driver._call

            async def gated(budget_seconds: float, answer: Any = answer) -> None:
                await self.going.wait()
                await answer(budget_seconds)

            driver._call = gated  # type: ignore[method-assign]


@asynccontextmanager
async def running(
    *,
    limits: CallLimits | None = None,
    identify: Identify = anonymous,
    admin: bool = False,
    address: ListenAddress | None = None,
    credentials: grpc.ServerCredentials | None = None,
) -> AsyncIterator[Lab]:
    """A server on two hosts of 16 CPUs and 64 GiB in one zone."""
    catalogue = (entry(model_uuid="a" * 32),)
    async with control_plane(size=SIZE, catalogue=catalogue, overcommit=OVERCOMMIT) as plane:
        local = ListenAddress("127.0.0.1", 0)
        metrics = Metrics()
        server = RpcServer(
            plane.groups,
            CallFrame(CallMetrics(metrics), limits),
            address or local,
            local if admin else None,
            reachable=lambda zone: zone == ZONE,
            logs=Logs(plane.groups, plane.feed, plane.logs),
            identify=identify,
            credentials=credentials,
        )
        await server.start()
        server.set_serving(True)
        try:
            async with grpc.aio.insecure_channel(str(server.address)) as channel:
                lab = Lab(plane, server, metrics.registry, channel)
                lab.going.set()
                lab._gate()
                yield lab
                lab.going.set()
        finally:
            server.drain()
            plane.feed.close()
            await server.stop(1)


def node(**fields: Any) -> dict[str, Any]:
    """The node that ZStack's documentation shows, with changes."""
    documented: dict[str, Any] = {
        "uuid": ENTRY,
        "zone_uuid": ZONE,
        "cpu_num": 8,
        "name": "model-service",
        "type": "VirtualMachine",
        "memory_size": 17179869184,
    }
    return {**documented, **fields}


def deploy(**fields: Any) -> deploy_pb2.DeployDistributedModelServiceRequest:
    """The request that ZStack's documentation shows, with changes."""
    documented: dict[str, Any] = {
        "model_services": [node()],
        "service_creation_strategy": "parallel",
        "name": "distributed-model-service",
    }
    return deploy_pb2.DeployDistributedModelServiceRequest(**{**documented, **fields})


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """The rich status of a failed call."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            assert isinstance(value, bytes)
            return status_pb2.Status.FromString(value)
    raise AssertionError(f"no details: {error}")


def detail(status: status_pb2.Status, kind: type[M]) -> M:
    """The one detail of a kind."""
    (packed,) = [d for d in status.details if d.Is(kind.DESCRIPTOR)]
    message = kind()
    packed.Unpack(message)
    return message


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason in the error's ErrorInfo."""
    return str(detail(status_of(error), error_details_pb2.ErrorInfo).reason)


def request_type(method: str) -> Any:
    """The request's class of a method of DistributedModelService."""
    service = deploy_pb2.DESCRIPTOR.services_by_name["DistributedModelService"]
    return getattr(deploy_pb2, service.methods_by_name[method].input_type.name)


async def call(stub: Any, method: str, request: Message) -> list[Any]:
    """All answers of a method, streaming or not."""
    service = deploy_pb2.DESCRIPTOR.services_by_name["DistributedModelService"]
    running_call = getattr(stub, method)(request)
    if service.methods_by_name[method].server_streaming:
        return [answer async for answer in running_call]
    return [await running_call]


async def rest_of(stream: Any) -> list[Any]:
    """What is left of a stream that was begun with `read`, one kind of access for the whole stream."""
    answers = []
    while (answer := await stream.read()) is not grpc.aio.EOF:
        answers.append(answer)
    return answers


async def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until something holds: the server counts a call and learns of a client that left a moment later."""
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.01)


async def until_ended(server: Lab, followers: int = 0) -> None:
    """Wait until at most so many streams are followed."""
    await until(lambda: server.feed.followers <= followers, "streams ended")


async def refused(call: Awaitable[Any], code: grpc.StatusCode, reason: str) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert (error.value.code(), reason_of(error.value)) == (code, reason), error.value.details()
    return error.value


async def soon(true: Callable[[], Awaitable[bool]], seconds: float = 120) -> None:
    """Wait until something is so; fails where it never comes."""
    async with asyncio.timeout(seconds):
        while not await true():  # noqa: ASYNC110  # the store has no event to wait for
            await asyncio.sleep(0.02)


async def events_of(stub: Any, request: Any) -> list[Any]:
    """All events of a deploy."""
    return [answer.event async for answer in stub.DeployDistributedModelService(request)]


async def failure(stub: Any, method: str, request: Any) -> grpc.aio.AioRpcError:
    """The error that a call ends on."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(stub, method, request)
    return caught.value


def hold(driver: SimulatedDriver) -> asyncio.Event:
    """The host is not done with any call before the event: it is busy, and not silent."""
    done = asyncio.Event()

    async def call(budget_seconds: float) -> None:
        await done.wait()

    driver._call = call  # type: ignore[method-assign]
    return done
