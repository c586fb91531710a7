"""A bounded number of moves that make the free room of a fleet worth more.

Steepest ascent on the value of room (``scoring.py``): each step moves the member whose move gains most, and the moves
fit in the order in which they are given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from placement.constraints import Constraint
from placement.engine import DEFAULT, place
from placement.model import Host, Member, Policy, Request, Snapshot, joined, left
from placement.modes.moves import Move, node_of
from placement.problem.gang import collapse
from placement.problem.index import Ints
from placement.problem.scoring import RoomValue, free_for, room_value
from placement.resources import MAX_NODES, checked_integer
from placement.stop import Stop, never

TRIED = 16


@dataclass(frozen=True, slots=True)
class Gathered:
    """``moves`` in their order; ``gain`` is how much more the fleet's room is worth after them."""

    moves: tuple[Move, ...]
    gain: int


def gather(
    snapshot: Snapshot,
    most_moves: int,
    constraints: tuple[Constraint, ...] = (),
    policy: Policy = DEFAULT,
    stop: Stop = never,
) -> Gathered:
    """At most ``most_moves`` moves of movable members within their zones, each of which gains value.

    Raises ``InvalidPlacementInput`` for a negative or absurd number of moves.
    """
    checked_integer("most_moves", most_moves, 0, MAX_NODES)
    moves: list[Move] = []
    gain = 0
    while len(moves) < most_moves and not stop():
        step = _best_step(snapshot, constraints, policy, stop)
        if step is None:
            break
        snapshot, move, won = step
        moves.append(move)
        gain += won
    return Gathered(tuple(moves), gain)


def _best_step(
    snapshot: Snapshot, constraints: tuple[Constraint, ...], policy: Policy, stop: Stop
) -> tuple[Snapshot, Move, int] | None:
    ranked, value = _ranked(snapshot)
    for promise, member, host in ranked[:TRIED]:
        if stop() or promise <= 0:
            return None
        source = left(host, member)
        without = snapshot.updated((source,))
        request = Request((node_of(member, host),), constraints=constraints, excluded_hosts=frozenset({host.id}))
        decision = place(without, request, replace(policy, explain=False, max_placed=False), stop)
        if not decision.assignments or decision.penalty:
            continue
        target = next(h for h in without.hosts if h.id == decision.assignments[0].host)
        cells, devices = decision.assignments[0].cells, decision.assignments[0].devices
        arrived = joined(target, replace(member, cells=cells), devices)
        won = _worth(value, source) - _worth(value, host) + _worth(value, arrived) - _worth(value, target)
        if won > 0:
            return without.updated((arrived,)), Move(member.id, host.id, target.id, cells, devices), won
    return None


def _ranked(snapshot: Snapshot) -> tuple[list[tuple[int, Member, Host]], RoomValue]:
    """(most that a move could gain, member, host), best first, rules aside."""
    movable = [(member, host) for host in snapshot.hosts for member in host.members if member.movable]
    sample = tuple(node_of(member, host) for member, host in {m.id: (m, h) for m, h in movable}.values())
    if not sample:
        return [], RoomValue((), np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros((0, 0), np.int64), _NOTHING)
    gang = collapse(snapshot, Request(sample[:MAX_NODES]))
    value = room_value(gang)
    room = free_for(gang.index, value.names)
    before = value.of(room)
    cheapest: dict[tuple[tuple[str, int], ...], int] = {}
    ranked = []
    for member, host in movable:
        size = np.array([member.demand.get(name, 0) for name in value.names], np.int64)
        key = tuple(sorted(member.demand.items()))
        if key not in cheapest:
            fits = (room >= size).all(axis=1)
            lost = (before - value.of(room - size))[fits]
            cheapest[key] = int(lost.min()) if len(lost) else 1 << 60
        row = gang.index.position[host.id]
        out = int(value.of(room[row] + size) - before[row])
        ranked.append((out - cheapest[key], member, host))
    return sorted(ranked, key=lambda entry: (-entry[0], entry[1].id)), value


_NOTHING: Ints = np.zeros(0, np.int64)


def _worth(value: RoomValue, host: Host) -> int:
    return int(value.of(np.array([host.free(name) for name in value.names], np.int64)))
