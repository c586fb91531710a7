"""First, do no harm: databases that are lost, old or another's, hosts that are not who they were, machines that nobody
knows. In none of these is a machine ended, or placed a second time."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.domain.fleet import HostStatus
from service.domain.groups import Group, GroupStatus
from service.domain.ownership import Holding, OwnerMark
from service.domain.specs import DeployRequest, FailurePolicy
from service.drivers.base import Listing, MachineIdentity, MachineSpec, MachineState, ObservedMachine, UuidTaken
from service.drivers.simulated import SimulatedHost
from service.drivers.simulated.host import SimulatedMachine
from service.reconcile import sweep
from service.reconcile.adoption import Adoption
from service.reconcile.worker import GroupWorker
from service.store import fleet, ownership, retired
from tests.support.builders import host, spec
from tests.support.control_plane import CALLER, ControlPlane, control_plane

pytestmark = pytest.mark.asyncio

ONE = (host(1),)


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "GRACE_SECONDS", 0.0)


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def status(plane: ControlPlane, number: int, wanted: HostStatus) -> None:
    async def is_so() -> bool:
        return await plane.store.read(lambda c: fleet.status_of(c, f"{number:032x}")) is wanted

    await until(is_so)


def machines(there: Mapping[str, SimulatedHost]) -> dict[str, MachineState]:
    found = (m for h in there.values() for m in h.machines.values())
    return {m.identity.machine_uuid: m.state for m in found if m.state is not MachineState.TOMBSTONE}


async def swept(plane: ControlPlane) -> None:
    """More passes than an unwanted machine needs to be removed."""
    for _ in range(4):
        await plane.sweep.once()


def hosts_of(plane: ControlPlane) -> dict[str, SimulatedHost]:
    return {uuid: driver.host for uuid, driver in plane.drivers.items()}


async def test_a_member_whose_definition_somebody_removed_gets_it_again_and_a_machine_that_nobody_knows_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with control_plane(hosts=ONE) as plane:
        group = (await plane.deploy(DeployRequest(spec(1))))[-1].group
        assert group is not None
        (driver,) = plane.drivers.values()
        stranger = replace(next(iter(driver.host.machines.values())).identity, instance="f" * 32)
        original, made = driver.list_machines, []

        async def without_definitions(*, budget_seconds: float) -> Listing:
            found = await original(budget_seconds=budget_seconds)
            machines = [replace(m, undefined=m.identity not in made) for m in found.machines]
            unknown = replace(machines[0], identity=stranger, machine_uuid=stranger.machine_uuid, undefined=True)
            return replace(found, machines=(*machines, unknown))

        async def define_again(identity: MachineIdentity, *, budget_seconds: float) -> None:
            made.append(identity)

        monkeypatch.setattr(driver, "list_machines", without_definitions)
        monkeypatch.setattr(driver, "define_again", define_again)
        await swept(plane)
        assert [identity.instance for identity in made] == [group.instances[0].uuid]


async def test_a_member_whose_uuid_somebody_elses_machine_has_is_placed_anew_and_does_not_wait_for_that_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with control_plane(hosts=ONE) as plane:
        (driver,) = plane.drivers.values()
        create, remove = driver.create_paused, driver.remove

        async def refused(machine: MachineSpec, *, budget_seconds: float) -> ObservedMachine:
            if machine.identity.attempt == 1:
                raise UuidTaken("the machine's uuid belongs to somebody else on this host")
            return await create(machine, budget_seconds=budget_seconds)

        async def not_ours(identity: MachineIdentity, *, budget_seconds: float) -> None:
            if identity.attempt == 1:
                raise UuidTaken("the machine's uuid belongs to somebody else on this host")
            await remove(identity, budget_seconds=budget_seconds)

        monkeypatch.setattr(driver, "create_paused", refused)
        monkeypatch.setattr(driver, "remove", not_ours)
        group = (await plane.deploy(DeployRequest(spec(1))))[-1].group
        assert group is not None
        assert (group.status, [m.attempt for m in group.instances]) == (GroupStatus.RUNNING, [2])


async def test_yesterdays_backup_ends_no_machine_and_waits_for_an_operator(tmp_path: Path) -> None:
    path, old = tmp_path / "corral.db", tmp_path / "yesterday.db"
    async with control_plane(hosts=ONE, url=f"sqlite:///{path}") as plane:
        first = (await plane.deploy(DeployRequest(spec(1))))[-1].group
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(old)) as target:
            source.backup(target)
        await plane.deploy(DeployRequest(spec(2)))
        there = hosts_of(plane)
        before = machines(there)
    assert len(before) == 3
    async with control_plane(hosts=ONE, url=f"sqlite:///{old}", there=there) as plane:
        await status(plane, 1, HostStatus.AHEAD)
        await swept(plane)
        assert machines(there) == before
        accepted = await plane.groups.deploy(CALLER, DeployRequest(spec(1)))  # kept, and not decided
        seen = max(m.generation for h in there.values() for m in h.machines.values())
        for _ in range(40):  # the database goes on, past what its host has seen: that brings nothing back
            if await plane.store.read(ownership.generation) > seen + 5:
                break
            await plane.groups.deploy(CALLER, DeployRequest(spec(1)))
        plane.reconciler.monitors[f"{1:032x}"].suspect()
        await swept(plane)
        assert plane.custody.held
        assert machines(there) == before
        assert (await plane.groups.get(CALLER, accepted.group.uuid)).status is GroupStatus.DEPLOYING

        await claim(plane, 1)
        await status(plane, 1, HostStatus.CONNECTED)
        await plane.follow(accepted.group, accepted.after_revision)
        await swept(plane)
        assert first is not None
        known = first.uuid

        async def goes_on() -> bool:
            return (await plane.groups.get(CALLER, known)).status is GroupStatus.RUNNING

        await until(goes_on)
        assert before.items() <= machines(there).items()
        held = await plane.store.read(lambda c: ownership.quarantine(c, f"{1:032x}"))
        assert len(held) == 2  # those that were made after the backup
        assert {q.holding for q in held} == {Holding.MACHINE}
        cpus = sum(q.resources["vcpu"] for q in held)
        await until(lambda: counted(plane, 1, cpus))


async def test_a_backup_from_before_the_start_gives_up_nobody_for_time_or_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    look = GroupWorker._circumstances

    def counted_look(worker: GroupWorker, group: Group, now: int) -> Any:
        looks.append(group.uuid)
        return look(worker, group, now)

    path, old = tmp_path / "corral.db", tmp_path / "yesterday.db"
    async with control_plane(hosts=ONE, url=f"sqlite:///{path}") as plane:
        group = (await plane.deploy(DeployRequest(spec(1))))[-1].group
        assert group is not None
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(old)) as target:
            source.backup(target)
        await plane.deploy(DeployRequest(spec(2)))
        there = hosts_of(plane)
        before = machines(there)
    with closing(sqlite3.connect(old)) as backup:  # as it was a moment before GO, and its deadline is over now
        backup.execute("UPDATE groups SET phase = 'creating', go = 0, served = 0, deadline_at = 1, lease_until = 0")
        backup.execute("UPDATE instances SET status = 'Created', was_resumed = 0, unknown_since = 1")
        backup.commit()
    async with control_plane(hosts=ONE, url=f"sqlite:///{old}", there=there) as plane:
        await status(plane, 1, HostStatus.AHEAD)
        monkeypatch.setattr(GroupWorker, "_circumstances", counted_look)

        async def is_looked_at_again() -> bool:
            return len(looks) > 1

        await until(is_looked_at_again)
        found = await plane.groups.get(CALLER, group.uuid)
        assert (found.failure, [(m.status.value, m.attempt) for m in found.instances]) == (None, [("Created", 1)])
        assert machines(there) == before

        await claim(plane, 1)  # what passed in the time that the copy lost does not count after it either

        async def runs_on() -> bool:
            now = await plane.groups.get(CALLER, group.uuid)
            assert now.failure is None
            return [(m.status.value, m.attempt) for m in now.instances] == [("Running", 1)]

        await until(runs_on)
        assert machines(there) == before


async def counted(plane: ControlPlane, number: int, cpus: int) -> bool:
    """Whether so many vCPUs count as used by others than this database's members."""
    found = await plane.store.read(lambda c: fleet.host(c, f"{number:032x}"))
    return found.foreign.get("vcpu", 0) == cpus


async def claim(plane: ControlPlane, number: int) -> None:
    """As an operator does, whose word reaches the process with the fleet's next change."""
    uuid = f"{number:032x}"
    await plane.store.write(lambda c: ownership.order_claim(c, uuid, 0))
    monitor = plane.reconciler.monitors[uuid]
    monitor.update(replace(monitor.host, claim_ordered=True))


async def test_a_lost_database_leaves_its_hosts_alone(tmp_path: Path) -> None:
    async with control_plane(hosts=ONE) as plane:
        await plane.deploy(DeployRequest(spec(2)))
        there = hosts_of(plane)
        before = machines(there)
    async with control_plane(hosts=ONE, there=there) as plane:
        await status(plane, 1, HostStatus.FOREIGN)
        await swept(plane)
        assert machines(there) == before


async def test_of_two_installations_the_one_that_came_first_keeps_the_host() -> None:
    async with control_plane(hosts=ONE) as first, control_plane(hosts=ONE, there=hosts_of(first)) as second:
        await status(second, 1, HostStatus.FOREIGN)
        await first.deploy(DeployRequest(spec(1)))
        await swept(second)
        await swept(first)
        assert list(machines(hosts_of(first)).values()) == [MachineState.RUNNING]


async def test_one_hypervisor_under_two_names_is_one_host() -> None:
    async with control_plane(hosts=(host(1),)) as before:
        both = {f"{n:032x}": before.drivers[f"{1:032x}"].host for n in (1, 2)}
        both[f"{1:032x}"].hypervisor, both[f"{1:032x}"].mark = "one-machine", None
    async with control_plane(hosts=(host(1), host(2)), there=both) as plane:

        async def told() -> bool:
            found = await plane.store.read(fleet.hosts)
            return sorted(h.status.value for h in found.values()) == ["Connected", "Mismatched"]

        await until(told)
        await plane.deploy(DeployRequest(spec(2)))
        await swept(plane)
        assert list(machines(both).values()) == [MachineState.RUNNING] * 2


@pytest.mark.parametrize("once_ours", [False, True], ids=["unmarked", "of a host that was removed"])
async def test_another_hypervisor_at_a_hosts_address_proves_nothing_and_gets_nothing(once_ours: bool) -> None:
    async with control_plane(hosts=ONE) as plane:
        group = (await plane.deploy(DeployRequest(spec(1))))[-1].group
        assert group is not None
        driver = plane.drivers[f"{1:032x}"]
        home = driver.host
        home.hypervisor = "first"
        other = SimulatedHost("other", home.options, home.clock, boot_id="simulated-77", hypervisor="second")
        if once_ours:
            other.mark = OwnerMark(plane.custody.installation.database, "f" * 32, 1)
        await plane.store.write(lambda c: ownership.set_hypervisor(c, f"{1:032x}", "first"))
        driver.host = other
        plane.reconciler.monitors[f"{1:032x}"].suspect()
        await status(plane, 1, HostStatus.MISMATCHED)
        await swept(plane)
        assert not other.machines
        assert list(machines({"": home}).values()) == [MachineState.RUNNING]
        assert (await plane.groups.get(CALLER, group.uuid)).instances[0].attempt == 1
        driver.host = home  # the address is mended
        await status(plane, 1, HostStatus.CONNECTED)

        async def runs() -> bool:
            return (await plane.groups.get(CALLER, group.uuid)).status is GroupStatus.RUNNING

        await until(runs)


async def test_a_machine_that_nobody_knows_is_held_until_its_end_is_ordered() -> None:
    async with control_plane(hosts=ONE) as plane:
        await plane.deploy(DeployRequest(spec(1)))
        home = plane.drivers[f"{1:032x}"].host
        (mine,) = list(home.machines.values())
        stranger = replace(mine.identity, instance="e" * 32)
        home.machines[stranger.machine_uuid] = SimulatedMachine(
            stranger, MachineState.RUNNING, resources={"vcpu": 3, "memory": 5}
        )
        await swept(plane)
        assert stranger.machine_uuid in home.machines
        (held,) = await plane.store.read(lambda c: ownership.quarantine(c, f"{1:032x}"))
        assert (held.key, held.instance, held.resources) == (
            stranger.machine_uuid, "e" * 32, {"vcpu": 3, "memory": 5}
        )  # fmt: skip
        await until(lambda: counted(plane, 1, 3))
        await plane.store.write(lambda c: ownership.order_removal(c, f"{1:032x}", held.key))
        await swept(plane)
        assert list(home.machines) == [mine.identity.machine_uuid]
        await plane.sweep.once()
        assert await plane.store.read(lambda c: ownership.quarantine(c, f"{1:032x}")) == ()
        await until(lambda: counted(plane, 1, 0))


async def test_what_a_database_let_go_is_ended_by_its_record_and_no_more_than_a_share_at_once() -> None:
    async with control_plane(hosts=ONE) as plane:
        await plane.deploy(DeployRequest(spec(1)))
        home = plane.drivers[f"{1:032x}"].host
        (mine,) = list(home.machines.values())
        strays = [replace(mine.identity, instance=f"{n:032x}") for n in range(100, 108)]
        for stray in strays:
            home.machines[stray.machine_uuid] = SimulatedMachine(stray, MachineState.STOPPED)
        seats = [(s.instance, s.attempt, f"{1:032x}") for s in strays]
        await plane.store.write(lambda c: retired.retire(c, seats, "g", "by a test", 0))
        await plane.sweep.once()
        left = [len(home.machines)]
        while len(home.machines) > 1:
            await plane.sweep.once()
            left.append(len(home.machines))
        assert left[0] == 9  # never at first sight
        assert max(before - after for before, after in itertools.pairwise(left)) <= 2
        assert list(home.machines) == [mine.identity.machine_uuid]


async def test_a_member_placed_anew_in_the_lost_time_gets_no_second_machine_beside_its_own(tmp_path: Path) -> None:
    """The backup has it as attempt 1 on host 1; in the time that was lost it became attempt 2 on host 2."""
    path, old = tmp_path / "corral.db", tmp_path / "yesterday.db"
    two = (host(1), host(2))
    async with control_plane(hosts=two, url=f"sqlite:///{path}") as plane:
        made = (await plane.deploy(DeployRequest(spec(1, failure_policy=FailurePolicy.REPLACE_MEMBER))))[-1].group
        assert made is not None
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(old)) as target:
            source.backup(target)
        (member,) = (await plane.groups.get(CALLER, made.uuid)).instances
        there = hosts_of(plane)
        seen = await plane.store.read(ownership.generation)
    here, other = there.pop(member.host_uuid), next(iter(there.values()))
    (machine,) = [m for m in here.machines.values() if m.state is MachineState.RUNNING]
    del here.machines[machine.identity.machine_uuid]
    later = replace(machine.identity, attempt=2)
    other.machines[later.machine_uuid] = replace(machine, identity=later, generation=seen + 5)
    there = {member.host_uuid: here} | there
    async with control_plane(hosts=two, url=f"sqlite:///{old}", there=there) as plane:
        away = next(number for number in (1, 2) if f"{number:032x}" != member.host_uuid)
        await status(plane, away, HostStatus.AHEAD)
        await claim(plane, away)
        await status(plane, away, HostStatus.CONNECTED)
        (held,) = await plane.store.read(lambda c: ownership.quarantine(c, f"{away:032x}"))
        assert held.key == later.machine_uuid

        async def waits() -> bool:
            return "in quarantine" in (await plane.groups.get(CALLER, made.uuid)).reason

        await until(waits)
        await swept(plane)
        assert [m for m in machines(there) if m != later.machine_uuid] == []
        adoption = Adoption(plane.store, plane.reconciler.monitors, plane.custody)
        (back,) = (await adoption.adopt(made.uuid)).instances
        assert (back.attempt, back.host_uuid) == (2, f"{away:032x}")
        plane.reconciler.poke(made.uuid)

        async def runs() -> bool:
            return (await plane.groups.get(CALLER, made.uuid)).status is GroupStatus.RUNNING

        await until(runs)
        assert set(machines(there)) == {later.machine_uuid}


async def test_what_one_replica_finds_ahead_holds_the_others_that_cannot_reach_it() -> None:
    async with control_plane(hosts=ONE) as plane:
        found = []
        for ahead in ({}, {"f" * 32: "it has seen generation 9"}, {}):
            plane.custody.tell(ahead)
            found.append(plane.custody.held)
        assert found == [False, True, False]


async def test_a_host_that_a_machine_is_moved_to_is_told_first_how_far_the_database_has_come() -> None:
    async with control_plane(hosts=ONE) as plane:
        monitor = plane.reconciler.monitors[f"{1:032x}"]
        await status(plane, 1, HostStatus.CONNECTED)
        await plane.groups.deploy(CALLER, DeployRequest(spec(1)))
        come = await plane.store.read(ownership.generation)
        assert await monitor.mark_now()
        mark = (await monitor.driver.probe(budget_seconds=5)).mark
        assert mark is not None
        assert mark.generation >= come
        await monitor.driver.leave_mark(OwnerMark("f" * 32, "e" * 32, 1), take_over=True, budget_seconds=5)
        assert not await monitor.mark_now()
