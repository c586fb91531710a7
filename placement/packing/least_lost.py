"""The least lost value: a greedy over classes of room, then columns whose cost is the value that a host's room loses.

The pricing problem, max prices . pattern + value(room left), is the same knapsack table started from the value table.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import numpy as np

from placement.model import Policy
from placement.packing.columns import Generator, Goal, Search
from placement.packing.dive import dive, round_by_search
from placement.packing.fill import quick_fill
from placement.packing.instance import Load, Packing
from placement.packing.knapsack import DenseTable
from placement.packing.min_slack import balanced
from placement.problem.index import Ints
from placement.problem.scoring import RoomValue
from placement.stop import Stop

SMALL = 200
LARGE = 1_000_000
"""Kinds times classes from which on the greedy may take longer than a caller waits."""


class Worth:
    """What a class's room is worth; room int64[..., D] in the packing's units, the value's resources first."""

    def __init__(self, packing: Packing, value: RoomValue) -> None:
        self.packing, self.value = packing, value
        self.depth = len(value.names)
        self.unit = packing.unit[: self.depth]

    def of(self, room: Ints) -> Ints:
        """int64[...]"""
        return self.value.of(room[..., : self.depth] * self.unit)

    def table(self) -> Ints:
        """The value over all capacities up to the largest of each dimension, shaped as the dense table."""
        extent = tuple((self.packing.caps.max(axis=0, initial=0) + 1).tolist())
        steps = [np.arange(length, dtype=np.int64) for length in extent[: self.depth]]
        if not steps:
            return np.zeros(extent, np.int64)
        grid = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1)
        worth = self.value.of(grid * self.unit)
        return np.broadcast_to(worth.reshape(worth.shape + (1,) * (len(extent) - self.depth)), extent).copy()

    def lost(self, cls: int, pattern: Sequence[int]) -> int:
        """What a pattern costs a class."""
        cap = self.packing.caps[cls]
        used = np.array(pattern, np.int64) @ self.packing.demand
        return int(self.of(cap) - self.of(cap - used))


class _Hosts:
    """Sets of alike hosts while bundles land on them: each landing splits a set off, in arrays that grow in place."""

    def __init__(self, packing: Packing, worth: Worth) -> None:
        size = len(packing.caps) + int(packing.counts.sum())
        self.used = len(packing.caps)
        self.caps = np.zeros((size, packing.caps.shape[1]), np.int64)
        self.hosts, self.cls = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self.value = np.zeros(size, np.int64)
        self.origin: list[tuple[int, int]] = []
        self.caps[: self.used], self.hosts[: self.used] = packing.caps, packing.hosts
        self.cls[: self.used], self.value[: self.used] = np.arange(self.used), worth.of(packing.caps)
        self.classes = self.used

    def split(self, row: int, kind: int, times: int, room: Ints, value: int) -> int:
        """The new set: ``times`` hosts of a set once they hold one more of a kind."""
        new = self.used
        self.hosts[row] -= times
        self.caps[new], self.hosts[new], self.cls[new], self.value[new] = room, times, self.cls[row], value
        self.origin.append((row, kind))
        self.used += 1
        return new

    def loads(self, kinds: int) -> list[Load]:
        """What is on the hosts."""
        found = []
        for row in range(self.classes, self.used):
            if self.hosts[row]:
                pattern, at = [0] * kinds, row
                while at >= self.classes:
                    at, kind = self.origin[at - self.classes]
                    pattern[kind] += 1
                found.append(Load(int(self.cls[row]), tuple(pattern), int(self.hosts[row])))
        return found


def greedy_lost(packing: Packing, worth: Worth, order: Sequence[int], stop: Stop) -> tuple[list[Load] | None, int]:
    """Each bundle in turn where it costs the least value, ties to the tightest room. (loads or None, lost value)."""
    sets = _Hosts(packing, worth)
    largest = np.maximum(1, packing.caps.max(axis=0, initial=1))
    total = 0
    for kind in order:
        if stop():
            return None, 0
        wanted, size = int(packing.counts[kind]), packing.demand[kind]
        heap = _cheapest(packing, worth, sets, kind, largest)
        heapq.heapify(heap)
        while wanted:
            if not heap:
                return None, 0
            loss, _, row = heapq.heappop(heap)
            times = min(wanted, int(sets.hosts[row]))
            wanted -= times
            total += loss * times
            room, value = sets.caps[row] - size, int(sets.value[row]) - loss
            new = sets.split(row, kind, times, room, value)
            if (room >= size).all():
                left = room - size
                heapq.heappush(heap, (value - int(worth.of(left)), int((left * 1000 // largest).sum()), new))
    return sets.loads(len(packing.counts)), total


def _cheapest(packing: Packing, worth: Worth, sets: _Hosts, kind: int, largest: Ints) -> list[tuple[int, int, int]]:
    """(lost value, room left, set) of as many sets as there are bundles of a kind, those first that lose least.

    More cannot be needed: each set that takes a bundle takes at least one.
    """
    size, used, most = packing.demand[kind], sets.used, int(packing.counts[kind])
    fit = sets.hosts[:used] > 0
    for d, amount in enumerate(size.tolist()):
        if amount:
            fit &= sets.caps[:used, d] >= amount
    if len(packing.eligible) > 1 or not packing.eligible.all():
        fit &= packing.eligible[packing.group[sets.cls[:used]], kind]
    rows = np.flatnonzero(fit)
    lost = sets.value[rows] - worth.of(sets.caps[rows] - size)
    if len(rows) > most:
        kept = lost <= np.partition(lost, most - 1)[most - 1]
        rows, lost = rows[kept], lost[kept]
    tight = ((sets.caps[rows] - size) * 1000 // largest).sum(axis=1)
    first = np.lexsort([rows, tight, lost])[:most]
    return list(zip(lost[first].tolist(), tight[first].tolist(), rows[first].tolist(), strict=True))


def loads_cost(worth: Worth, loads: Sequence[Load]) -> int:
    """The lost value of loads."""
    return sum(worth.lost(load.cls, load.pattern) * load.times for load in loads)


def least_lost(packing: Packing, value: RoomValue, known: list[Load] | None, policy: Policy, stop: Stop) -> Search:
    """The least lost value for a packing whose classes keep their room (``reduce`` with the value).

    ``known``: a feasible answer from elsewhere, for when the greedy finds none.
    """
    worth = Worth(packing, value)
    sizes = packing.demand[:, : worth.depth] * worth.unit
    search = Search(value.least_lost(sizes, packing.counts), None, None, "greedy")
    if known is not None:
        search.offer(known, loads_cost(worth, known), "feasible")
    elif len(packing.counts) * len(packing.caps) > LARGE:
        quick = quick_fill(packing, balanced(packing), stop)
        if quick is not None:
            search.offer(quick, loads_cost(worth, quick), "feasible")
    for order in greedy_orders(packing):
        loads, cost = greedy_lost(packing, worth, order, stop)
        if loads is not None:
            search.offer(loads, cost, "greedy")
        if search.closed or stop():
            return search
    if search.loads is None or not policy.rounds or DenseTable.cells(packing) > policy.cells:
        return search
    _improve(packing, worth, search, policy, stop)
    return search


def greedy_orders(packing: Packing) -> list[list[int]]:
    """Largest bundles first, by the mean and by the greatest share of the largest host."""
    shares = packing.demand / np.maximum(1, packing.caps.max(axis=0, initial=1))
    return [np.lexsort([-shares.sum(axis=1)]).tolist(), np.lexsort([-shares.max(axis=1)]).tolist()]


def _improve(packing: Packing, worth: Worth, search: Search, policy: Policy, stop: Stop) -> None:
    assert search.loads is not None
    base = worth.of(packing.caps)
    table = worth.table()
    most = max(1, int(table.max(initial=0)))
    missing = 2 * most
    scale = max(1, min(1 << 20, (1 << 29) // (4 * most)))
    goal = Goal(0, missing, base, worth.lost)
    generator = Generator(packing, goal, DenseTable(packing, table * scale), search, stop, scale)
    generator.start_from(search.loads)
    generator.run(min(policy.rounds, max(4, 40_000_000 // max(1, math.prod(table.shape) * len(packing.counts)))))
    weights = np.ones(packing.demand.shape[1], np.int64)
    if not search.closed and not stop():
        dive(generator, weights, stop)
    assert search.cost is not None
    # Half a percent of lost value is not worth the seconds that a large integer program may take.
    near = (search.cost - search.lower) * 200 <= search.cost and len(generator.master.columns) > SMALL
    if not search.closed and not near and not stop() and policy.branches:
        round_by_search(generator, min(policy.branches, 50), stop)
