"""Modes beside the first placement: scale, re-plan, drain, and how many of a spec still fit.

May import ``engine``, ``model``, ``constraints``, ``reasons`` and ``resources``. Each mode only states a request; the
engine answers it. To scale a gang or to re-plan its failed members, place the new nodes with ``Request.staying``
naming the members that stay: they keep their hosts and count for every rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from placement.constraints import Constraint
from placement.engine import DEFAULT, never, place
from placement.model import Decision, Host, Member, Node, Policy, Request, Snapshot, Strategy
from placement.resources import MAX_NODES, InvalidPlacementInput

Stop = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Move:
    """One member from one host to another."""

    member: str
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Plan:
    """``moves`` in an order in which each fits. ``fixed``: members that may not move; ``homeless``: found no host."""

    moves: tuple[Move, ...]
    fixed: tuple[str, ...]
    homeless: tuple[str, ...]
    decision: Decision | None


def node_of(member: Member, host: Host, zone: bool = True) -> Node:
    """A member as a node to place; by default within its zone, pinned to as many NUMA cells as now."""
    return Node(
        member.id,
        member.demand,
        host.zone if zone else None,
        1,
        member.labels,
        {},
        member.exclusive,
        len(member.cells),
    )


def replan(
    snapshot: Snapshot, request: Request, failed_hosts: frozenset[str], policy: Policy = DEFAULT, stop: Stop = never
) -> Decision:
    """Places only a gang's failed members (``request.nodes``), away from failed hosts; ``request.staying`` stay."""
    lost = sorted(host for host in request.staying.values() if host in failed_hosts)
    if lost:
        raise InvalidPlacementInput("request.staying", f"a member stays on the failed host {lost[0]!r}")
    return place(snapshot, replace(request, excluded_hosts=request.excluded_hosts | failed_hosts), policy, stop)


def drain(
    snapshot: Snapshot,
    hosts: frozenset[str],
    constraints: tuple[Constraint, ...] = (),
    strategy: Strategy = Strategy.LEAST_LOST_VALUE,
    policy: Policy = DEFAULT,
    stop: Stop = never,
) -> Plan:
    """Where the members of some hosts go so that these become empty: all of them, or as many as possible.

    Members stay in their zone. ``constraints`` select members by labels. Raises ``InvalidPlacementInput`` for an
    unknown host or two members with the same id.
    """
    unknown = sorted(hosts - {host.id for host in snapshot.hosts})
    if unknown:
        raise InvalidPlacementInput("hosts", f"unknown host {unknown[0]!r}")
    leaving = [(member, host) for host in snapshot.hosts if host.id in hosts for member in host.members]
    fixed = tuple(member.id for member, _ in leaving if not member.movable)
    movable = {member.id: (member, host) for member, host in leaving if member.movable}
    if not movable:
        return Plan((), fixed, (), None)
    emptied = tuple(_without_movable(host) for host in snapshot.hosts if host.id in hosts)
    nodes = tuple(node_of(member, host) for member, host in movable.values())
    if len(nodes) != sum(member.movable for member, _ in leaving):
        raise InvalidPlacementInput("hosts", "two members have the same id")
    request = Request(nodes, strategy, constraints, hosts)
    after = snapshot.updated(emptied)
    decision = place(after, request, replace(policy, max_placed=False), stop)
    if not decision.assignments:
        decision = place(after, request, replace(policy, max_placed=True), stop)
    moves = tuple(Move(a.node, movable[a.node][1].id, a.host) for a in decision.assignments)
    return Plan(moves, fixed, decision.unplaced, decision)


def _without_movable(host: Host) -> Host:
    """The host once its movable members have left."""
    used = dict(host.used)
    for member in host.members:
        if member.movable:
            for name, amount in member.demand.items():
                used[name] = max(0, used.get(name, 0) - amount)
    return replace(host, used=used, members=tuple(member for member in host.members if not member.movable))


@dataclass(frozen=True, slots=True)
class Room:
    """``count`` more nodes of a spec are known to fit, and no more than ``bound`` can."""

    count: int
    bound: int
    by_zone: dict[str, int]


def room_for(
    snapshot: Snapshot,
    node: Node,
    constraints: tuple[Constraint, ...] = (),
    policy: Policy = DEFAULT,
    stop: Stop = never,
) -> Room:
    """How many nodes of a spec still fit, up to 100,000; ``node.count`` is ignored."""
    most = _by_division(snapshot, node)
    if not most:
        return Room(0, 0, {})
    request = Request((replace(node, count=most),), Strategy.FEWEST_HOSTS, constraints)
    decision = place(snapshot, request, replace(policy, max_placed=True), stop)
    zones = {host.id: host.zone for host in snapshot.hosts}
    by_zone: dict[str, int] = {}
    for assignment in decision.assignments:
        zone = zones[assignment.host]
        by_zone[zone] = by_zone.get(zone, 0) + 1
    return Room(len(decision.assignments), decision.upper_bound or 0, dict(sorted(by_zone.items())))


def _by_division(snapshot: Snapshot, node: Node) -> int:
    """The sum over hosts of how often the demand goes into the room, at most what one request may ask."""
    wanted = [(name, amount) for name, amount in node.demand.items() if amount]
    if not wanted:
        return MAX_NODES if snapshot.hosts else 0
    total = 0
    for host in snapshot.hosts:
        total += min(host.free(name) // amount for name, amount in wanted)
        if total >= MAX_NODES:
            return MAX_NODES
    return total
