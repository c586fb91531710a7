"""Fields of requests do what they say: clusters, devices, groups to be apart from, and the rules of a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, fleet_pb2

from service.domain.specs import GpuRequest
from service.store import groups
from tests.service.rpc.lab import reason_of
from tests.support.whole import ENTRY, GIB, ZONE, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

CLUSTER, NOWHERE = "c" * 32, "d" * 32
IN_CLUSTER = f"""
[[clusters]]
uuid = "{CLUSTER}"
name = "racks-1-to-4"
zone = "zone-1"

[[hosts]]
name = "in-cluster"
zone = "zone-1"
driver = "simulated"
transport = "none"
cluster_uuid = "{CLUSTER}"
options = {{ cpu = 64, memory = "64GiB", "gpu.a100" = 2, boot_ms = 1, call_ms = 0 }}
"""


def node(**fields: Any) -> dict[str, Any]:
    """One node with something more."""
    return {"uuid": ENTRY, "zone_uuid": ZONE, "cpu_num": 1, "memory_size": GIB, **fields}


async def hosts_of(lab: Whole, **changes: Any) -> set[str]:
    """The names of the hosts on which a group runs."""
    group = await lab.up(**changes)
    assert group.status == "Running"
    return {lab.service.directory.hosts[member.host_uuid].name for member in group.instances}


async def refused(lab: Whole, **changes: Any) -> tuple[str, str]:
    """(reason, details) of a deploy that is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await lab.up(**changes)
    return reason_of(error.value), error.value.details() or ""


async def test_a_node_goes_to_the_cluster_that_it_names_and_an_unknown_one_is_not_found(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(3, extra=IN_CLUSTER)) as lab:
        nodes = [node(cluster_uuid=CLUSTER) for _ in range(6)]
        assert await hosts_of(lab, model_services=nodes) == {"in-cluster"}
        reason, words = await refused(lab, model_services=[node(), node(cluster_uuid=NOWHERE)])
        assert (reason, words.partition(":")[0]) == ("NOT_FOUND", "model_services[1].cluster_uuid")
        full = [node(cluster_uuid=CLUSTER, cpu_num=600), node(cluster_uuid=CLUSTER, cpu_num=600)]
        reason, _ = await refused(lab, model_services=full)
        assert reason in ("NO_CAPACITY", "UNSATISFIABLE"), "the other hosts' room is of no use"
        listed = await lab.fleet.ListClusters(fleet_pb2.ListClustersRequest())
        told = [(c.uuid, c.name, c.zone_uuid, c.host_count) for c in listed.inventories]
        assert told == [(CLUSTER, "racks-1-to-4", ZONE, 1)]


async def test_devices_are_claimed_by_their_model_and_without_one_any_will_do(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(3, extra=IN_CLUSTER)) as lab:
        another = [node(gpus=[{"model": "b200", "count": 1}])]
        assert (await refused(lab, model_services=another))[0] == "UNSATISFIABLE", "there are only others"
        with_gpu = [node(gpus=[{"model": "a100", "count": 2}])]
        assert await hosts_of(lab, model_services=with_gpu) == {"in-cluster"}
        assert (await refused(lab, model_services=with_gpu))[0] == "NO_CAPACITY"
        any_model = [node(gpus=[{"count": 1}])]
        assert (await refused(lab, model_services=any_model))[0] == "NO_CAPACITY", "all are taken"
        other = await lab.add_host(connection={"transport": "none", "options": {"gpu.h100": "1", "boot_ms": "1"}})
        group = await lab.up(model_services=any_model)
        assert [m.host_uuid for m in group.instances] == [other.uuid]
        claimed = {c.resource: c.claimed for c in (await lab.host("added")).capacities}
        assert claimed["gpu.h100"] == 1
        (member,) = (await lab.service.store.read(lambda c: groups.load_many(c, [group.uuid])))[0].instances
        assert member.spec.held_gpus == (GpuRequest("h100", 1),)
        assert member.spec.gpus == (GpuRequest("", 1),), "placed anew it may be another"


async def test_a_group_to_be_apart_from_is_one_that_there_is_or_was(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        first = await lab.up()
        host = lab.service.directory.hosts[first.instances[0].host_uuid].name
        apart = {"anti_affinity_group_uuids": [first.uuid]}
        assert host not in await hosts_of(lab, placement_policy=apart)
        reason, words = await refused(lab, placement_policy={"anti_affinity_group_uuids": [first.uuid, NOWHERE]})
        assert reason == "NOT_FOUND"
        assert "placement_policy.anti_affinity_group_uuids[1]" in words


RACKS = "".join(
    f"""
[[hosts]]
name = "{rack}-{number}"
zone = "zone-1"
rack = "{rack}"
driver = "simulated"
transport = "none"
options = {{ cpu = 64, memory = "64GiB", boot_ms = 1, call_ms = 0 }}
"""
    for rack in ("r1", "r2")
    for number in (1, 2)
)


async def test_rules_of_a_policy_decide_where_members_are(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(0, extra=RACKS)) as lab:
        two, four = [node() for _ in range(2)], [node() for _ in range(4)]
        packed = await lab.up(model_services=four, placement_policy={"strategy": "PLACEMENT_STRATEGY_PACK"})
        (first,) = {lab.service.directory.hosts[m.host_uuid].name for m in packed.instances}
        spread = {"strategy": "PLACEMENT_STRATEGY_SPREAD"}
        assert len(await hosts_of(lab, model_services=four, placement_policy=spread)) == 4
        assert len(await hosts_of(lab, model_services=four, placement_policy={"max_per_host": 1})) == 4
        racks = await hosts_of(lab, model_services=two, placement_policy={"max_per_rack": 1})
        assert {name.partition("-")[0] for name in racks} == {"r1", "r2"}
        near = {"affinity_group_uuids": [packed.uuid], **spread}
        assert await hosts_of(lab, model_services=two, placement_policy=near) == {first}
        reason, _ = await refused(lab, placement_policy={"exclusive_hosts": True})
        assert reason == "NO_CAPACITY", "every host has members of others"
        reason, _ = await refused(lab, model_services=[node(type="BareMetal")])
        assert reason == "UNSATISFIABLE", "every host is a hypervisor"


SITES = """
[[zones]]
uuid = "22222222222222222222222222222222"
name = "zone-2"
""" + "".join(
    f"""
[[hosts]]
name = "{rack}-{number}"
zone = "zone-{zone}"
rack = "{rack}"
driver = "simulated"
transport = "none"
labels = {{ disk = "{"ssd" if number == 1 else "hdd"}" }}
options = {{ cpu = 64, memory = "64GiB", boot_ms = 1, call_ms = 0 }}
"""
    for zone, rack in ((1, "r1"), (1, "r2"), (2, "r3"))
    for number in (1, 2)
)


async def test_a_policy_says_all_that_the_planner_can(tmp_path: Path) -> None:
    """Racks r1 and r2 are in one zone, r3 is in another; the first host of each has an ssd."""
    async with whole(tmp_path, config_text(0, extra=SITES)) as lab:

        async def racks(size: int, **policy: Any) -> list[str]:
            nodes = [node(zone_uuid="") for _ in range(size)]
            group = await lab.up(model_services=nodes, placement_policy=policy)
            there = [lab.service.directory.hosts[m.host_uuid].name for m in group.instances]
            await delete(lab, group.uuid)
            return sorted(there)

        pack = {"strategy": "PLACEMENT_STRATEGY_PACK"}
        assert [name[:2] for name in await racks(3, max_per_zone=2, **pack)].count("r3") in (1, 2)
        assert len(set(await racks(3, min_hosts=3, **pack))) == 3
        assert {name[:2] for name in await racks(3, min_racks=3, **pack)} == {"r1", "r2", "r3"}
        assert "r3" in {name[:2] for name in await racks(2, min_zones=2, **pack)}
        racks_of = [name[:2] for name in await racks(4, survive={"racks": 1, "members": 2}, **pack)]
        assert max(racks_of.count(rack) for rack in racks_of) == 2
        assert await hosts_of(lab, model_services=[node(zone_uuid="2" * 32)]) <= {"r3-1", "r3-2"}
        spread = {"strategy": "PLACEMENT_STRATEGY_SPREAD"}
        assert len({name[:2] for name in await racks(2, same_rack=True, **spread)}) == 1
        assert len({name[:2] == "r3" for name in await racks(5, same_zone=True, **spread)}) == 1
        assert len({name[:2] for name in await racks(4, max_racks=2, **spread)}) == 2
        for one, other_one, chosen in ((1, 9, "2"), (9, 1, "1")):
            wishes = [{"key": "disk", "values": [v], "weight": w} for v, w in (("ssd", one), ("hdd", other_one))]
            assert {name[3] for name in await racks(2, preferred_host_labels=wishes)} == {chosen}
        ssd = {"key": "disk", "values": ["ssd", "nvme"]}
        assert {name[3] for name in await racks(3, required_host_labels=[ssd], **spread)} == {"1"}
        assert {name[3] for name in await racks(3, preferred_host_labels=[{**ssd, "weight": 2}], **spread)} == {"1"}
        assert len(set(await racks(4, spare_hosts=5, **spread))) == 1
        other = await lab.up(model_services=[node(zone_uuid="")])
        host = lab.service.directory.hosts[other.instances[0].host_uuid].name
        wish = [{"group_uuid": other.uuid, "weight": 3}]
        assert await racks(1, preferred_affinity_groups=wish, **spread) == [host]
        everywhere = [node(zone_uuid="") for _ in range(5)]
        many = await lab.up(model_services=everywhere, placement_policy={"max_per_host": 1})
        (left,) = set(lab.service.directory.hosts) - {m.host_uuid for m in many.instances}
        wish = [{"group_uuid": many.uuid, "weight": 3}]
        empty = lab.service.directory.hosts[left].name
        assert await racks(1, **pack) != [empty]
        assert await racks(1, preferred_anti_affinity_groups=wish, **pack) == [empty]
        await delete(lab, many.uuid)
        for policy, reason, word in (
            ({"required_host_labels": [{"key": "disk", "values": ["tape"]}]}, "UNSATISFIABLE", "required_host_labels"),
            ({"min_racks": 2, "same_rack": True}, "INVALID_ARGUMENT", "placement_policy.min_racks"),
            ({"preferred_affinity_groups": [{"group_uuid": NOWHERE}]}, "NOT_FOUND", "preferred_affinity_groups[0]"),
            ({"spare_hosts": 6}, "UNSATISFIABLE", "placement_policy.spare_hosts"),
            ({"survive": {"racks": 1, "members": 1}, "max_racks": 1}, "INVALID_ARGUMENT", "placement_policy.survive"),
            ({"min_racks": 2, "max_racks": 1}, "INVALID_ARGUMENT", "placement_policy.max_racks"),
        ):
            nodes = [node(zone_uuid=""), node(zone_uuid="")]
            found, words = await refused(lab, model_services=nodes, placement_policy=policy)
            assert found == reason, words
            assert word in words


async def test_a_scale_that_would_break_a_rule_is_refused(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(0, extra=SITES)) as lab:
        nodes = [node(zone_uuid="") for _ in range(3)]
        policy = {"min_racks": 2, "max_per_rack": 2, "strategy": "PLACEMENT_STRATEGY_PACK"}
        group = await lab.up(model_services=nodes, placement_policy=policy)
        rack = {m.uuid: lab.service.directory.hosts[m.host_uuid].name[:2] for m in group.instances}
        alone = [uuid for uuid, where in rack.items() if list(rack.values()).count(where) == 1]
        leader = group.instances[0].uuid
        gone = alone if alone != [leader] else [uuid for uuid in rack if uuid != leader]
        request = deploy_pb2.ScaleInstanceGroupRequest(uuid=group.uuid, remove_instance_uuids=gone)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            [answer async for answer in lab.deploy.ScaleInstanceGroup(request)]
        assert reason_of(error.value) == "INVALID_ARGUMENT"
        assert "placement_policy.min_racks" in (error.value.details() or "")


async def delete(lab: Whole, uuid: str) -> None:
    request = deploy_pb2.DeleteInstanceGroupRequest(uuid=uuid)
    assert [answer.event async for answer in lab.deploy.DeleteInstanceGroup(request)][-1].final.status == "Deleted"
