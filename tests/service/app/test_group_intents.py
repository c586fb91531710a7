"""What callers are promised of changes to a group: stop, start, restart, scale, update, each once for a request id."""

from __future__ import annotations

import pytest

from service.app.etags import etag_of
from service.app.groups import Ask, Metadata
from service.domain.groups import GroupStatus, InstanceStatus
from service.domain.specs import DeployRequest
from service.drivers.base import MachineState
from service.errors import (
    Conflict,
    InvalidArgument,
    NoCapacity,
    Unsatisfiable,
    WrongState,
)
from tests.support.builders import node, spec
from tests.support.control_plane import CALLER, control_plane

pytestmark = pytest.mark.asyncio


async def test_stop_keeps_the_seats_and_start_brings_the_next_epoch() -> None:
    async with control_plane() as plane:
        told = await plane.deploy(DeployRequest(spec(2)))
        before = told[-1].group
        stopped = await plane.operation(plane.groups.stop(CALLER, told[0].group_uuid))
        assert stopped[-1].group is not None
        assert stopped[-1].group.status is GroupStatus.STOPPED
        assert sum((await plane.used()).values()) == 4
        assert all(m.state is MachineState.STOPPED for m in plane.machines())
        with pytest.raises(WrongState):
            await plane.groups.stop(CALLER, told[0].group_uuid)
        started = await plane.operation(plane.groups.start(CALLER, told[0].group_uuid))
        after = started[-1].group
        assert after is not None
        assert before is not None
        assert GroupStatus.STARTING in {e.group.status for e in started if e.group is not None}
        assert (after.status, after.start_epoch) == (GroupStatus.RUNNING, before.start_epoch + 1)
        assert [m.host_uuid for m in after.instances] == [m.host_uuid for m in before.instances]


async def test_restart_is_a_stop_and_a_start_in_one_stream() -> None:
    async with control_plane() as plane:
        told = await plane.deploy(DeployRequest(spec(2)))
        again = await plane.operation(plane.groups.restart(CALLER, told[0].group_uuid))
        statuses = [e.group.status for e in again if e.group is not None]
        assert statuses[0] is GroupStatus.STOPPING
        assert statuses[-1] is GroupStatus.RUNNING
        assert GroupStatus.STOPPED not in statuses
        assert again[-1].group.start_epoch == 2  # type: ignore[union-attr]


async def test_a_stopped_group_can_be_deleted() -> None:
    async with control_plane() as plane:
        told = await plane.deploy(DeployRequest(spec(2)))
        await plane.operation(plane.groups.stop(CALLER, told[0].group_uuid))
        await plane.delete(told[0].group_uuid)
        assert plane.machines() == []
        assert set((await plane.used()).values()) == {0}


async def test_scale_adds_and_removes_and_leaves_the_others_alone() -> None:
    async with control_plane() as plane:
        told = await plane.deploy(DeployRequest(spec(3)))
        before = told[-1].group
        assert before is not None
        gone = before.instances[1].uuid
        scaled = await plane.operation(plane.groups.scale(CALLER, before.uuid, [node(), node()], [gone]))
        after = scaled[-1].group
        assert after is not None
        assert after.status is GroupStatus.RUNNING
        assert [m.rank for m in after.instances] == [0, 1, 2, 3]
        assert gone not in {m.uuid for m in after.instances}
        kept = (before.instances[0], before.instances[2])
        assert {(m.uuid, m.attempt, m.restarts) for m in kept} <= {
            (m.uuid, m.attempt, m.restarts) for m in after.instances
        }
        assert [e.instance.status for e in scaled if e.instance and e.instance.uuid == gone][
            -1
        ] is InstanceStatus.REMOVED
        assert len(plane.machines()) == 4
        assert sum((await plane.used()).values()) == 8
        assert len(after.spec.nodes) == 4


async def test_a_scaling_that_does_not_fit_changes_nothing() -> None:
    async with control_plane(size={"cpu": "3", "memory": "8GiB"}) as plane:
        told = await plane.deploy(DeployRequest(spec(2)))
        before = told[-1].group
        assert before is not None
        with pytest.raises((NoCapacity, Unsatisfiable)):
            await plane.operation(plane.groups.scale(CALLER, before.uuid, [node()] * 2, [before.instances[1].uuid]))
        after = await plane.groups.get(CALLER, before.uuid)
        assert after.status is GroupStatus.RUNNING
        assert [m.uuid for m in after.instances] == [m.uuid for m in before.instances]
        assert not any(m.joining or m.leaving for m in after.instances)
        assert sum((await plane.used()).values()) == 4
        await plane.delete(before.uuid)


@pytest.mark.parametrize("removed", ["0" * 32, "initial", ""])
async def test_scale_names_the_member_that_can_not_be_removed(removed: str) -> None:
    async with control_plane() as plane:
        group = (await plane.deploy(DeployRequest(spec(2))))[-1].group
        assert group is not None
        uuids = {"initial": [group.instances[0].uuid], "": []}.get(removed, [removed])
        with pytest.raises(InvalidArgument):
            await plane.groups.scale(CALLER, group.uuid, [], uuids)


async def test_update_changes_metadata_alone_and_tells_it() -> None:
    async with control_plane() as plane:
        group = (await plane.deploy(DeployRequest(spec(1))))[-1].group
        assert group is not None
        after = await plane.groups.update(CALLER, group.uuid, Metadata(name="renamed", user_tags=("a",)))
        assert (after.spec.name, after.spec.user_tags, after.status) == ("renamed", ("a",), GroupStatus.RUNNING)
        assert after.sequence == group.sequence + 1
        with pytest.raises(Conflict):
            await plane.groups.update(CALLER, group.uuid, Metadata(name="x"), Ask(etag=etag_of(group)))
        with pytest.raises(InvalidArgument):
            await plane.groups.update(CALLER, group.uuid, Metadata(name=""))


async def test_a_repeated_operation_with_the_same_request_id_happens_once() -> None:
    async with control_plane() as plane:
        group = (await plane.deploy(DeployRequest(spec(1))))[-1].group
        assert group is not None
        ask = Ask(request_id="once")
        first = await plane.operation(plane.groups.restart(CALLER, group.uuid, ask))
        second = await plane.operation(plane.groups.restart(CALLER, group.uuid, ask))
        assert [e.revision for e in first] == [e.revision for e in second]
        assert (await plane.groups.get(CALLER, group.uuid)).start_epoch == 2
