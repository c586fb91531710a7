"""Which hosts answered before a start is known in spite of the start's own word for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.domain.fleet import HostStatus
from service.drivers.base import HostFacts, HostUnreachable
from service.drivers.simulated import SimulatedDriver
from service.store import fleet
from tests.service.rpc.test_evacuation import soon
from tests.support.whole import Whole, config_text, whole

pytestmark = pytest.mark.asyncio


async def statuses(lab: Whole) -> dict[str, HostStatus]:
    found = await lab.service.store.read(fleet.hosts)
    return {host.name: host.status for host in found.values()}


async def test_a_host_that_answered_before_a_start_and_does_not_now_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = config_text(hosts=3, url=f"sqlite:///{tmp_path}/corral.db")
    probe, silent = SimulatedDriver.probe, {"host-3"}

    async def cut(self: SimulatedDriver, *, budget_seconds: float) -> HostFacts:
        if self.host.name in silent:
            raise HostUnreachable("the host does not answer")
        return await probe(self, budget_seconds=budget_seconds)

    monkeypatch.setattr(SimulatedDriver, "probe", cut)
    async with whole(tmp_path, text) as lab:

        async def both_known() -> bool:
            expected = dict.fromkeys(["host-1", "host-2"], HostStatus.CONNECTED) | {"host-3": HostStatus.DISCONNECTED}
            return await statuses(lab) == expected

        await soon(both_known)
        assert not lab.service.custody.missing
    silent.add("host-2")
    async with whole(tmp_path, text) as lab:
        assert lab.service.custody.missing == {lab.uuid_of("host-2")}, "and not one that was silent before"
        silent.clear()

        async def answers_again() -> bool:
            return not lab.service.custody.missing

        await soon(answers_again)
