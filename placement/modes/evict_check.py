"""An independent verifier of room made by groups that go: takes them off their hosts, and asks ``placement.check``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from placement.check import Violation, check
from placement.model import Request, Snapshot, Status, left
from placement.modes.moves import Evictions, Leaving


def check_evictions(
    snapshot: Snapshot, request: Request, leaving: Sequence[Leaving], plan: Evictions
) -> tuple[Violation, ...]:
    """All that is wrong with who goes, what that is said to cost, and where the gang goes then."""
    return tuple(_violations(snapshot, request, leaving, plan))


def _violations(
    snapshot: Snapshot, request: Request, leaving: Sequence[Leaving], plan: Evictions
) -> Iterator[Violation]:
    if plan.status is not Status.PLACED or plan.placed is None:
        if plan.gone or plan.placed is not None:
            yield Violation("status", f"{plan.status} with groups that go or a placement")
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
    yield from check(Snapshot(tuple(hosts), snapshot.flavours), request, plan.placed)
