"""What a policy says of a group is kept by whatever places its members again: a drain, the recovery of a lost one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from corral.v1 import deploy_pb2, fleet_pb2

from tests.service.rpc.lab import soon
from tests.support.whole import ENTRY, GIB, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

# Three racks of three hosts; the third host of each has no ssd.
FLEET = "".join(
    f"""
[[hosts]]
name = "r{rack}-{number}"
zone = "zone-1"
rack = "r{rack}"
driver = "simulated"
transport = "none"
labels = {{ disk = "{"hdd" if number == 3 else "ssd"}" }}
options = {{ cpu = 64, memory = "64GiB", boot_ms = 1, call_ms = 0 }}
"""
    for rack in (1, 2, 3)
    for number in (1, 2, 3)
)
SSD: Mapping[str, Any] = {"required_host_labels": [{"key": "disk", "values": ["ssd"]}]}
SPREAD: Mapping[str, Any] = {"strategy": "PLACEMENT_STRATEGY_SPREAD"}


def racks(names: list[str]) -> set[str]:
    return {name[:2] for name in names}


POLICIES: Mapping[str, tuple[Mapping[str, Any], Callable[[list[str]], bool]]] = {
    "one a host, only with an ssd": (
        {**SSD, "max_per_host": 1},
        lambda names: len(set(names)) == 3 and all(name[-1] != "3" for name in names),
    ),
    "one a rack": ({**SSD, "max_per_rack": 1}, lambda names: len(racks(names)) == 3),
    "in two racks at most": ({**SPREAD, "max_racks": 2}, lambda names: len(racks(names)) <= 2),
    "in one rack": ({**SPREAD, "same_rack": True}, lambda names: len(racks(names)) == 1),
    "in two racks at least": ({"min_racks": 2}, lambda names: len(racks(names)) >= 2),
}


def names_of(lab: Whole, group: Any) -> list[str]:
    return [lab.service.directory.hosts[member.host_uuid].name for member in group.instances]


@pytest.mark.parametrize("name", POLICIES)
async def test_a_policy_is_kept_by_a_drain_and_when_a_member_is_lost(tmp_path: Path, name: str) -> None:
    policy, holds = POLICIES[name]
    async with whole(tmp_path, config_text(0, extra=FLEET)) as lab:
        node = {"uuid": ENTRY, "zone_uuid": "", "cpu_num": 1, "memory_size": GIB}
        group = await lab.up(model_services=[node] * 3, placement_policy=policy)
        assert holds(names_of(lab, group)), names_of(lab, group)

        left = names_of(lab, group)[1]
        request = fleet_pb2.DrainHostRequest(uuid=lab.uuid_of(left))
        assert [step async for step in lab.fleet.DrainHost(request)][-1].WhichOneof("change") == "final"
        moved = await lab.get(group.uuid)
        assert left not in names_of(lab, moved)
        assert holds(names_of(lab, moved)), names_of(lab, moved)

        lost = moved.instances[2]
        broken = lab.service.directory.hosts[lost.host_uuid].name
        host = lab.driver(broken).host
        for machine in list(host.machines):
            del host.machines[machine]
        lab.service.reconciler.monitors[lost.host_uuid].suspect()

        async def recovered() -> bool:
            now = await lab.get(group.uuid)
            return bool(now.status == "Running" and now.instances[2].attempt > lost.attempt)

        await soon(recovered)
        after = await lab.get(group.uuid)
        assert holds(names_of(lab, after)), names_of(lab, after)
        delete = deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid)
        assert [answer async for answer in lab.deploy.DeleteInstanceGroup(delete)]
