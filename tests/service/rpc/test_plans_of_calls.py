"""A plan belongs to the call that asked for it: it gets what is left of the call's time, and ends with the call."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import pytest
from corral.v1 import deploy_pb2, fleet_pb2
from google.protobuf import json_format

from placement.model import Node, Policy, Request, Snapshot
from service.planning.planner import InlinePlanner, Planned, answer_time
from tests.support.whole import ENTRY, GIB, ZONE, Whole, whole

pytestmark = pytest.mark.asyncio


class Watched(InlinePlanner):
    """Remembers what was left of the callers' time; once `endless`, a plan ends only with its caller."""

    def __init__(self) -> None:
        self.left: list[float] = []
        self.endless = False
        self.begun, self.ended = asyncio.Event(), asyncio.Event()

    async def place(
        self,
        snapshot: Snapshot,
        request: Request,
        policy: Policy,
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
        project: str = "",
    ) -> Planned:
        self.left.append(answer_by - time.monotonic())
        if self.endless:
            self.begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.ended.set()
        return await super().place(snapshot, request, policy, budget_seconds=budget_seconds, answer_by=answer_by)

    async def room(self, snapshot: Snapshot, node: Node, *, budget_seconds: float, answer_by: float = math.inf) -> Any:
        self.left.append(answer_by - time.monotonic())
        return await super().room(snapshot, node, budget_seconds=budget_seconds, answer_by=answer_by)


@asynccontextmanager
async def watched(directory: Path) -> AsyncIterator[tuple[Whole, Watched]]:
    planner = Watched()
    async with whole(directory, planner=planner) as service:
        yield service, planner


def wanted(kind: Any, **more: Any) -> Any:
    node = {"uuid": ENTRY, "zone_uuid": ZONE, "cpu_num": 1, "memory_size": GIB, "type": "VirtualMachine"}
    return kind(model_services=[node], service_creation_strategy="parallel", name="group", **more)


PLAN = wanted(deploy_pb2.PlanDistributedModelServiceRequest)
DRY_RUN = wanted(deploy_pb2.DeployDistributedModelServiceRequest, validate_only=True)
ROOM = fleet_pb2.GetCapacityRequest(cpu_num=1, memory_size=GIB)


async def test_a_plan_gets_what_is_left_of_the_callers_time(tmp_path: Path) -> None:
    async with watched(tmp_path) as (service, planner):
        await service.deploy.PlanDistributedModelService(PLAN)
        await service.deploy.PlanDistributedModelService(PLAN, timeout=3600)
        await service.fleet.GetCapacity(ROOM, timeout=3600)
        free, patient, room = planner.left
        assert free > 86_400  # none: gRPC tells no deadline as one in the far future
        assert 0 < patient < 3700  # the wire rounds long ones up
        assert 0 < room < 3700
        planner.left.clear()
        # On a machine under load these may miss their deadline, which is no matter here.
        plan = service.deploy.PlanDistributedModelService(PLAN, timeout=4.5)
        count = service.fleet.GetCapacity(ROOM, timeout=4.5)
        await asyncio.gather(plan, count, return_exceptions=True)
        assert all(left < 4.5 for left in planner.left)


@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_call_that_is_given_up_ends_its_plan(tmp_path: Path, dry_run: bool) -> None:
    async with watched(tmp_path) as (service, planner):
        planner.endless = True
        if dry_run:
            call = service.deploy.DeployDistributedModelService(DRY_RUN)
            reading = asyncio.ensure_future(call.read())
        else:
            call = service.deploy.PlanDistributedModelService(PLAN)
            reading = asyncio.ensure_future(call)
        async with asyncio.timeout(120):
            await planner.begun.wait()
            call.cancel()
            await planner.ended.wait()
        await asyncio.gather(reading, return_exceptions=True)


@pytest.mark.parametrize("path", ["/instance-groups:plan", "/instance-groups"])
async def test_a_json_call_that_is_given_up_ends_its_plan(tmp_path: Path, path: str) -> None:
    message = DRY_RUN if path == "/instance-groups" else PLAN
    async with watched(tmp_path) as (service, planner):
        planner.endless = True
        async with httpx.AsyncClient(
            base_url=f"http://{service.http_address}/corral/v1", trust_env=False, timeout=120
        ) as client:
            asking = asyncio.ensure_future(client.post(path, json=json_format.MessageToDict(message)))
            async with asyncio.timeout(120):
                await planner.begun.wait()
                asking.cancel()
                await planner.ended.wait()
            await asyncio.gather(asking, return_exceptions=True)
            planner.endless = False
            again = await client.post("/instance-groups:plan", json=json_format.MessageToDict(PLAN))
            assert again.status_code == 200


async def test_a_plan_ends_with_the_callers_deadline(tmp_path: Path) -> None:
    async with watched(tmp_path) as (service, planner):
        planner.endless = True
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.deploy.PlanDistributedModelService(PLAN, timeout=2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if planner.begun.is_set():
            async with asyncio.timeout(120):
                await planner.ended.wait()


async def test_the_answer_keeps_a_part_of_the_time() -> None:
    before = time.monotonic()
    assert answer_time(None) == math.inf
    assert before <= answer_time(0.0)
    assert before + 0.9 <= answer_time(1.0) <= time.monotonic() + 0.9
    assert before + 0.009 <= answer_time(0.01) <= time.monotonic() + 0.009
