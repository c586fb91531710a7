"""What a group's worker does when the answer to its give-back is lost, and when the clock leaps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update

from service.domain.groups import GroupPhase, Instance, InstanceStatus
from service.domain.specs import DeployRequest
from service.drivers.base import MachineState
from service.errors import Unavailable
from service.lifecycle.facts import DeleteRequested, Observation, Observed, StartRequested, StopRequested
from service.reconcile.database_time import DatabaseTime
from service.reconcile.worker import LEASE_MS, RENEW_MS, GroupWorker
from service.store import clock, groups, schema
from service.store.connection import Connection
from service.transactions.changes import apply
from tests.support.builders import spec
from tests.support.control_plane import CALLER, ControlPlane, control_plane

pytestmark = pytest.mark.asyncio

HOUR_MS = 3_600_000


async def resting(plane: ControlPlane) -> str:
    """A running group that nobody works on."""
    told = await plane.deploy(DeployRequest(spec(1)))
    await plane.reconciler.stop(5.0)
    return told[0].group_uuid


async def work(plane: ControlPlane, uuid: str) -> None:
    """Take the group and run a worker to its end."""
    now = await plane.store.read(clock.now)
    await plane.store.write(lambda c: groups.due(c, uuid, 0))
    ((_, epoch, _),) = await plane.store.write(lambda c: groups.take_due(c, "test", now, LEASE_MS, 1))
    taken = DatabaseTime(now, asyncio.get_running_loop().time())
    async with asyncio.timeout(60):
        await GroupWorker(plane.reconciler._context, uuid, epoch, now + LEASE_MS, taken).run()


async def owner(plane: ControlPlane, uuid: str) -> str:
    """Who has the group's lease; empty: nobody."""
    owners = select(schema.groups.c.owner).where(schema.groups.c.uuid == uuid)
    return str(await plane.store.read(lambda c: c.execute(owners).scalar_one()))


def losing(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch, *, committed: bool, then: Callable[[Connection], Any]
) -> list[int]:
    """The first give-back's answer is lost, and `then` is stored at once; returns the epochs of all give-backs."""
    real, write, seen = groups.give_back, plane.store.write, list[int]()
    lost: list[bool] = []

    def give_back(connection: Connection, uuid: str, epoch: int, due_at: int | None, version: int | None) -> bool:
        seen.append(epoch)
        if len(seen) == 1:
            lost.append(True)
            if not committed:
                raise Unavailable("the database is away", retry_after_ms=1)
        return real(connection, uuid, epoch, due_at, version)

    async def losing_write(run: Callable[[Connection], Any]) -> Any:
        try:
            done = await write(run)
        finally:
            if lost:
                lost.clear()
                await write(then)
                raise Unavailable("the answer was lost", retry_after_ms=1)
        return done

    monkeypatch.setattr(groups, "give_back", give_back)
    monkeypatch.setattr(plane.store, "write", losing_write)
    return seen


async def test_after_a_give_back_that_may_have_been_committed_nothing_is_done_without_a_lease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with control_plane() as plane:
        uuid = await resting(plane)
        given = losing(plane, monkeypatch, committed=True, then=lambda c: apply(c, uuid, [StopRequested()], 1))
        await work(plane, uuid)
        assert [m.state for m in plane.machines()] == [MachineState.RUNNING], "the lease was somebody else's to take"
        assert len(given) == 1
        await work(plane, uuid)  # whoever takes it next does what was asked for
        assert [m.state for m in plane.machines()] == [MachineState.STOPPED]
        assert await owner(plane, uuid) == "", "the commit of its rest gave the lease back"


async def test_a_give_back_that_was_not_committed_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with control_plane() as plane:
        uuid = await resting(plane)
        losing(plane, monkeypatch, committed=False, then=lambda c: apply(c, uuid, [StopRequested()], 1))
        await work(plane, uuid)
        assert [m.state for m in plane.machines()] == [MachineState.STOPPED], "the lease was kept, and used"
        assert await owner(plane, uuid) == "", "the commit of its rest gave the lease back"
        assert (await plane.store.read(lambda c: groups.load(c, uuid))).phase is GroupPhase.STOPPED


async def test_a_leap_of_the_clock_ends_no_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    async with control_plane(size={"boot_ms": "600000"}) as plane:
        started = await plane.groups.deploy(CALLER, DeployRequest(spec(1)))
        uuid = started.group.uuid

        async def member() -> Instance:
            return (await plane.store.read(lambda c: groups.load(c, uuid))).instances[0]

        async with asyncio.timeout(60):
            async for _ in plane.groups.follow(uuid, started.after_revision):
                if (before := await member()).status is InstanceStatus.BOOTING:
                    break
        await plane.reconciler.stop(5.0)
        now = await plane.store.read(clock.now)
        await plane.store.write(lambda c: groups.due(c, uuid, 0))
        ((_, epoch, _),) = await plane.store.write(lambda c: groups.take_due(c, "test", now, LEASE_MS, 1))
        real = clock.now
        monkeypatch.setattr(clock, "now", lambda connection: real(connection) + HOUR_MS)
        taken = DatabaseTime(now, asyncio.get_running_loop().time())
        renews_at_once = now + LEASE_MS - RENEW_MS
        worker = GroupWorker(plane.reconciler._context, uuid, epoch, renews_at_once, taken)
        worker.stop()
        await worker.run()
        after = await member()
        assert (after.status, after.attempt) == (InstanceStatus.BOOTING, before.attempt), after.reason
        assert 0 <= after.deadline_at - before.deadline_at - HOUR_MS < 60_000


@pytest.mark.parametrize("was_set", [False, True])
async def test_a_lease_is_renewed_at_once_where_the_clock_was_set(
    monkeypatch: pytest.MonkeyPatch, was_set: bool
) -> None:
    """What its end says by the clock of before is worth nothing to a replica that has slept meanwhile."""
    async with control_plane() as plane:
        uuid = await resting(plane)
        now = await plane.store.read(clock.now)
        await plane.store.write(lambda c: groups.due(c, uuid, 0))
        ((_, epoch, _),) = await plane.store.write(lambda c: groups.take_due(c, "test", now, LEASE_MS, 1))
        real, renewed = groups.renew, list[int]()

        def renew(connection: Connection, group_uuid: str, of: int, until: int) -> bool:
            renewed.append(of)
            return real(connection, group_uuid, of, until)

        monkeypatch.setattr(groups, "renew", renew)
        taken = DatabaseTime(now, asyncio.get_running_loop().time())
        worker = GroupWorker(plane.reconciler._context, uuid, epoch, now + LEASE_MS, taken)
        if was_set:
            worker.clock_set()
        worker.stop()
        await worker.run()
        assert renewed == [epoch] * was_set


async def leased(plane: ControlPlane, uuid: str) -> GroupWorker:
    """A worker with a lease of the group, which does nothing by itself."""
    now = await plane.store.read(clock.now)
    await plane.store.write(lambda c: groups.due(c, uuid, 0))
    ((_, epoch, _),) = await plane.store.write(lambda c: groups.take_due(c, "test", now, LEASE_MS, 1))
    taken = DatabaseTime(now, asyncio.get_running_loop().time())
    return GroupWorker(plane.reconciler._context, uuid, epoch, now + LEASE_MS, taken)


async def test_a_fact_that_changes_nothing_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    async with control_plane() as plane:
        worker = await leased(plane, uuid := await resting(plane))
        known = await worker._load()
        monkeypatch.setattr(plane.store, "write", None)  # whoever calls it breaks
        member = known.instances[0]
        runs = Observed(member.uuid, member.attempt, Observation.READY)
        assert await worker._apply(known, [runs], worker._now()) is known
        assert known.uuid == uuid


async def test_what_is_known_is_not_taken_for_what_is_stored_once_somebody_has_changed_it() -> None:
    async with control_plane() as plane:
        worker = await leased(plane, uuid := await resting(plane))
        known = await worker._load()
        await plane.store.write(lambda c: apply(c, uuid, [DeleteRequested()], 1))
        member = known.instances[0]
        halted = Observed(member.uuid, member.attempt, Observation.HALTED, "it stopped")
        after = await worker._apply(known, [halted], worker._now())
        assert after.phase is GroupPhase.DELETING, "the intent was not overwritten"
        assert after == await worker._load()


async def test_where_a_group_comes_to_rest_its_lease_ends_in_the_same_commit_and_never_past_an_intent() -> None:
    async with control_plane() as plane:
        uuid = await resting(plane)
        for intent in (False, True):
            worker = await leased(plane, uuid)
            await plane.store.write(lambda c: apply(c, uuid, [StopRequested()], 1))
            stopping = await worker._load()
            stopped = [Observed(m.uuid, m.attempt, Observation.HALTED, barred=False) for m in stopping.instances]
            if intent:
                await plane.store.write(lambda c: apply(c, uuid, [DeleteRequested()], 1))
            after = await worker._apply(stopping, stopped, worker._now())
            assert after.phase is (GroupPhase.DELETING if intent else GroupPhase.STOPPED)
            assert worker._given is not intent
            owners = await plane.store.read(lambda c: groups.owners(c, clock.now(c)))
            assert owners == ({"test"} if intent else frozenset())
            if not intent:
                await plane.store.write(lambda c: apply(c, uuid, [StartRequested()], 1))


async def test_a_listing_that_is_older_than_what_is_stored_of_a_member_takes_nothing_back() -> None:
    """Who has the next turn may find one that another group asked for while this member still booted."""
    async with control_plane() as plane:
        uuid = await resting(plane)
        group = await plane.store.read(lambda c: groups.load(c, uuid))
        (member,) = group.instances
        host = plane.drivers[member.host_uuid].host
        options, host.options = host.options, replace(host.options, boot_ms=3_600_000)
        listed = (await plane.reconciler.monitors[member.host_uuid].look()).listing.find(member.machine_uuid)
        host.options = options
        assert listed is not None
        assert listed.report is not None
        assert listed.report.stage == "booting"
        now = await plane.store.read(clock.now)
        await plane.store.write(lambda c: c.execute(update(schema.instances).values(updated_at=now)))
        await work(plane, uuid)
        after = await plane.store.read(lambda c: groups.load(c, uuid))
        assert (after.version, after.instances[0].status) == (group.version, InstanceStatus.RUNNING)
