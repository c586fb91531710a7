"""Who leaves, at the least cost, so that a gang fits; homes for the leaving and rules between nodes are left aside.

Each host offers, for every number of nodes of each kind that it could take, the cheapest set of residents whose room
those nodes need; an exact multiple-choice cover picks one offer a host. Nothing that is left aside could make it
cheaper, so the cover's cost bounds every plan that makes room, chains of moves included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

import numpy as np

from placement.packing.cover import cheapest_cover
from placement.problem.index import Bools, Floats, Ints
from placement.stop import Stop

MOST_STATES = 20_000
MOST_SHAPES = 2_000
MANY = np.int64(1) << 60


class Resident(NamedTuple):
    """Somebody who lives on a host. ``size``: by resource; ``cost``: what its leaving costs, None where it cannot.

    ``alone``: it keeps its host for its own gang, so that it must leave before anybody else comes.
    """

    size: tuple[int, ...]
    cost: int | None
    alone: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Cap:
    """No more than ``room[h]`` nodes of the ``kinds`` (bool[K]) together on host h (int64[H])."""

    kinds: Bools
    room: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Houses:
    """K kinds wanted ``counts`` (int64[K]) times, each of ``demand`` (int64[K, R]), and H hosts.

    ``free``: int64[H, R], below zero where a host is over-committed. ``allowed``: bool[K, H], whatever a host's room.
    ``strict``: bool[K], kinds that share a host with no resident. ``residents``: those of each host.
    """

    demand: Ints
    counts: Ints
    free: Ints
    allowed: Bools
    strict: Bools
    residents: Sequence[Sequence[Resident]]
    caps: tuple[Cap, ...] = ()


@dataclass(frozen=True, slots=True)
class Vacated:
    """``leaving``: (host, its resident's number) of each one that leaves, or None where no cover was found.

    ``lower``: no plan costs less; None: no plan exists at all.
    """

    leaving: tuple[tuple[int, int], ...] | None
    cost: int
    lower: int | None


def vacate(houses: Houses, stop: Stop) -> Vacated:
    """The cheapest who leave. When ``stop`` turns true the best cover so far and a bound that still holds."""
    shapes = _shapes(houses)
    if shapes is None:
        return Vacated(None, 0, 0)
    return _Search(houses, shapes).run(stop)


def _shapes(houses: Houses) -> list[tuple[int, ...]] | None:
    """Every count of nodes by kind that some host could take once all have left; None where there are too many."""
    if float(np.prod(houses.counts.astype(np.float64) + 1)) > MOST_STATES:
        return None
    nothing = [(0,) * houses.free.shape[1]]
    going = [
        [sum(column) for column in zip(*([r.size for r in residents if r.cost is not None] or nothing), strict=True)]
        for residents in houses.residents
    ]
    most = houses.free + np.array(going, np.int64).reshape(houses.free.shape)
    found: list[tuple[int, ...]] = []
    limits = []
    for kind, count in enumerate(houses.counts.tolist()):
        each = np.where(houses.demand[kind] > 0, most // np.maximum(1, houses.demand[kind]), count)
        rows = houses.allowed[kind]
        limits.append(
            min(count, max(0, int(each[rows].min(axis=1, initial=count).max(initial=0))) if rows.any() else 0)
        )
    if float(np.prod(np.array(limits, np.float64) + 1)) > MOST_SHAPES:
        return None
    for shape in product(*(range(limit + 1) for limit in limits)):
        if not any(shape):
            continue
        if _takers(houses, most, shape).any():
            found.append(shape)
    return found


def _takers(houses: Houses, room: Ints, shape: tuple[int, ...]) -> Bools:
    """bool[H]: hosts that take the shape with this much room."""
    wanted = np.array(shape, np.int64)
    need = wanted @ houses.demand
    mask: Bools = ((room >= need) | (need == 0)).all(axis=1)
    for kind, count in enumerate(shape):
        if count:
            mask &= houses.allowed[kind]
    for cap in houses.caps:
        mask &= int(wanted[cap.kinds].sum()) <= cap.room
    return mask


@dataclass(slots=True, eq=False)
class _Search:
    """``lower``: int64[S, H], at least what a shape costs on a host, MANY where it has no place; ``exact``: bool[S, H].

    ``chosen``: the cheapest known leavers of an exact offer.
    """

    houses: Houses
    shapes: list[tuple[int, ...]]
    movable: list[list[int]] = field(default_factory=list)
    must: list[list[int]] = field(default_factory=list)
    lower: Ints = field(init=False)
    upper: Ints = field(init=False)
    exact: Bools = field(init=False)
    chosen: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        houses = self.houses
        closed = np.zeros(len(houses.residents), np.bool_)
        crowded = np.zeros(len(houses.residents), np.bool_)
        for row, residents in enumerate(houses.residents):
            fixed = any(r.cost is None for r in residents)
            alone = any(r.alone for r in residents)
            self.must.append([n for n, r in enumerate(residents) if r.alone and r.cost is not None] if alone else [])
            self.movable.append(
                [n for n, r in enumerate(residents) if r.cost is not None and not r.alone]
                if fixed or alone
                else list(range(len(residents)))
            )
            closed[row] = alone and any(r.alone and r.cost is None for r in residents)
            crowded[row] = fixed
        self.lower, self.exact = _lower_costs(self, closed, crowded)
        self.upper = np.where(self.exact, self.lower, MANY)

    def run(self, stop: Stop) -> Vacated:
        total = tuple(int(count) for count in self.houses.counts)
        best: Vacated | None = None
        while True:
            bound, picks = self._cover(total, self.lower)
            if bound >= MANY:
                return Vacated(None, 0, None)
            open_picks = [(s, h) for s, h in picks if not self.exact[s, h]]
            for shape, row in open_picks:
                self._settle(shape, row)
            cost = sum(int(self.upper[s, h]) for s, h in picks)
            if best is None or cost < best.cost:
                best = Vacated(self._leavers(picks), cost, 0)
            if not open_picks or stop():
                return Vacated(best.leaving, best.cost, min(int(bound), best.cost))

    def _leavers(self, picks: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        return tuple((h, number) for s, h in picks for number in (*self.must[h], *self.chosen.get((s, h), ())))

    def _settle(self, shape: int, row: int) -> None:
        """What the offer costs exactly, or within the bounds that the steps of a search allow."""
        if any(self.houses.strict[k] for k, count in enumerate(self.shapes[shape]) if count):
            raise AssertionError("an offer that needs the whole host is exact from the start")
        residents = self.houses.residents[row]
        must = sum(residents[n].cost or 0 for n in self.must[row])
        free = self.houses.free[row] + sum(np.array(residents[n].size, np.int64) for n in self.must[row])
        asked = np.array(self.shapes[shape], np.int64) @ self.houses.demand
        need = np.where(asked > 0, asked - free, 0)
        sizes = [residents[n].size for n in self.movable[row]]
        costs = [residents[n].cost or 0 for n in self.movable[row]]
        lower, cost, picked = cheapest_cover(sizes, costs, [max(0, int(part)) for part in need])
        self.lower[shape, row] = max(int(self.lower[shape, row]), must + lower)
        self.upper[shape, row] = must + cost
        self.exact[shape, row] = True
        self.chosen[shape, row] = tuple(self.movable[row][n] for n in picked)

    def _cover(self, total: tuple[int, ...], costs: Ints) -> tuple[int, list[tuple[int, int]]]:
        """(least cost, (shape, host) picked) of a cover with exactly ``total`` nodes by kind."""
        rows = self._useful(sum(total), costs)
        best: Ints = np.full([count + 1 for count in total], MANY, np.int64)
        best[(0,) * len(total)] = 0
        picked = []
        for row in rows:
            after, choice = best.copy(), np.full(best.shape, -1, np.int16)
            for number, shape in enumerate(self.shapes):
                cost = costs[number, row]
                if cost >= MANY:
                    continue
                to = tuple(slice(n, None) for n in shape)
                come = best[tuple(slice(None, size - n) for n, size in zip(shape, best.shape, strict=True))] + cost
                better = come < after[to]
                after[to] = np.where(better, come, after[to])
                choice[to] = np.where(better, number, choice[to])
            best = after
            picked.append(choice)
        at = list(total)
        found = []
        for row, choice in zip(reversed(rows), reversed(picked), strict=True):
            number = int(choice[tuple(at)])
            if number >= 0:
                found.append((number, row))
                at = [left - n for left, n in zip(at, self.shapes[number], strict=True)]
        return int(best[total]), found

    def _useful(self, most: int, costs: Ints) -> list[int]:
        """Hosts that some cheapest cover keeps to: of each shape, as many of the cheapest as there are nodes.

        A cover uses at most ``most`` hosts; one that is none of the cheapest for its shape can be exchanged for one of
        them that the cover does not use.
        """
        keep: set[int] = set()
        for offers in costs:
            rows = np.flatnonzero(offers < MANY)
            if len(rows) > most:
                rows = rows[np.argsort(offers[rows], kind="stable")[:most]]
            keep.update(rows.tolist())
        return sorted(keep)


def _lower_costs(search: _Search, closed: Bools, crowded: Bools) -> tuple[Ints, Bools]:
    """(lower, exact) of every offer: the fractional cover of each resource alone, the dearest of them."""
    houses = search.houses
    hosts, resources = houses.free.shape
    width = max((len(numbers) for numbers in search.movable), default=0)
    size: Ints = np.zeros((hosts, width, resources), np.int64)
    cost: Ints = np.zeros((hosts, width), np.int64)
    base: Ints = np.zeros(hosts, np.int64)
    free = houses.free.copy()
    slots = [(row, slot) for row, numbers in enumerate(search.movable) for slot in range(len(numbers))]
    if slots:
        those = [houses.residents[row][n] for row, numbers in enumerate(search.movable) for n in numbers]
        at = tuple(np.array(slots, np.int64).T)
        size[at] = [resident.size for resident in those]
        cost[at] = [resident.cost or 0 for resident in those]
    for row, residents in enumerate(houses.residents):
        for number in search.must[row]:
            base[row] += residents[number].cost or 0
            free[row] += np.array(residents[number].size, np.int64)
    everything = free + size.sum(axis=1)
    rungs = [_ladder(size[:, :, r], cost) for r in range(resources)]
    lower: Ints = np.full((len(search.shapes), hosts), MANY, np.int64)
    exact: Bools = np.zeros(lower.shape, np.bool_)
    for number, shape in enumerate(search.shapes):
        takers = _takers(houses, everything, shape) & ~closed
        strict = any(houses.strict[k] for k, count in enumerate(shape) if count)
        if strict:
            takers &= ~crowded
        rows = np.flatnonzero(takers)
        if strict:
            lower[number, rows] = base[rows] + cost[rows].sum(axis=1)
            exact[number, rows] = True
            for row in rows.tolist():
                search.chosen[number, row] = tuple(search.movable[row])
            continue
        asked = np.array(shape, np.int64) @ houses.demand
        need = np.where(asked > 0, np.maximum(0, asked - free[rows]), 0)
        dearest: Floats = np.zeros(len(rows))
        for resource, (sizes, costs) in enumerate(rungs):
            dearest = np.maximum(dearest, _fraction(sizes[rows], costs[rows], need[:, resource]))
        lower[number, rows] = base[rows] + np.ceil(dearest * (1 - 1e-9) - 1e-6).astype(np.int64)
        exact[number, rows] = (need == 0).all(axis=1)
    return lower, exact


def _ladder(size: Ints, cost: Ints) -> tuple[Floats, Floats]:
    """(sizes, costs) summed up in the order of cost per size, float64[H, M]; those of no size last."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(size > 0, cost / np.maximum(1, size), np.inf)
    order = np.argsort(ratio, axis=1, kind="stable")
    return (
        np.cumsum(np.take_along_axis(size, order, axis=1), axis=1, dtype=np.float64),
        np.cumsum(np.take_along_axis(np.where(size > 0, cost, 0), order, axis=1), axis=1, dtype=np.float64),
    )


def _fraction(sizes: Floats, costs: Floats, need: Ints) -> Floats:
    """float64[H]: the cost of the cheapest fractional set of that size."""
    if not sizes.shape[1]:
        return np.zeros(len(need))
    wanted = need.astype(np.float64)
    rung = np.minimum((sizes < wanted[:, None]).sum(axis=1), sizes.shape[1] - 1)
    rows = np.arange(len(need))
    before_size = np.where(rung > 0, sizes[rows, rung - 1], 0.0)
    before_cost = np.where(rung > 0, costs[rows, rung - 1], 0.0)
    step = sizes[rows, rung] - before_size
    part = np.clip((wanted - before_size) / np.where(step > 0, step, 1.0), 0.0, 1.0)
    found: Floats = np.where(wanted > 0, before_cost + part * (costs[rows, rung] - before_cost), 0.0)
    return found
