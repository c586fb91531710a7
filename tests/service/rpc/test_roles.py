"""Roles over gRPC on the whole service: one gang, one plan, an order of the start, and scaling by role."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, group_pb2

from tests.service.rpc.lab import reason_of
from tests.support.whole import ENTRY, GIB, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

NODES: list[Any] = [
    {"uuid": ENTRY, "cpu_num": 1, "memory_size": GIB, "role": "router", "start_order": 2, "is_initial_node": True},
    {"uuid": ENTRY, "cpu_num": 1, "memory_size": GIB, "role": "prefill", "count": 2, "name": "p"},
    {"uuid": ENTRY, "cpu_num": 1, "memory_size": GIB, "role": "decode", "start_order": 1, "count": 3},
]


async def events_of(stream: Any) -> list[group_pb2.InstanceGroupEvent]:
    return [answer.event async for answer in stream]


def assert_in_order(events: list[group_pb2.InstanceGroupEvent], members: dict[str, int]) -> None:
    """Whoever boots does so after all of a lower order were running. `members`: instance -> its order."""
    ready: set[str] = set()
    booted = 0
    for event in events:
        if event.WhichOneof("change") != "instance" or event.instance.uuid not in members:
            continue
        one = event.instance
        if one.status == "Booting":
            booted += 1
            assert {uuid for uuid, order in members.items() if order < members[one.uuid]} <= ready
        elif one.status == "Running":
            ready.add(one.uuid)
    assert booted == len(members)


async def scaled(lab: Whole, uuid: str, **counts: int) -> list[group_pb2.InstanceGroupEvent]:
    return await events_of(
        lab.deploy.ScaleInstanceGroup(deploy_pb2.ScaleInstanceGroupRequest(uuid=uuid, role_counts=counts))
    )


async def test_roles_are_one_gang_that_starts_in_order_and_is_scaled_by_role(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(2, cpu=2)) as lab:
        request = deploy_pb2.DeployDistributedModelServiceRequest(
            model_services=NODES, service_creation_strategy="parallel", name="served"
        )
        events = await events_of(lab.deploy.DeployDistributedModelService(request))
        final = events[-1].final
        assert (final.status, [m.role for m in final.instances]) == (
            "Running",
            ["router", *["prefill"] * 2, *["decode"] * 3],
        )
        assert [m.name for m in final.instances] == ["served-0", "p-0", "p-1", "served-3", "served-4", "served-5"]
        assert len([e for e in events if e.WhichOneof("change") == "planned"]) == 1
        order = {m.uuid: {"prefill": 0, "decode": 1, "router": 2}[m.role] for m in final.instances}
        assert_in_order(events, order)
        assert [(r.role, r.start_order, r.running_count, r.instance_count, r.status) for r in final.roles] == [
            ("prefill", 0, 2, 2, "Running"),
            ("decode", 1, 3, 3, "Running"),
            ("router", 2, 1, 1, "Running"),
        ]
        again = await events_of(
            lab.deploy.RestartInstanceGroup(deploy_pb2.RestartInstanceGroupRequest(uuid=final.uuid))
        )
        assert_in_order(again, order)
        more = (await scaled(lab, final.uuid, decode=1, prefill=3))[-1].final
        assert {r.role: r.instance_count for r in more.roles} == {"prefill": 3, "decode": 1, "router": 1}
        assert {m.uuid for m in more.instances if m.role == "decode"} < set(order)
        for counts, words in (({"none": 2}, "it has: decode, prefill, router"), ({"decode": 1}, "so many members")):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await scaled(lab, final.uuid, **counts)
            assert reason_of(error.value) == "INVALID_ARGUMENT"
            assert words in (error.value.details() or "")


async def updated(lab: Whole, group: str, /, **node: Any) -> list[group_pb2.InstanceGroupEvent]:
    update = group_pb2.NodeSpec(**{"uuid": ENTRY, "cpu_num": 1, "memory_size": GIB, **node})
    request = deploy_pb2.ScaleInstanceGroupRequest(uuid=group, role_updates=[update])
    return await events_of(lab.deploy.ScaleInstanceGroup(request))


async def test_a_role_is_updated_by_members_that_take_the_place_of_all_that_had_it(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(2, cpu=2)) as lab:
        request = deploy_pb2.DeployDistributedModelServiceRequest(
            model_services=NODES, service_creation_strategy="parallel", name="served"
        )
        before = (await events_of(lab.deploy.DeployDistributedModelService(request)))[-1].final
        events = await updated(lab, before.uuid, role="decode", cpu_num=2)
        after = events[-1].final
        assert after.status == "Running"
        old = {m.uuid for m in before.instances if m.role == "decode"}
        new = [m for m in after.instances if m.role == "decode"]
        told = [e.instance for e in events if e.WhichOneof("change") == "instance"]
        ready = {m.uuid: position for position, m in enumerate(told) if m.status == "Running"}
        left = [position for position, m in enumerate(told) if m.uuid in old and m.status in ("Stopping", "Removed")]
        assert left
        assert max(ready[m.uuid] for m in new) < min(left), "the new ones serve before an old one leaves"
        assert [m.cpu_num for m in new] == [2, 2, 2]
        assert not old & {m.uuid for m in after.instances}
        assert {m.uuid for m in before.instances} - old < {m.uuid for m in after.instances}
        assert [(r.role, r.start_order, r.instance_count) for r in after.roles] == [
            ("prefill", 0, 2),
            ("decode", 1, 3),
            ("router", 2, 1),
        ]
        for node, field, reason in (
            ({"role": "router"}, "role_updates[0].role", "INVALID_ARGUMENT"),
            ({"role": "none"}, "role_updates[0].role", "INVALID_ARGUMENT"),
            ({"role": ""}, "role_updates[0].role", "INVALID_ARGUMENT"),
            ({"role": "decode", "uuid": "e" * 32}, "role_updates[0].uuid", "NOT_FOUND"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await updated(lab, before.uuid, **node)
            assert reason_of(error.value) == reason
            assert field in (error.value.details() or "")


async def test_what_a_role_may_not_be_is_refused_by_the_field(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        cases: list[tuple[list[Any], str]] = [
            ([{"role": "a b"}], "model_services[0].role"),
            ([{"role": "a", "start_order": 1}, {"role": "a", "start_order": 2}], "model_services[1].start_order"),
            ([{"count": 2, "is_initial_node": True}], "model_services[0].count"),
            ([{"count": 1000}, {"count": 1000}], "model_services"),
        ]
        for changes, field in cases:
            nodes: list[Any] = [{"uuid": ENTRY, **more} for more in changes]
            request = deploy_pb2.PlanDistributedModelServiceRequest(
                model_services=nodes, service_creation_strategy="parallel", name="bad"
            )
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await lab.deploy.PlanDistributedModelService(request)
            assert reason_of(error.value) == "INVALID_ARGUMENT"
            assert field in (error.value.details() or "")
