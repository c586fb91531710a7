"""A deploy that may wait, as a caller sees it: its state, its place, its end, over the contract and ZStack's words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, fleet_pb2, group_pb2

from service.http.zstack import inventories
from service.store import groups
from tests.service.rpc.lab import reason_of
from tests.service.rpc.test_evacuation import soon
from tests.support.whole import ENTRY, GIB, ZONE, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

LONG = group_pb2.Wait(for_ms=3_600_000)
FULL, WAITS = "a0" * 16, "b0" * 16


def large(uuid: str, **more: Any) -> Any:
    node: Any = {"uuid": ENTRY, "zone_uuid": ZONE, "cpu_num": 10, "memory_size": GIB, "type": "VirtualMachine"}
    return deploy_pb2.DeployDistributedModelServiceRequest(
        model_services=[node], service_creation_strategy="parallel", name="large", resource_uuid=uuid, **more
    )


async def deployed(lab: Whole, request: Any) -> list[Any]:
    return [answer.event async for answer in lab.deploy.DeployDistributedModelService(request)]


@asynccontextmanager
async def waiting(lab: Whole, **more: Any) -> AsyncIterator[asyncio.Task[list[Any]]]:
    """A host that is full, and a deploy that waits for it."""
    await deployed(lab, large(FULL))
    task = asyncio.create_task(deployed(lab, large(WAITS, **{"wait": LONG, **more})))

    async def waits() -> bool:
        statuses = [g.status for g in (await listed(lab)) if g.uuid == WAITS]
        return statuses == ["Waiting"]

    await soon(waits)
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def listed(lab: Whole, *statuses: str) -> list[Any]:
    request = deploy_pb2.ListInstanceGroupsRequest(statuses=statuses)
    return list((await lab.deploy.ListInstanceGroups(request)).inventories)


async def test_it_tells_why_and_where_it_stands_and_runs_once_there_is_room(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=1)) as lab, waiting(lab) as task:
        (told,) = await listed(lab, "Waiting")
        assert (told.uuid, told.waiting.reason, told.waiting.position) == (WAITS, "NO_CAPACITY", 1)
        assert told.reason.startswith("waits: ")
        assert 3000 < told.waiting.until.seconds - told.waiting.since.seconds <= 3600  # from when it was accepted
        stored = await lab.service.store.read(lambda c: groups.load(c, WAITS))
        assert inventories.group(stored, lambda _zone: True, {})["status"] == "Deploying"
        [_ async for _ in lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=FULL))]
        events = await task
        assert events[-1].final.status == "Running"
        assert not events[-1].final.HasField("waiting")
        assert any(e.group.waiting.position == 1 for e in events if e.WhichOneof("change") == "group")


async def test_its_time_over_it_ends_with_the_no_that_it_was_spared(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=1)) as lab:
        await deployed(lab, large(FULL))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await deployed(lab, large(WAITS, wait=group_pb2.Wait(for_ms=5000)))
        assert reason_of(error.value) == "NO_CAPACITY"
        assert "it waited for" in str(error.value.details())


async def test_the_stated_end_of_another_tells_by_when_there_is_room(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=1)) as lab:
        ends = group_pb2.InstanceGroup()
        ends.expected_end.FromJsonString("2100-01-01T00:00:00Z")
        await deployed(lab, large(FULL, expected_end=ends.expected_end))
        assert (await lab.get(FULL)).expected_end == ends.expected_end
        task = asyncio.create_task(deployed(lab, large(WAITS, wait=LONG)))

        async def waits() -> bool:
            return any(g.status == "Waiting" for g in await listed(lab))

        await soon(waits)
        (told,) = await listed(lab, "Waiting")
        assert told.waiting.earliest_start == ends.expected_end
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_plan_checks_what_it_says_of_waiting_and_waits_for_nothing(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=1)) as lab:
        await deployed(lab, large(FULL))
        plan = deploy_pb2.PlanDistributedModelServiceRequest(
            model_services=large(WAITS).model_services, service_creation_strategy="parallel", name="x", wait=LONG
        )
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await lab.deploy.PlanDistributedModelService(plan)
        assert reason_of(error.value) == "NO_CAPACITY"
        plan.wait.for_ms = 0
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await lab.deploy.PlanDistributedModelService(plan)
        assert reason_of(error.value) == "INVALID_ARGUMENT"
        plan.wait.for_ms, plan.priority = 1, 1
        with pytest.raises(grpc.aio.AioRpcError, match="priority: must be at most 0") as error:
            await lab.deploy.PlanDistributedModelService(plan)
        assert reason_of(error.value) == "INVALID_ARGUMENT"


async def test_a_higher_priority_goes_first_as_high_as_its_project_may_go(tmp_path: Path) -> None:
    policy = "[[priorities]]\nmost = 3\n[[priorities]]\nproject = 'default'\nmost = 7\n"
    text = config_text(hosts=1, extra=policy)
    async with whole(tmp_path, text) as lab, waiting(lab) as longer:
        with pytest.raises(grpc.aio.AioRpcError, match="priority: must be at most 7, the highest that project default"):
            await deployed(lab, large("c0" * 16, wait=LONG, priority=8))
        urgent = asyncio.create_task(deployed(lab, large("c0" * 16, wait=LONG, priority=7)))

        async def is_first() -> bool:
            places = {g.uuid: g.waiting.position for g in (await listed(lab, "Waiting"))}
            return places.get("c0" * 16) == 1

        await soon(is_first)
        [_ async for _ in lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=FULL))]
        final = (await urgent)[-1].final
        assert (final.status, final.priority) == ("Running", 7)
        assert not longer.done()


async def test_room_is_kept_by_age_where_no_ends_are_stated_and_the_operator_says_after_how_long(
    tmp_path: Path,
) -> None:
    text = config_text(hosts=1, extra="[waiting]\nkeep_room_after = 1\n")
    async with whole(tmp_path, text) as lab, waiting(lab):

        async def is_kept() -> bool:
            lab.service.reconciler.poke(WAITS)
            return bool((await lab.get(WAITS)).waiting.kept_hosts == 1)

        await soon(is_kept)


async def test_a_plan_leaves_the_room_that_is_kept_for_somebody_before_it(tmp_path: Path) -> None:
    text = config_text(hosts=1, extra="[waiting]\nkeep_room_after = 1\n")
    async with whole(tmp_path, text) as lab:
        await lab.up(1, resource_uuid=FULL)  # 4 of 10 CPUs
        small: Any = {"uuid": ENTRY, "cpu_num": 2, "memory_size": GIB, "type": "VirtualMachine"}
        plan = deploy_pb2.PlanDistributedModelServiceRequest(
            model_services=[small], service_creation_strategy="parallel", name="small"
        )
        assert len((await lab.deploy.PlanDistributedModelService(plan)).placement.assignments) == 1
        waits = asyncio.create_task(deployed(lab, large(WAITS, wait=LONG)))

        async def is_kept() -> bool:
            lab.service.reconciler.poke(WAITS)
            found = [g.waiting.kept_hosts for g in await listed(lab, "Waiting")]
            return found == [1]

        await soon(is_kept)
        for call, request in (
            (lab.deploy.PlanDistributedModelService, plan),
            (lab.fleet.PlanRoom, fleet_pb2.PlanRoomRequest(group=plan)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call(request)
            assert reason_of(error.value) == "NO_CAPACITY", error.value.details()
            assert "kept for a group before it in line" in str(error.value.details())
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
