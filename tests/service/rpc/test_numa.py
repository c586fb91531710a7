"""Members are pinned to NUMA cells as their policy says: claims, answers, refusals, restarts, drains and live moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, fleet_pb2

from service.store import stock
from tests.service.rpc.lab import reason_of
from tests.support.whole import ENTRY, GIB, ZONE, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

REQUIRED, PREFERRED = {"numa": "NUMA_POLICY_REQUIRED"}, {"numa": "NUMA_POLICY_PREFERRED"}


def hosts(**cells: int) -> str:
    """Hosts of 64 GiB, 1 GiB of it reserved, each with so many cells."""
    return "".join(
        f"""
[[hosts]]
name = "{name}"
zone = "zone-1"
driver = "simulated"
transport = "none"
options = {{ cpu = 8, memory = "64GiB", boot_ms = 1, call_ms = 0, numa = "{count}" }}
"""
        for name, count in cells.items()
    )


def nodes(size: int, gib: int = 4) -> list[dict[str, Any]]:
    """Members of so much memory."""
    return [{"uuid": ENTRY, "zone_uuid": ZONE, "cpu_num": 2, "memory_size": gib * GIB} for _ in range(size)]


async def refused(lab: Whole, **changes: Any) -> tuple[str, str]:
    """(reason, details) of a deploy that is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await lab.up(**changes)
    return reason_of(error.value), error.value.details() or ""


async def cells_of(lab: Whole, host: str) -> list[tuple[int, int, int]]:
    """(number, claimed vCPUs, claimed GiB) of each cell of the host."""
    found = []
    for cell in (await lab.host(host)).numa_cells:
        claimed = {one.resource: one.claimed for one in cell.capacities}
        found.append((cell.number, claimed["vcpu"], claimed["memory"] // GIB))
    return found


async def delete(lab: Whole, uuid: str) -> None:
    request = deploy_pb2.DeleteInstanceGroupRequest(uuid=uuid)
    assert [answer.event async for answer in lab.deploy.DeleteInstanceGroup(request)][-1].final.status == "Deleted"


async def test_members_are_pinned_as_their_policy_says(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(0, extra=hosts(two=2))) as lab:
        floating = await lab.up(model_services=nodes(1))
        assert [list(m.numa_cells) for m in floating.instances] == [[]]
        assert await cells_of(lab, "two") == [(0, 0, 0), (1, 0, 0)], "who floats holds no cell"
        await delete(lab, floating.uuid)
        pinned = await lab.up(model_services=nodes(3, 15), placement_policy=REQUIRED)
        assert [len(m.numa_cells) for m in pinned.instances] == [1, 1, 1]
        held = await cells_of(lab, "two")
        assert sorted(cell[1:] for cell in held) == [(2, 15), (4, 30)]
        asked: dict[str, Any] = {"model_services": nodes(1), "placement_policy": REQUIRED, "name": "p"}
        asked["service_creation_strategy"] = "parallel"
        plan = await lab.deploy.PlanDistributedModelService(deploy_pb2.PlanDistributedModelServiceRequest(**asked))
        assert list(plan.placement.assignments[0].numa_cells) == [cell[0] for cell in held if cell[1] == 2]
        claimed = (await lab.service.store.read(stock.held)).sizes
        assert {name for of in claimed.values() for size in of for name, _ in size} == {"vcpu", "memory"}
        assert {one.resource for one in (await lab.host("two")).capacities} == {"vcpu", "memory"}
        await delete(lab, pinned.uuid)
        assert await cells_of(lab, "two") == [(0, 0, 0), (1, 0, 0)]


async def test_what_no_cell_has_room_for_is_refused_by_name_or_floats(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(0, extra=hosts(two=2, none=0))) as lab:
        reason, words = await refused(lab, model_services=nodes(1, 40), placement_policy=REQUIRED)
        assert reason == "UNSATISFIABLE", words
        assert "numa: placement_policy.numa" in words
        reason, words = await refused(lab, model_services=nodes(3, 20), placement_policy=REQUIRED)
        assert reason in ("NO_CAPACITY", "UNSATISFIABLE"), "the host without cells is none for them"
        large = await lab.up(model_services=nodes(1, 40), placement_policy=PREFERRED)
        assert [list(m.numa_cells) for m in large.instances] == [[]]
        small = await lab.up(model_services=nodes(2), placement_policy=PREFERRED)
        for member in small.instances:
            assert len(member.numa_cells) == (lab.service.directory.hosts[member.host_uuid].name == "two")


async def test_a_cell_with_room_is_no_room_where_its_host_has_none(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(0, extra=hosts(two=2))) as lab:
        await lab.up(model_services=nodes(2, 20))
        await lab.up(model_services=nodes(2, 10), placement_policy=REQUIRED)
        assert [gib for _, _, gib in await cells_of(lab, "two")] == [10, 10] or sorted(
            gib for _, _, gib in await cells_of(lab, "two")
        ) == [0, 20]
        reason, _ = await refused(lab, model_services=nodes(1, 4), placement_policy=REQUIRED)
        assert reason == "NO_CAPACITY"


async def test_a_pinned_member_has_a_cell_wherever_it_goes(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(0, extra=hosts(a=2, b=4))) as lab:
        group = await lab.up(model_services=nodes(1), placement_policy=REQUIRED)
        (member,) = group.instances
        source = lab.service.directory.hosts[member.host_uuid].name
        other = {"a": "b", "b": "a"}[source]
        restart = deploy_pb2.RestartInstanceGroupRequest(uuid=group.uuid)
        assert [answer.event async for answer in lab.deploy.RestartInstanceGroup(restart)][-1].final.status == "Running"
        (again,) = (await lab.get(group.uuid)).instances
        assert (again.host_uuid, list(again.numa_cells)) == (member.host_uuid, list(member.numa_cells))
        assert [a async for a in lab.fleet.DrainHost(fleet_pb2.DrainHostRequest(uuid=member.host_uuid))]
        assert not any(vcpus for _, vcpus, _ in await cells_of(lab, source))
        (there,) = (await lab.get(group.uuid)).instances
        assert (there.attempt, lab.service.directory.hosts[there.host_uuid].name) == (1, other), "it was moved live"
        assert [number for number, vcpus, _ in await cells_of(lab, other) if vcpus == 2] == list(there.numa_cells)
        (machine,) = [m for m in lab.driver(other).host.machines.values() if m.state.value == "running"]
        assert machine.resources[f"cell.{there.numa_cells[0]}.memory"] == 4 * GIB


async def test_a_member_is_spread_over_as_many_cells_as_it_asks_for(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(0, extra=hosts(two=2))) as lab:
        spread = [node | {"numa_cells": 2} for node in nodes(1, 40)]
        reason, _ = await refused(lab, model_services=nodes(1, 40), placement_policy=REQUIRED)
        assert reason == "UNSATISFIABLE", "no cell alone has so much"
        for policy in ({}, PREFERRED):
            group = await lab.up(model_services=[*spread, *nodes(1, 8)], placement_policy=policy)
            large, small = sorted(group.instances, key=lambda m: -len(m.numa_cells))
            assert list(large.numa_cells) == [0, 1]
            assert len(small.numa_cells) == (1 if policy else 0)
            held = await cells_of(lab, "two")
            assert sorted(cell[1:] for cell in held) == ([(1, 20), (3, 28)] if policy else [(1, 20), (1, 20)])
            await delete(lab, group.uuid)
        reason, _ = await refused(lab, model_services=[node | {"cpu_num": 8, "numa_cells": 3} for node in nodes(1)])
        assert reason == "UNSATISFIABLE", "the host has two"


@pytest.mark.parametrize(
    ("said", "policy"),
    [
        ({"numa_cells": 3}, {}),
        ({"numa_cells": 2}, {"numa": "NUMA_POLICY_NONE"}),
        ({"numa_cells": 1, "type": "BareMetal"}, {}),
        ({"numa_cells": 9}, {}),
    ],
)
async def test_cells_that_a_member_cannot_have_are_refused_by_name(
    tmp_path: Path, said: dict[str, Any], policy: dict[str, Any]
) -> None:
    async with whole(tmp_path, config_text(0, extra=hosts(two=2))) as lab:
        _, words = await refused(lab, model_services=[nodes(1)[0] | said], placement_policy=policy)
        assert "model_services[0].numa_cells" in words
