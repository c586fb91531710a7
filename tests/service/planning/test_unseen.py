"""Hosts of which nobody knows yet whether they answer: what does not fit without them is not told as "no"."""

from __future__ import annotations

import asyncio

import pytest

from service.domain.fleet import HostState, HostStatus
from service.domain.groups import GroupPhase
from service.domain.specs import DeployRequest
from service.drivers.base import HostFacts
from service.drivers.simulated import SimulatedDriver
from service.errors import NoCapacity, Undecided
from service.planning.unseen import told, waits_for
from service.store import fleet
from tests.service.rpc.test_evacuation import soon
from tests.support.builders import host, spec
from tests.support.control_plane import CALLER, control_plane

pytestmark = pytest.mark.asyncio


async def test_a_gang_that_needs_a_host_that_was_not_asked_yet_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    may_answer, probe = asyncio.Event(), SimulatedDriver.probe

    async def slow(self: SimulatedDriver, *, budget_seconds: float) -> HostFacts:
        if self.host_id == host(2).uuid:
            await may_answer.wait()
        return await probe(self, budget_seconds=budget_seconds)

    monkeypatch.setattr(SimulatedDriver, "probe", slow)
    async with control_plane(size={"cpu": "2"}) as plane:
        two = DeployRequest(spec(2))

        async def one_answers() -> bool:
            return await plane.store.read(lambda c: fleet.status_of(c, host(1).uuid)) is HostStatus.CONNECTED

        await soon(one_answers)
        with pytest.raises(Undecided) as undecided:
            await plane.groups.plan(CALLER, two)
        assert "host-2 are not known" in str(undecided.value)
        deploying = asyncio.create_task(plane.deploy(two))
        may_answer.set()
        final = (await deploying)[-1].group
        assert final is not None
        assert final.phase is GroupPhase.RUNNING
        with pytest.raises(NoCapacity):
            await plane.groups.plan(CALLER, two)


async def test_only_hosts_that_may_take_members_are_waited_for() -> None:
    unseen = [host(n, status=HostStatus.CONNECTING) for n in range(5, 0, -1)]
    others = [host(6, status=HostStatus.DISCONNECTED), host(7, state=HostState.DISABLED)]
    found = waits_for({h.uuid: h for h in [*unseen, *others]})
    assert [h.name for h in found] == [f"host-{n}" for n in range(1, 6)]
    assert "host-1, host-2, host-3 and 2 more are not known" in told(found)
