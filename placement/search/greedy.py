"""Node by node, the most demanding kinds first, every rule kept: the first answer, and the one to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from placement.constraints import Near, Together
from placement.model import Strategy
from placement.problem.gang import FIRST, SECOND, Gang
from placement.problem.index import Bools, Ints
from placement.problem.scoring import free_for, room_value, sizes_for
from placement.problem.state import PlacementState
from placement.stop import Stop

FAR = np.int64(1) << 40


class Preference:
    """A strategy's order of hosts for one more node, lowest first."""

    def __init__(self, gang: Gang, state: PlacementState, strategy: Strategy) -> None:
        self.gang, self.state, self.strategy = gang, state, strategy
        self.largest = np.maximum(1, gang.capacity.max(axis=0, initial=1))
        if strategy is Strategy.LEAST_LOST_VALUE:
            self.value = room_value(gang)
            self.sizes = sizes_for(gang, self.value.names)
            self.room = free_for(gang.index, self.value.names).copy()
            self.worth = self.value.of(self.room)

    def of(self, number: int, rows: Ints) -> Ints:
        """int64[.]: the score of each of these hosts for one node of a kind."""
        state = self.state
        left = np.zeros(len(rows), np.int64)
        for column, size in enumerate(self.gang.demand[number].tolist()):
            left += (state.free[rows, column] - size) * 1000 // int(self.largest[column])
        if self.strategy is Strategy.SPREAD:
            score: Ints = state.landed[rows] * FAR - left
            return score
        if self.strategy is Strategy.LEAST_LOST_VALUE:
            lost = self.worth[rows] - self.value.of(self.room[rows] - self.sizes[number])
            result: Ints = lost * (1 << 20) + left
            return result
        fresh = state.landed[rows] == 0
        score = np.where(fresh, FAR - left, left).astype(np.int64)
        if self.strategy is Strategy.CLOSE:
            used = np.zeros(len(self.gang.index.racks), np.bool_)
            used[self.gang.index.rack[state.landed > 0]] = True
            score = score + np.where(used[self.gang.index.rack[rows]], 0, 4 * FAR)
        return score

    def landed(self, number: int, host: int) -> None:
        """Tells that a node of a kind landed on a host."""
        if self.strategy is Strategy.LEAST_LOST_VALUE:
            self.room[host] -= self.sizes[number]
            self.worth[host] = self.value.of(self.room[host])


def scarcity_order(gang: Gang) -> list[int]:
    """Kinds with the fewest ways first: by hosts allowed, then by the largest share of what the fleet has left."""
    total = [max(1, int(gang.free[:, column].sum(dtype=np.float64))) for column in range(len(gang.names))]
    needed = [int(gang.counts @ gang.demand[:, column].astype(object)) for column in range(len(gang.names))]
    largest = np.maximum(1, gang.free.max(axis=0, initial=1))

    anchors = np.zeros(len(gang.kinds), np.bool_)
    for number, rule in enumerate(gang.request.constraints):
        if isinstance(rule, Near | Together):
            anchors[gang.playing(number, SECOND if isinstance(rule, Near) else FIRST)] = True

    def key(number: int) -> tuple[int, int, float, int]:
        kind = gang.kinds[number]
        pressure = sum(
            float(gang.demand[number, column]) / float(largest[column]) * (needed[column] / total[column])
            for column in range(len(gang.names))
        )
        narrow = kind.sample.zone is not None or bool(kind.sample.host_labels) or kind.sample.exclusive
        return (not anchors[number], not narrow, -pressure, number)

    return sorted(range(len(gang.kinds)), key=key)


def greedy(
    gang: Gang,
    strategy: Strategy,
    stop: Stop,
    only: Bools | None = None,
    order: Sequence[int] = (),
    partial: bool = False,
) -> PlacementState | None:
    """A state with the whole gang on it, or None; with ``partial`` whatever could be placed.

    ``only``: bool[H] hosts that may be used at all. ``stop`` is asked before each node.
    """
    state = PlacementState(gang)
    if only is not None:
        state.closed |= ~only
    preference = Preference(gang, state, strategy)
    for number in order or scarcity_order(gang):
        for _ in range(gang.kinds[number].count):
            if stop():
                return state if partial else None
            mask, penalty = state.places(number)
            rows = np.flatnonzero(mask)
            if not len(rows):
                if partial:
                    break
                return None
            if state.tallies:
                cheapest = penalty[rows]
                rows = rows[cheapest == cheapest.min()]
            host = int(rows[np.argmin(preference.of(number, rows))])
            state.land(number, host)
            preference.landed(number, host)
    return state
