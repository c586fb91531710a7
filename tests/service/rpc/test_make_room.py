"""A deploy or a scaling that may move others: they go as they run, nobody takes the room, and it is given back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, fleet_pb2, group_pb2, placement_pb2
from sqlalchemy import select

from service.domain.groups import MoveStage
from service.drivers.simulated import SimulatedDriver
from service.store import groups, schema
from tests.service.rpc.lab import reason_of
from tests.service.rpc.test_evacuation import never_twice, soon
from tests.service.rpc.test_room import one_on_each
from tests.support.whole import ENTRY, GIB, ZONE, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

LIVE, RESTART = group_pb2.MAKE_ROOM_LIVE, group_pb2.MAKE_ROOM_RESTART


def large(cpu: int = 10, count: int = 1, **more: Any) -> Any:
    node: Any = {"uuid": ENTRY, "zone_uuid": ZONE, "cpu_num": cpu, "memory_size": GIB, "type": "VirtualMachine"}
    return deploy_pb2.DeployDistributedModelServiceRequest(
        model_services=[node] * count, service_creation_strategy="parallel", name="large", **more
    )


async def deployed(lab: Whole, request: Any) -> list[Any]:
    return [answer.event async for answer in lab.deploy.DeployDistributedModelService(request)]


async def stored(lab: Whole, uuid: str) -> Any:
    return await lab.service.store.read(lambda c: groups.load(c, uuid))


async def booked(lab: Whole) -> int:
    return len(await lab.service.store.read(lambda c: c.execute(select(schema.bookings)).all()))


async def at_rest(lab: Whole, others: list[Any]) -> None:
    """Nobody is on the way, nothing is kept, everybody runs once and holds one seat."""

    async def settled() -> bool:
        now = [await stored(lab, one.uuid) for one in others]
        still = all((m.move, m.room, m.target_host_uuid) == (MoveStage.NONE, "", "") for g in now for m in g.instances)
        return still and not await booked(lab) and all(g.status.value == "Running" for g in now)

    await soon(settled)
    for one in others:
        for member in (await stored(lab, one.uuid)).instances:
            assert [name for name, _ in lab.machines(member.uuid)] == [member.host_name]


@asynccontextmanager
async def making(lab: Whole, request: Any) -> AsyncIterator[tuple[asyncio.Task[Any], str]]:
    """The deploy while its room is in the making, and the group's uuid."""
    request.resource_uuid = "c0" * 16
    task = asyncio.create_task(deployed(lab, request))

    async def begun() -> bool:
        return bool(await booked(lab))

    await soon(begun)
    yield task, request.resource_uuid
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_group_that_does_not_fit_is_placed_where_others_have_moved_away(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=3)) as lab:
        others = await one_on_each(lab)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await deployed(lab, large())
        assert reason_of(error.value) == "NO_CAPACITY"
        async with never_twice(lab):
            events = await deployed(lab, large(make_room=LIVE))
        final = events[-1].final
        assert final.status == "Running"
        assert not final.HasField("room")
        (room, *_) = [e.group.room for e in events if e.WhichOneof("change") == "group" and e.group.HasField("room")]
        (move,) = room.moves
        assert (room.moved_bytes, room.lower_bound_bytes, move.memory_size, move.live) == (GIB, GIB, GIB, True)
        assert room.proof == placement_pb2.PLACEMENT_PROOF_OPTIMAL
        assert move.source_host_name == final.instances[0].host_name
        (moved,) = [g for g in others if g.uuid == move.group_uuid]
        after = await lab.get(moved.uuid)
        assert after.instances[0].host_name == move.target_host_name
        assert (after.instances[0].attempt, after.instances[0].reason, after.status) == (1, "", "Running")
        await at_rest(lab, others)
        assert lab.service.metrics.rooms.labels("made")._value.get() == 1


async def test_a_plan_tells_of_what_fits_without_moves(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        others = await one_on_each(lab)
        plan = deploy_pb2.PlanDistributedModelServiceRequest(
            model_services=large().model_services, service_creation_strategy="parallel", name="large", make_room=LIVE
        )
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await lab.deploy.PlanDistributedModelService(plan)
        assert reason_of(error.value) == "NO_CAPACITY"
        await at_rest(lab, others)


async def test_a_scaling_makes_room_as_well(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=3)) as lab:
        others = await one_on_each(lab)
        scale = deploy_pb2.ScaleInstanceGroupRequest(
            uuid=others[0].uuid, model_services=large().model_services, make_room=LIVE
        )
        events = [e.event async for e in lab.deploy.ScaleInstanceGroup(scale)]
        final = events[-1].final
        assert [m.status for m in final.instances] == ["Running"] * 2
        await at_rest(lab, others)


async def test_nobody_else_takes_the_room_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, move = asyncio.Event(), SimulatedDriver._move

    async def once_asked(*arguments: Any) -> None:
        await asked.wait()
        await move(*arguments)

    monkeypatch.setattr(SimulatedDriver, "_move", once_asked)
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        others = await one_on_each(lab)
        async with making(lab, large(make_room=LIVE)) as (task, _):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await deployed(lab, large(cpu=3))
            assert reason_of(error.value) == "NO_CAPACITY"
            capacity = (await lab.fleet.GetCapacity(fleet_pb2.GetCapacityRequest())).capacities
            assert {c.resource: c.available for c in capacity}["vcpu"] == 2, "what is booked is not told as free"
            asked.set()
            assert (await task)[-1].final.status == "Running"
        await at_rest(lab, others)


async def test_a_group_that_is_deleted_meanwhile_leaves_everybody_where_he_was(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2, migrate_ms=3_600_000)) as lab:
        others = await one_on_each(lab)
        async with making(lab, large(make_room=LIVE)) as (_, uuid):
            delete = deploy_pb2.DeleteInstanceGroupRequest(uuid=uuid)
            assert [e.event async for e in lab.deploy.DeleteInstanceGroup(delete)][-1].final.status == "Deleted"
            await at_rest(lab, others)
            for group in others:
                assert (await lab.get(group.uuid)).instances[0].host_uuid == group.instances[0].host_uuid


async def test_a_move_that_is_refused_leaves_the_member_where_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        others = await one_on_each(lab)
        monkeypatch.setattr(SimulatedDriver, "_move", _refused)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await deployed(lab, large(make_room=LIVE))
        assert reason_of(error.value) in ("NO_CAPACITY", "UNDECIDED")
        await at_rest(lab, others)
        for group in others:
            now = (await lab.get(group.uuid)).instances[0]
            assert (now.host_uuid, now.attempt) == (group.instances[0].host_uuid, 1)


async def _refused(*_: Any) -> None:
    from service.drivers.base import HostRejected

    raise HostRejected("refused", "the host does not want to")


async def test_members_that_cannot_move_as_they_run_stay_unless_they_may_be_restarted(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2, live=False)) as lab:
        others = await one_on_each(lab)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await deployed(lab, large(make_room=LIVE))
        assert reason_of(error.value) in ("NO_CAPACITY", "UNDECIDED")
        await at_rest(lab, others)
        events = await deployed(lab, large(make_room=RESTART))
        assert events[-1].final.status == "Running"
        (room, *_) = [e.group.room for e in events if e.WhichOneof("change") == "group" and e.group.HasField("room")]
        assert [m.live for m in room.moves] == [False]
        await at_rest(lab, others)
        attempts = sorted([(await lab.get(g.uuid)).instances[0].attempt for g in others])
        assert attempts == [1, 2]


async def test_a_host_that_is_emptied_meanwhile_calls_it_off(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2, migrate_ms=3_600_000)) as lab:
        others = await one_on_each(lab)
        async with making(lab, large(make_room=LIVE)) as (task, uuid):
            plan = (await stored(lab, uuid)).room.plan
            await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=plan.moves[0].source_host_uuid))
            with pytest.raises(grpc.aio.AioRpcError):
                await task
            await at_rest(lab, others)
