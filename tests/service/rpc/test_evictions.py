"""Groups that end so that a more important one fits: who may, with what notice, what becomes of them, who is told."""

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

from service.lifecycle import effects
from service.lifecycle.evicting import is_due
from service.store import groups, schema
from tests.service.rpc.lab import reason_of
from tests.service.rpc.test_evacuation import soon
from tests.service.rpc.test_room import plan
from tests.support.whole import ENTRY, GIB, ZONE, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

EVICT = group_pb2.MAKE_ROOM_EVICT
VICTIM, OTHER, URGENT = "a0" * 16, "a1" * 16, "b0" * 16
LONG = group_pb2.Wait(for_ms=3_600_000)


def policy(delay: int = 0, **more: Any) -> str:
    lines = {"most": 10, "preempts": '["*"]', "least_run": 0, "eviction_delay": delay, **more}
    return "\n".join(["", "[[priorities]]", *(f"{key} = {value}" for key, value in lines.items()), ""])


def group(uuid: str, cpu: int = 10, count: int = 1, **more: Any) -> Any:
    node: Any = {"uuid": ENTRY, "zone_uuid": ZONE, "cpu_num": cpu, "memory_size": GIB, "type": "VirtualMachine"}
    return deploy_pb2.DeployDistributedModelServiceRequest(
        model_services=[node] * count,
        service_creation_strategy="parallel",
        name=f"group-{uuid[:2]}",
        resource_uuid=uuid,
        **more,
    )


def urgent(**more: Any) -> Any:
    return group(URGENT, **{"priority": 5, "make_room": EVICT, **more})


async def deployed(lab: Whole, request: Any) -> list[Any]:
    return [answer.event async for answer in lab.deploy.DeployDistributedModelService(request)]


async def booked(lab: Whole) -> int:
    return len(await lab.service.store.read(lambda c: c.execute(select(schema.bookings)).all()))


@asynccontextmanager
async def asked(lab: Whole, request: Any) -> AsyncIterator[asyncio.Task[list[Any]]]:
    """The deploy while its victims have their notice."""
    task = asyncio.create_task(deployed(lab, request))

    async def told() -> bool:
        return bool(await booked(lab))

    await soon(told)
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_group_of_a_lower_priority_is_stopped_without_its_hosts_and_starts_again_by_its_callers_word(
    tmp_path: Path,
) -> None:
    async with whole(tmp_path, config_text(hosts=1, extra=policy())) as lab:
        await deployed(lab, group(VICTIM))
        (seat,) = (await lab.get(VICTIM)).instances
        events = await deployed(lab, urgent())
        assert events[-1].final.status == "Running"
        (room, *_) = [e.group.room for e in events if e.WhichOneof("change") == "group" and e.group.HasField("room")]
        (one,) = room.evictions
        assert (one.group_uuid, one.priority, one.memory_size, one.instance_count) == (VICTIM, 0, GIB, 1)
        assert (room.moved_bytes, room.lower_bound_bytes) == (GIB, GIB)
        assert room.proof == placement_pb2.PLACEMENT_PROOF_OPTIMAL
        gone = await lab.get(VICTIM)
        assert (gone.status, gone.reason) == ("Stopped", "it made room for a group of a higher priority")
        assert not gone.HasField("eviction")
        assert gone.instances[0].host_uuid == ""
        assert lab.machines(seat.uuid) == []
        assert await booked(lab) == 0
        [_ async for _ in lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=URGENT))]
        start = deploy_pb2.StartInstanceGroupRequest(uuid=VICTIM)
        assert [e.event async for e in lab.deploy.StartInstanceGroup(start)][-1].final.status == "Running"
        metrics = lab.service.metrics.evictions
        assert [metrics.labels(word)._value.get() for word in ("told", "begun", "made")] == [1, 1, 1]
        audit = await lab.service.store.read(
            lambda c: list(c.scalars(select(schema.audit.c.subject).where(schema.audit.c.method == "EvictGroup")))
        )
        assert audit == [f"{VICTIM}: stopped so that group {URGENT} of priority 5 fits"]
        retired = await lab.service.store.read(lambda c: c.execute(select(schema.retired)).all())
        assert [row.instance_uuid for row in retired if "made room" in row.why] == [seat.uuid]


async def test_who_may_wait_waits_again_and_comes_back(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=1, extra=policy())) as lab:
        await deployed(lab, group(VICTIM, wait=LONG))
        await deployed(lab, urgent())

        async def waits() -> bool:
            return bool((await lab.get(VICTIM)).status == "Waiting")

        await soon(waits)
        told = await lab.get(VICTIM)
        assert (told.waiting.position, told.waiting.reason) == (1, "NO_CAPACITY")
        [_ async for _ in lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=URGENT))]

        async def runs() -> bool:
            return bool((await lab.get(VICTIM)).status == "Running")

        await soon(runs)
        assert (await lab.get(VICTIM)).instances[0].attempt == 2


async def test_the_operator_may_have_a_projects_victims_deleted_or_always_stopped(tmp_path: Path) -> None:
    for wish, status in (("delete", "Deleted"), ("stop", "Stopped")):
        folder = tmp_path / wish
        folder.mkdir()
        text = config_text(hosts=1, extra=policy(victims=f'"{wish}"'))
        async with whole(folder, text) as lab:
            await deployed(lab, group(VICTIM, wait=LONG))
            assert (await deployed(lab, urgent()))[-1].final.status == "Running"
            stored = await lab.service.store.read(lambda c: groups.load(c, VICTIM))
            assert stored.status.value == status


async def test_the_victim_is_told_by_whom_and_when_and_goes_on_until_then(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=1, extra=policy(delay=3600))) as lab:
        await deployed(lab, group(VICTIM))
        async with asked(lab, urgent()) as task:
            told = await lab.get(VICTIM)
            notice = told.eviction
            assert (told.status, notice.by_priority, notice.by_group_uuid, notice.begun) == (
                "Running",
                5,
                URGENT,
                False,
            )
            assert notice.becomes == group_pb2.EVICTED_TO_STOPPED
            assert 3500 < notice.time.seconds - told.last_op_date.seconds <= 3600
            assert told.reason.startswith("it makes room for a group of priority 5 at ")
            history = deploy_pb2.ListInstanceGroupEventsRequest(uuid=VICTIM)
            events = (await lab.deploy.ListInstanceGroupEvents(history)).events
            assert events[-1].group.eviction == notice
            urgents = await lab.get(URGENT)
            assert urgents.room.evictions[0].time == notice.time
            # What it runs is not changed meanwhile, its capacity is kept from a third, and nobody moves it.
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await deployed(lab, group(OTHER, 1))
            assert reason_of(error.value) == "NO_CAPACITY"
            assert not task.done()
            # Called off: it stays where it is and is told so.
            [_ async for _ in lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=URGENT))]

            async def stays() -> bool:
                return not (await lab.get(VICTIM)).HasField("eviction")

            await soon(stays)
            after = await lab.get(VICTIM)
            assert (after.status, after.reason, after.instances[0].attempt) == ("Running", "", 1)
            assert await booked(lab) == 0


async def test_who_stopped_meanwhile_leaves_its_hosts_too_and_stays_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = asyncio.Event()
    monkeypatch.setattr(effects, "is_due", lambda one, now: over.is_set() and is_due(one, now))
    async with whole(tmp_path, config_text(hosts=1, extra=policy(delay=1))) as lab:
        await deployed(lab, group(VICTIM, wait=LONG))
        async with asked(lab, urgent()) as task:
            [_ async for _ in lab.deploy.StopInstanceGroup(deploy_pb2.StopInstanceGroupRequest(uuid=VICTIM))]
            assert (await lab.get(VICTIM)).instances[0].host_uuid
            over.set()  # its notice, however long a busy machine took to stop it
            assert (await task)[-1].final.status == "Running"
            stopped = await lab.get(VICTIM)
            assert (stopped.status, stopped.instances[0].host_uuid) == ("Stopped", "")


async def test_nobody_ends_for_an_equal_nor_before_its_time_nor_of_a_project_that_is_spared(tmp_path: Path) -> None:
    rows = [
        (policy(), {"priority": 0}),
        (policy(least_run=3600), {}),
        (policy(preemptible="false"), {}),
        (policy(preempts='["somebody-else"]'), {}),
    ]
    for number, (extra, more) in enumerate(rows):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with whole(folder, config_text(hosts=1, extra=extra)) as lab:
            await deployed(lab, group(VICTIM))
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await deployed(lab, urgent(**more))
            assert reason_of(error.value) == "NO_CAPACITY", error.value.details()
            assert "the end of all groups that may be evicted for it would not" in str(error.value.details())
            assert (await lab.get(VICTIM)).status == "Running"


async def test_a_project_that_may_evict_nobody_is_refused_by_the_field(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=1)) as lab:
        await deployed(lab, group(VICTIM))
        asked = "make_room: evicts for nobody of project default"
        with pytest.raises(grpc.aio.AioRpcError, match=asked) as error:
            await deployed(lab, urgent(priority=0))
        assert reason_of(error.value) == "INVALID_ARGUMENT"
        scale = deploy_pb2.ScaleInstanceGroupRequest(
            uuid=VICTIM, model_services=group(VICTIM).model_services, make_room=EVICT
        )
        with pytest.raises(grpc.aio.AioRpcError, match=asked):
            [_ async for _ in lab.deploy.ScaleInstanceGroup(scale)]


async def test_moves_are_made_before_anybody_ends(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2, extra=policy())) as lab:
        await deployed(lab, group(VICTIM, 4, 2, placement_policy={"max_per_host": 1}))
        events = await deployed(lab, group(OTHER, 2))
        moved = events[-1].final.instances[0].host_name
        assert (await deployed(lab, urgent(cpu=6)))[-1].final.instances[0].host_name != moved
        assert (await lab.get(VICTIM)).status == "Running"


async def test_a_plan_tells_who_would_end_at_what_cost(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2, extra=policy(delay=60))) as lab:
        await deployed(lab, group(VICTIM, priority=1))
        await deployed(lab, group(OTHER, wait=LONG))
        request = deploy_pb2.PlanDistributedModelServiceRequest(
            model_services=urgent().model_services, service_creation_strategy="parallel", name="x", priority=5,
            make_room=EVICT,
        )  # fmt: skip
        answer = await lab.fleet.PlanRoom(fleet_pb2.PlanRoomRequest(group=request))
        (one,) = answer.evictions
        assert (one.group_uuid, one.group_name, one.priority) == (OTHER, "group-a1", 0), "the lowest priority first"
        assert one.becomes == group_pb2.EVICTED_TO_WAITING
        assert (answer.moved_bytes, answer.lower_bound_bytes, len(answer.moves)) == (GIB, GIB, 0)
        assert answer.proof == placement_pb2.PLACEMENT_PROOF_OPTIMAL
        assert len(answer.placement.assignments) == 1
        request.priority = 0
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await lab.fleet.PlanRoom(fleet_pb2.PlanRoomRequest(group=request))
        assert reason_of(error.value) == "NO_CAPACITY"
        request.make_room, request.priority = group_pb2.MAKE_ROOM_LIVE, 5
        with pytest.raises(grpc.aio.AioRpcError):
            await lab.fleet.PlanRoom(fleet_pb2.PlanRoomRequest(group=request))
        told = await plan(lab, "--name", "x", "--model-service", "default", "--cpu", "10", "--priority", "5",
                          "--make-room", "evict")  # fmt: skip
        assert told.startswith("1 group ends, 1 GiB of memory (proven the least):\n  group-a1 (" + OTHER)
        assert "of priority 0: 1 GiB, 1 members, waits again at " in told
