"""What a group's policy asks of its placement, as the planner's rules: within the group, and towards others. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from placement.constraints import (
    EVERYTHING,
    Apart,
    AtMost,
    Constraint,
    Near,
    Prefer,
    Scope,
    Selector,
    SpareHosts,
    SpreadOver,
    Together,
    Within,
)
from placement.outcome import Explanation
from placement.reasons import Family
from service.domain import placement_rules
from service.domain.groups import Group, Instance, InstanceStatus
from service.planning import confinement

SPARE_WEIGHT = 1_000
"""What each spare host counts that members take which lost theirs: as much as the most that a wish may count."""


def within(group: Group) -> Iterator[Constraint]:
    """The rules of a group about its own members, and about the hosts that it leaves alone."""
    policy = group.spec.placement
    for limit, scope in (
        (policy.max_per_host, Scope.HOST),
        (policy.max_per_rack, Scope.RACK),
        (policy.max_per_zone, Scope.ZONE),
    ):
        if limit:
            yield AtMost(EVERYTHING, limit, scope)
    if policy.survive is not None:
        size = sum(not m.leaving and m.status is not InstanceStatus.REMOVED for m in group.instances)
        yield AtMost(_lasting(group), max(1, policy.survive.most_in_a_rack(size)), Scope.RACK)
    for least, scope in (
        (policy.min_hosts, Scope.HOST),
        (policy.min_racks, Scope.RACK),
        (policy.min_zones, Scope.ZONE),
    ):
        if least:
            yield SpreadOver(_lasting(group), scope, least)
    if policy.max_racks:
        yield Within(_lasting(group), Scope.RACK, policy.max_racks)
    for together, scope in ((policy.same_rack, Scope.RACK), (policy.same_zone, Scope.ZONE)):
        if together:
            yield Together(EVERYTHING, scope)
    for label in policy.preferred_host_labels:
        yield Prefer(label.key, label.values, EVERYTHING, label.weight)
    if policy.spare_hosts:
        yield SpareHosts(policy.spare_hosts, None if spares_are_kept(group) else SPARE_WEIGHT)


def spares_are_kept(group: Group) -> bool:
    """Whether what is to be placed leaves the spare hosts empty at any price: only members that lost their host may use
    them, which is what they are for."""
    waiting = [m for m in group.instances if m.status is InstanceStatus.PENDING]
    return all(m.attempt == 1 and not m.machine_uuid for m in waiting)


def _lasting(group: Group) -> Selector:
    """All members but those that leave: a rack that only they are in does not count."""
    if not any(m.leaving for m in group.instances):
        return EVERYTHING
    return Selector(frozenset(m.uuid for m in group.instances if not m.leaving and _counts(m)))


def _counts(member: Instance) -> bool:
    """Whether the planner knows the member: it is to be placed, or has a host."""
    return member.status is InstanceStatus.PENDING or stays(member)


def stays(member: Instance) -> bool:
    """Whether the member has a host, which the planner leaves it."""
    return bool(member.host_uuid) and member.status not in (InstanceStatus.PENDING, InstanceStatus.REMOVED)


def between(group: Group, members: Callable[[str], Selector]) -> Iterator[Constraint]:
    """The rules of a group about other groups. `members`: those of a group, by its uuid."""
    mine, policy = members(group.uuid), group.spec.placement
    for uuid in policy.affinity_groups:
        yield Near(mine, members(uuid))
    for uuid in policy.anti_affinity_groups:
        yield Apart(mine, members(uuid))
    for one in policy.preferred_affinity:
        yield Near(mine, members(one.group_uuid), weight=one.weight)
    for one in policy.preferred_anti_affinity:
        yield Apart(mine, members(one.group_uuid), weight=one.weight)


def rules_named(explanation: Explanation, group: Group) -> str:
    """The fields of the policy that stand for the families in conflict, or for those that could be given up."""
    told = {*explanation.conflict, *(cure.family for cure in explanation.cures if cure.family is not None)}
    fields = dict(placement_rules.fields_of(group.spec.placement))
    waiting = [m.spec for m in group.instances if m.status is InstanceStatus.PENDING]
    if confined := tuple(confinement.fields(waiting)):
        fields[Family.LABELS] = (*fields.get(Family.LABELS, ()), *confined)
    named = [f"{family.value}: {', '.join(fields[family])}" for family in Family if family in told and family in fields]
    return f" ({'; '.join(named)})" if named else ""
