"""A server over the real use cases and an in-memory store; members come up by facts told by hand, without any host."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeVar

import grpc
from corral.v1 import deploy_pb2, deploy_pb2_grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection

from placement.model import Policy, Status
from service.app import changes, planning
from service.app.feed import Feed
from service.app.groups import Groups
from service.app.planner import InlinePlanner
from service.config_schema import ListenAddress
from service.drivers.base import Image
from service.facts import Fact, NotPlaced, Observation, Observed
from service.fleet import MEMORY, VCPU, Host, HostAddress, ModelService, Network, Overcommit, Zone
from service.model import Group, GroupPhase, InstanceStatus
from service.rpc.interceptors import Identify, Limits
from service.rpc.server import RpcServer, anonymous
from service.store import fleet, groups, migrations
from service.store.engine import Store

ZONE = "7a007a391d483c9f843bf1df4b7e5d8f"
ENTRY = "f1e135835fee363c9f57ed8232023886"
HOSTS = ("0" * 31 + "1", "0" * 31 + "2")
GIB = 1 << 30
M = TypeVar("M", bound=Message)
OVERCOMMIT = Overcommit({VCPU: Fraction(10)}, {MEMORY: GIB})


@dataclass
class Lab:
    """One running server, and the store behind it. Members come up while `going` is set, as it is at first."""

    store: Store
    feed: Feed
    groups: Groups
    server: RpcServer
    registry: CollectorRegistry
    channel: grpc.aio.Channel
    going: asyncio.Event = field(default_factory=asyncio.Event)
    due: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    @property
    def stub(self) -> Any:
        """The generated stub of DistributedModelService, on the asynchronous channel."""
        stub: Any = deploy_pb2_grpc.DistributedModelServiceStub
        return stub(self.channel)

    @property
    def target(self) -> str:
        """The server's address."""
        return str(self.server.address)

    async def rows(self) -> dict[str, int]:
        """How many rows each table has that a deploy writes to."""
        tables = ("groups", "instances", "claims", "events", "requests")

        def count(connection: Connection) -> dict[str, int]:
            return {t: connection.exec_driver_sql(f"SELECT count(*) FROM {t}").scalar_one() for t in tables}

        return await self.store.read(count)

    async def reconcile(self) -> None:
        """Bring every group that is due to its rest."""
        while True:
            uuid = await self.due.get()
            await self.going.wait()
            await self._bring_up(uuid)

    async def _bring_up(self, uuid: str) -> None:
        group = await self.store.read(lambda c: groups.load(c, uuid))
        if group.phase is GroupPhase.PLANNING:
            group = await self._plan(group)
        for observation in (Observation.DISPATCHED, Observation.PAUSED, Observation.EXECUTING, Observation.READY):
            if group.phase in (GroupPhase.CREATING, GroupPhase.BOOTING):
                group = await self._observe(group, observation)
        while group.phase in (GroupPhase.DELETING, GroupPhase.CLEANING, GroupPhase.STOPPING):
            group = await self._observe(group, Observation.GONE)

    async def _plan(self, group: Group) -> Group:
        hosts, snapshot = await self.store.read(planning.read_fleet)
        planned = await InlinePlanner().place(snapshot, planning.request(group), Policy(), budget_seconds=5)
        if planned.decision.status is not Status.PLACED:
            failure = planning.failure(planned.decision.explanation, group)
            return await self._apply(group, [NotPlaced(failure)])
        record = planning.record(group, planned.decision, hosts, planned.duration_ms, 1)
        return await self.store.write(lambda c: planning.claim(c, "lab", group, record, now()))

    async def _observe(self, group: Group, observation: Observation) -> Group:
        waiting = [m for m in group.instances if m.status is not InstanceStatus.REMOVED]
        return await self._apply(group, [Observed(m.uuid, m.attempt, observation) for m in waiting])

    async def _apply(self, group: Group, facts: list[Fact]) -> Group:
        return await self.store.write(lambda c: changes.apply(c, group.uuid, facts, now()))


def now() -> int:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def running(
    *,
    limits: Limits | None = None,
    identify: Identify = anonymous,
    admin: bool = False,
    address: ListenAddress | None = None,
) -> AsyncIterator[Lab]:
    """A lab with two hosts of 16 CPUs and 64 GiB in one zone, serving."""
    store = Store("sqlite://")
    migrations.upgrade(store.engine)
    await store.write(_fill)
    feed = Feed(store)
    await feed.start()
    use_cases = Groups(store, feed, InlinePlanner(), now, cluster="lab")
    registry = CollectorRegistry()
    local = ListenAddress("127.0.0.1", 0)
    server = RpcServer(
        use_cases,
        registry,
        address or local,
        local if admin else None,
        reachable=lambda zone: zone == ZONE,
        limits=limits,
        identify=identify,
    )
    await server.start()
    server.set_serving(True)
    async with grpc.aio.insecure_channel(str(server.address)) as channel:
        lab = Lab(store, feed, use_cases, server, registry, channel)
        lab.going.set()
        use_cases.poke = lab.due.put_nowait
        tasks = [asyncio.create_task(feed.run()), asyncio.create_task(lab.reconcile())]
        try:
            yield lab
        finally:
            server.drain()
            feed.close()
            await server.stop(1)
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            store.close()
    for result in results:
        if isinstance(result, Exception):
            raise result


def _fill(connection: Connection) -> None:
    network = Network(
        kind="bridge", source="br0", subnet="10.9.0.0/24", first_address="10.9.0.10", last_address="10.9.0.250"
    )
    fleet.put_zone(connection, Zone(ZONE, "zone-1", network=network))
    fleet.put_model_service(connection, ModelService(ENTRY, "default", Image("default"), model_uuid="a" * 32))
    for number, uuid in enumerate(HOSTS, 1):
        fleet.put_host(connection, Host(uuid, f"host-{number}", ZONE, HostAddress("simulated")))
        fleet.set_facts(
            connection,
            uuid,
            boot_id="boot",
            virt_type="simulated",
            total={VCPU: 16, MEMORY: 64 * GIB},
            foreign={},
            overcommit=OVERCOMMIT,
        )


def node(**fields: Any) -> dict[str, Any]:
    """The seed's node, with changes."""
    seed: dict[str, Any] = {
        "uuid": ENTRY,
        "zone_uuid": ZONE,
        "cpu_num": 8,
        "name": "model-service",
        "type": "VirtualMachine",
        "memory_size": 17179869184,
    }
    return {**seed, **fields}


def deploy(**fields: Any) -> deploy_pb2.DeployDistributedModelServiceRequest:
    """The seed's request, with changes."""
    seed: dict[str, Any] = {
        "model_services": [node()],
        "service_creation_strategy": "parallel",
        "name": "distributed-model-service",
    }
    return deploy_pb2.DeployDistributedModelServiceRequest(**{**seed, **fields})


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
    for _ in range(500):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"never: {what}")


async def until_ended(server: Lab, followers: int = 0) -> None:
    """Wait until at most so many streams are followed."""
    await until(lambda: server.feed.followers <= followers, "streams ended")
