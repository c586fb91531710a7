"""Rules of a policy that can never hold together are told by the field; what the fleet alone can say is not."""

from __future__ import annotations

from typing import Any

import pytest

from placement.reasons import Family
from service.domain.placement_rules import fields_of, violations
from service.domain.specs import HostLabel, PlacementPolicy, PreferredGroup, Survive
from tests.support.builders import node

A, B, OWN = "a" * 32, "b" * 32, "c" * 32
ZONES = [node(zone_uuid="1" * 32), node(zone_uuid="1" * 32), node(zone_uuid="2" * 32)]
ANYWHERE = [node(zone_uuid="") for _ in range(3)]


def label(*values: str, key: str = "disk") -> HostLabel:
    return HostLabel(key, values)


@pytest.mark.parametrize(
    ("policy", "nodes", "fields"),
    [
        ({"min_hosts": 4}, ANYWHERE, ["min_hosts"]),
        ({"min_racks": 4}, ANYWHERE, ["min_racks"]),
        ({"min_zones": 4}, ANYWHERE, ["min_zones"]),
        ({"min_zones": 3}, ZONES, ["min_zones"]),
        ({"min_zones": 2}, ZONES, []),
        ({"min_racks": 3, "min_hosts": 3, "min_zones": 3}, ANYWHERE, []),
        ({"same_rack": True, "min_racks": 2}, ANYWHERE, ["min_racks"]),
        ({"same_rack": True, "min_racks": 1, "min_hosts": 3}, ANYWHERE, []),
        ({"same_zone": True, "min_zones": 2}, ANYWHERE, ["min_zones"]),
        ({"same_rack": True, "max_per_rack": 2}, ANYWHERE, ["max_per_rack"]),
        ({"same_rack": True, "max_per_rack": 3}, ANYWHERE, []),
        ({"same_zone": True, "max_per_zone": 1}, ANYWHERE, ["max_per_zone"]),
        ({"same_zone": True}, ZONES, ["same_zone"]),
        ({"max_racks": 1, "min_racks": 2}, ANYWHERE, ["max_racks"]),
        ({"max_racks": 2, "same_rack": True}, ANYWHERE, ["max_racks"]),
        ({"max_racks": 1, "same_rack": True}, ANYWHERE, []),
        ({"max_racks": 2, "max_per_rack": 1}, ANYWHERE, ["max_racks"]),
        ({"max_racks": 2, "max_per_rack": 2}, ANYWHERE, []),
        ({"max_per_zone": 1}, ZONES, ["max_per_zone"]),
        ({"survive": Survive(3)}, ANYWHERE, ["survive.members"]),
        ({"survive": Survive(2)}, ANYWHERE, []),
        ({"survive": Survive(1), "same_rack": True}, ANYWHERE, ["survive"]),
        ({"survive": Survive(2), "max_racks": 2}, ANYWHERE, ["survive"]),
        ({"max_per_zone": 2}, ZONES, []),
        (
            {"required_host_labels": (label("ssd"), label("hdd"))},
            ANYWHERE,
            ["required_host_labels[1].key"],
        ),
        ({"required_host_labels": (label("x", key="corral.type"),)}, ANYWHERE, ["required_host_labels[0].key"]),
        ({"preferred_host_labels": (label("x", key="corral.type"),)}, ANYWHERE, ["preferred_host_labels[0].key"]),
        (
            {"required_host_labels": (label("ssd"),), "preferred_host_labels": (label("hdd"),)},
            ANYWHERE,
            ["preferred_host_labels[0].values"],
        ),
        ({"required_host_labels": (label("ssd", "hdd"),), "preferred_host_labels": (label("hdd"),)}, ANYWHERE, []),
        ({"affinity_groups": (A,), "anti_affinity_groups": (B, A)}, ANYWHERE, ["anti_affinity_group_uuids[1]"]),
        (
            {"affinity_groups": (A,), "preferred_anti_affinity": (PreferredGroup(A),)},
            ANYWHERE,
            ["preferred_anti_affinity_groups[0].group_uuid"],
        ),
        (
            {"anti_affinity_groups": (A,), "preferred_affinity": (PreferredGroup(A),)},
            ANYWHERE,
            ["preferred_affinity_groups[0].group_uuid", "anti_affinity_group_uuids[0]"],
        ),
        (
            {"preferred_affinity": (PreferredGroup(A), PreferredGroup(A))},
            ANYWHERE,
            ["preferred_affinity_groups[1].group_uuid"],
        ),
        ({"affinity_groups": (OWN,)}, ANYWHERE, ["affinity_group_uuids[0]"]),
        ({"exclusive_hosts": True, "affinity_groups": (A,)}, ANYWHERE, ["affinity_group_uuids"]),
        (
            {"exclusive_hosts": True, "preferred_affinity": (PreferredGroup(A),)},
            ANYWHERE,
            ["preferred_affinity_groups"],
        ),
        ({"exclusive_hosts": True, "anti_affinity_groups": (A,)}, ANYWHERE, []),
    ],
)
def test_what_no_fleet_could_keep_is_told_by_its_field(policy: dict[str, Any], nodes: Any, fields: list[str]) -> None:
    found = [one.field for one in violations(PlacementPolicy(**policy), nodes, OWN)]
    assert sorted(found) == sorted(f"placement_policy.{field}" for field in fields)


def test_a_family_of_constraints_is_named_by_the_fields_that_the_policy_has() -> None:
    policy = PlacementPolicy(
        max_per_rack=1, same_zone=True, min_racks=2, spare_hosts=1, preferred_affinity=(PreferredGroup(A),)
    )
    assert fields_of(policy) == {
        Family.ANTI_AFFINITY: ("placement_policy.max_per_rack",),
        Family.AFFINITY: ("placement_policy.same_zone",),
        Family.SPREAD: ("placement_policy.min_racks",),
        Family.SPARE_HOSTS: ("placement_policy.spare_hosts",),
    }
