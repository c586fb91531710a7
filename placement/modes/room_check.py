"""An independent verifier of room made by moves: carries them out one by one, and asks ``placement.check``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from placement.check import Violation, check
from placement.model import Assignment, Decision, Host, Member, Request, Snapshot, Status, joined, left
from placement.modes.moves import MadeRoom, Neighbours

_NOT_OF_A_MOVE = ("objective", "bounds", "proof", "penalty")


def check_room(
    snapshot: Snapshot, request: Request, neighbours: Sequence[Neighbours], room: MadeRoom
) -> tuple[Violation, ...]:
    """All that is wrong with the moves and with the gang's placement after them; empty when they are right.

    Each move claims its room while the gang's is claimed and its source is still held; the rules of the moved one's own
    group hold after each.
    """
    return tuple(_violations(snapshot, request, neighbours, room))


def _violations(
    snapshot: Snapshot, request: Request, neighbours: Sequence[Neighbours], room: MadeRoom
) -> Iterator[Violation]:
    if room.status is not Status.PLACED or room.placed is None:
        if room.moves or room.placed is not None:
            yield Violation("status", f"{room.status} with moves or a placement")
        return
    owner = {node.id: group for group in neighbours for node in group.nodes}
    nodes = {node.id: node for group in neighbours for node in group.nodes}
    costs = sum(owner[move.member].costs[move.member] for move in room.moves if move.member in owner)
    if any(move.member not in owner for move in room.moves) or costs != room.cost:
        yield Violation("moves", "a member moves that may not, or the cost is another")
        return
    now = {host.id: _sized(host, owner) for host in snapshot.hosts}
    without = dict(now)
    for move in room.moves:
        without[move.source] = left(without[move.source], _member(without[move.source], move.member))
    yield from check(Snapshot(tuple(without.values())), request, room.placed)
    sources = {move.source for move in room.moves}
    kinds = {node.id: node for node in request.nodes}
    for copy, (name, host, cells, devices) in enumerate(room.placed.assignments):
        node = kinds[name]
        landed = Member(f"{name}/{copy}", node.demand, node.labels, False, node.exclusive, cells)
        now[host] = joined(now[host], landed, devices)
    where = {member.id: host.id for host in now.values() for member in host.members}
    for move in room.moves:
        group = owner[move.member]
        if move.target in sources:
            yield Violation("moves", f"{move.member} moves to {move.target}, which another one leaves")
        others = {node.id: where[node.id] for node in group.nodes if node.id != move.member}
        alone = Request(
            (nodes[move.member],),
            constraints=group.constraints,
            excluded_hosts=group.excluded_hosts,
            staying={**group.staying, **others},
        )
        there = Decision(Status.PLACED, (Assignment(move.member, move.target, move.cells, move.devices),))
        found = check(Snapshot(tuple(now.values())), alone, there)
        yield from (violation for violation in found if violation.rule not in _NOT_OF_A_MOVE)
        member = _member(now[move.source], move.member)
        now[move.source] = left(now[move.source], member)
        now[move.target] = joined(now[move.target], replace(member, cells=move.cells), move.devices)
        where[move.member] = move.target


def _sized(host: Host, owner: dict[str, Neighbours]) -> Host:
    """The host with its movable members as large as their nodes say."""
    sizes = {node.id: node.demand for m in host.members if m.id in owner for node in owner[m.id].nodes}
    return replace(host, members=tuple(replace(m, demand=sizes.get(m.id, m.demand)) for m in host.members))


def _member(host: Host, name: str) -> Member:
    return next(member for member in host.members if member.id == name)
