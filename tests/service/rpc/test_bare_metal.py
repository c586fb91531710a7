"""Bare metal through the whole service: a gang of virtual machines and machines, by call, to Running and gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, fleet_pb2

from tests.support.whole import ENTRY, GIB, ZONE, config_text, whole

pytestmark = pytest.mark.asyncio

MACHINE = """
[[hosts]]
name = "{name}"
zone = "zone-1"
driver = "simulated"
transport = "test"
options = {{ cpu = "{cpu}", memory = "{gib}GiB", boot_ms = "10", call_ms = "0", bare_metal = "yes"{more} }}
"""


def machine(name: str, cpu: int, gib: int, more: str = "") -> str:
    return MACHINE.format(name=name, cpu=cpu, gib=gib, more=more)


def node(kind: str, cpu: int, gib: int, **changes: Any) -> dict[str, Any]:
    return {"uuid": ENTRY, "zone_uuid": ZONE, "cpu_num": cpu, "memory_size": gib * GIB, "type": kind, **changes}


async def test_a_mixed_gang_runs_on_the_smallest_machines_and_gives_all_of_them_back(tmp_path: Path) -> None:
    extra = machine("large", 32, 128) + machine("small", 8, 32) + machine("middle", 16, 64)
    async with whole(tmp_path, config_text(1, cpu=8, extra=extra)) as lab:
        group = await lab.up(
            model_services=[node("VirtualMachine", 2, 1), node("BareMetal", 4, 16), node("BareMetal", 6, 32)]
        )
        assert group.status == "Running"
        assert group.instances[0].host_name == "host-1"
        assert {i.host_name for i in group.instances[1:]} == {"small", "middle"}
        by_name = {h.name: h for h in (await lab.fleet.ListHosts(fleet_pb2.ListHostsRequest())).inventories}
        assert {name: h.type for name, h in by_name.items()} == {
            "host-1": "VirtualMachine", "large": "BareMetal", "small": "BareMetal", "middle": "BareMetal",
        }  # fmt: skip
        for name, whole_of_it in (("small", {8, 32 * GIB}), ("middle", {16, 64 * GIB})):
            assert {c.claimed for c in by_name[name].capacities} == whole_of_it
            assert {c.available for c in by_name[name].capacities} == {0}
            assert {c.overcommit_ratio for c in by_name[name].capacities} == {1.0}
            assert {c.reserved for c in by_name[name].capacities} == {0}
        with pytest.raises(grpc.aio.AioRpcError) as full:
            await lab.up(model_services=[node("BareMetal", 1, 1), node("BareMetal", 1, 1)], name="late")
        assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        delete = deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid)
        async for _ in lab.deploy.DeleteInstanceGroup(delete):
            pass
        found = (await lab.fleet.ListHosts(fleet_pb2.ListHostsRequest())).inventories
        assert {c.claimed for h in found for c in h.capacities} == {0}
        assert [m for h in ("small", "middle") for m in lab.machines_on(h)] == []


async def test_a_machine_that_holds_something_of_others_takes_nobody(tmp_path: Path) -> None:
    extra = machine("busy", 32, 128, ', foreign_cpu = "1"')
    async with whole(tmp_path, config_text(0, extra=extra)) as lab:
        with pytest.raises(grpc.aio.AioRpcError) as full:
            await lab.up(model_services=[node("BareMetal", 1, 1)])
        assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_drained_machine_is_stopped_and_its_member_placed_anew(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1, cpu=8, extra=machine("a", 8, 32) + machine("b", 8, 32))) as lab:
        group = await lab.up(model_services=[node("BareMetal", 4, 16)])
        (was,) = [i.host_name for i in group.instances]
        steps = [s async for s in lab.fleet.DrainHost(fleet_pb2.DrainHostRequest(uuid=lab.uuid_of(was)))]
        assert [s.move.live for s in steps if s.HasField("move")] == [False]
        (other,) = {"a", "b"} - {was}
        assert (lab.machines_on(was), lab.machines_on(other)) == ([], ["running"])


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"resource_policies": [{"resource": "vcpu", "overcommit_ratio": 2.0}]}, "resource_policies"),
        ({"bridge": "br0"}, "bridge"),
    ],
)
async def test_what_means_nothing_for_bare_metal_is_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    async with whole(tmp_path, config_text(1)) as lab:
        reached = {"transport": "none", "options": {"bare_metal": "yes", "cpu": "4", "memory": "8GiB"}}
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await lab.add_host(connection=reached, **fields)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert named in (refused.value.details() or "")
        made = await lab.add_host(connection=reached)
        assert made.type == "BareMetal"
        policy = fleet_pb2.ResourcePolicy(resource="vcpu", reserved=1)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await lab.fleet.UpdateHost(fleet_pb2.UpdateHostRequest(uuid=made.uuid, resource_policies=[policy]))
        assert "resource_policies" in (refused.value.details() or "")
