"""Drains, restarts and deletions through a real Envoy whose idle timeout is shorter than they take.

Each in all of its three ways: gRPC, gRPC-Web and transcoded JSON.
"""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from corral.v1 import deploy_pb2, fleet_pb2, group_pb2
from google.protobuf import json_format
from google.protobuf.message import Message

from service.app import feed
from service.contract import heartbeat
from tests.contract.test_envoy import ENVOY, FLEET, IDLE_SECONDS, SERVICE, envoy, frames
from tests.support.whole import ENTRY, GIB, ZONE, Whole, config_text, whole

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Each call of a hypervisor is slow, so that restarts and deletions are; and so is a live move.
SLOW_MS = 1500
WAYS = ("grpc", "web", "json")
# Of each way two clusters: of a host whose calls are slow, and of two between which members move slowly.
CLUSTERS = {(way, kind): f"{number}" * 32 for number, (way, kind) in enumerate((w, k) for w in WAYS for k in "cm")}


def _hosts() -> str:
    text = ""
    for (way, kind), cluster in CLUSTERS.items():
        text += f'[[clusters]]\nuuid = "{cluster}"\nname = "{way}-{kind}"\nzone = "zone-1"\n'
        options = f"call_ms = {SLOW_MS}" if kind == "c" else f"call_ms = 0, migrate_ms = {3 * SLOW_MS}"
        for number in range(1 if kind == "c" else 2):
            text += (
                f'[[hosts]]\nname = "{way}-{kind}-{number}"\nzone = "zone-1"\ncluster_uuid = "{cluster}"\n'
                'driver = "simulated"\ntransport = "test"\n'
                f'options = {{ cpu = 64, memory = "64GiB", boot_ms = 1, live_migration = "yes", {options} }}\n'
            )
    return text


@dataclass(frozen=True)
class Call:
    """A call of a stream: by gRPC's name, and as it is transcoded."""

    service: str
    method: str
    request: Message
    answer: type[Message]
    verb: str
    path: str
    body: Mapping[str, Any] | None = None


async def by_grpc(port: int, call: Call) -> list[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_stream(
            f"/{call.service}/{call.method}", type(call.request).SerializeToString, call.answer.FromString
        )
        return [answer async for answer in ask(call.request)]


async def by_web(port: int, call: Call) -> list[Any]:
    message = call.request.SerializeToString()
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        told = await client.post(
            f"http://127.0.0.1:{port}/{call.service}/{call.method}",
            content=struct.pack(">BI", 0, len(message)) + message,
            headers={"content-type": "application/grpc-web+proto", "x-grpc-web": "1"},
        )
    *events, (flags, trailers) = frames(told.content)
    assert flags & 0x80
    assert b"grpc-status:0" in trailers.replace(b" ", b""), trailers
    return [call.answer.FromString(event) for _, event in events]


async def by_json(port: int, call: Call) -> list[Any]:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        told = await client.request(call.verb, f"http://127.0.0.1:{port}/corral/v1{call.path}", json=call.body)
    assert told.status_code == 200, told.text
    return [json_format.ParseDict(event, call.answer()) for event in json.loads(told.text)]


BY: Mapping[str, Callable[[int, Call], Any]] = {"grpc": by_grpc, "web": by_web, "json": by_json}


def deploy(cluster: str) -> Call:
    node = group_pb2.NodeSpec(uuid=ENTRY, zone_uuid=ZONE, cluster_uuid=cluster, cpu_num=1, memory_size=GIB)
    request = deploy_pb2.DeployDistributedModelServiceRequest(
        name="through-envoy", service_creation_strategy="parallel", model_services=[node]
    )
    return Call(SERVICE, "DeployDistributedModelService", request, deploy_pb2.DeployDistributedModelServiceResponse,
                "POST", "/instance-groups")  # fmt: skip


def restart(uuid: str) -> Call:
    return Call(SERVICE, "RestartInstanceGroup", deploy_pb2.RestartInstanceGroupRequest(uuid=uuid),
                deploy_pb2.RestartInstanceGroupResponse, "POST", f"/instance-groups/{uuid}:restart", {})  # fmt: skip


def delete(uuid: str) -> Call:
    return Call(SERVICE, "DeleteInstanceGroup", deploy_pb2.DeleteInstanceGroupRequest(uuid=uuid),
                deploy_pb2.DeleteInstanceGroupResponse, "DELETE", f"/instance-groups/{uuid}")  # fmt: skip


def drain(uuid: str) -> Call:
    return Call(FLEET, "DrainHost", fleet_pb2.DrainHostRequest(uuid=uuid), fleet_pb2.DrainHostResponse,
                "POST", f"/hosts/{uuid}:drain", {})  # fmt: skip


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def behind(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[int, Whole]]:
    """Envoy's port, and the service behind it."""
    if not ENVOY.exists():
        pytest.fail("Envoy is not installed: make dev")
    directory = tmp_path_factory.mktemp("streams")
    async with whole(directory, config_text(0, extra=_hosts())) as lab, envoy(
        directory, lab.service.rpc.address.port
    ) as port:  # fmt: skip
        # The first plan loads the planner into this process, which hears nobody meanwhile: on a busy machine for longer
        # than Envoy waits.
        plan = deploy_pb2.PlanDistributedModelServiceRequest.FromString(deploy("").request.SerializeToString())
        await lab.deploy.PlanDistributedModelService(plan)
        yield port, lab


@pytest.fixture(autouse=True)
def _heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "BOOKMARK_SECONDS", 0.2)
    monkeypatch.setattr(heartbeat, "SECONDS", 0.2)


async def deployed(port: int, cluster: str) -> group_pb2.InstanceGroup:
    answers = await by_grpc(port, deploy(cluster))
    final: group_pb2.InstanceGroup = answers[-1].event.final
    assert final.status == "Running"
    return final


async def test_restarts_deletions_and_drains_outlast_the_idle_timeout(
    behind: tuple[int, Whole], passed: Callable[[str], None]
) -> None:
    port, _ = behind
    seconds: dict[str, float] = {}

    async def followed(way: str, call: Call) -> list[Any]:
        begin = time.monotonic()
        answers: list[Any] = await BY[way](port, call)
        seconds[f"{way} {call.method}"] = time.monotonic() - begin
        return answers

    async def lived(way: str) -> None:
        group = await deployed(port, CLUSTERS[way, "c"])
        told = (await followed(way, restart(group.uuid)))[-1]
        assert told.event.final.status == "Running", way
        told = (await followed(way, delete(group.uuid)))[-1]
        assert told.event.final.status == "Deleted", way

    async def moved(way: str) -> None:
        group = await deployed(port, CLUSTERS[way, "m"])
        told = (await followed(way, drain(group.instances[0].host_uuid)))[-1]
        assert told.final.uuid == group.instances[0].host_uuid, way

    async with asyncio.timeout(120):
        await asyncio.gather(*(what(way) for way in WAYS for what in (lived, moved)))
    assert len(seconds) == 9
    assert min(seconds.values()) > IDLE_SECONDS, seconds
    least = min(seconds.values())
    passed(f"Envoy: restart, delete, drain by gRPC, gRPC-Web and JSON: {least:.0f} s or more through {IDLE_SECONDS} s")


async def test_without_signs_of_life_the_proxy_ends_a_drain(
    behind: tuple[int, Whole], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, _ = behind
    groups = [await deployed(port, CLUSTERS[way, "m"]) for way in WAYS]
    monkeypatch.setattr(heartbeat, "SECONDS", 60.0)
    drains = [BY[way](port, drain(group.instances[0].host_uuid)) for way, group in zip(WAYS, groups, strict=True)]
    ends = await asyncio.gather(*drains, return_exceptions=True)
    # By gRPC a status; by the others half an answer.
    assert [type(end) for end in ends if not isinstance(end, Exception)] == [], ends
