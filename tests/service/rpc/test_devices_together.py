"""Devices of one NUMA cell and of one partition on the whole service: where members get them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2

from tests.service.rpc.lab import reason_of
from tests.service.rpc.test_devices import HOST, KEYS, devices, nodes
from tests.service.rpc.test_quarantine import command
from tests.support.whole import Whole, config_text, whole

pytestmark = pytest.mark.asyncio

EIGHT = HOST.replace('"gpu.h100" = "3"', '"gpu.h100" = "8", numa = "2"')
ADDRESSES = [f"0000:{number:02x}:00.0" for number in range(1, 9)]
PARTED = f"""{EIGHT}
[[hosts.partitions]]
name = "left"
devices = {ADDRESSES[:2] + ADDRESSES[4:6]}

[[hosts.partitions]]
name = "right"
devices = {ADDRESSES[2:4]}
"""
REQUIRED, FLOATING = {"numa": "NUMA_POLICY_REQUIRED"}, {"numa": "NUMA_POLICY_NONE"}


def together(*counts: int, **said: Any) -> list[dict[str, Any]]:
    """Members that say this of so many devices each."""
    made = nodes(*counts)
    for node in made:
        node["gpus"][0].update(said)
    return made


async def refused(lab: Whole, **asked: Any) -> tuple[str, str]:
    """(reason, words) of a deploy that is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await lab.up(**asked)
    return reason_of(error.value), error.value.details() or ""


async def test_devices_are_of_the_cell_that_their_member_is_pinned_to(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(0, extra=EIGHT)) as lab:
        group = await lab.up(model_services=together(3, 4, numa_policy="NUMA_POLICY_REQUIRED"))
        told = await devices(lab)
        for member in group.instances:
            assert [told[key].numa_cell for key in member.devices] == list(member.numa_cells) * len(member.devices)
        reason, _ = await refused(lab, model_services=nodes(2), placement_policy=REQUIRED)
        assert reason == "NO_CAPACITY", "one device is left on the host"
        await lab.up(model_services=nodes(1), placement_policy=REQUIRED)
        assert {one.state for one in (await devices(lab)).values()} == {"claimed"}


async def test_who_must_have_devices_of_his_cell_keeps_it_where_his_group_only_prefers_one(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(0, extra=EIGHT)) as lab:
        asked = [*together(3, 4, numa_policy="NUMA_POLICY_REQUIRED"), *together(1)]
        group = await lab.up(model_services=asked, placement_policy={"numa": "NUMA_POLICY_PREFERRED"})
        told = await devices(lab)
        for member in group.instances:
            assert len(member.numa_cells) == 1
            if len(member.devices) > 1:
                assert {told[key].numa_cell for key in member.devices} == set(member.numa_cells)


async def test_what_one_cell_has_not_is_refused_unless_it_is_only_preferred(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(0, extra=EIGHT)) as lab:
        reason, words = await refused(lab, model_services=nodes(5), placement_policy=REQUIRED)
        assert reason == "UNSATISFIABLE"
        assert "5 h100 are wanted of one cell, and the most that a host has free stand 4 + 4" in words
        preferred = together(5, numa_policy="NUMA_POLICY_PREFERRED")
        (member,) = (await lab.up(model_services=preferred, placement_policy=REQUIRED)).instances
        near = [(await devices(lab))[key].numa_cell for key in member.devices].count(member.numa_cells[0])
        assert near == 4, "as many as its own cell has"


async def test_what_would_have_to_be_free_is_told_with_its_place(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(0, extra=EIGHT)) as lab:
        await lab.up(model_services=together(3, 3, numa_policy="NUMA_POLICY_REQUIRED"))
        reason, words = await refused(lab, model_services=together(2, numa_policy="NUMA_POLICY_REQUIRED"))
        assert reason == "NO_CAPACITY"
        assert "host gpus lacks 1 gpu.h100 of cell 0 for model_services[0]" in words


async def test_devices_are_of_one_partition_where_that_is_asked(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(0, extra=PARTED)) as lab:
        code, shown = await command(lab, "hosts", "--devices")
        assert code == 0
        assert all(word in shown for word in ("partition", "left", "right"))
        (two,) = (await lab.up(model_services=together(2, same_partition=True))).instances
        told = await devices(lab)
        assert {told[key].partition for key in two.devices} == {"right"}, "the smallest that has enough"
        asked: dict[str, Any] = {"name": "p", "service_creation_strategy": "parallel"}
        asked["model_services"] = together(4, same_partition=True)
        plan = await lab.deploy.PlanDistributedModelService(deploy_pb2.PlanDistributedModelServiceRequest(**asked))
        assert plan.placement.assignments[0].host_name == "gpus"
        (four,) = (await lab.up(model_services=asked["model_services"])).instances
        assert sorted(four.devices) == ADDRESSES[:2] + ADDRESSES[4:6]
        reason, words = await refused(lab, model_services=together(2, same_partition=True))
        assert reason == "NO_CAPACITY"
        assert "2 h100 are wanted of one partition" in words
        (loose,) = (await lab.up(model_services=together(2))).instances
        assert sorted(loose.devices) == ADDRESSES[6:]


async def test_a_pinned_member_keeps_its_wish_when_it_starts_again(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(0, extra=EIGHT)) as lab:
        group = await lab.up(model_services=together(4, numa_policy="NUMA_POLICY_REQUIRED"))
        restart = deploy_pb2.RestartInstanceGroupRequest(uuid=group.uuid)
        assert [answer.event async for answer in lab.deploy.RestartInstanceGroup(restart)][-1].final.status == "Running"
        (member,) = (await lab.get(group.uuid)).instances
        told = await devices(lab)
        assert [told[key].numa_cell for key in member.devices] == list(member.numa_cells) * 4


@pytest.mark.parametrize(
    ("said", "policy", "field"),
    [
        ({"numa_policy": "NUMA_POLICY_REQUIRED"}, FLOATING, "model_services[0].gpus[0].numa_policy"),
        ({"same_partition": True, "model": ""}, {}, "model_services[0].gpus[0].model"),
    ],
)
async def test_what_contradicts_itself_is_refused_by_name(
    tmp_path: Path, said: dict[str, Any], policy: dict[str, Any], field: str
) -> None:
    async with whole(tmp_path, config_text(0, extra=EIGHT)) as lab:
        reason, words = await refused(lab, model_services=together(1, **said), placement_policy=policy)
        assert (reason, field in words) == ("INVALID_ARGUMENT", True), words


async def test_a_whole_machine_has_all_of_its_devices(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(0, extra=EIGHT)) as lab:
        asked = together(1, same_partition=True, numa_policy="NUMA_POLICY_REQUIRED")
        asked[0]["type"] = "BareMetal"
        reason, words = await refused(lab, model_services=asked)
        assert reason == "INVALID_ARGUMENT"
        assert "gpus[0].numa_policy" in words
        assert KEYS[0] in await devices(lab)


async def test_a_member_over_two_cells_has_its_devices_of_both(tmp_path: Path) -> None:
    """And one that floats, with all that is left of the host, has those that it leaves."""
    async with whole(tmp_path, config_text(0, extra=EIGHT)) as lab:
        node = nodes(6)[0] | {"numa_cells": 2, "cpu_num": 2}
        (member,) = (await lab.up(model_services=[node])).instances
        told = await devices(lab)
        assert list(member.numa_cells) == [0, 1]
        assert {told[key].numa_cell for key in member.devices} == {0, 1}
        await lab.up(model_services=nodes(2))
