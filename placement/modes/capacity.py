"""How many more nodes of a spec fit, with a proven bound."""

from __future__ import annotations

from dataclasses import dataclass, replace

from placement.constraints import Constraint
from placement.engine import DEFAULT, place
from placement.model import Node, Policy, Request, Snapshot, Strategy
from placement.resources import MAX_NODES
from placement.stop import Stop, never


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
    """The sum over hosts of how many times the demand fits into the room, at most what one request may ask for."""
    wanted = [(name, amount) for name, amount in node.demand.items() if amount]
    if not wanted:
        return MAX_NODES if snapshot.hosts else 0
    total = 0
    for host in snapshot.hosts:
        total += min(host.free(name) // amount for name, amount in wanted)
        if total >= MAX_NODES:
            return MAX_NODES
    return total
