"""A listing may be older than what is known of a member, and then says nothing new of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from service.domain.groups import GroupStatus, InstanceStatus
from service.domain.specs import DeployRequest
from service.drivers.base import MachineState, ObservedMachine
from service.reconcile import calls, sight
from service.reconcile.monitor import Look
from service.store import events, groups
from tests.service.reconcile.test_worker import resting, work
from tests.support.builders import group, spec
from tests.support.control_plane import CALLER, ControlPlane, control_plane

Change = Callable[[ObservedMachine], ObservedMachine]


def booting(machine: ObservedMachine) -> ObservedMachine:
    """As it was before its guest was ready."""
    assert machine.report is not None
    return replace(machine, report=replace(machine.report, stage="booting"))


def paused(machine: ObservedMachine) -> ObservedMachine:
    """As it was before it was let run."""
    return replace(machine, state=MachineState.PAUSED, report=None)


def halted(machine: ObservedMachine) -> ObservedMachine:
    """As it was when its group was stopped."""
    return replace(machine, state=MachineState.STOPPED, report=None)


def another_boot(machine: ObservedMachine) -> ObservedMachine:
    """As it was before its guest booted anew."""
    assert machine.report is not None
    return replace(machine, report=replace(machine.report, boot_id="the boot before"))


async def listed(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch, was: Change) -> None:
    """Every host was listed just now, when its machines were as `was` makes them."""
    monkeypatch.setattr(calls, "POLL_AGE", 3600.0)
    now = asyncio.get_running_loop().time()
    for monitor in plane.reconciler.monitors.values():
        look = await monitor.look()
        machines = tuple(was(machine) for machine in look.listing.machines)
        monitor._last = Look(replace(look.listing, machines=machines), now, now)


@pytest.mark.asyncio
@pytest.mark.parametrize("was", [booting, paused, halted, another_boot])
async def test_a_group_that_runs_is_told_as_nothing_else_by_a_listing_from_before(
    monkeypatch: pytest.MonkeyPatch, was: Change
) -> None:
    async with control_plane() as plane:
        uuid = await resting(plane)
        before = await plane.store.read(lambda c: groups.load(c, uuid))
        await listed(plane, monkeypatch, was)
        await work(plane, uuid)
        after = await plane.store.read(lambda c: groups.load(c, uuid))
        assert (after.status, after.sequence) == (GroupStatus.RUNNING, before.sequence)
        assert await plane.store.read(lambda c: events.after(c, before.revision, 10)) == ()


@pytest.mark.asyncio
async def test_a_member_that_boots_is_not_ready_by_a_listing_of_its_run_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def ready(machine: ObservedMachine) -> ObservedMachine:
        assert machine.report is not None
        return replace(machine, report=replace(machine.report, stage="ready"))

    async with control_plane(size={"boot_ms": "600000"}) as plane:
        started = await plane.groups.deploy(CALLER, DeployRequest(spec(1)))
        uuid = started.group.uuid

        async def member() -> Any:
            return (await plane.store.read(lambda c: groups.load(c, uuid))).instances[0]

        async with asyncio.timeout(60):
            async for _ in plane.groups.follow(uuid, started.after_revision):
                if (await member()).status is InstanceStatus.BOOTING:
                    break
        await plane.reconciler.stop(5.0)
        await listed(plane, monkeypatch, ready)
        look = asyncio.Event()
        observe = type(plane.reconciler.monitors[(await member()).host_uuid]).observe

        async def observed(monitor: Any, identity: Any) -> Any:
            look.set()
            return await observe(monitor, identity)

        monkeypatch.setattr("service.reconcile.monitor.HostMonitor.observe", observed)
        working = asyncio.create_task(work(plane, uuid))
        async with asyncio.timeout(60):
            await look.wait()  # it was looked at itself
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        assert (await member()).status is InstanceStatus.BOOTING


@pytest.mark.parametrize("status", [InstanceStatus.STOPPING, InstanceStatus.REMOVING, InstanceStatus.EVICTING])
def test_one_on_its_way_out_that_runs_on_is_as_it_is_known(status: InstanceStatus) -> None:
    """Many that are asked to stop are looked at twice a second: a listing of all serves them."""
    member = replace(group(1).instances[0], status=status)
    machine = ObservedMachine(None, member.uuid, MachineState.RUNNING, "")  # type: ignore[arg-type]
    assert sight.is_as_known(member, machine)
    assert not sight.is_as_known(member, halted(machine))
