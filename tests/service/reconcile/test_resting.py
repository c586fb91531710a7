"""Which groups at rest need no turn, and that all others have theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from service.domain.groups import Group
from service.domain.specs import DeployRequest
from service.drivers.base import MachineState
from service.reconcile import resting
from service.reconcile.resting import Resting
from service.store import groups
from service.store.resting import is_any_due, put_off
from tests.support.builders import spec
from tests.support.control_plane import ControlPlane, control_plane

pytestmark = pytest.mark.asyncio

DUE, LATER = 1_000, 2_000


@asynccontextmanager
async def at_rest() -> AsyncIterator[tuple[ControlPlane, Resting, Group]]:
    """A running group of two, known as it is stored, whose hosts have just been listed."""
    async with control_plane() as plane:
        told = await plane.deploy(DeployRequest(spec(2)))
        await plane.reconciler.stop(5.0)
        group = await plane.store.read(lambda c: groups.load(c, told[0].group_uuid))
        known = Resting(plane.reconciler._context)
        known.remember(group, DUE)
        await listed(plane)
        yield plane, known, group


async def listed(plane: ControlPlane) -> None:
    await asyncio.gather(*(monitor.look() for monitor in plane.reconciler.monitors.values()))


def due(known: Resting, group: Group) -> Mapping[str, int]:
    return known.as_they_should_be(group.updated_at, ())


async def test_a_group_whose_hosts_list_it_as_it_should_be_has_no_turn_when_it_is_due() -> None:
    async with at_rest() as (_, known, group):
        assert due(known, group) == {group.uuid: group.version}
        assert known.as_they_should_be(DUE - 1, ()) == {}
        assert known.as_they_should_be(group.updated_at, {group.uuid}) == {}, "something was noticed about it"
        known.put_off([group.uuid], [group.uuid], group.updated_at + 1)
        assert due(known, group) == {}
        known.put_off([group.uuid], [], 0)
        assert known.as_they_should_be(group.updated_at + 1, ()) == {}, "it is not as it was known"


@pytest.mark.parametrize("state", [None, MachineState.STOPPED, MachineState.PAUSED, MachineState.CRASHED])
async def test_a_machine_that_is_not_as_it_should_be_gives_its_group_a_turn(state: MachineState | None) -> None:
    async with at_rest() as (plane, known, group):
        member = group.instances[1]
        machines = plane.drivers[member.host_uuid].host.machines
        if state is None:
            del machines[member.machine_uuid]
        else:
            machines[member.machine_uuid].state = state
        await listed(plane)
        assert due(known, group) == {}


async def test_what_nobody_has_seen_of_late_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    async with at_rest() as (plane, known, group):
        monitor = plane.reconciler._context.monitors[group.instances[0].host_uuid]
        monitor._silent = True
        assert due(known, group) == {}
        monitor._silent = False
        assert due(known, group) != {}
        plane.custody.judged = False
        assert due(known, group) == {}
        plane.custody.judged = True
        known.remember(replace(group, instances=tuple(replace(m, unknown_since=5) for m in group.instances)), DUE)
        assert due(known, group) == {}, "that its host answers again has to be stored"
        known.remember(group, DUE)
        monkeypatch.setattr(resting, "LISTED_SECONDS", -1.0)
        assert due(known, group) == {}


async def test_only_what_is_due_free_and_unchanged_is_put_off() -> None:
    async with at_rest() as (plane, _, group):
        uuid, version = group.uuid, group.version

        async def tried(seen: int, now: int) -> bool:
            done = await plane.store.write(lambda c: put_off(c, {uuid: seen}, now, LATER, leases_as_of=now))
            return uuid in done

        async def is_due(now: int) -> bool:
            return await plane.store.read(lambda c: is_any_due(c, now, leases_as_of=now))

        await plane.store.write(lambda c: groups.due(c, uuid, DUE))
        assert (await is_due(DUE - 1), await is_due(DUE)) == (False, True)
        assert not await tried(version, DUE - 1)
        assert not await tried(version - 1, DUE)
        assert await tried(version, DUE)
        assert not await tried(version, LATER - 1), "it is due later now"
        assert (await is_due(LATER - 1), await is_due(LATER)) == (False, True)
        assert len(await plane.store.write(lambda c: groups.take_due(c, "other", LATER, 10, 1))) == 1
        assert not await is_due(LATER)
        assert not await tried(version, LATER), "somebody has it"
