"""Which groups may end so that another one fits, as the planner is asked. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from placement.model import Host, Node, Snapshot
from placement.modes.moves import Leaving
from service.domain.fleet import GPU
from service.domain.fleet import Host as FleetHost
from service.domain.groups import Group
from service.domain.leaving import RoomEviction
from service.domain.preemption import Policies, becomes, may_evict, policy_of
from service.planning import translate


@dataclass(frozen=True, slots=True)
class Victims:
    """The groups, and each as the planner takes it: at the cost of its memory, those of a lower priority first."""

    groups: tuple[Group, ...]
    leaving: tuple[Leaving, ...]


def victims(
    policies: Policies,
    group: Group,
    others: Sequence[Group],
    fleet_now: Snapshot,
    hosts: Mapping[str, FleetHost],
    now: int,
) -> Victims:
    """Those of the others that may end for the group at `now` (ms). `hosts`: the same fleet's rows."""
    seats: dict[str, Host] = {}
    several: set[str] = set()
    for host in fleet_now.hosts:
        for member in host.members:
            if member.id in seats:
                several.add(member.id)  # what a move has left there was not seen to be gone yet
            seats[member.id] = host
    may = tuple(
        other
        for other in others
        if may_evict(policies, group, other, now)
        and all(m.uuid in seats and m.uuid not in several for m in other.instances)
    )
    ranks = {priority: level for level, priority in enumerate(sorted({other.priority for other in may}))}
    return Victims(may, tuple(_leaving(o, ranks[o.priority], seats, fleet_now, hosts) for o in may))


def told_of(
    policies: Policies, group: Group, ending: Sequence[Group], now: int
) -> tuple[tuple[RoomEviction, ...], int]:
    """What is told of each of them, and for how long (ms) all of them go on: so nobody ends for a group in whose way
    another one stays after all."""
    notice_ms = max((policy_of(policies, victim.project).delay_ms for victim in ending), default=0)
    at = now + notice_ms
    return tuple(
        RoomEviction(
            victim.uuid,
            victim.spec.name,
            victim.priority,
            {m.uuid: m.host_uuid for m in victim.instances},
            sum(m.spec.memory_size for m in victim.instances),
            at,
            becomes(policies, victim, at),
            victim.project != group.project,
        )
        for victim in ending
    ), notice_ms


def _leaving(
    group: Group, level: int, seats: Mapping[str, Host], fleet_now: Snapshot, hosts: Mapping[str, FleetHost]
) -> Leaving:
    one = translate.neighbours(group, frozenset(m.uuid for m in group.instances), fleet_now, hosts)
    nodes = () if one is None else tuple(_sized(node, seats[node.id], hosts) for node in one.nodes)
    return Leaving(nodes, sum(m.spec.memory_size for m in group.instances), level)


def _sized(node: Node, host: Host, hosts: Mapping[str, FleetHost]) -> Node:
    """The node at what its end gives back: of a machine that is given out as a whole all of it, and of devices those of
    any model too."""
    if hosts[host.id].bare_metal:
        return replace(node, demand=dict(host.used))
    demand = dict(node.demand)
    if translate.ANY_GPU in host.capacity:
        demand[translate.ANY_GPU] = sum(amount for name, amount in demand.items() if name.startswith(GPU))
    return replace(node, demand={name: min(amount, host.used.get(name, 0)) for name, amount in demand.items()})
