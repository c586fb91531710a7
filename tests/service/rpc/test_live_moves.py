"""DrainHost where members can be moved as they run: they keep running, on one host at every instant."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, fleet_pb2

from service.domain.groups import MoveStage
from service.drivers.base import HostDriver, HostRejected, MachineSpec
from service.drivers.simulated import SimulatedDriver
from service.lifecycle import moving
from service.reconcile import moves
from service.store import claims, groups
from tests.service.rpc.lab import reason_of
from tests.service.rpc.test_evacuation import answer_again, cut_off, drain, is_silent, kinds, never_twice, soon
from tests.support.whole import Whole, config_text, whole

pytestmark = pytest.mark.asyncio


def slow(hosts: int = 2, **changes: Any) -> str:
    """Hosts between which a move takes longer than any test."""
    return config_text(hosts=hosts, migrate_ms=3_600_000, **changes)


def name_of(lab: Whole, host_uuid: str) -> str:
    return lab.service.directory.hosts[host_uuid].name


def machine(lab: Whole, instance_uuid: str) -> Any:
    """The one machine of the instance that executes; its boot can be told by when it was resumed."""
    (found,) = [
        m
        for monitor in lab.service.reconciler.monitors.values()
        if isinstance(monitor.driver, SimulatedDriver)
        for m in monitor.driver.host.machines.values()
        if m.identity.instance == instance_uuid and m.state.executing
    ]
    return found


async def moving_now(lab: Whole, instance_uuid: str) -> bool:
    """Whether a copy of the member is on its way."""
    return "migrating" in {state for _, state in lab.machines(instance_uuid)}


async def claimed(lab: Whole) -> dict[str, int]:
    """Claimed vCPUs by host name."""
    found = {}
    for host in lab.service.directory.hosts.values():
        amounts = {c.resource: c.claimed for c in (await lab.host(host.name)).capacities}
        found[host.name] = amounts["vcpu"]
    return found


async def test_members_are_moved_as_they_run_and_the_group_is_not_interrupted(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2, cpu=2)) as lab:
        await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=lab.uuid_of("host-2")))
        group, name = await lab.up(2), "host-1"
        await lab.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=lab.uuid_of("host-2")))
        before = {m.uuid: machine(lab, m.uuid).resumed_at for m in group.instances}
        preview = await drain(lab, name, validate_only=True)
        assert [s.move.live for s in preview if s.WhichOneof("change") == "move"] == [True, True]
        async with never_twice(lab):
            steps = await drain(lab, name)
        told = [s.instance for s in steps if s.WhichOneof("change") == "instance"]
        assert {i.status for i in told} == {"Running"}, [(i.status, i.reason) for i in told]
        assert any(i.reason.startswith("it is being moved live to host-") for i in told)
        assert (steps[-1].final.state, steps[-1].final.instance_count) == ("Maintenance", 0)
        assert {c.claimed for c in steps[-1].final.capacities} == {0}
        after = await lab.get(group.uuid)
        assert (after.status, after.reason) == ("Running", "")
        for old, new in zip(group.instances, after.instances, strict=True):
            assert (new.attempt, new.vm_instance_uuid, new.reason) == (1, old.vm_instance_uuid, "")
            assert new.addresses == old.addresses
            assert new.host_uuid != old.host_uuid
            assert machine(lab, new.uuid).resumed_at == before[new.uuid], "it was not started again"
        assert lab.machines_on(name) == []
        other = name_of(lab, after.instances[0].host_uuid)
        assert await claimed(lab) == {name: 0, other: 8}


async def test_capacity_is_claimed_on_both_hosts_until_the_member_was_seen_on_one(tmp_path: Path) -> None:
    async with whole(tmp_path, slow()) as lab:
        group = await lab.up()
        (member,) = group.instances
        name = name_of(lab, member.host_uuid)
        task = asyncio.create_task(drain(lab, name))
        await soon(lambda: moving_now(lab, member.uuid))
        assert await claimed(lab) == {"host-1": 4, "host-2": 4}
        stored = await lab.service.store.read(lambda c: groups.load(c, group.uuid))
        (going,) = stored.instances
        assert going.move is MoveStage.GOING
        seats = await lab.service.store.read(lambda c: claims.seats_of(c, group.uuid))
        assert seats == {(member.uuid, 1): frozenset({going.host_uuid, going.target_host_uuid})}
        target = going.target_host_name
        assert (await lab.host(target)).instance_count == 1, "what arrives keeps its host from being removed"
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await lab.fleet.RemoveHost(fleet_pb2.RemoveHostRequest(uuid=going.target_host_uuid))
        assert reason_of(error.value) == "WRONG_STATE"
        delete = deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid)
        events = [e.event async for e in lab.deploy.DeleteInstanceGroup(delete)]
        assert events[-1].final.status == "Deleted"
        assert (await asyncio.wait_for(task, 120))[-1].final.instance_count == 0
        assert await claimed(lab) == {"host-1": 0, "host-2": 0}
        assert lab.machines(member.uuid) == []


@pytest.mark.parametrize("call", ["EnableHost", "DisableHost"])
async def test_members_that_have_not_begun_to_move_stay_where_a_drain_is_taken_back(tmp_path: Path, call: str) -> None:
    async with whole(tmp_path, config_text(hosts=2, cpu=4, migrate_ms=4000)) as lab:
        await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=lab.uuid_of("host-2")))
        group = await lab.up(4)
        await lab.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=lab.uuid_of("host-2")))
        task = asyncio.create_task(drain(lab, "host-1"))
        moving = [m.uuid for m in group.instances]

        async def begun() -> bool:
            return any([await moving_now(lab, uuid) for uuid in moving])

        await soon(begun)
        request = getattr(fleet_pb2, f"{call}Request")(uuid=lab.uuid_of("host-1"))
        await getattr(lab.fleet, call)(request)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await asyncio.wait_for(task, 120)
        assert reason_of(error.value) == "WRONG_STATE"

        async def settled() -> bool:
            stored = await lab.service.store.read(lambda c: groups.load(c, group.uuid))
            return all(m.move is MoveStage.NONE and not m.target_host_uuid for m in stored.instances)

        await soon(settled)
        after = await lab.get(group.uuid)
        assert sorted(m.host_name for m in after.instances) == ["host-1"] * 3 + ["host-2"]
        assert {(m.status, m.reason, m.attempt) for m in after.instances} == {("Running", "", 1)}


async def restarted(lab: Whole, group: Any, steps: list[Any], why: str) -> None:
    """The drain ended with the member stopped and placed anew, and said why."""
    (member,) = group.instances
    told = [s.instance for s in steps if s.WhichOneof("change") == "instance"]
    evicting = next(i for i in told if i.status == "Evicting")
    assert evicting.reason.startswith("it could not be moved live: ")
    assert why in evicting.reason
    after = await lab.get(group.uuid)
    assert after.status == "Running"
    assert (after.instances[0].attempt, after.instances[0].host_uuid != member.host_uuid) == (2, True)
    assert len(lab.machines(member.uuid)) == 1


async def test_a_move_that_is_refused_becomes_a_restart_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(self: SimulatedDriver, spec: MachineSpec, target: HostDriver, *, budget_seconds: float) -> bool:
        raise HostRejected("refused", "the processors differ", "secret detail")

    monkeypatch.setattr(SimulatedDriver, "migrate", refuse)
    async with whole(tmp_path, config_text(hosts=3)) as lab:
        group = await lab.up()
        async with never_twice(lab):
            steps = await drain(lab, name_of(lab, group.instances[0].host_uuid))
        await restarted(lab, group, steps, "the processors differ")
        assert not [i for i in steps if "secret" in i.instance.reason], "it is told as the cause, to administrators"
        assert sum((await claimed(lab)).values()) == 4


async def test_a_move_that_takes_too_long_is_aborted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "MOVE_BASE_MS", 300)
    monkeypatch.setattr(moving, "MOVE_MS_PER_MIB", 0)
    monkeypatch.setattr("service.reconcile.moves.WAIT_SECONDS", 0.2)
    async with whole(tmp_path, slow(3)) as lab:
        group = await lab.up()
        async with never_twice(lab):
            steps = await drain(lab, name_of(lab, group.instances[0].host_uuid))
        await restarted(lab, group, steps, "it took too long")


async def test_a_target_that_dies_costs_the_member_its_move_and_nothing_else(tmp_path: Path) -> None:
    """The source says that the move broke off: then the target need not be waited for."""
    async with whole(tmp_path, config_text(hosts=3, migrate_ms=400)) as lab:
        group = await lab.up()
        (member,) = group.instances
        name = name_of(lab, member.host_uuid)
        async with never_twice(lab):
            task = asyncio.create_task(drain(lab, name))
            await soon(lambda: moving_now(lab, member.uuid))
            (target,) = [host for host, state in lab.machines(member.uuid) if state == "migrating"]
            cut_off(lab.driver(target))
            await soon(lambda: is_silent(lab, target))
            steps = await asyncio.wait_for(task, 120)
            await restarted(lab, group, steps, "")
            after = (await lab.get(group.uuid)).instances[0]
            assert after.host_uuid != lab.uuid_of(target)
            assert (await claimed(lab))[target] == 4, "its claim stands until the host was seen without the machine"
            answer_again(lab.driver(target))
            sweep = lab.service.reconciler._sweep
            assert sweep is not None

            async def clean() -> bool:
                await sweep.once()
                return (await claimed(lab))[target] == 0

            await soon(clean)


async def test_a_source_that_dies_leaves_the_member_unknown_until_it_is_fenced(tmp_path: Path) -> None:
    async with whole(tmp_path, slow(3)) as lab:
        group = await lab.up()
        (member,) = group.instances
        name = name_of(lab, member.host_uuid)
        async with never_twice(lab):
            task = asyncio.create_task(drain(lab, name))
            await soon(lambda: moving_now(lab, member.uuid))
            source = lab.driver(name)
            await source.abort_migration(machine(lab, member.uuid).identity, budget_seconds=5)
            source.host.reboot()
            cut_off(source)
            await soon(lambda: is_silent(lab, name))

            async def unknown() -> bool:
                return bool((await lab.get(group.uuid)).instances[0].status == "Unknown")

            await soon(unknown)
            assert (await lab.get(group.uuid)).instances[0].host_uuid == member.host_uuid
            await lab.fleet.FenceHost(fleet_pb2.FenceHostRequest(uuid=member.host_uuid))

            async def again() -> bool:
                found = (await lab.get(group.uuid)).instances[0]
                return bool(found.status == "Running" and found.host_uuid != member.host_uuid)

            await soon(again)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert (await lab.get(group.uuid)).instances[0].attempt == 2


async def test_a_source_that_dies_after_the_switch_has_moved_its_member(tmp_path: Path) -> None:
    """The machine runs on its target; that is believed once the source was seen without it."""
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        group = await lab.up()
        (member,) = group.instances
        name = name_of(lab, member.host_uuid)
        source = lab.driver(name)
        move, switched = source.migrate, asyncio.Event()

        async def lose_reply(spec: MachineSpec, target: HostDriver, *, budget_seconds: float) -> bool:
            done = await move(spec, target, budget_seconds=budget_seconds)
            cut_off(source)
            switched.set()
            return done

        source.migrate = lose_reply  # type: ignore[method-assign]
        async with never_twice(lab):
            task = asyncio.create_task(drain(lab, name))
            await asyncio.wait_for(switched.wait(), 120)
            await soon(lambda: is_silent(lab, name))
            assert (await lab.get(group.uuid)).instances[0].host_uuid == member.host_uuid
            answer_again(source)
            steps = await asyncio.wait_for(task, 120)
        assert kinds(steps)[-1] == "final"
        after = (await lab.get(group.uuid)).instances[0]
        assert (after.attempt, after.status, after.host_uuid != member.host_uuid) == (1, "Running", True)


@pytest.mark.parametrize("half", ["source_waits", "target_runs"])
async def test_a_service_that_was_killed_in_the_middle_is_followed_by_one_that_ends_the_move(
    tmp_path: Path, half: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the hosts say decides; here the state that a kill leaves behind is made, between the steps of a switch."""
    monkeypatch.setattr("service.reconcile.moves.WAIT_SECONDS", 0.2)
    text = slow(url=f"sqlite:///{tmp_path}/corral.db")
    head, *hosts = text.split("[hosts.options]\n")
    files = [f'[hosts.options]\nstate_file = "{tmp_path}/{n}.json"\n{rest}' for n, rest in enumerate(hosts)]
    text = head + "".join(files)  # what the hosts have outlives the service
    async with whole(tmp_path, text) as lab:
        group = await lab.up()
        (member,) = group.instances
        name = name_of(lab, member.host_uuid)
        task = asyncio.create_task(drain(lab, name))
        await soon(lambda: moving_now(lab, member.uuid))
        source, identity = lab.driver(name), machine(lab, member.uuid).identity
        (other,) = {"host-1", "host-2"} - {name}
        target = lab.driver(other)
        # Killed: from here on nothing of the process reaches a host, not even to clean up.
        cut_off(source)
        cut_off(target)
        source._stay = lambda *_: None  # type: ignore[method-assign]
        source.host.depart(identity)
        if half == "target_runs":
            target.host.go_on(identity)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with whole(tmp_path, text.replace('migrate_ms = "3600000"', 'migrate_ms = "20"')) as lab:
        async with never_twice(lab):
            steps = await drain(lab, name)
        assert kinds(steps)[-1] == "final"
        after = (await lab.get(group.uuid)).instances[0]
        assert (after.attempt, after.status) == (1, "Running")
        assert lab.machines(member.uuid) == [(other, "running")]


async def test_a_group_that_is_stopped_in_the_middle_leaves_the_host_all_the_same(tmp_path: Path) -> None:
    async with whole(tmp_path, slow()) as lab:
        group = await lab.up()
        (member,) = group.instances
        name = name_of(lab, member.host_uuid)
        task = asyncio.create_task(drain(lab, name))
        await soon(lambda: moving_now(lab, member.uuid))
        stop = deploy_pb2.StopInstanceGroupRequest(uuid=group.uuid)
        events = [e.event async for e in lab.deploy.StopInstanceGroup(stop)]
        assert events[-1].final.status == "Stopped"
        assert (await asyncio.wait_for(task, 120))[-1].final.instance_count == 0
        assert lab.machines_on(name) == []
        assert sum((await claimed(lab)).values()) == 0


async def test_a_target_that_is_drained_too_is_not_waited_for(tmp_path: Path) -> None:
    async with whole(tmp_path, slow(3)) as lab:
        group = await lab.up()
        (member,) = group.instances
        name = name_of(lab, member.host_uuid)
        async with never_twice(lab):
            task = asyncio.create_task(drain(lab, name))
            await soon(lambda: moving_now(lab, member.uuid))
            (target,) = [host for host, state in lab.machines(member.uuid) if state == "migrating"]
            second = await drain(lab, target)
            assert second[-1].final.instance_count == 0
            steps = await asyncio.wait_for(task, 120)
        await restarted(lab, group, steps, "is being emptied")


async def test_a_member_that_arrives_where_a_drain_has_begun_goes_on_to_another_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled = moves.LiveMove._settled
    second: list[asyncio.Task[Any]] = []

    async with whole(tmp_path, config_text(hosts=3, migrate_ms=20)) as lab:
        group = await lab.up()
        (member,) = group.instances
        name = name_of(lab, member.host_uuid)

        async def overtaken(move: moves.LiveMove, there: Any) -> Any:
            """The drain of the target is stored after the machine was switched over, before the switch is stored."""
            if there is not None and there.state.executing and not second:
                target = name_of(lab, move.member.target_host_uuid)
                second.append(asyncio.create_task(drain(lab, target)))

                async def begun() -> bool:
                    return (await lab.host(target)).state == "Maintenance"

                await soon(begun)
            return await settled(move, there)

        monkeypatch.setattr(moves.LiveMove, "_settled", overtaken)
        async with never_twice(lab):
            first = await asyncio.wait_for(drain(lab, name), 120)
            steps = await asyncio.wait_for(second[0], 120)
        assert (first[-1].final.instance_count, steps[-1].final.instance_count) == (0, 0)
        after = (await lab.get(group.uuid)).instances[0]
        assert (after.status, after.attempt) == ("Running", 1)
        assert after.host_uuid not in (member.host_uuid, steps[-1].final.uuid)


async def test_a_member_without_a_host_that_takes_it_live_is_restarted_where_there_is_room(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2, live=False)) as lab:
        group = await lab.up()
        name = name_of(lab, group.instances[0].host_uuid)
        preview = await drain(lab, name, validate_only=True)
        assert not preview[0].move.live
        steps = await drain(lab, name)
        await restarted(lab, group, steps, "no other host takes it as it runs")
