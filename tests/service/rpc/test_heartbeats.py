"""Every stream says something while nothing happens, so that no proxy's idle timeout ends a boot or a drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio
from corral.v1 import deploy_pb2, fleet_pb2, group_pb2

from service.app import feed
from service.contract import heartbeat
from tests.support.whole import ENTRY, GIB, ZONE, Whole, config_text, whole

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOW = """
[[hosts]]
name = "slow-{number}"
zone = "zone-1"
driver = "simulated"
transport = "test"
options = {{ cpu = 64, memory = "64GiB", boot_ms = 700, call_ms = 0, live_migration = "no" }}
"""
NODE: dict[str, Any] = {"uuid": ENTRY, "zone_uuid": ZONE, "cpu_num": 1, "memory_size": GIB}
JSON_BODY = {
    "name": "json",
    "serviceCreationStrategy": "parallel",
    "modelServices": [{"uuid": ENTRY, "cpuNum": 1, "memorySize": GIB}],
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    hosts = "".join(SLOW.format(number=number) for number in (1, 2))
    async with whole(tmp_path_factory.mktemp("lab"), config_text(0, extra=hosts)) as made:
        yield made


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "BOOKMARK_SECONDS", 0.05)
    monkeypatch.setattr(heartbeat, "SECONDS", 0.05)


def deploy(lab: Whole, name: str) -> Any:
    return lab.deploy.DeployDistributedModelService(
        deploy_pb2.DeployDistributedModelServiceRequest(
            name=name, service_creation_strategy="parallel", model_services=[group_pb2.NodeSpec(**NODE)]
        )
    )


async def changes(stream: Any) -> list[str]:
    return [answer.event.WhichOneof("change") async for answer in stream]


async def test_a_boot_is_no_silence_even_where_others_are_busy(lab: Whole) -> None:
    first, second = await asyncio.gather(changes(deploy(lab, "a")), changes(deploy(lab, "b")))
    for told in (first, second):
        assert told[0] == "accepted"
        assert told[-1] == "final"
        assert "bookmark" in told[1:-1]


@pytest.mark.parametrize("call", ["RestartInstanceGroup", "DeleteInstanceGroup"])
async def test_other_operations_neither(lab: Whole, call: str) -> None:
    group = [answer.event async for answer in deploy(lab, "c")][-1].final
    begin: Callable[[Any], Any] = getattr(lab.deploy, call)
    told = await changes(begin(getattr(deploy_pb2, f"{call}Request")(uuid=group.uuid)))
    assert told[-1] == "final"
    if call == "RestartInstanceGroup":
        assert "bookmark" in told


async def test_a_drain_neither(lab: Whole) -> None:
    group = [answer.event async for answer in deploy(lab, "d")][-1].final
    drain = lab.fleet.DrainHost(fleet_pb2.DrainHostRequest(uuid=group.instances[0].host_uuid))
    told = [answer.WhichOneof("change") async for answer in drain]
    assert None in told
    assert told[-1] == "final"


async def test_server_sent_events_have_comments_and_are_not_held_back(lab: Whole) -> None:
    feed.BOOKMARK_SECONDS = 60.0  # so that the comments are the only signs of life
    url = f"http://{lab.http_address}/corral/v1/instance-groups"
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        answer = await client.post(url, json=JSON_BODY)
    assert answer.headers["x-accel-buffering"] == "no"
    blocks = answer.text.strip().split("\n\n")
    assert ": nothing happened" in blocks
    assert blocks[0].startswith("id: ")
    assert blocks[-1] == "event: end\ndata: {}"
