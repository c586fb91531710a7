"""What a stored policy says holds for a first placement, and for each one after it: scale, replacement, move."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from placement.check import check
from placement.engine import place
from placement.model import Decision, Policy, Snapshot, Status
from service.domain.fleet import MEMORY, VCPU, Host, HostState, HostStatus
from service.domain.groups import Group, Instance, InstanceStatus
from service.domain.specs import HostLabel, PlacementPolicy, PlacementStrategy, PreferredGroup, Survive
from service.errors import NoCapacity, Unsatisfiable
from service.planning import translate
from tests.support import builders

GIB = 1 << 30
OTHER = "b" * 32


def host(number: int, **changes: Any) -> Host:
    """Eight hosts: two zones with two racks each; odd ones have an ssd. Each has room for three members."""
    usable = {VCPU: 6, MEMORY: 64 * GIB}
    made = replace(builders.host(number), status=HostStatus.CONNECTED, total=usable, allocatable=usable)
    half = (number - 1) // 4
    labels = {"disk": "ssd" if number % 2 else "hdd"}
    made = replace(made, zone_uuid=f"{half + 1}" * 32, rack=f"r{(number - 1) // 2}", labels=labels)
    return replace(made, **changes)


HOSTS = {h.uuid: h for h in (host(number) for number in range(1, 9))}


def gang(policy: PlacementPolicy, size: int = 4) -> Group:
    made = builders.group(size, placement=policy)
    return replace(made, instances=tuple(_anywhere(m) for m in made.instances))


def _anywhere(member: Instance) -> Instance:
    return replace(member, spec=replace(member.spec, zone_uuid=""))


def fleet_with(group: Group, other: str = "") -> Snapshot:
    """The fleet with the group's seats on it, and a member of another group on the host `other`."""
    seats: dict[str, list[tuple[str, str, bool]]] = {}
    used: dict[str, dict[str, int]] = {}
    for m in group.instances:
        if m.host_uuid:
            seats.setdefault(m.host_uuid, []).append((m.uuid, group.uuid, False))
            used[m.host_uuid] = translate.total([used.get(m.host_uuid, {}), translate.demand(m.spec)])
    if other:
        seats.setdefault(other, []).append(("f" * 32, OTHER, False))
    hosts = {uuid: replace(h, used=used.get(uuid, {})) for uuid, h in HOSTS.items()}
    return translate.snapshot(hosts, seats)


def decided(group: Group, other: str = "") -> Decision:
    """The checked decision about what is pending."""
    snapshot = fleet_with(group, other)
    request = translate.request(group, snapshot)
    decision = place(snapshot, request, Policy())
    assert check(snapshot, request, decision) == ()
    return decision


def seated(group: Group, decision: Decision) -> Group:
    places = {a.node: a.host for a in decision.assignments}
    return replace(
        group,
        instances=tuple(
            replace(m, status=InstanceStatus.RUNNING, host_uuid=places[m.uuid], machine_uuid=m.uuid)
            if m.uuid in places
            else m
            for m in group.instances
        ),
    )


def placed(group: Group, other: str = "") -> Group:
    decision = decided(group, other)
    assert decision.status is Status.PLACED, decision.explanation
    return seated(group, decision)


def lost(group: Group, position: int) -> Group:
    """One member is to be placed anew."""
    gone = replace(group.instances[position], status=InstanceStatus.PENDING, host_uuid="", machine_uuid="", attempt=2)
    return replace(group, instances=tuple(gone if m.uuid == gone.uuid else m for m in group.instances))


def grown(group: Group) -> Group:
    """One more member joins."""
    rank = len(group.instances)
    new = _anywhere(builders.group(rank + 1).instances[rank])
    return replace(group, instances=(*group.instances, replace(new, joining=True)))


def spots(group: Group, of: str) -> list[str]:
    """The host, rack or zone of each member."""
    hosts = [HOSTS[m.host_uuid] for m in group.instances]
    return [{"host": h.uuid, "rack": h.rack, "zone": h.zone_uuid, "disk": h.labels["disk"]}[of] for h in hosts]


def most(group: Group, of: str) -> int:
    found = spots(group, of)
    return max(found.count(one) for one in found)


def different(group: Group, of: str) -> int:
    return len(set(spots(group, of)))


SSD = (HostLabel("disk", ("ssd",)),)
RULES: dict[str, tuple[PlacementPolicy, Any]] = {
    "max_per_host": (PlacementPolicy(max_per_host=1), lambda g: most(g, "host") == 1),
    "max_per_rack": (PlacementPolicy(max_per_rack=2), lambda g: most(g, "rack") <= 2),
    "max_per_zone": (PlacementPolicy(max_per_zone=3), lambda g: most(g, "zone") <= 3),
    "survive": (PlacementPolicy(survive=Survive(2)), lambda g: most(g, "rack") <= len(g.instances) - 2),
    "min_hosts": (PlacementPolicy(min_hosts=4), lambda g: different(g, "host") >= 4),
    "min_racks": (PlacementPolicy(min_racks=3), lambda g: different(g, "rack") >= 3),
    "min_zones": (PlacementPolicy(min_zones=2), lambda g: different(g, "zone") == 2),
    "max_racks": (PlacementPolicy(PlacementStrategy.SPREAD, max_racks=2), lambda g: different(g, "rack") <= 2),
    "same_rack": (PlacementPolicy(same_rack=True), lambda g: different(g, "rack") == 1),
    "same_zone": (PlacementPolicy(same_zone=True), lambda g: different(g, "zone") == 1),
    "required_host_labels": (PlacementPolicy(required_host_labels=SSD), lambda g: set(spots(g, "disk")) == {"ssd"}),
    "preferred_host_labels": (PlacementPolicy(preferred_host_labels=SSD), lambda g: set(spots(g, "disk")) == {"ssd"}),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_holds_for_the_gang_and_for_whoever_joins_or_is_replaced(name: str) -> None:
    policy, holds = RULES[name]
    group = placed(gang(policy))
    assert holds(group)
    for again in (grown(group), *(lost(group, position) for position in range(4))):
        assert holds(placed(again))


def test_a_member_that_leaves_does_not_count_for_how_far_the_group_is_spread() -> None:
    group = placed(gang(PlacementPolicy(min_racks=2, max_per_rack=2), 2))
    leaving = replace(group, instances=(group.instances[0], replace(group.instances[1], leaving=True)))
    after = placed(grown(leaving))
    staying = replace(after, instances=tuple(m for m in after.instances if not m.leaving))
    assert different(staying, "rack") == 2


def test_wishes_about_other_groups_are_kept_where_they_can_be_and_told_where_not() -> None:
    near = gang(PlacementPolicy(preferred_affinity=(PreferredGroup(OTHER, 3),)), 1)
    apart = gang(PlacementPolicy(preferred_anti_affinity=(PreferredGroup(OTHER, 5),)), 1)
    for uuid in HOSTS:
        assert spots(placed(near, uuid), "host") == [uuid]
        assert spots(placed(apart, uuid), "host") != [uuid]
    on_two = decided(
        gang(PlacementPolicy(preferred_affinity=(PreferredGroup(OTHER, 3),), max_per_host=1), 2), next(iter(HOSTS))
    )
    assert (on_two.penalty, on_two.penalty_bound) == (3, 3)
    heavier = PlacementPolicy(
        preferred_affinity=(PreferredGroup(OTHER, 3),), preferred_host_labels=(HostLabel("disk", ("hdd",), 7),)
    )
    assert spots(placed(gang(heavier, 1), host(1).uuid), "disk") == ["hdd"], "the heavier wish"


def test_spare_hosts_stay_empty_but_for_members_that_lost_theirs() -> None:
    group = placed(gang(PlacementPolicy(spare_hosts=6), 4))
    assert different(group, "host") == 2
    refused = decided(gang(PlacementPolicy(spare_hosts=6), 7))
    assert refused.status is Status.INFEASIBLE
    full = placed(gang(PlacementPolicy(spare_hosts=6), 6))
    assert decided(grown(full)).status is Status.INFEASIBLE
    gone = lost(full, 0)
    silent = replace(HOSTS[full.instances[0].host_uuid], status=HostStatus.DISCONNECTED)
    broken = fleet_with(gone).updated([translate.seen(silent, (), {})])
    decision = place(broken, translate.request(gone, broken), Policy())
    assert decision.status is Status.PLACED, "that is what they are for"


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (
            PlacementPolicy(min_racks=4, max_per_host=1, required_host_labels=(HostLabel("disk", ("tape",)),)),
            "required_host_labels",
        ),
        (PlacementPolicy(same_rack=True), "same_rack"),
        (PlacementPolicy(max_per_zone=3), "max_per_zone"),
        (PlacementPolicy(max_racks=1), "max_racks"),
        (PlacementPolicy(spare_hosts=8), "spare_hosts"),
        (PlacementPolicy(min_racks=5), "min_racks"),
    ],
)
def test_why_a_group_does_not_fit_names_the_rule_that_could_be_given_up(policy: PlacementPolicy, field: str) -> None:
    group = gang(policy, 7)
    snapshot = fleet_with(group)
    decision = place(snapshot, translate.request(group, snapshot), Policy())
    assert decision.status is Status.INFEASIBLE
    failure = translate.failure(decision, group, snapshot)
    assert f"placement_policy.{field}" in failure.message
    assert any(cure.family is not None and cure.family.value in failure.message for cure in decision.explanation.cures)  # type: ignore[union-attr]


def test_members_need_room_for_what_their_hypervisor_takes_beside_them() -> None:
    """Four of them would fill a host to the last byte; what QEMU takes for each is foreseen before any of them runs."""
    gangs = {size: gang(PlacementPolicy(), size) for size in (3, 4)}
    each = gangs[4].instances[0].spec.memory_size
    bare = host(1, total={VCPU: 64, MEMORY: 4 * each}, allocatable={VCPU: 64, MEMORY: 4 * each})
    closed = host(2, beside={MEMORY: 64 * GIB}, status=HostStatus.DISCONNECTED)  # what is closed counts for nobody
    for beside, size, fits in (({}, 4, True), ({MEMORY: 1 << 20}, 4, False), ({MEMORY: 1 << 20}, 3, True)):
        hosts = {h.uuid: h for h in (replace(bare, beside=beside), closed)}
        snapshot = translate.snapshot(hosts, {})
        decision = place(snapshot, translate.request(gangs[size], snapshot, hosts), Policy())
        assert (decision.status is Status.PLACED) is fits


@pytest.mark.parametrize(
    ("closed", "code"),
    [
        ({}, Unsatisfiable.reason),  # as small as the others: the end of its maintenance would change nothing
        ({"allocatable": {VCPU: 64, MEMORY: 64 * GIB}}, NoCapacity.reason),
        ({"allocatable": {}}, NoCapacity.reason),  # nobody knows yet what it has
    ],
)
def test_what_no_host_could_take_is_permanent_whichever_hosts_are_closed_now(closed: dict[str, Any], code: str) -> None:
    group = gang(PlacementPolicy(), 1)
    large = replace(group.instances[0], spec=replace(group.instances[0].spec, cpu_num=7))
    group = replace(group, instances=(large,))
    hosts = {**HOSTS, host(1).uuid: host(1, state=HostState.MAINTENANCE, **closed)}
    snapshot = translate.snapshot(hosts, {})
    decision = place(snapshot, translate.request(group, snapshot), Policy())
    assert translate.failure(decision, group, snapshot).code == code
