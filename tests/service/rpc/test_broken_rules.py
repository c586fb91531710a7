"""What an operator says of a host may change below members that are there: no rule of theirs is broken unasked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import fleet_pb2
from google.protobuf.field_mask_pb2 import FieldMask

from service.domain.fleet import Host
from service.domain.groups import Group
from service.domain.kept_rules import broken, worsened
from service.domain.specs import HostLabel, PlacementPolicy, Survive
from tests.service.rpc.lab import reason_of
from tests.support import builders
from tests.support.whole import ENTRY, GIB, Whole, config_text, whole

# Two racks of two hosts, all with an ssd.
FLEET = "".join(
    f"""
[[hosts]]
name = "{rack}-{number}"
zone = "zone-1"
rack = "{rack}"
driver = "simulated"
transport = "none"
labels = {{ disk = "ssd" }}
options = {{ cpu = 8, memory = "16GiB", boot_ms = 1, call_ms = 0 }}
"""
    for rack in ("r1", "r2")
    for number in (1, 2)
)
SSD = {"required_host_labels": [{"key": "disk", "values": ["ssd", "nvme"]}]}


async def placed(lab: Whole, name: str, policy: Mapping[str, Any]) -> list[str]:
    """A group of two; the names of the hosts of its members."""
    node = {"uuid": ENTRY, "cpu_num": 1, "memory_size": GIB}
    group = await lab.up(name=name, model_services=[node] * 2, placement_policy=policy)
    return [lab.service.directory.hosts[member.host_uuid].name for member in group.instances]


async def update(lab: Whole, host: str, *, allow: bool = False, validate_only: bool = False, **fields: Any) -> Any:
    return await lab.fleet.UpdateHost(
        fleet_pb2.UpdateHostRequest(
            uuid=lab.uuid_of(host),
            update_mask=FieldMask(paths=list(fields)),
            allow_broken_rules=allow,
            validate_only=validate_only,
            **fields,
        )
    )


@pytest.mark.asyncio
async def test_what_a_change_of_a_host_breaks_is_refused_with_the_members_unless_it_is_allowed(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(0, extra=FLEET)) as lab:
        on = await placed(lab, "bound", {**SSD, "max_per_rack": 1})
        other = next(name for name in ("r1-1", "r2-1") if name[:2] == on[1][:2])
        for fields, rule in (
            ({"labels": {"disk": "hdd"}}, "only on hosts with disk = ssd or nvme"),
            ({"labels": {}}, "only on hosts with disk = ssd or nvme"),
        ):
            for validate_only in (True, False):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await update(lab, on[0], validate_only=validate_only, **fields)
                assert reason_of(refused.value) == "WRONG_STATE"
                assert f"rules that would break: bound rank 0 ({rule})" in (refused.value.details() or "")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await update(lab, on[0], rack=on[1][:2])
        assert "bound ranks 0, 1 (at most 1 in a rack)" in (refused.value.details() or "")
        assert (await lab.host(on[0])).labels["disk"] == "ssd"

        # What breaks nothing is changed: another label that will do, another rack that nobody of the group is in.
        assert not (await update(lab, on[0], labels={"disk": "nvme"}, rack="r9")).broken_rules
        assert not (await update(lab, other if other not in on else on[0], description="x")).broken_rules

        told = await update(lab, on[0], allow=True, labels={"disk": "hdd"})
        assert list(told.broken_rules) == ["bound rank 0 (only on hosts with disk = ssd or nvme)"]
        assert told.inventory.labels["disk"] == "hdd"
        # What is broken already is in nobody's way, and the cure is not refused.
        assert not (await update(lab, on[0], labels={"disk": "tape"})).broken_rules
        assert not (await update(lab, on[0], labels={"disk": "ssd"})).broken_rules


@pytest.mark.asyncio
async def test_a_host_without_members_changes_as_it_is_told(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(0, extra=FLEET)) as lab:
        on = await placed(lab, "bound", {**SSD, "same_rack": True, "max_per_host": 2})
        empty = next(name for name in ("r1-1", "r1-2", "r2-1", "r2-2") if name not in on)
        assert not (await update(lab, empty, labels={}, rack="elsewhere")).broken_rules


def placed_on(hosts: list[str], policy: PlacementPolicy) -> Group:
    """A group with a member on each of these hosts."""
    group = builders.group(len(hosts), placement=policy)
    seated = zip(group.instances, hosts, strict=True)
    return replace(group, instances=tuple(replace(m, host_uuid=h) for m, h in seated))


def test_each_rule_is_counted_as_the_planner_keeps_it() -> None:
    def of(policy: PlacementPolicy, racks: str, **changes: Any) -> list[tuple[str, int, tuple[int, ...]]]:
        """The rules that a group misses whose members are in these racks, one letter each; a dot is a host without."""
        hosts = {
            f"{rank:032x}": replace(builders.host(rank + 1), uuid=f"{rank:032x}", rack=rack.replace(".", ""), **changes)
            for rank, rack in enumerate(racks)
        }
        group = placed_on(list(hosts), policy)
        return [(one.rule, one.missed, one.ranks) for one in broken(group, hosts)]

    assert of(PlacementPolicy(max_per_rack=1), "ab.") == []
    assert of(PlacementPolicy(max_per_rack=1), "aab") == [("at most 1 in a rack", 1, (0, 1))]
    assert of(PlacementPolicy(survive=Survive(2)), "aabb") == []
    told = ("2 members are left whichever rack is lost", 1, (0, 1, 2))
    assert of(PlacementPolicy(survive=Survive(2)), "aaab") == [told]
    assert of(PlacementPolicy(same_rack=True), "aa") == []
    assert of(PlacementPolicy(same_rack=True), "..") == [("all in one rack", 1, (0, 1))]
    assert of(PlacementPolicy(max_racks=2), "abc") == [("in at most 2 racks", 1, (0, 1, 2))]
    assert of(PlacementPolicy(min_racks=2), "aaa") == [("in at least 2 racks", 1, (0, 1, 2))]
    assert of(PlacementPolicy(min_racks=2), "a.") == []
    label = PlacementPolicy(required_host_labels=(HostLabel("disk", ("ssd",)),))
    assert of(label, "ab", labels={"disk": "ssd"}) == []
    assert of(label, "ab") == [("only on hosts with disk = ssd", 2, (0, 1))]


def test_a_rule_that_is_missed_by_no_more_than_before_is_not_told() -> None:
    hosts: dict[str, Host] = {
        f"{rank:032x}": replace(builders.host(rank + 1), uuid=f"{rank:032x}", rack="a" if rank < 2 else "b")
        for rank in range(3)
    }
    group = placed_on(list(hosts), PlacementPolicy(max_per_rack=1))
    elsewhere = {**hosts, f"{0:032x}": replace(hosts[f"{0:032x}"], rack="b")}
    assert worsened(group, hosts, elsewhere) == ()
    third = {**hosts, f"{2:032x}": replace(hosts[f"{2:032x}"], rack="a")}
    assert worsened(group, hosts, third) == ("group ranks 0, 1, 2 (at most 1 in a rack)",)
