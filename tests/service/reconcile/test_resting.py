"""Which groups at rest need no turn, and that all others have theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from sqlalchemy import select

from service.domain.groups import Group
from service.domain.specs import DeployRequest
from service.drivers.base import MachineState
from service.lifecycle.facts import Fact
from service.lifecycle.transitions import advance_all
from service.reconcile import resting
from service.reconcile.resting import Resting
from service.store import groups, schema
from service.store.connection import Connection
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


async def due(known: Resting, group: Group) -> Mapping[str, int]:
    return await known.as_they_should_be(group.updated_at, ())


async def test_a_group_whose_hosts_list_it_as_it_should_be_has_no_turn_when_it_is_due() -> None:
    async with at_rest() as (_, known, group):
        assert await due(known, group) == {group.uuid: group.version}
        assert await known.as_they_should_be(DUE - 1, ()) == {}
        assert await known.as_they_should_be(group.updated_at, {group.uuid}) == {}, "something was noticed about it"
        known.put_off([group.uuid], {group.uuid: group.updated_at + 1})
        assert await due(known, group) == {}
        known.put_off([group.uuid], {})
        assert await known.as_they_should_be(group.updated_at + 1, ()) == {}, "it is not as it was known"


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
        assert await due(known, group) == {}


async def test_what_nobody_has_seen_of_late_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    async with at_rest() as (plane, known, group):
        monitor = plane.reconciler._context.monitors[group.instances[0].host_uuid]
        monitor._silent = True
        assert await due(known, group) == {}
        monitor._silent = False
        assert await due(known, group) != {}
        plane.custody.judged = False
        assert await due(known, group) == {}
        plane.custody.judged = True
        known.remember(replace(group, instances=tuple(replace(m, unknown_since=5) for m in group.instances)), DUE)
        assert await due(known, group) == {}, "that its host answers again has to be stored"
        known.remember(group, DUE)
        monkeypatch.setattr(resting, "LISTED_SECONDS", -1.0)
        assert await due(known, group) == {}


async def test_only_what_is_due_free_and_unchanged_is_put_off() -> None:
    async with at_rest() as (plane, _, group):
        uuid, version = group.uuid, group.version

        async def tried(seen: int, now: int, until: int = LATER) -> bool:
            done = await plane.store.write(lambda c: put_off(c, {uuid: seen}, lambda _: until, now, leases_as_of=now))
            assert done in ({}, {uuid: until})
            return uuid in done

        async def is_due(now: int) -> bool:
            return await plane.store.read(lambda c: is_any_due(c, now, leases_as_of=now))

        await plane.store.write(lambda c: groups.due(c, uuid, DUE))
        assert (await is_due(DUE - 1), await is_due(DUE)) == (False, True)
        assert not await tried(version, DUE - 1)
        assert not await tried(version - 1, DUE)
        assert await tried(version, DUE)
        assert not await tried(version, LATER - 1, LATER + 1), "it is due later now"
        assert (await is_due(LATER - 1), await is_due(LATER)) == (False, True)
        assert len(await plane.store.write(lambda c: groups.take_due(c, "other", LATER, 10, 1))) == 1
        assert not await is_due(LATER)
        assert not await tried(version, LATER), "somebody has it"


async def test_of_many_those_that_were_put_off_are_told_apart_from_those_that_were_not() -> None:
    async with control_plane() as plane:
        versions = {}
        for _ in range(4):
            told = await plane.deploy(DeployRequest(spec(1)))
            versions[told[0].group_uuid] = 0
        await plane.reconciler.stop(5.0)

        def put(connection: Connection) -> Mapping[str, int]:
            for uuid in versions:
                groups.due(connection, uuid, DUE)
                versions[uuid] = groups.load(connection, uuid).version
            taken = groups.take_due(connection, "other", DUE, 10_000, 1)[0].uuid
            changed = next(uuid for uuid in versions if uuid != taken)
            versions[changed] -= 1
            left = [uuid for uuid in versions if uuid not in (taken, changed)]
            until = {**dict.fromkeys(versions, LATER), left[0]: LATER + 1}
            done = put_off(connection, versions, until.__getitem__, DUE, leases_as_of=DUE)
            assert done == {left[0]: LATER + 1, left[1]: LATER}
            return put_off(connection, dict.fromkeys(left, 99), lambda _: LATER, LATER + 1, leases_as_of=DUE)

        assert await plane.store.write(put) == {}, "they are of another version"


async def test_few_groups_are_due_at_one_mark_and_many_are_spread_over_several() -> None:
    async with at_rest() as (_, known, group):
        now = 7_003
        assert {known.until(f"{n:032x}", now) for n in range(100)} == {10_000}
        known._known.update({f"{n:032x}": (group, DUE) for n in range(5 * resting.GROUPS_A_MARK)})
        marks = [known.until(f"{n:032x}", now) for n in range(100)]
        assert set(marks) == {8_000, 10_000, 12_000, 14_000, 16_000}
        assert [known.until(f"{n:032x}", mark + 300) for n, mark in enumerate(marks)] == [m + 10_000 for m in marks], (
            "each stays at its own"
        )


async def test_many_are_judged_in_several_turns_of_the_loop_and_put_off_by_several_commits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resting, "MEMBERS_A_TURN", 2)
    monkeypatch.setattr(resting, "PUT_OFF_AT_ONCE", 2)
    async with control_plane() as plane:
        uuids = [(await plane.deploy(DeployRequest(spec(2))))[0].group_uuid for _ in range(5)]
        await plane.reconciler.stop(5.0)
        await listed(plane)
        known = Resting(plane.reconciler._context)
        stored = await plane.store.read(lambda c: groups.load_many(c, uuids))
        await plane.store.write(lambda c: groups.hasten(c, uuids, DUE))
        for group in stored:
            known.remember(group, DUE)
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        await asyncio.sleep(0)
        began = turns
        assert len(await known.as_they_should_be(max(g.updated_at for g in stored), ())) == 5
        assert turns - began >= 4
        counting.cancel()
        left = await known.most_put_off((), lambda now, _: now)
        assert len(left) == 1
        due_at = schema.groups.c.due_at
        still = await plane.store.read(lambda c: c.scalars(select(schema.groups.c.uuid).where(due_at == DUE)).all())
        assert still == list(left)


async def test_what_was_judged_once_is_judged_anew_where_the_listing_or_the_group_differs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged = 0

    def counted(group: Group, facts: Sequence[Fact], now: int) -> Group:
        nonlocal judged
        judged += 1
        return advance_all(group, facts, now)

    monkeypatch.setattr(resting, "advance_all", counted)
    async with at_rest() as (plane, known, group):
        for _ in range(3):
            assert await due(known, group) != {}
        assert judged == 1
        known.remember(replace(group, reason="another"), DUE)
        assert await due(known, group) != {}
        assert judged == 2, "it is another group"
        member = group.instances[1]
        plane.drivers[member.host_uuid].host.machines[member.machine_uuid].resumed_at -= 60.0
        await listed(plane)
        await due(known, group)
        assert judged == 3, "a guest is in another boot"
