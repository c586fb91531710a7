"""What other control planes shipped, as named tests: each says what went wrong there and what must hold here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from service.domain.groups import Group, GroupStatus, InstanceStatus
from service.domain.network import Network
from service.domain.specs import DeployRequest, FailurePolicy
from service.drivers.base import HostRejected, MachineConflict, MachineState, OutcomeUnknown
from service.drivers.simulated import SimulatedDriver
from service.errors import DeployFailed, NoCapacity
from service.lifecycle.facts import Observation, Observed
from service.reconcile.calls import MemberCalls
from service.reconcile.context import WorkerContext
from service.reconcile.custody import Custody
from service.reconcile.directory import Directory
from service.reconcile.machine_spec import identity_of
from service.reconcile.manager import Reconciler
from service.reconcile.monitor import HostMonitor
from service.store import groups
from service.store.ownership import installation
from service.transactions import changes
from service.transactions.changes import LeaseLost
from tests.support.builders import entry, host, spec, zone
from tests.support.control_plane import CALLER, CLUSTER, ControlPlane, control_plane

pytestmark = pytest.mark.asyncio

Call = Callable[..., Coroutine[Any, Any, Any]]


def replace_call(driver: SimulatedDriver, name: str, make: Callable[[Call], Call]) -> None:
    """Put another behaviour around one of the driver's calls."""
    setattr(driver, name, make(getattr(driver, name)))


def loses(times: int, *, before: bool) -> Callable[[Call], Call]:
    """The first calls are lost: the request (`before`), which then has no effect, or only its reply."""
    left = [times]

    def make(real: Call) -> Call:
        async def call(*arguments: Any, **options: Any) -> Any:
            lost = left[0] > 0
            left[0] -= 1
            if not (lost and before):
                answer = await real(*arguments, **options)
            if lost:
                raise OutcomeUnknown("the connection was lost")
            return answer

        return call

    return make


def hangs(_real: Call) -> Call:
    """Never answers; the caller's budget ends it."""

    async def call(*_arguments: Any, budget_seconds: float, **_options: Any) -> Any:
        await asyncio.sleep(budget_seconds)
        raise OutcomeUnknown("no answer in time")

    return call


async def until(condition: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    """Wait for it. Raises TimeoutError."""
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110  # what is waited for happens on simulated hosts
            await asyncio.sleep(0.02)


def running(plane: ControlPlane, instance: str) -> list[object]:
    """Every machine of the instance that executes, on any host."""
    return [
        machine
        for driver in plane.drivers.values()
        for machine in driver.host.machines.values()
        if machine.identity.instance == instance and machine.state is MachineState.RUNNING
    ]


async def deployed(plane: ControlPlane, size: int = 1, **changes_of_spec: Any) -> Group:
    """A running group."""
    told = await plane.deploy(DeployRequest(spec(size, **changes_of_spec)))
    group = told[-1].group
    assert group is not None
    return group


async def test_a_lost_stop_never_leads_to_two_live_copies() -> None:
    """KubeVirt 16622, 15711: a lost stop left the old copy running while the new one was started."""
    async with control_plane() as plane:
        group = await deployed(plane)
        member = group.instances[0]
        driver = plane.drivers[member.host_uuid]
        replace_call(driver, "remove", loses(3, before=True))
        (machine,) = [m for m in driver.host.machines.values() if m.identity.instance == member.uuid]
        driver.host.stop(machine.identity)
        driver._hint(machine.identity)
        most = 0

        async def replaced() -> bool:
            nonlocal most
            alive = [
                m
                for d in plane.drivers.values()
                for m in d.host.machines.values()
                if m.identity.instance == member.uuid and m.state is not MachineState.TOMBSTONE
            ]
            most = max(most, len(alive), len(running(plane, member.uuid)))
            stored = await plane.groups.get(CALLER, group.uuid)
            return stored.status is GroupStatus.RUNNING and stored.instances[0].attempt == 2

        await until(replaced)
        assert most == 1


async def test_a_control_plane_that_restarts_with_no_memory_touches_nothing_that_runs() -> None:
    """KubeVirt 18765: a handler that restarted with an empty cache killed the machines that it did not know."""
    async with control_plane() as plane:
        group = await deployed(plane, 2)
        before = {
            m.identity.machine_uuid: m.resumed_at for d in plane.drivers.values() for m in d.host.machines.values()
        }
        await plane.reconciler.stop(5.0)
        reconciler = await restarted(plane)
        await reconciler.start()
        try:
            for _ in range(2):
                await plane.sweep.once()
            await plane.store.write(lambda c: groups.due(c, group.uuid, 0))
            reconciler.poke(group.uuid)

            async def looked_at() -> bool:
                return (await plane.groups.get(CALLER, group.uuid)).epoch > group.epoch

            await until(looked_at)
            after = {
                m.identity.machine_uuid: m.resumed_at for d in plane.drivers.values() for m in d.host.machines.values()
            }
            assert after == before
            assert (await plane.groups.get(CALLER, group.uuid)).status is GroupStatus.RUNNING
        finally:
            await reconciler.stop(5.0)


async def restarted(plane: ControlPlane) -> Reconciler:
    """A new process's reconciliation on the same database and hosts."""
    hosts = {uuid: host(int(uuid, 16)) for uuid in plane.drivers}
    found = await plane.store.read(installation)  # in memory there is one connection, which the writer may be using
    assert found is not None
    custody = Custody(plane.store, found)
    monitors: dict[str, HostMonitor] = {}
    directory = Directory(hosts, {zone().uuid: zone()}, {entry().uuid: entry()})
    context = WorkerContext(
        store=plane.store,
        planner=plane.groups._planner,
        calls=MemberCalls(custody, monitors, directory, plane.metrics),
        monitors=monitors,
        metrics=plane.metrics,
        owner="the next process",
        custody=custody,
    )
    reconciler = Reconciler(context)
    for uuid, old in plane.drivers.items():
        driver = SimulatedDriver(uuid, old.host)
        monitors[uuid] = HostMonitor(hosts[uuid], driver, plane.store, reconciler.host_changed, custody)
    return reconciler


async def test_a_gang_of_which_one_member_is_refused_is_taken_down_whole() -> None:
    """Nova: a batch ends in ERROR while some of its machines run and are paid for."""

    def refuses(_real: Call) -> Call:
        async def call(*_arguments: Any, **_options: Any) -> Any:
            raise HostRejected("missing_network", "the host has no such bridge")

        return call

    async with control_plane(size={"cpu": "4"}) as plane:
        replace_call(plane.drivers[f"{2:032x}"], "create_paused", refuses)
        resumed: list[object] = []

        def notes(real: Call) -> Call:
            async def call(identity: object, **options: Any) -> Any:
                resumed.append(identity)
                return await real(identity, **options)

            return call

        for driver in plane.drivers.values():
            replace_call(driver, "resume", notes)
        with pytest.raises(DeployFailed):
            await deployed(plane, 4, failure_policy=FailurePolicy.FAIL_GROUP)
        assert resumed == []
        assert plane.machines() == []
        assert set((await plane.used()).values()) == {0}


async def test_a_create_whose_answer_was_lost_is_not_made_again_and_does_not_fail() -> None:
    """terraform-provider-libvirt 921: the retry after a lost answer says "domain already exists" and gives up."""
    async with control_plane() as plane:
        for driver in plane.drivers.values():
            replace_call(driver, "create_paused", loses(1, before=False))
        group = await deployed(plane, 2)
        assert group.status is GroupStatus.RUNNING
        assert [m.attempt for m in group.instances] == [1, 1]
        assert len(plane.machines()) == 2


async def test_a_host_that_hangs_holds_up_no_other_host() -> None:
    """OpenNebula 1702: one hung libvirtd blocked the monitoring and the launches of all hosts."""
    async with control_plane(hosts=[host(n) for n in (1, 2, 3)]) as plane:
        for name in ("probe", "list_machines", "observe", "create_paused", "resume", "remove"):
            replace_call(plane.drivers[f"{1:032x}"], name, hangs)
        plane.reconciler.monitors[f"{1:032x}"].suspect()
        for _ in range(5):
            group = await deployed(plane, 2, name="beside")
            assert group.status is GroupStatus.RUNNING
            told = await plane.delete(group.uuid)
            assert told[-1].group is not None
            assert told[-1].group.status is GroupStatus.DELETED


async def test_a_late_command_of_an_old_owner_changes_nothing() -> None:
    """CloudStack PR 1640: a management server that had lost a machine stopped it where it ran since."""
    async with control_plane() as plane:
        group = await deployed(plane)
        member = group.instances[0]
        stored = await plane.groups.get(CALLER, group.uuid)
        gone = [Observed(member.uuid, member.attempt, Observation.GONE)]
        with pytest.raises(LeaseLost):
            await plane.store.write(
                lambda c: changes.apply(c, group.uuid, gone, int(time.time() * 1000), epoch=stored.epoch - 1)
            )
        found = await plane.groups.get(CALLER, group.uuid)
        assert replace(found, epoch=stored.epoch) == stored  # its owner may have taken its lease anew meanwhile
        # On the host: a given-up attempt has its tombstone before its claim ends, so that a late create is refused.
        driver = plane.drivers[member.host_uuid]
        identity = identity_of(CLUSTER, member)
        await driver.remove(identity, budget_seconds=1)
        await driver.entomb(identity, budget_seconds=1)
        with pytest.raises(MachineConflict):
            driver.host.create(_machine_spec(identity), 1)


def _machine_spec(identity: Any) -> Any:
    from service.domain.catalog import Image
    from service.drivers.base import MachineSpec

    return MachineSpec(identity, "late", 1, 1 << 20, 0, Image("guest"), (), {}, "hash")


async def test_an_address_is_not_given_out_again_while_its_machine_may_live() -> None:
    """nimbus 101: a destroy that failed freed the address, and the next machine got the same one."""
    small = zone(network=Network("network", "corral", "10.9.0.0/24", "10.9.0.1", "10.9.0.10", "10.9.0.11"))
    async with control_plane(zones=[small]) as plane:
        first = await deployed(plane)
        driver = plane.drivers[first.instances[0].host_uuid]
        replace_call(driver, "remove", loses(10_000, before=True))
        await plane.groups.delete(CALLER, first.uuid)
        second = await deployed(plane, name="second")
        assert second.instances[0].address != first.instances[0].address
        with pytest.raises(NoCapacity):
            await deployed(plane, name="third")
        held = await plane.store.read(lambda c: groups.load(c, first.uuid))
        assert held.instances[0].status is InstanceStatus.REMOVING


async def test_parallel_requests_do_not_pass_a_limit_that_each_of_them_keeps() -> None:
    """CloudStack 9464: each of several requests at once was checked against the limit before any of them counted."""
    async with control_plane(hosts=[host(1)], size={"cpu": "6"}) as plane:
        outcomes = await asyncio.gather(
            *(deployed(plane, 1, name=f"group-{n}") for n in range(10)), return_exceptions=True
        )
        placed = [outcome for outcome in outcomes if isinstance(outcome, Group)]
        assert len(placed) == 3  # of 2 vCPUs each
        assert sum(isinstance(outcome, NoCapacity) for outcome in outcomes) == 7
        assert await plane.used() == {"host-1": 6}
