"""Emptying hosts: gang after gang finds room elsewhere, each on the fleet as those before leave it.

A mode states questions and takes the decisions; the caller has them decided, in this process (``answered.py``) or in
another. Nothing here searches, so importing it loads no solver.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace

from placement.constraints import Constraint
from placement.model import Assignment, Decision, Host, Member, Request, Snapshot, Status, Strategy, joined, left
from placement.modes.moves import Move, node_of
from placement.resources import InvalidPlacementInput


@dataclass(frozen=True, slots=True)
class Leaving:
    """A gang whose nodes leave their hosts. ``request`` excludes these hosts; a node's id is its member's.

    ``preferred``: hosts that are tried first, for all of the nodes; empty: all hosts are alike.
    """

    request: Request
    preferred: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Question:
    """A gang to place on a fleet."""

    snapshot: Snapshot
    request: Request


@dataclass(frozen=True, slots=True)
class Drain:
    """``moves`` in the order of the gangs, and the fleet after them.

    ``stuck``: the number of the first gang that found no room, None where all did; ``decision`` says why it found none.
    The moves of the gangs before it stand.
    """

    moves: tuple[Move, ...]
    after: Snapshot
    stuck: int | None = None
    decision: Decision | None = None


Steps = Generator[Question, Decision, Drain]


def drain(snapshot: Snapshot, gangs: Sequence[Leaving]) -> Steps:
    """Asks where each gang goes, the next one on the fleet that this leaves; ends with the first that finds no room.

    A gang is asked about twice at most: on its preferred hosts, then on all.
    """
    moves: list[Move] = []
    homes = {member.id: (member, host.id) for host in snapshot.hosts for member in host.members}
    for number, gang in enumerate(gangs):
        decision = None
        if gang.preferred:
            others = frozenset(host.id for host in snapshot.hosts) - gang.preferred
            narrow = replace(gang.request, excluded_hosts=gang.request.excluded_hosts | others)
            decision = yield Question(snapshot, narrow)
        if decision is None or decision.status is not Status.PLACED:
            decision = yield Question(snapshot, gang.request)
        if decision.status is not Status.PLACED:
            return Drain(tuple(moves), snapshot, number, decision)
        arriving = _arriving(gang.request, decision.assignments, homes)
        moves += [
            Move(m.id, homes[m.id][1] if m.id in homes else "", target, m.cells, m.holds) for m, target in arriving
        ]
        snapshot = _moved(snapshot, arriving, homes)
    return Drain(tuple(moves), snapshot)


def leaving(
    snapshot: Snapshot,
    hosts: frozenset[str],
    constraints: tuple[Constraint, ...] = (),
    strategy: Strategy = Strategy.LEAST_LOST_VALUE,
) -> tuple[tuple[Leaving, ...], tuple[str, ...]]:
    """(the movable members of some hosts as gangs, the ids of those that are fixed).

    Each member that wants its host for its own gang alone is one by itself, since the gang is not known; all others are
    one together. They stay in their zones. ``constraints`` select members by labels. Raises ``InvalidPlacementInput``
    for an unknown host or two members with the same id.
    """
    unknown = sorted(hosts - {host.id for host in snapshot.hosts})
    if unknown:
        raise InvalidPlacementInput("hosts", f"unknown host {unknown[0]!r}")
    there = [(member, host) for host in snapshot.hosts if host.id in hosts for member in host.members]
    movable = {member.id: (member, host) for member, host in there if member.movable}
    fixed = tuple(member.id for member, _ in there if not member.movable)
    if len(movable) + len(fixed) != len(there):
        raise InvalidPlacementInput("hosts", "two members have the same id")
    nodes = [node_of(member, host) for member, host in movable.values()]
    together = tuple(node for node in nodes if not node.exclusive)
    gangs = [*((node,) for node in nodes if node.exclusive), *([together] if together else [])]
    return tuple(Leaving(Request(gang, strategy, constraints, hosts)) for gang in gangs), fixed


Arriving = list[tuple[Member, str]]
Homes = dict[str, tuple[Member, str]]


def _arriving(request: Request, assignments: Iterable[Assignment], homes: Homes) -> Arriving:
    """(the member that each assigned node becomes, its new host): as it lives now where it does, with its new cells."""
    nodes = {node.id: node for node in request.nodes}
    found: Arriving = []
    for assignment in assignments:
        node = nodes[assignment.node]
        known = homes.get(node.id, (Member(node.id, labels=node.labels, exclusive=node.exclusive), ""))[0]
        found.append(
            (replace(known, demand=node.demand, cells=assignment.cells, holds=assignment.devices), assignment.host)
        )
    return found


def _moved(snapshot: Snapshot, arriving: Arriving, homes: Homes) -> Snapshot:
    """The fleet with the members on their new hosts and gone from their old ones."""
    changed: dict[str, Host] = {}
    known = {host.id: host for host in snapshot.hosts}
    for member, target in arriving:
        before, source = homes.get(member.id, (member, ""))
        if source in known:
            gone = replace(before, demand=member.demand)
            changed[source] = left(changed.get(source, known[source]), gone)
        changed[target] = joined(changed.get(target, known[target]), member, member.holds)
        homes[member.id] = member, target
    return snapshot.updated(tuple(changed.values()))
