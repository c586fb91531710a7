"""An independent verifier of room made by groups that go: takes them off their hosts, and asks ``placement.check``.

Where others move as well their moves are looked at on the fleet without those that went (``room_check.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from placement.check import Violation, check
from placement.model import Request, Snapshot, Status, left
from placement.modes.moves import Evictions, Leaving, MadeRoom, Neighbours
from placement.modes.room_check import check_room


def check_evictions(
    snapshot: Snapshot,
    request: Request,
    leaving: Sequence[Leaving],
    plan: Evictions,
    neighbours: Sequence[Neighbours] = (),
) -> tuple[Violation, ...]:
    """All that is wrong with who goes, who moves then, what that is said to cost, and where the gang goes."""
    return tuple(_violations(snapshot, request, leaving, plan, neighbours))


def _violations(
    snapshot: Snapshot,
    request: Request,
    leaving: Sequence[Leaving],
    plan: Evictions,
    neighbours: Sequence[Neighbours],
) -> Iterator[Violation]:
    if plan.status is not Status.PLACED or plan.placed is None:
        if plan.gone or plan.moves or plan.placed is not None:
            yield Violation("status", f"{plan.status} with groups that go, moves or a placement")
        return
    gone = [leaving[number] for number in plan.gone]
    if len(set(plan.gone)) != len(plan.gone) or sum(group.cost for group in gone) != plan.cost:
        yield Violation("gone", "a group goes twice, or the cost is another")
    if plan.lower_bound is None or plan.cost is None or plan.lower_bound > plan.cost:
        yield Violation("bounds", "the bound is above the cost")
    sizes = {node.id: node.demand for group in gone for node in group.nodes}
    hosts = []
    for host in snapshot.hosts:
        for member in host.members if sizes else ():
            if member.id in sizes:
                host = left(host, replace(member, demand=sizes[member.id]))
        hosts.append(host)
    without = Snapshot(tuple(hosts), snapshot.flavours)
    if not plan.moves:
        yield from check(without, request, plan.placed)
        if plan.moved:
            yield Violation("moves", "nobody moves at a cost")
        return
    staying = [group for group in neighbours if sizes.keys().isdisjoint({*group.costs, *group.staying})]
    room = MadeRoom(plan.status, plan.decision, plan.moves, plan.placed, plan.moved, proof=plan.proof)
    yield from check_room(without, request, staying, room)
