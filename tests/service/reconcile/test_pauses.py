"""A guest that is paused again at each resume is not resumed for ever, and the member says why it does not run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from service.domain.events import Event
from service.domain.groups import GroupStatus
from service.domain.specs import DeployRequest
from service.drivers.base import MachineIdentity, MachineState, ObservedMachine
from service.drivers.simulated import SimulatedHost
from tests.support.builders import host, spec
from tests.support.control_plane import CALLER, control_plane

pytestmark = pytest.mark.asyncio

WHY = "no space is left for its disk"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - a list that grows tells nobody
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("at_once", [True, False])
async def test_it_is_let_run_ever_more_seldom_and_its_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    """`at_once`: it is paused again before the resume is answered, else a moment later."""
    async with control_plane(hosts=[host(1)], size={"cpu": "8"}) as plane:
        group = (await plane.deploy(DeployRequest(spec(1))))[-1].group
        assert group is not None
        (member,) = group.instances
        driver = plane.drivers[member.host_uuid]
        (machine,) = driver.host.machines.values()
        resumed: list[float] = []
        let_run, seen = SimulatedHost.resume, SimulatedHost.seen

        def resume(self: SimulatedHost, identity: MachineIdentity) -> ObservedMachine:
            resumed.append(asyncio.get_running_loop().time())
            answer = let_run(self, identity)
            machine.state = MachineState.PAUSED
            asyncio.get_running_loop().call_later(0.02, driver._hint, identity)
            return replace(answer, state=MachineState.PAUSED, why=WHY) if at_once else answer

        monkeypatch.setattr(SimulatedHost, "resume", resume)
        monkeypatch.setattr(SimulatedHost, "seen", lambda host, m: replace(seen(host, m), why=WHY))
        machine.state = MachineState.PAUSED
        driver._hint(machine.identity)
        await until(lambda: len(resumed) == 4)
        between = [later - before for before, later in pairwise(resumed)]
        assert between[1] >= 0.9, between
        assert between[2] >= 1.9, between
        now = await plane.groups.get(CALLER, group.uuid)
        assert now.status is GroupStatus.DEGRADED
        assert WHY in now.instances[0].reason
        assert "times" in now.instances[0].reason
        monkeypatch.undo()
        async for again in plane.groups.watch(CALLER, None, group.uuid):
            if isinstance(again, Event) and again.group is not None and again.group.status is GroupStatus.RUNNING:
                break
        well = await plane.groups.get(CALLER, group.uuid)
        assert (well.status, well.instances[0].reason) == (GroupStatus.RUNNING, "")
