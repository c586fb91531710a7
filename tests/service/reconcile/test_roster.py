"""The process follows the fleet's rows: hosts that cannot be driven, and hosts that are reached in another way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from service.config.file import parse
from service.domain.fleet import Host, HostAddress, HostStatus
from service.drivers import kinds
from service.drivers.base import HostRejected
from service.planning.planner import InlinePlanner
from service.process import Process
from service.store import fleet
from service.wiring import Service, StartError
from tests.service.rpc.test_evacuation import cut_off, is_silent
from tests.support.whole import ZONE, config_text, whole

pytestmark = pytest.mark.asyncio

UUID = "c" * 32


async def soon(true: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is so; fails where it never comes."""
    async with asyncio.timeout(60):
        while not await true():  # noqa: ASYNC110  # the store has no event to wait for
            await asyncio.sleep(0.02)


async def put(service: Service, host: Host) -> None:
    """Another replica's change."""
    await service.store.write(lambda c: fleet.put_host(c, host))


async def seen(service: Service) -> Host:
    return await service.store.read(lambda c: fleet.host(c, UUID))


async def test_a_host_without_a_driver_says_so_delays_nobody_and_answers_once_it_is_put_right(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        host = Host(UUID, "odd", ZONE, HostAddress("simulated", "test", options={"cpus": "4"}))
        await put(lab.service, host)

        async def refused() -> bool:
            now = await seen(lab.service)
            return now.status is HostStatus.DISCONNECTED and "cpus" in now.status_reason

        await soon(refused)
        assert lab.service.roster.unusable == {UUID: "option 'cpus' is not one of simulated hosts"}
        assert (await lab.up()).status == "Running"
        address = replace(host.address, options={"cpu": "4"})
        await put(lab.service, replace(host, address=address))

        async def answers() -> bool:
            now = await seen(lab.service)
            return now.status is HostStatus.CONNECTED and now.total.get("vcpu") == 4

        await soon(answers)
        assert lab.service.roster.unusable == {}


async def test_a_host_of_the_file_that_cannot_be_driven_here_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(host: Host, cluster_id: str) -> NoReturn:
        raise HostRejected("unsupported", "its library is not installed here")

    monkeypatch.setattr(kinds, "KINDS", {"simulated": replace(kinds.KINDS["simulated"], make=make)})
    service = Service(parse(config_text(hosts=1), tmp_path), planner=InlinePlanner())
    try:
        with pytest.raises(StartError, match="host host-1: its library is not installed here"):
            await Process(service).start()
    finally:
        await service.reconciler.stop(1)
        service.store.close()


async def test_to_sync_again_changes_nothing(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        before = dict(lab.service.reconciler.monitors)
        await asyncio.gather(*(lab.service.roster.sync() for _ in range(3)))
        assert dict(lab.service.reconciler.monitors) == before


@pytest.mark.parametrize("answers", [True, False])
async def test_a_removed_host_bears_the_mark_no_more_or_the_log_says_that_it_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, answers: bool
) -> None:
    async with whole(tmp_path) as lab:
        uuid = lab.uuid_of("host-1")
        driver = lab.driver("host-1")

        async def marked() -> bool:
            return driver.host.mark is not None

        await soon(marked)
        if not answers:
            cut_off(driver)
            await soon(lambda: is_silent(lab, "host-1"))
        gone = await lab.service.store.read(lambda c: fleet.host(c, uuid))
        await lab.service.store.write(lambda c: fleet.delete_host(c, gone, 0))
        await lab.service.roster.sync()
        assert uuid not in lab.service.reconciler.monitors
        assert (driver.host.mark is None) is answers
        assert ("still bears this installation's mark" in caplog.text) is not answers
