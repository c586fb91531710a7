"""What passed while nobody looked is looked at before it is judged."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from service.domain.groups import DeployRequest
from service.reconcile.worker import LEASE_MS
from service.store import clock, groups
from service.store.connection import Connection
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


async def test_what_a_guest_says_is_followed_by_who_heard_it_however_another_replica_has_looked_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with control_plane(hosts=ONE) as plane:
        group = (await plane.deploy(DeployRequest(spec(1))))[-1].group
        assert group is not None
        (driver,) = plane.drivers.values()
        (machine,) = driver.host.machines.values()

        def take(connection: Connection) -> int:
            now = clock.now(connection)
            groups.due(connection, group.uuid, 0)
            taken = dict(groups.take_due(connection, "another", now, LEASE_MS, 9, leases_as_of=now))
            return taken.get(group.uuid, 0)

        epoch = 0

        async def is_anothers() -> bool:
            nonlocal epoch
            epoch = await plane.store.write(take)
            return bool(epoch)

        await until(is_anothers)
        looks, look = [], plane.reconciler._look_at_clock

        def counted(now: int, asked_at: float) -> None:
            looks.append(now)
            look(now, asked_at)

        monkeypatch.setattr(plane.reconciler, "_look_at_clock", counted)
        driver._hint(machine.identity)
        async with asyncio.timeout(60):
            while len(looks) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        hour = 3_600_000
        assert await plane.store.write(lambda c: groups.give_back(c, group.uuid, epoch, clock.now(c) + hour, None)), (
            "it was taken from the other replica"
        )

        async def is_taken() -> bool:
            return (await plane.store.read(lambda c: groups.load(c, group.uuid))).epoch > epoch

        await until(is_taken)
