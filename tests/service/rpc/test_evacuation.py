"""DrainHost and FenceHost on the whole service: never two live copies, nothing lost, nothing done by halves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, fleet_pb2, group_pb2

from service.drivers.base import HostUnreachable
from service.drivers.simulated import SimulatedDriver
from service.store import ownership
from tests.service.rpc.lab import hold, reason_of
from tests.support import whole as lab_of_hosts
from tests.support.whole import Whole

pytestmark = pytest.mark.asyncio

config_text = partial(lab_of_hosts.config_text, live=False)
"""Most of these tests are of members that are stopped and placed anew; `test_live_moves` has the others."""


def whole(directory: Path, text: str | None = None) -> AbstractAsyncContextManager[Whole]:
    """As `lab_of_hosts.whole`."""
    return lab_of_hosts.whole(directory, text or config_text())


LIVE = ("paused", "running", "stopping")


async def soon(true: Callable[[], Awaitable[bool]], seconds: float = 120) -> None:
    """Wait until something is so; fails where it never comes."""
    async with asyncio.timeout(seconds):
        while not await true():  # noqa: ASYNC110  # the store has no event to wait for
            await asyncio.sleep(0.02)


@asynccontextmanager
async def never_twice(lab: Whole) -> AsyncIterator[None]:
    """Looks at all hosts all the time: no instance has two machines of which one may run."""
    broken: list[Any] = []

    async def look() -> None:
        while True:
            instances = {
                m.identity.instance
                for monitor in lab.service.reconciler.monitors.values()
                for m in monitor.driver.host.machines.values()  # type: ignore[attr-defined]
            }
            for instance in instances:
                copies = lab.machines(instance)
                if sum(state in LIVE for _, state in copies) > 1:
                    broken.append((instance, copies))
            await asyncio.sleep(0.001)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert not broken


async def drain(lab: Whole, name: str, **fields: Any) -> list[fleet_pb2.DrainHostResponse]:
    request = fleet_pb2.DrainHostRequest(uuid=lab.uuid_of(name), **fields)
    return [step async for step in lab.fleet.DrainHost(request)]


async def all_run(lab: Whole, *groups: Any) -> bool:
    return {(await lab.get(group.uuid)).status for group in groups} == {"Running"}


def kinds(steps: list[fleet_pb2.DrainHostResponse]) -> list[str | None]:
    return [step.WhichOneof("change") for step in steps]


def cut_off(driver: SimulatedDriver) -> None:
    """The host does not answer any more; its machines go on as they are."""

    async def call(budget_seconds: float) -> None:
        raise HostUnreachable("the host does not answer")

    driver._call = call  # type: ignore[method-assign]


def answer_again(driver: SimulatedDriver) -> None:
    del driver._call


async def test_a_drain_restarts_the_members_elsewhere_and_leaves_the_host_empty(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=3)) as lab:
        spread = {"placement_policy": {"max_per_host": 1}}
        group = await lab.up(2, **spread)
        name = lab.service.directory.hosts[group.instances[0].host_uuid].name
        uuid = lab.uuid_of(name)
        preview = await drain(lab, name, validate_only=True)
        assert kinds(preview) == ["move", "final"]
        assert (preview[-1].final.state, preview[-1].final.instance_count) == ("Enabled", 1)
        async with never_twice(lab):
            steps = await drain(lab, name)
        assert (steps[0].move.instance_uuid, steps[0].move.source_host_uuid) == (group.instances[0].uuid, uuid)
        assert steps[0].move.target_host_uuid == preview[0].move.target_host_uuid
        assert not steps[0].move.live
        told = [step.instance.status for step in steps if step.WhichOneof("change") == "instance"]
        told = told[told.index("Evicting") :]  # before, it runs until it is known that no host takes it as it runs
        assert (told[0], told[1], told[-1]) == ("Evicting", "Pending", "Running")
        final = steps[-1].final
        assert (final.state, final.instance_count) == ("Maintenance", 0)
        assert {c.claimed for c in final.capacities} == {0}
        await soon(lambda: all_run(lab, group))  # once who stayed has heard where the other one is
        moved, stayed = (await lab.get(group.uuid)).instances
        assert (moved.host_uuid, moved.attempt, moved.status) == (preview[0].move.target_host_uuid, 2, "Running")
        before = group.instances[1]
        kept = (before.uuid, before.host_uuid, before.attempt, before.addresses, "Running")
        assert (stayed.uuid, stayed.host_uuid, stayed.attempt, stayed.addresses, stayed.status) == kept
        assert lab.machines_on(name) == []
        enable = fleet_pb2.EnableHostRequest(uuid=uuid)
        assert (await lab.fleet.EnableHost(enable)).inventory.state == "Enabled"


@pytest.mark.parametrize(
    "action",
    [
        group_pb2.FAILURE_ACTION_FAIL_GROUP,
        group_pb2.FAILURE_ACTION_RESTART_MEMBER,
        group_pb2.FAILURE_ACTION_REPLACE_MEMBER,
    ],
)
async def test_a_drain_is_no_failure_whatever_the_groups_policy(tmp_path: Path, action: Any) -> None:
    async with whole(tmp_path) as lab:
        group = await lab.up(1, failure_policy={"action": action, "budget": 0})
        name = lab.service.directory.hosts[group.instances[0].host_uuid].name
        await drain(lab, name)
        after = await lab.get(group.uuid)
        assert (after.status, after.reason) == ("Running", "")
        assert after.instances[0].host_uuid != group.instances[0].host_uuid


async def test_members_of_several_groups_move_together_each_by_its_own_groups_rules(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=4)) as lab:
        first = await lab.up(2, placement_policy={"max_per_host": 1})
        name = lab.service.directory.hosts[first.instances[0].host_uuid].name
        near: dict[str, list[str]] = {"affinity_group_uuids": []}
        apart = {"anti_affinity_group_uuids": [first.uuid]}
        for other in [h.name for h in lab.service.directory.hosts.values() if h.name != name]:
            await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=lab.uuid_of(other)))
        second = await lab.up(1, placement_policy=near)
        assert second.instances[0].host_uuid == lab.uuid_of(name)
        for other in [h.name for h in lab.service.directory.hosts.values() if h.name != name]:
            await lab.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=lab.uuid_of(other)))
        third = await lab.up(1, placement_policy=apart)
        async with never_twice(lab):
            steps = await drain(lab, name)
        moves = {s.move.instance_uuid for s in steps if s.WhichOneof("change") == "move"}
        assert moves == {first.instances[0].uuid, second.instances[0].uuid}
        await soon(lambda: all_run(lab, first, second, third))  # once who stayed has heard where the other one is
        ended = [await lab.get(group.uuid) for group in (first, second, third)]
        hosts = [m.host_uuid for m in ended[0].instances]
        assert len(set(hosts)) == 2
        assert lab.uuid_of(name) not in (*hosts, ended[1].instances[0].host_uuid)
        assert ended[2].instances[0].host_uuid not in hosts, "what was to be apart still is"


async def test_a_drain_that_finds_no_room_does_nothing_at_all(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        groups = [await lab.up() for _ in range(4)]  # each host has room for two members
        before = await lab.host("host-1")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await drain(lab, "host-1")
        assert reason_of(error.value) == "NO_CAPACITY"
        assert await lab.host("host-1") == before
        for group in groups:
            assert await lab.get(group.uuid) == group


async def test_a_drain_goes_on_without_its_client_and_can_be_followed_again(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        group = await lab.up()
        name = lab.service.directory.hosts[group.instances[0].host_uuid].name
        request = fleet_pb2.DrainHostRequest(uuid=lab.uuid_of(name), request_id="one")
        call = lab.fleet.DrainHost(request)
        assert (await call.read()).WhichOneof("change") == "move"
        assert (await call.read()).WhichOneof("change") == "instance"
        call.cancel()
        again = await drain(lab, name, request_id="one")
        assert "move" not in kinds(again)
        assert kinds(again)[-1] == "final"
        assert (await lab.get(group.uuid)).instances[0].attempt == 2, "it was moved once"


async def test_a_stopped_groups_seat_is_given_up_and_found_anew_at_its_start(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        group = await lab.up()
        stop = deploy_pb2.StopInstanceGroupRequest(uuid=group.uuid)
        assert [e async for e in lab.deploy.StopInstanceGroup(stop)]
        name = lab.service.directory.hosts[group.instances[0].host_uuid].name
        steps = await drain(lab, name)
        assert steps[-1].final.instance_count == 0
        assert lab.machines_on(name) == []
        left = [machine.state.value for machine in lab.driver(name).host.machines.values()]
        assert left == ["tombstone"], "a create that is still under way must find the uuid taken"
        assert (await lab.get(group.uuid)).status == "Stopped"
        start = deploy_pb2.StartInstanceGroupRequest(uuid=group.uuid)
        events = [e.event async for e in lab.deploy.StartInstanceGroup(start)]
        assert events[-1].final.status == "Running"
        assert events[-1].final.instances[0].host_uuid != group.instances[0].host_uuid


async def test_an_empty_host_is_drained_at_once_and_a_stale_etag_is_refused(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await drain(lab, "host-1", etag="old")
        assert reason_of(error.value) == "CONFLICT"
        (only,) = await drain(lab, "host-1")
        assert (only.final.state, only.final.instance_count) == ("Maintenance", 0)


async def test_a_host_that_answers_is_not_fenced_and_one_that_does_not_is_not_drained(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        group = await lab.up()
        name = lab.service.directory.hosts[group.instances[0].host_uuid].name
        fence = fleet_pb2.FenceHostRequest(uuid=lab.uuid_of(name))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await lab.fleet.FenceHost(fence)
        assert reason_of(error.value) == "WRONG_STATE"
        cut_off(lab.driver(name))
        await soon(lambda: is_silent(lab, name))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await drain(lab, name)
        assert reason_of(error.value) == "WRONG_STATE"
        preview = (await lab.fleet.FenceHost(fleet_pb2.FenceHostRequest(uuid=fence.uuid, validate_only=True))).inventory
        assert preview.state == "Maintenance"
        assert (await lab.host(name)).state == "Enabled"
        assert (await lab.get(group.uuid)).instances[0].host_uuid == fence.uuid

        # The database was an older copy, and this host was not looked at: nobody is placed, so nobody is driven out.
        store = lab.service.store
        await store.write(lambda c: ownership.all_known(c, (), [fence.uuid]))
        other = next(h.name for h in lab.service.directory.hosts.values() if h.uuid != fence.uuid)
        with pytest.raises(grpc.aio.AioRpcError, match=name) as error:
            await drain(lab, other)
        assert reason_of(error.value) == "WRONG_STATE"
        await lab.fleet.FenceHost(fence)  # off: what ran there runs no more
        assert await store.read(ownership.ahead) == ()


async def is_silent(lab: Whole, name: str) -> bool:
    lab.service.reconciler.monitors[lab.uuid_of(name)].suspect()
    return (await lab.host(name)).status == "Disconnected"


async def test_a_fenced_hosts_members_run_elsewhere_and_it_is_cleaned_before_it_takes_new_ones(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        group = await lab.up()
        (member,) = group.instances
        name = lab.service.directory.hosts[member.host_uuid].name
        driver = lab.driver(name)
        driver.host.reboot()  # the power is off: what was there does not run
        cut_off(driver)
        await soon(lambda: is_silent(lab, name))
        assert (await lab.get(group.uuid)).instances[0].host_uuid == member.host_uuid, "silence alone moves nobody"
        fenced = (await lab.fleet.FenceHost(fleet_pb2.FenceHostRequest(uuid=member.host_uuid))).inventory
        assert (fenced.state, fenced.instance_count) == ("Maintenance", 0)
        claimed = {c.resource: c.claimed for c in fenced.capacities}
        assert claimed["vcpu"] == 4, "the claim stands until the host was seen without the machine"

        async def again() -> bool:
            found = (await lab.get(group.uuid)).instances[0]
            return bool(found.status == "Running" and found.host_uuid != member.host_uuid)

        await soon(again)
        enable = fleet_pb2.EnableHostRequest(uuid=member.host_uuid)
        for call in (
            lab.fleet.EnableHost(enable),
            lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=member.host_uuid)),
            lab.fleet.RemoveHost(fleet_pb2.RemoveHostRequest(uuid=member.host_uuid)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call
            assert reason_of(error.value) == "WRONG_STATE"

        answer_again(driver)
        assert lab.machines(member.uuid)[0][1] == "stopped"
        sweep = lab.service.reconciler._sweep
        assert sweep is not None

        async def clean() -> bool:
            await sweep.once()
            return (await lab.host(name)).capacities[1].claimed == 0

        await soon(clean)
        assert [host for host, _ in lab.machines(member.uuid)] != [name]
        assert name not in [host for host, _ in lab.machines(member.uuid)]
        assert (await lab.fleet.EnableHost(enable)).inventory.state == "Enabled"


async def test_a_drain_ends_when_somebody_takes_the_host_out_of_maintenance(tmp_path: Path) -> None:
    """It would wait for ever: the host takes new members. The caller must not believe that it is empty."""
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        group = await lab.up(1)
        name = lab.service.directory.hosts[group.instances[0].host_uuid].name
        host = lab.uuid_of(name)
        done = hold(lab.driver(name))  # so that the member cannot leave meanwhile
        try:
            task = asyncio.create_task(drain(lab, name))

            async def enabled() -> bool:
                if (await lab.host(name)).state == "Maintenance":
                    await lab.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=host))
                    return True
                return False

            await soon(enabled)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asyncio.wait_for(task, 120)
        finally:
            answer_again(lab.driver(name))
            done.set()
        assert reason_of(caught.value) == "WRONG_STATE"
        assert "to stay under maintenance" in (caught.value.details() or "")


EXPECTED = ("NO_CAPACITY", "UNSATISFIABLE", "WRONG_STATE", "NOT_FOUND", "DEPLOY_FAILED", "CONFLICT")
NAMES = [f"host-{number}" for number in range(1, 5)]


async def listed(lab: Whole) -> list[Any]:
    return list((await lab.deploy.ListInstanceGroups(deploy_pb2.ListInstanceGroupsRequest())).inventories)


async def begun(lab: Whole, name: str, moving: asyncio.Event) -> None:
    """A drain until its end, or until somebody took the host out of maintenance."""
    try:
        async for step in lab.fleet.DrainHost(fleet_pb2.DrainHostRequest(uuid=lab.uuid_of(name))):
            if step.WhichOneof("change") == "move":
                moving.set()
    except grpc.aio.AioRpcError as error:
        assert reason_of(error) == "WRONG_STATE", error.details()  # noqa: PT017  # the end may come either way


async def act(lab: Whole, chance: random.Random) -> None:
    """Something that an operator or a caller may do."""
    choice = chance.choice(["drain", "enable", "enable", "deploy", "deploy", "delete", "stop"])
    name, size = chance.choice(NAMES), chance.randint(1, 3)
    groups = await listed(lab)
    uuid = chance.choice(groups).uuid if groups else ""
    try:
        if choice == "drain":
            await drain(lab, name)
        elif choice == "enable":
            await lab.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=lab.uuid_of(name)))
        elif choice == "deploy":
            await lab.up(size)
        elif choice == "stop" and uuid:
            assert [e async for e in lab.deploy.StopInstanceGroup(deploy_pb2.StopInstanceGroupRequest(uuid=uuid))]
        elif uuid:
            assert [e async for e in lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=uuid))]
    except grpc.aio.AioRpcError as error:
        if reason_of(error) not in EXPECTED:
            raise AssertionError(error.details()) from error


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_operators_and_callers_do_at_once_everything_settles(tmp_path: Path, seed: int) -> None:
    """In any order and at the same time: no copy twice, no claim without a member."""
    chance = random.Random(seed)

    async def settled() -> bool:
        return all(group.status in ("Running", "Stopped", "Failed") for group in await listed(lab))

    async with whole(tmp_path, config_text(hosts=4, live=seed % 2 == 0)) as lab:
        first = (await lab.up(2)).instances[0]
        async with never_twice(lab), asyncio.timeout(300):
            moving = asyncio.Event()  # a run in which nobody moved would show nothing
            begin = asyncio.create_task(begun(lab, lab.service.directory.hosts[first.host_uuid].name, moving))
            await moving.wait()
            await asyncio.gather(begin, *(act(lab, chance) for _ in range(3)))
            for _ in range(5):
                await asyncio.gather(*(act(lab, chance) for _ in range(4)))
            for name in NAMES:
                await lab.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=lab.uuid_of(name)))
            await soon(settled)
        seated = [m for g in await listed(lab) if g.status != "Failed" for m in g.instances if m.host_uuid]
        for name in NAMES:
            host = await lab.host(name)
            mine = [m for m in seated if m.host_uuid == host.uuid]
            assert host.instance_count == len(mine)
            assert {c.resource: c.claimed for c in host.capacities}["vcpu"] == sum(m.cpu_num for m in mine)
            up = [m for m in mine if m.status == "Running"]  # a group stopped on its way has seats without machines
            assert len(up) <= len(lab.machines_on(name)) <= len(mine)
