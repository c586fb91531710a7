"""Which rules of a group about labels, clusters and racks of hosts are not kept where its members are. Pure.

The planner keeps them whenever it places a member; what an operator says of a host may change below members that are
there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from service.domain.fleet import Host
from service.domain.groups import Group, Instance, InstanceStatus

RULED_BY = ("labels", "rack", "cluster_uuid")
"""What the rules here look at of a host."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that is not kept: in words, by how much it is missed, and which members miss it."""

    rule: str
    missed: int
    ranks: tuple[int, ...]
    least: bool = False  # how many there are at least: who joins can only make it better


Seated = tuple[Instance, Host]
"""A member and a host that it is on."""


def worsened(group: Group, before: Mapping[str, Host], after: Mapping[str, Host]) -> tuple[str, ...]:
    """The rules that are missed by more with the hosts as they are to be than as they were, in words."""
    missed = {one.rule: one.missed for one in broken(group, before)}
    return tuple(
        f"{group.spec.name} {_ranks(one.ranks)} ({one.rule})"
        for one in broken(group, after)
        if one.missed > missed.get(one.rule, 0)
    )


def broken(group: Group, hosts: Mapping[str, Host]) -> tuple[Broken, ...]:
    """All rules that are not kept. `hosts`: by uuid, at least those that members are on, or on their way to."""
    placed = [
        (member, hosts[uuid])
        for member in group.instances
        if member.status is not InstanceStatus.REMOVED and not member.beside
        for uuid in (member.target_host_uuid or member.host_uuid,)
        if uuid in hosts
    ]
    return tuple(one for one in (*_of_hosts(group, placed), *_of_racks(group, placed)) if one.missed > 0)


def lost_to_racks(group: Group, before: Sequence[Seated], after: Sequence[Seated], *, whole: bool) -> tuple[str, ...]:
    """The rules about racks that seats would miss by more than those did that there were, in words.

    `before`, `after`: each of the group's members that count with the host that it is on; with both, while it moves.
    `whole`: after it all of the gang is placed, and what is at least must be kept, however little there was before.
    """
    missed = {one.rule: one.missed for one in _of_racks(group, before) if not (whole and one.least)}
    return tuple(one.rule for one in _of_racks(group, after) if one.missed > max(0, missed.get(one.rule, 0)))


def _of_hosts(group: Group, placed: Sequence[Seated]) -> Iterator[Broken]:
    for label in group.spec.placement.required_host_labels:
        without = tuple(m.rank for m, host in placed if not host.has_label(label.key, label.values))
        yield Broken(f"only on hosts with {label.key} = {' or '.join(label.values)}", len(without), without)
    for cluster in sorted({m.spec.cluster_uuid for m, _ in placed if m.spec.cluster_uuid}):
        outside = tuple(m.rank for m, h in placed if m.spec.cluster_uuid == cluster != h.cluster_uuid)
        yield Broken(f"only in cluster {cluster}", len(outside), outside)


def _of_racks(group: Group, placed: Sequence[Seated]) -> Iterator[Broken]:
    policy = group.spec.placement
    # A host without a rack is one of its own. Members that leave count for what is at most, not for what is at least.
    seats = [(m, (host.rack, "") if host.rack else ("", host.uuid)) for m, host in placed]
    lasting = [(m, rack) for m, rack in seats if not m.leaving]
    members, racks = Counter(rack for _, rack in seats), len({rack for _, rack in lasting})
    if policy.max_per_rack:
        crowded = tuple(m.rank for m, rack in seats if members[rack] > policy.max_per_rack)
        over = sum(max(0, count - policy.max_per_rack) for count in members.values())
        yield Broken(f"at most {policy.max_per_rack} in a rack", over, crowded)
    if policy.same_rack:
        yield Broken("all in one rack", len(members) - 1, tuple(m.rank for m, _ in seats))
    ranks = tuple(m.rank for m, _ in lasting)
    if policy.survive is not None:
        size = sum(not m.leaving and m.status is not InstanceStatus.REMOVED for m in group.instances)
        most, here = policy.survive.most_in_a_rack(size), Counter(rack for _, rack in lasting)
        crowded = tuple(m.rank for m, rack in lasting if here[rack] > most)
        over = sum(max(0, count - most) for count in here.values())
        yield Broken(f"{policy.survive.members} members are left whichever rack is lost", over, crowded)
    if policy.max_racks:
        yield Broken(f"in at most {policy.max_racks} racks", racks - policy.max_racks, ranks)
    if policy.min_racks:
        yield Broken(f"in at least {policy.min_racks} racks", policy.min_racks - racks, ranks, least=True)


def _ranks(ranks: tuple[int, ...]) -> str:
    named = ", ".join(map(str, ranks[:8])) + (" and more" if len(ranks) > 8 else "")
    return f"ranks {named}" if len(ranks) > 1 else f"rank {named}"
