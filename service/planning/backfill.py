"""Room that is kept for the first of those that wait for hosts: what those behind it may use of the fleet. Pure.

Where it is proven by when it starts (`KeptRoom.starts_at`), somebody behind it may have whatever leaves its seats free
then: all of it where he says that he is gone by then, else what is free now and still will be beside those seats. So it
still fits at that time, whoever came meanwhile. Where nobody has said when he goes, its seats count as taken already.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from placement.model import Assignment, Host, Member, Node, Request, Snapshot, joined
from service.domain.fleet import Host as FleetHost
from service.domain.groups import Group, KeptRoom, KeptSeat
from service.planning import cells, devices, foresight, translate
from service.planning.residents import GROUP_LABEL

KEPT = "there is room for it, and that is kept for a group before it in line, which it would hold up"


@dataclass(frozen=True, slots=True)
class Kept:
    """`room` is kept for `group`; `going`: those that will be gone when it starts, by their own word."""

    group: Group
    room: KeptRoom
    going: Sequence[Group] = ()


def seats(group: Group, assignments: Sequence[Assignment], hosts: Mapping[str, FleetHost]) -> tuple[KeptSeat, ...]:
    """The seats of a placement, as they are kept."""
    landing = [m for m in group.instances if m.uuid in {a.node for a in assignments}]
    pinned = cells.given(landing, assignments, hosts, group.spec.placement.numa)
    return tuple(KeptSeat(a.node, a.host, pinned.get(a.node, ())) for a in assignments)


def kept_hosts(kept: Kept | None) -> frozenset[str]:
    """The hosts of the seats: what others leave there is not for those behind."""
    return frozenset(seat.host_uuid for seat in kept.room.seats) if kept is not None else frozenset()


def still_there(kept: KeptRoom, group: Group, hosts: Mapping[str, FleetHost]) -> bool:
    """Whether the seats are those of its members that want some, on hosts that take anybody."""
    wanted = {m.uuid for m in group.instances if not m.host_uuid}
    return wanted == {seat.instance_uuid for seat in kept.seats} and all(
        seat.host_uuid in hosts and hosts[seat.host_uuid].schedulable for seat in kept.seats
    )


def open_to(
    candidate: Group, kept: Kept | None, fleet_now: Snapshot, hosts: Mapping[str, FleetHost]
) -> tuple[Snapshot, frozenset[str]]:
    """(the fleet as somebody behind may use it, hosts that he may not use at all)."""
    if kept is None or (0 < candidate.ends_at <= kept.room.starts_at):
        return fleet_now, frozenset()
    starts_at = kept.room.starts_at
    later = foresight.without(fleet_now, hosts, kept.going) if starts_at else fleet_now
    landed = _landed(later, translate.request(kept.group, later, hosts), kept.room, hosts)
    there = {host.id: host for host in fleet_now.hosts}
    narrowed = fleet_now.updated([_both(there[uuid], host) for uuid, host in landed.items()])
    return narrowed, _closed(candidate, kept.group, landed, later)


def _landed(later: Snapshot, asked: Request, room: KeptRoom, hosts: Mapping[str, FleetHost]) -> dict[str, Host]:
    """The hosts of the seats with somebody in each of them who bears no label that a rule could mean."""
    nodes, there = {node.id: node for node in asked.nodes}, {host.id: host for host in later.hosts}
    found: dict[str, list[tuple[Node, Member]]] = defaultdict(list)
    for number, seat in enumerate(room.seats):
        if seat.host_uuid not in there or seat.instance_uuid not in nodes:
            continue
        node, pinned = nodes[seat.instance_uuid], cells.positions(hosts[seat.host_uuid], seat.cells)
        somebody = Member(f"kept/{number}", node.demand, {GROUP_LABEL: ""}, False, node.exclusive, pinned)
        found[seat.host_uuid].append((node, somebody))
    landed: dict[str, Host] = {}
    for uuid, arriving in found.items():
        host, nodes_here = there[uuid], [(node, member.cells) for node, member in arriving]
        # Who wants devices together comes first: what others take is of what he leaves.
        order = zip(arriving, devices.divided(host, nodes_here), strict=True)
        for (_, member), given in sorted(order, key=lambda one: not one[0][0].devices):
            host = joined(host, member, given)
        landed[uuid] = host
    return landed


def _both(now: Host, then: Host) -> Host:
    """The host with no more free than there is now, and no more than there will be."""
    arrived = then.members[-sum(m.id.startswith("kept/") for m in then.members) :]
    return replace(
        now,
        used=_most(now.used, then.used, now.capacity),
        cells=tuple(
            replace(a, used=_most(a.used, b.used, a.capacity)) for a, b in zip(now.cells, then.cells, strict=True)
        ),
        pools=tuple(
            replace(a, used=max(a.used, min(b.used, a.capacity))) for a, b in zip(now.pools, then.pools, strict=True)
        ),
        members=(*now.members, *arrived),
    )


def _most(one: Mapping[str, int], other: Mapping[str, int], capacity: Mapping[str, int]) -> dict[str, int]:
    """By resource the greater use, and no more than there is where neither host is fuller than that now."""
    return {name: max(one.get(name, 0), min(other.get(name, 0), capacity.get(name, 0))) for name in {*one, *other}}


def _closed(candidate: Group, first: Group, landed: Mapping[str, Host], later: Snapshot) -> frozenset[str]:
    """Hosts where the candidate would break a rule of who goes first, or of its own, whatever room there is."""
    closed: set[str] = set()
    shunned = {*first.spec.placement.anti_affinity_groups} & {candidate.uuid}
    if shunned or first.uuid in candidate.spec.placement.anti_affinity_groups:
        closed |= set(landed)
    if first.spec.placement.spare_hosts:
        closed |= {host.id for host in later.hosts if not host.members}
    return frozenset(closed)
