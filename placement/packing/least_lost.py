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
from placement.packing.instance import Load, Packing
from placement.packing.knapsack import DenseTable
from placement.problem.index import Ints
from placement.problem.scoring import RoomValue
from placement.stop import Stop

SMALL = 200


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


def greedy_lost(packing: Packing, worth: Worth, order: Sequence[int], stop: Stop) -> tuple[list[Load] | None, int]:
    """Each bundle in turn where it costs the least value, ties to the tightest room. (loads or None, lost value)."""
    caps = packing.caps.copy()
    nothing = (0,) * len(packing.counts)
    states: list[tuple[int, tuple[int, ...]]] = [(cls, nothing) for cls in range(len(caps))]
    hosts = packing.hosts.tolist()
    largest = np.maximum(1, caps.max(axis=0, initial=1))
    total = 0
    for kind in order:
        wanted, size = int(packing.counts[kind]), packing.demand[kind]
        fits = np.flatnonzero((caps >= size).all(axis=1) & (np.array(hosts, np.int64) > 0))
        group = packing.group[[states[row][0] for row in fits.tolist()]] if len(fits) else fits
        fits = fits[packing.eligible[group, kind]]
        after = caps[fits] - size
        lost = worth.of(caps[fits]) - worth.of(after)
        tight = ((after * 1000) // largest).sum(axis=1)
        heap = list(zip(lost.tolist(), tight.tolist(), fits.tolist(), strict=True))
        heapq.heapify(heap)
        born: list[Ints] = []
        while wanted:
            if stop() or not heap:
                return None, 0
            loss, _, row = heapq.heappop(heap)
            times = min(wanted, hosts[row])
            wanted -= times
            hosts[row] -= times
            total += loss * times
            cls, pattern = states[row]
            new = len(states)
            states.append((cls, tuple(n + (k == kind) for k, n in enumerate(pattern))))
            hosts.append(times)
            room = (caps[row] if row < len(caps) else born[row - len(caps)]) - size
            born.append(room)
            if (room >= size).all():
                left = room - size
                pair = worth.of(np.stack([room, left]))
                heapq.heappush(heap, (int(pair[0] - pair[1]), int(((left * 1000) // largest).sum()), new))
        if born:
            caps = np.concatenate([caps, np.stack(born)])
    loads = [Load(cls, pattern, n) for (cls, pattern), n in zip(states, hosts, strict=True) if n and any(pattern)]
    return loads, total


def loads_cost(worth: Worth, loads: Sequence[Load]) -> int:
    """The lost value of loads."""
    return sum(worth.lost(load.cls, load.pattern) * load.times for load in loads)


def least_lost(packing: Packing, value: RoomValue, known: list[Load] | None, policy: Policy, stop: Stop) -> Search:
    """The least lost value for a packing whose classes keep their room (``reduce`` with the value).

    ``known``: a feasible answer from elsewhere, for when the greedy finds none.
    """
    worth = Worth(packing, value)
    search = Search(0, None, None, "greedy")
    if known is not None:
        search.offer(known, loads_cost(worth, known), "feasible")
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
    generator.seed(search.loads)
    generator.run(min(policy.rounds, max(4, 40_000_000 // max(1, math.prod(table.shape) * len(packing.counts)))))
    weights = np.ones(packing.demand.shape[1], np.int64)
    if not search.closed and not stop():
        dive(generator, weights, stop)
    assert search.cost is not None
    # Half a percent of lost value is not worth the seconds that a large integer program may take.
    near = (search.cost - search.lower) * 200 <= search.cost and len(generator.master.columns) > SMALL
    if not search.closed and not near and not stop() and policy.branches:
        round_by_search(generator, min(policy.branches, 50), stop)
