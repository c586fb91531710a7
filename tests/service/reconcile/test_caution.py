"""What is not concluded from a database that may be an older copy: of what it says was never sent, and beside a machine
that is in quarantine."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from service.domain.groups import Group, InstanceStatus
from service.domain.ownership import Holding, Quarantined
from service.domain.specs import DeployRequest, FailurePolicy
from service.drivers.base import MachineState
from service.lifecycle.facts import Observation, Observed
from service.reconcile import manager
from service.reconcile.caution import Caution
from service.reconcile.database_time import DatabaseTime
from service.reconcile.manager import Reconciler
from service.reconcile.monitor import HostMonitor
from service.reconcile.worker import LEASE_MS, GroupWorker
from service.store import clock, groups, ownership
from service.store.connection import Connection
from tests.service.rpc.test_evacuation import cut_off
from tests.support.builders import host, spec
from tests.support.control_plane import CALLER, ControlPlane, control_plane

pytestmark = pytest.mark.asyncio

BEFORE, SINCE = 1_000, 2_000


def custody(*, missing: frozenset[str] = frozenset()) -> Any:
    return SimpleNamespace(judged=True, since=SINCE, missing=missing)


async def accepted(plane: ControlPlane) -> Group:
    """A group that is accepted and not placed."""
    await plane.reconciler.stop(5.0)
    return (await plane.groups.deploy(CALLER, DeployRequest(spec(1)))).group


def with_member(group: Group, status: InstanceStatus, created_at: int) -> Group:
    (member,) = group.instances
    there = replace(member, status=status, host_uuid="" if status is InstanceStatus.PENDING else "h")
    return replace(group, instances=(there,), created_at=created_at)


async def test_what_was_accepted_before_the_start_waits_for_who_is_missing() -> None:
    async with control_plane() as plane:
        group = await accepted(plane)
        for status in (InstanceStatus.PENDING, InstanceStatus.CLAIMED):
            for created, missing, waits in ((BEFORE, "h", True), (BEFORE, "", False), (SINCE, "h", False)):
                caution = Caution(custody(missing=frozenset(filter(None, [missing]))), {})
                caution.found(with_member(group, status, created))
                assert caution.waits is waits, (status, created, missing)
        caution = Caution(custody(missing=frozenset("h")), {})
        caution.found(with_member(group, InstanceStatus.CREATING, BEFORE))
        assert not caution.waits, "its machine is looked for where it was sent"


@pytest.mark.parametrize(
    ("settled", "answered", "created", "sent"),
    [
        (True, None, BEFORE, True),
        (True, 3.0, BEFORE, False),  # it was looked at: the mark that it bears has told
        (False, None, BEFORE, False),  # it is being asked
        (True, None, SINCE, False),  # no copy has this group
    ],
)
async def test_a_create_may_have_been_sent_to_a_host_without_a_word(
    settled: bool, answered: float | None, created: int, sent: bool
) -> None:
    async with control_plane() as plane:
        group = with_member(await accepted(plane), InstanceStatus.CLAIMED, created)
    monitor = cast(HostMonitor, SimpleNamespace(settled=settled, answered_seconds=answered))
    caution = Caution(custody(), {"h": monitor})
    caution.found(group)
    (member,) = group.instances
    expected = [Observed(member.uuid, member.attempt, Observation.DISPATCHED)] if sent else []
    assert list(caution.may_have_been_sent(group)) == expected


async def test_a_claimed_member_is_not_placed_anew_on_the_databases_word_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The host that has its claim, and maybe its machine, is silent since before the start; the other one is free."""
    monkeypatch.setattr(manager, "MISSING_SECONDS", 0.0)
    async with control_plane(hosts=(host(1), host(2))) as plane:
        group = await accepted(plane)
        context = plane.reconciler._context
        now = await plane.store.read(clock.now)
        ((_, epoch, _),) = await plane.store.write(lambda c: groups.take_due(c, "test", now, LEASE_MS, 1))
        taken = DatabaseTime(now, asyncio.get_running_loop().time())
        worker = GroupWorker(context, group.uuid, epoch, now + LEASE_MS, taken)
        waiting = await worker._load()
        await worker._placing.gang(waiting, worker._sends)
        (sent,) = (placed := await worker._load()).instances
        unsent = Observed(sent.uuid, sent.attempt, Observation.NOT_SENT)
        (member,) = (await worker._apply(placed, [unsent], now)).instances
        assert member.status is InstanceStatus.CLAIMED
        cut_off(plane.drivers[member.host_uuid])
        for key, known in list(context.monitors.items()):
            context.monitors[key] = HostMonitor(
                known.host, known.driver, plane.store, lambda _host: None, plane.custody
            )
        again = Reconciler(context)
        await plane.store.write(lambda c: groups.give_back(c, group.uuid, epoch, 0, None))
        await again.start()
        try:
            async with asyncio.timeout(60):
                while (await current(plane, group.uuid)).unknown_since == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            found = await current(plane, group.uuid)
            assert (found.status, found.attempt, found.host_uuid) == (InstanceStatus.CREATING, 1, member.host_uuid)
            assert plane.machines() == []
        finally:
            await again.stop(5.0)


async def test_beside_a_machine_in_quarantine_a_member_is_not_let_run_again(caplog: pytest.LogCaptureFixture) -> None:
    async with control_plane(hosts=(host(1), host(2))) as plane:
        told = await plane.deploy(DeployRequest(spec(1, failure_policy=FailurePolicy.RESTART_MEMBER)))
        uuid = told[0].group_uuid
        member = await current(plane, uuid)
        other = next(h for h in plane.drivers if h != member.host_uuid)
        newer = Quarantined("", "k", Holding.MACHINE, uuid, member.uuid, member.attempt + 1, state="running")

        def hold(connection: Connection, found: list[Quarantined]) -> None:
            ownership.hold(connection, other, found, clock.now(connection))

        await plane.reconciler.stop(5.0)
        await plane.store.write(lambda c: hold(c, [newer]))
        (machine,) = plane.machines()
        machine.state = MachineState.STOPPED
        now = await plane.store.read(clock.now)
        await plane.store.write(lambda c: groups.due(c, uuid, 0))
        ((_, epoch, _),) = await plane.store.write(lambda c: groups.take_due(c, "test", now, LEASE_MS, 1))
        taken = DatabaseTime(now, asyncio.get_running_loop().time())
        worker = GroupWorker(plane.reconciler._context, uuid, epoch, now + LEASE_MS, taken, all_hinted=True)
        task = asyncio.create_task(worker.run())
        async with asyncio.timeout(60):
            while (await current(plane, uuid)).status is not InstanceStatus.CREATING:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        for _ in range(3):  # each look at the group again leaves it so
            worker.poke()
            await asyncio.sleep(0)
        assert [m.state for m in plane.machines() if m.state.executing] == []
        assert "is in quarantine on host" in caplog.text
        await plane.store.write(lambda c: hold(c, []))
        worker.poke()
        async with asyncio.timeout(60):
            while (await current(plane, uuid)).status is not InstanceStatus.RUNNING:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        worker.stop()
        await task


async def current(plane: ControlPlane, uuid: str) -> Any:
    return (await plane.store.read(lambda c: groups.load(c, uuid))).instances[0]
