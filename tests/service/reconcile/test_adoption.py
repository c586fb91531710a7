"""A quarantined group made a group again while the service runs, from its machines' own records."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from service.domain.events import EventKind
from service.domain.fleet import HostState, HostStatus
from service.domain.groups import Group, GroupStatus
from service.domain.ownership import Quarantined
from service.domain.specs import DeployRequest
from service.drivers.base import MachineState
from service.drivers.simulated import SimulatedHost
from service.errors import Conflict, WrongState
from service.reconcile import sweep
from service.reconcile.adoption import Adoption
from service.reconcile.custody import Custody
from service.reconcile.monitor import HostMonitor, Look
from service.store import claims, events, fleet, ownership
from service.store.connection import Connection
from service.store.engine import Store
from service.transactions import recovery
from service.transactions.recovery_plan import plan
from service.transactions.surveys import Survey
from tests.service.reconcile.test_custody import claim, hosts_of, machines, status, swept, until
from tests.support.builders import host, spec
from tests.support.control_plane import CALLER, ControlPlane, control_plane

pytestmark = pytest.mark.asyncio
BOTH = (host(1), host(2))


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "GRACE_SECONDS", 0.0)


@dataclass
class Held:
    """A control plane on yesterday's database, and the group that was deployed since and is in quarantine."""

    plane: ControlPlane
    group: Group
    there: dict[str, SimulatedHost]
    adoption: Adoption


def adoption_of(plane: ControlPlane) -> Adoption:
    monitors = plane.reconciler.monitors
    custody: Custody = next(iter(monitors.values()))._custody
    return Adoption(plane.store, monitors, custody)


def quarantined(connection: Connection) -> tuple[Quarantined, ...]:
    return ownership.page(connection, "", None, 100)


@asynccontextmanager
async def yesterday(tmp_path: Path, size: int = 2) -> AsyncIterator[Held]:
    """Restored, claimed by its operator, and swept: what was deployed since is held."""
    path, old = tmp_path / "corral.db", tmp_path / "yesterday.db"
    async with control_plane(hosts=BOTH, url=f"sqlite:///{path}") as plane:
        await plane.deploy(DeployRequest(spec(1)))
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(old)) as target:
            source.backup(target)
        group = (await plane.deploy(DeployRequest(spec(size))))[-1].group
        there = hosts_of(plane)
    assert group is not None
    async with control_plane(hosts=BOTH, url=f"sqlite:///{old}", there=there) as plane:
        for number in (1, 2):
            await claim(plane, number)
            await status(plane, number, HostStatus.CONNECTED)
        await swept(plane)
        held = await plane.store.read(quarantined)
        assert {q.group for q in held} == {group.uuid}
        yield Held(plane, group, there, adoption_of(plane))


async def test_an_adopted_group_runs_as_it_did_and_is_held_no_more(tmp_path: Path) -> None:
    async with yesterday(tmp_path) as held:
        plane, before = held.plane, machines(held.there)
        used = sum((await plane.used()).values())
        adopted = await held.adoption.adopt(held.group.uuid)
        assert adopted.status is GroupStatus.RUNNING
        assert await plane.store.read(quarantined) == ()
        assert sum((await plane.used()).values()) == used + 4
        plane.reconciler.poke(adopted.uuid)
        for number in (1, 2):
            plane.reconciler.monitors[f"{number:032x}"].suspect()

        async def settled() -> bool:
            found = await plane.store.read(fleet.hosts)
            return all(h.foreign.get("vcpu", 0) == 0 for h in found.values())

        await swept(plane)
        await until(settled)
        now = await plane.groups.get(CALLER, held.group.uuid)
        assert now.status is GroupStatus.RUNNING
        told = [(m.uuid, m.attempt, m.host_uuid, m.address, m.spec) for m in now.instances]
        assert told == [(m.uuid, m.attempt, m.host_uuid, m.address, m.spec) for m in held.group.instances]
        assert machines(held.there) == before
        found = await plane.store.read(lambda c: events.after(c, 0, 1000, group_uuid=held.group.uuid))
        assert [e.kind for e in found] == [
            EventKind.ACCEPTED, EventKind.INSTANCE, EventKind.INSTANCE, EventKind.FINAL
        ]  # fmt: skip
        assert [e.sequence for e in found] == [1, 2, 3, 4]
        await plane.delete(held.group.uuid)
        assert len(machines(held.there)) == len(before) - 2


async def test_what_is_held_and_cannot_be_told_stays_as_it_is(tmp_path: Path) -> None:
    async with yesterday(tmp_path) as held:
        machine = next(
            m for h in held.there.values() for m in h.machines.values() if m.identity.group == held.group.uuid
        )
        machine.record = ""
        with pytest.raises(WrongState, match="has no record"):
            await held.adoption.adopt(held.group.uuid)
        with pytest.raises(WrongState, match="not held"):
            await held.adoption.adopt("e" * 32)
        assert len(await held.plane.store.read(quarantined)) == 2


async def test_a_host_that_has_less_than_it_holds_takes_no_claim_and_nothing_is_kept(tmp_path: Path) -> None:
    async with yesterday(tmp_path) as held:
        plane = held.plane
        for number in (1, 2):
            small = replace(host(number), capacity_override={"vcpu": 2})
            await plane.store.write(lambda c, one=small: fleet.put_host(c, one))  # type: ignore[misc]
            plane.reconciler.monitors[small.uuid].update(small)

        async def shrunk() -> bool:
            return all(h.allocatable["vcpu"] == 2 for h in (await plane.store.read(fleet.hosts)).values())

        await until(shrunk)
        with pytest.raises(Conflict, match=r"not all of this is left: .* vcpu of host"):
            await held.adoption.adopt(held.group.uuid)
        assert await plane.store.read(lambda c: claims.seats_of(c, held.group.uuid)) == {}
        assert len(await plane.store.read(quarantined)) == 2


async def test_a_member_placed_anew_after_the_backup_is_found_on_its_other_host(tmp_path: Path) -> None:
    path, old = tmp_path / "corral.db", tmp_path / "yesterday.db"
    async with control_plane(hosts=BOTH, url=f"sqlite:///{path}") as plane:
        group = (await plane.deploy(DeployRequest(spec(1))))[-1].group
        assert group is not None
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(old)) as target:
            source.backup(target)
        there = hosts_of(plane)
        home = there[group.instances[0].host_uuid]
        next(iter(home.machines.values())).state = MachineState.CRASHED

        async def placed_anew() -> bool:
            now = await plane.groups.get(CALLER, group.uuid)
            return now.status is GroupStatus.RUNNING and now.instances[0].attempt > 1

        plane.reconciler.poke(group.uuid)
        await until(placed_anew)
        now = await plane.groups.get(CALLER, group.uuid)
    before = machines(there)
    await recover(f"sqlite:///{old}", there)
    async with control_plane(hosts=BOTH, url=f"sqlite:///{old}", there=there) as plane:
        for number in (1, 2):
            await status(plane, number, HostStatus.CONNECTED)
        plane.reconciler.poke(group.uuid)
        await swept(plane)
        found = await plane.groups.get(CALLER, group.uuid)
        assert found.status is GroupStatus.RUNNING
        assert [(m.attempt, m.host_uuid, m.address) for m in found.instances] == [
            (m.attempt, m.host_uuid, m.address) for m in now.instances
        ]
        assert before.items() <= machines(there).items()
        assert await plane.store.read(quarantined) == ()

        async def released() -> bool:
            """The claim of the attempt that is over goes once its host was seen without it."""
            await plane.sweep.once()
            seats = await plane.store.read(lambda c: claims.seats_of(c, group.uuid))
            return set(seats) == {(m.uuid, m.attempt) for m in found.instances}

        await until(released)
        await plane.delete(group.uuid)
        assert machines(there) == {}


async def recover(url: str, there: dict[str, SimulatedHost]) -> None:
    """As the command does, with the database for itself."""
    store = Store(url)

    def write(connection: Connection) -> None:
        present = ownership.installation(connection)
        assert present is not None
        fleet_now = fleet.hosts(connection)
        surveys = [Survey(fleet_now[uuid], one.listing().machines, one.mark) for uuid, one in there.items()]
        found = plan(recovery.known(connection, present, surveys), surveys, {}, 0)
        assert not found.problems
        for change in found.changes:
            recovery.write(connection, change, 0)
        recovery.settle_identity(connection, present, found, 0)

    try:
        await store.write(write)
    finally:
        store.close()


async def test_a_machine_that_one_look_misses_is_not_taken_to_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with yesterday(tmp_path) as held:
        looked: set[str] = set()

        async def missing_at_first(monitor: HostMonitor, *, max_age: float = 0.0) -> Look:
            listing = await monitor.driver.list_machines(budget_seconds=5.0)
            if monitor.host.uuid not in looked:
                looked.add(monitor.host.uuid)
                listing = replace(listing, machines=())
            return Look(listing, 0.0, 0.0)

        for monitor in held.adoption._monitors.values():
            monkeypatch.setattr(monitor, "look", partial(missing_at_first, monitor))
        adopted = await held.adoption.adopt(held.group.uuid)
        assert {m.uuid: (m.host_uuid, m.attempt) for m in adopted.instances} == {
            m.uuid: (m.host_uuid, 1) for m in held.group.instances
        }


async def test_a_host_that_was_drained_by_an_older_word_is_not_empty_and_says_so(tmp_path: Path) -> None:
    async with yesterday(tmp_path) as held:
        plane, uuid = held.plane, held.group.instances[0].host_uuid

        def drained(connection: Connection) -> None:
            fleet.set_state(connection, fleet.host(connection, uuid), HostState.MAINTENANCE, 1)

        await plane.store.write(drained)
        await held.adoption.adopt(held.group.uuid)
        host_now = await plane.store.read(lambda c: fleet.host(c, uuid))
        assert host_now.state is HostState.DISABLED, "nobody would move its members"
