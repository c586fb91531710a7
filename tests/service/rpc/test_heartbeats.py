"""Every stream says something while nothing happens, so that no proxy's idle timeout ends a boot or a drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
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
options = {{ cpu = 64, memory = "64GiB", boot_ms = 0, call_ms = 0, live_migration = "no" }}
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


def boots_take(lab: Whole, boot_ms: int) -> None:
    """From now on they take so long, those that are under way as well."""
    for name in ("slow-1", "slow-2"):
        driver = lab.driver(name)
        driver.host.options = replace(driver.host.options, boot_ms=boot_ms)
        for machine in driver.host.machines.values():
            driver._hint(machine.identity)


HOUR_MS = 3_600_000
"""Longer than a test: a boot ends when something was heard during it, however late that comes."""


async def changes(stream: Any, heard: Callable[[], None] = lambda: None) -> list[str]:
    """What the stream tells of. `heard`: called at each bookmark after its member has begun to boot."""
    told: list[str] = []
    boots = False
    async for answer in stream:
        told.append(answer.event.WhichOneof("change"))
        boots = boots or (told[-1] == "instance" and answer.event.instance.status == "Booting")
        if boots and told[-1] == "bookmark":
            heard()
    return told


async def test_a_boot_is_no_silence_even_where_others_are_busy(lab: Whole) -> None:
    boots_take(lab, HOUR_MS)
    silent = {"a", "b"}

    def heard(name: str) -> None:
        silent.discard(name)
        if not silent:
            boots_take(lab, 0)

    following = (changes(deploy(lab, name), partial(heard, name)) for name in sorted(silent))
    for told in await asyncio.gather(*following):
        assert told[0] == "accepted"
        assert told[-1] == "final"
        assert "bookmark" in told[1:-1]


@pytest.mark.parametrize("call", ["RestartInstanceGroup", "DeleteInstanceGroup"])
async def test_other_operations_neither(lab: Whole, call: str) -> None:
    group = [answer.event async for answer in deploy(lab, "c")][-1].final
    boots_take(lab, HOUR_MS)
    begin: Callable[[Any], Any] = getattr(lab.deploy, call)
    stream = begin(getattr(deploy_pb2, f"{call}Request")(uuid=group.uuid))
    told = await changes(stream, lambda: boots_take(lab, 0))
    boots_take(lab, 0)
    assert told[-1] == "final"
    if call == "RestartInstanceGroup":
        assert "bookmark" in told


async def test_a_drain_neither(lab: Whole) -> None:
    group = [answer.event async for answer in deploy(lab, "d")][-1].final
    boots_take(lab, HOUR_MS)
    told = []
    async for answer in lab.fleet.DrainHost(fleet_pb2.DrainHostRequest(uuid=group.instances[0].host_uuid)):
        told.append(answer.WhichOneof("change"))
        if told[-1] is None:
            boots_take(lab, 0)
    assert None in told
    assert told[-1] == "final"


async def test_server_sent_events_have_comments_and_are_not_held_back(lab: Whole) -> None:
    feed.BOOKMARK_SECONDS = 60.0  # so that the comments are the only signs of life
    url = f"http://{lab.http_address}/corral/v1/instance-groups"
    boots_take(lab, HOUR_MS)
    text = ""
    async with (
        httpx.AsyncClient(trust_env=False, timeout=60) as client,
        client.stream("POST", url, json=JSON_BODY) as answer,
    ):
        assert answer.headers["x-accel-buffering"] == "no"
        async for piece in answer.aiter_text():
            text += piece
            if ": nothing happened\n\n" in text:
                boots_take(lab, 0)
    blocks = text.strip().split("\n\n")
    assert ": nothing happened" in blocks
    assert blocks[0].startswith("id: ")
    assert blocks[-1] == "event: end\ndata: {}"
