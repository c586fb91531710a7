"""What passed while nobody looked is looked at before it is judged."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from service.domain.specs import DeployRequest
from service.lifecycle.renewal import RESET
from service.store import events
from tests.service.reconcile.test_custody import ONE, hosts_of, machines, until
from tests.support.builders import spec
from tests.support.control_plane import CALLER, control_plane

pytestmark = pytest.mark.asyncio


async def test_a_boot_that_ended_while_no_service_ran_is_looked_at_before_its_deadline_is(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/corral.db"
    async with control_plane(hosts=ONE, url=url) as plane:
        group = (await plane.deploy(DeployRequest(spec(1))))[-1].group
        assert group is not None
        there = hosts_of(plane)
        before = machines(there)
    with closing(sqlite3.connect(tmp_path / "corral.db")) as database:  # it stopped in the middle of a boot
        database.execute("UPDATE groups SET phase = 'booting', served = 0, deadline_at = 1, due_at = 0")
        database.execute("UPDATE instances SET status = 'Booting', deadline_at = 1")
        database.commit()
    async with control_plane(hosts=ONE, url=url, there=there) as plane:

        async def runs_on() -> bool:
            now = await plane.groups.get(CALLER, group.uuid)
            assert now.failure is None
            return [(m.status.value, m.attempt) for m in now.instances] == [("Running", 1)]

        await until(runs_on)
        assert machines(there) == before


async def test_a_reset_is_told_by_a_replica_that_heard_nothing_of_it(tmp_path: Path) -> None:
    """The event that told of it reached another one, which has gone; and the guest is ready again."""
    url = f"sqlite:///{tmp_path}/corral.db"
    async with control_plane(hosts=ONE, url=url) as plane:
        group = (await plane.deploy(DeployRequest(spec(1))))[-1].group
        assert group is not None

        async def is_heard() -> bool:
            return bool((await plane.groups.get(CALLER, group.uuid)).instances[0].guest_boot)

        await until(is_heard)
        there = hosts_of(plane)
        before = machines(there)
    for host in there.values():
        for machine in host.machines.values():
            machine.resumed_at += 0.001  # as `virsh reset` and a boot of a moment leave it
    async with control_plane(hosts=ONE, url=url, there=there) as plane:

        async def is_told() -> bool:
            found = await plane.store.read(lambda c: events.of_group(c, group.uuid, 0, 1000))
            return any(e.instance is not None and e.instance.reason == RESET for e in found)

        await until(is_told)

        async def runs_on() -> bool:
            now = await plane.groups.get(CALLER, group.uuid)
            return [(m.status.value, m.attempt, m.reason) for m in now.instances] == [("Running", 1, "")]

        await until(runs_on)
        assert machines(there) == before
