"""A deploy that names alternatives: the first that fits is taken for good, and it is told why not those before it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, fleet_pb2, group_pb2

from service.store import groups
from tests.service.rpc.lab import reason_of
from tests.service.rpc.test_evacuation import soon
from tests.service.rpc.test_room import plan as command
from tests.support.whole import ENTRY, GIB, ZONE, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

GROUP = "d0" * 16


def nodes(cpu: int, count: int) -> list[Any]:
    return [{"uuid": ENTRY, "zone_uuid": ZONE, "cpu_num": cpu, "memory_size": GIB, "type": "VirtualMachine"}] * count


def request(kind: Any, *shapes: tuple[int, int], **more: Any) -> Any:
    """The first of the shapes, (cpu, members) each, and the others as its alternatives."""
    first, *others = shapes
    return kind(
        model_services=nodes(*first),
        alternatives=[deploy_pb2.Alternative(model_services=nodes(*one)) for one in others],
        service_creation_strategy="parallel",
        name="choice",
        **more,
    )


def deploy(*shapes: tuple[int, int], **more: Any) -> Any:
    return request(deploy_pb2.DeployDistributedModelServiceRequest, *shapes, resource_uuid=GROUP, **more)


def plan(*shapes: tuple[int, int]) -> Any:
    return request(deploy_pb2.PlanDistributedModelServiceRequest, *shapes)


async def deployed(lab: Whole, asked: Any) -> list[Any]:
    return [answer.event async for answer in lab.deploy.DeployDistributedModelService(asked)]


async def test_the_first_that_fits_is_taken_and_the_others_are_told_with_their_reasons(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2)) as lab:  # 10 CPUs each
        events = await deployed(lab, deploy((11, 1), (8, 3), (4, 3), (1, 1)))
        final = events[-1].final
        assert (final.status, sorted(m.cpu_num for m in final.instances)) == ("Running", [4, 4, 4])
        (planned,) = [e.planned for e in events if e.WhichOneof("change") == "planned"]
        assert planned.alternative == 2
        assert [(one.reason, one.proven) for one in planned.passed_over] == [
            ("UNSATISFIABLE", True), ("UNSATISFIABLE", True),
        ]  # fmt: skip
        assert sorted(m.cpu_num for m in (await lab.get(GROUP)).instances) == [4, 4, 4]
        for member in final.instances:
            assert [name for name, _ in lab.machines(member.uuid)] == [member.host_name]
        stored = await lab.service.store.read(lambda c: groups.load(c, GROUP))
        assert stored.shapes is not None
        assert (stored.shapes.all, stored.shapes.chosen) == ((), 2)


async def test_what_was_taken_stays_when_members_are_placed_anew(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2, live=False)) as lab:
        await lab.up(1)  # leaves 6 of 10 on one host
        final = (await deployed(lab, deploy((10, 2), (3, 2), placement_policy={"max_per_host": 1})))[-1].final
        assert [m.cpu_num for m in final.instances] == [3, 3]
        away = final.instances[0].host_uuid
        await lab.add_host(name="third")
        [_ async for _ in lab.fleet.DrainHost(fleet_pb2.DrainHostRequest(uuid=away))]

        async def again() -> bool:
            now = await lab.get(GROUP)
            return bool(now.status == "Running" and away not in {m.host_uuid for m in now.instances})

        await soon(again)
        assert [m.cpu_num for m in (await lab.get(GROUP)).instances] == [3, 3]


async def test_the_preferred_one_is_taken_where_it_fits(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        events = await deployed(lab, deploy((10, 2), (1, 1)))
        assert [m.cpu_num for m in events[-1].final.instances] == [10, 10]
        (planned,) = [e.planned for e in events if e.WhichOneof("change") == "planned"]
        assert (planned.alternative, len(planned.passed_over)) == (0, 0)


async def test_who_waits_takes_whichever_fits_first(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=1)) as lab:
        small = await lab.up(1)
        large = await lab.up(1, model_services=nodes(6, 1), name="large")
        task = asyncio.create_task(deployed(lab, deploy((10, 1), (5, 1), wait=group_pb2.Wait(for_ms=3_600_000))))

        async def waits() -> bool:
            listed = await lab.deploy.ListInstanceGroups(deploy_pb2.ListInstanceGroupsRequest(statuses=["Waiting"]))
            return len(listed.inventories) == 1

        await soon(waits)
        told = (await lab.get(GROUP)).reason
        assert told.startswith("waits: model_services: ")
        assert "; alternatives[0]: " in told
        [_ async for _ in lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=large.uuid))]
        assert [m.cpu_num for m in (await task)[-1].final.instances] == [5]
        assert (await lab.get(small.uuid)).status == "Running"


async def test_where_none_fits_each_is_told_with_its_reason(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=1)) as lab:
        await lab.up(1)
        for call, asked in (
            (deployed(lab, deploy((8, 1), (7, 1))), "a deploy"),
            (lab.deploy.PlanDistributedModelService(plan((8, 1), (7, 1))), "a plan"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call
            assert reason_of(error.value) == "NO_CAPACITY", asked
            details = str(error.value.details())
            assert details.startswith("model_services: "), asked
            assert "; alternatives[0]: " in details, asked


async def test_a_plan_tells_which_one_it_would_be_and_why(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        placement = (await lab.deploy.PlanDistributedModelService(plan((10, 3), (5, 4)))).placement
        assert (placement.alternative, len(placement.assignments)) == (1, 4)
        assert [(one.reason, one.proven) for one in placement.passed_over] == [("UNSATISFIABLE", True)]
        file = tmp_path / "choice.json"
        node = {"uuid": ENTRY, "cpuNum": 10, "memorySize": str(GIB), "type": "VirtualMachine"}
        small = [{**node, "cpuNum": 5}] * 4
        body = {"name": "c", "serviceCreationStrategy": "parallel", "modelServices": [node] * 3}
        file.write_text(json.dumps({**body, "alternatives": [{"modelServices": small}]}))
        told = await command(lab, str(file))
        assert "  alternatives[0] of the request, because\n    its model_services does not fit: " in told


async def test_a_wrong_alternative_is_refused_by_its_field(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        rows: list[tuple[Any, str]] = [
            ({}, "alternatives[0].model_services"),
            ({"model_services": nodes(-1, 1)}, "alternatives[0].model_services[0].cpu_num"),
            ({"model_services": [{**nodes(1, 1)[0], "uuid": "e" * 32}]}, "alternatives[0].model_services[0].uuid"),
            (
                {"model_services": [{**n, "is_initial_node": True} for n in nodes(1, 2)]},
                "alternatives[0].model_services",
            ),
        ]
        for one, field in rows:
            asked = deploy((1, 1))
            asked.alternatives.append(deploy_pb2.Alternative(**one))
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await deployed(lab, asked)
            assert field in str(error.value.details()), field
        asked = deploy((1, 1), *([(1, 1)] * 8))
        with pytest.raises(grpc.aio.AioRpcError, match="alternatives"):
            await deployed(lab, asked)
