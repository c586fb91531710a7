"""A host that is slow at the service's start: until it was looked at, what has run before is left as it is.

An older copy of the database may be told by that host alone, and machines that are missed elsewhere may run there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from service.domain.fleet import HostStatus
from service.domain.groups import GroupStatus
from service.domain.specs import DeployRequest, FailurePolicy
from service.reconcile import manager
from service.reconcile.database_time import DatabaseTime
from service.reconcile.manager import Reconciler
from service.reconcile.monitor import HostMonitor
from service.reconcile.worker import LEASE_MS, GroupWorker
from service.store import clock, fleet, groups
from service.store.connection import Connection
from tests.support.builders import host, spec
from tests.support.control_plane import CALLER, ControlPlane, control_plane

pytestmark = pytest.mark.asyncio


async def work(plane: ControlPlane, uuid: str) -> None:
    """Take the group, as after a hint, and run a worker to its end."""
    now = await plane.store.read(clock.now)
    await plane.store.write(lambda c: groups.due(c, uuid, 0))
    ((_, epoch, _),) = await plane.store.write(lambda c: groups.take_due(c, "test", now, LEASE_MS, 1))
    taken = DatabaseTime(now, asyncio.get_running_loop().time())
    worker = GroupWorker(plane.reconciler._context, uuid, epoch, now + LEASE_MS, taken, all_hinted=True)
    async with asyncio.timeout(60):
        await worker.run()


def nobody_knows(connection: Connection) -> None:
    """As a process's start writes it before it asks any host."""
    for uuid in fleet.hosts(connection):
        fleet.set_status(connection, uuid, HostStatus.CONNECTING)


async def eventually(true: Callable[[], bool]) -> None:
    """Wait until something is so; fails where it never comes."""
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.01)


async def test_until_every_host_was_looked_at_nothing_is_concluded_of_what_ran_before() -> None:
    async with control_plane(hosts=(host(1), host(2))) as plane:
        told = await plane.deploy(DeployRequest(spec(1, failure_policy=FailurePolicy.FAIL_GROUP)))
        uuid = told[0].group_uuid
        await plane.reconciler.stop(5.0)
        (machine,) = plane.machines()
        home = next(d.host for d in plane.drivers.values() if machine.identity.machine_uuid in d.host.machines)
        home.machines.clear()
        plane.custody.judged = False
        await work(plane, uuid)
        assert (await plane.groups.get(CALLER, uuid)).status is GroupStatus.RUNNING
        plane.custody.judged = True
        await work(plane, uuid)
        assert (await plane.groups.get(CALLER, uuid)).status is GroupStatus.FAILED


async def test_a_start_waits_for_its_slow_hosts_and_serves_new_groups_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(manager, "FIRST_PROBE_SECONDS", 0.0)
    async with control_plane(hosts=(host(1), host(2))) as plane:
        await eventually(lambda: all(known.settled for known in plane.reconciler.monitors.values()))
        await plane.reconciler.stop(5.0)
        await plane.store.write(nobody_knows)
        answers = asyncio.Event()
        slow = plane.drivers[f"{2:032x}"]
        probe = slow.probe

        async def late(**budget: Any) -> Any:
            await answers.wait()
            return await probe(**budget)

        monkeypatch.setattr(slow, "probe", late)
        context = plane.reconciler._context
        for key, known in list(context.monitors.items()):
            context.monitors[key] = HostMonitor(
                known.host, known.driver, plane.store, lambda _host: None, plane.custody
            )
        again = Reconciler(context)
        await again.start()
        try:
            assert not plane.custody.judged
            started = await plane.groups.deploy(CALLER, DeployRequest(spec(1)))
            async with asyncio.timeout(60):
                told = [event async for event in plane.groups.follow(started.group.uuid, started.after_revision)]
            assert told[-1].group is not None
            assert told[-1].group.status is GroupStatus.RUNNING
            answers.set()
            await eventually(lambda: plane.custody.judged)
        finally:
            await again.stop(5.0)
