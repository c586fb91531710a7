"""Who leaves, at the least cost, so that a gang fits; homes for the leaving and rules between nodes are left aside.

Each host offers, for every number of nodes of each kind that it could take, the cheapest set of residents whose room
those nodes need; an exact multiple-choice cover picks one offer a host. Nothing that is left aside could make it
cheaper, so the cover's cost bounds every plan that makes room, chains of moves included.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import numpy as np

from placement.packing.cover import cheapest_cover
from placement.problem.index import Bools, Floats, Ints
from placement.stop import Stop

MOST_STATES = 20_000
MOST_SHAPES = 2_000
MANY = np.int64(1) << 60


@dataclass(frozen=True, slots=True, eq=False)
class Residents:
    """M who live on hosts. ``host``: int64[M], ascending; ``size``: int64[M, R]; ``cost``: int64[M], what the leaving
    of each costs, below zero where it cannot.

    ``alone``: bool[M], it keeps its host for its own gang, so that it must leave before anybody else comes.
    """

    host: Ints
    size: Ints
    cost: Ints
    alone: Bools


@dataclass(frozen=True, slots=True, eq=False)
class Cap:
    """No more than ``room[h]`` nodes of the ``kinds`` (bool[K]) together on host h (int64[H])."""

    kinds: Bools
    room: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Houses:
    """K kinds wanted ``counts`` (int64[K]) times, each of ``demand`` (int64[K, R]), and H hosts.

    ``free``: int64[H, R], below zero where a host is over-committed. ``allowed``: bool[K, H], whatever a host's room.
    ``strict``: bool[K], kinds that share a host with no resident.
    """

    demand: Ints
    counts: Ints
    free: Ints
    allowed: Bools
    strict: Bools
    residents: Residents
    caps: tuple[Cap, ...] = ()


@dataclass(frozen=True, slots=True)
class Vacated:
    """``leaving``: the numbers of the residents that leave, or None where no cover was found.

    ``lower``: no plan costs less; None: no plan exists at all.
    """

    leaving: tuple[int, ...] | None
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
    going, may = houses.residents, houses.residents.cost >= 0
    most = _added(houses.free, going.host[may], going.size[may])
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


def _added(room: Ints, host: Ints, size: Ints) -> Ints:
    """The room of hosts once residents of these sizes have left them; ``host`` ascends."""
    sums = np.zeros((len(size) + 1, room.shape[1]), np.int64)
    np.cumsum(size, axis=0, out=sums[1:])
    start = np.searchsorted(host, np.arange(len(room) + 1))
    return room + sums[start[1:]] - sums[start[:-1]]


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

    ``chosen``: the cheapest known leavers of an exact offer, beside those who ``must`` leave before anybody comes. Host
    h has the residents from ``start[h]`` on.
    """

    houses: Houses
    shapes: list[tuple[int, ...]]
    start: Ints = field(init=False)
    movable: Bools = field(init=False)
    must: Bools = field(init=False)
    base: Ints = field(init=False)
    free: Ints = field(init=False)
    lower: Ints = field(init=False)
    upper: Ints = field(init=False)
    exact: Bools = field(init=False)
    chosen: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        houses, those = self.houses, self.houses.residents
        hosts = len(houses.free)
        self.start = np.searchsorted(those.host, np.arange(hosts + 1))
        fixed = those.cost < 0
        self.movable, self.must = ~fixed & ~those.alone, ~fixed & those.alone
        self.base = np.zeros(hosts, np.int64)
        np.add.at(self.base, those.host[self.must], those.cost[self.must])
        self.free = _added(houses.free, those.host[self.must], those.size[self.must])
        closed, crowded = np.zeros(hosts, np.bool_), np.zeros(hosts, np.bool_)
        closed[those.host[fixed & those.alone]] = True
        crowded[those.host[fixed]] = True
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

    def strict(self, shape: int) -> bool:
        """Whether the shape shares its host with no resident."""
        return any(self.houses.strict[k] for k, count in enumerate(self.shapes[shape]) if count)

    def _there(self, row: int, which: Bools) -> list[int]:
        """The numbers of those residents of a host."""
        first = int(self.start[row])
        return [first + int(n) for n in np.flatnonzero(which[first : self.start[row + 1]])]

    def _leavers(self, picks: list[tuple[int, int]]) -> tuple[int, ...]:
        found: list[int] = []
        for shape, row in picks:
            found += self._there(row, self.must)
            found += self._there(row, self.movable) if self.strict(shape) else self.chosen.get((shape, row), ())
        return tuple(found)

    def _settle(self, shape: int, row: int) -> None:
        """What the offer costs exactly, or within the bounds that the steps of a search allow."""
        assert not self.strict(shape), "an offer that needs the whole host is exact from the start"
        residents, numbers = self.houses.residents, self._there(row, self.movable)
        asked = np.array(self.shapes[shape], np.int64) @ self.houses.demand
        need = np.where(asked > 0, np.maximum(0, asked - self.free[row]), 0)
        lower, cost, picked = cheapest_cover(
            residents.size[numbers].tolist(), residents.cost[numbers].tolist(), need.tolist()
        )
        base = int(self.base[row])
        self.lower[shape, row] = max(int(self.lower[shape, row]), base + lower)
        self.upper[shape, row] = base + cost
        self.exact[shape, row] = True
        self.chosen[shape, row] = tuple(numbers[n] for n in picked)

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
    houses, those = search.houses, search.houses.residents
    free, base = search.free, search.base
    hosts, resources = free.shape
    host = those.host[search.movable]
    slot = np.arange(len(host)) - np.searchsorted(host, host)
    width = int(slot.max(initial=-1)) + 1
    size: Ints = np.zeros((hosts, width, resources), np.int64)
    cost: Ints = np.zeros((hosts, width), np.int64)
    size[host, slot] = those.size[search.movable]
    cost[host, slot] = those.cost[search.movable]
    everything = free + size.sum(axis=1)
    rungs = [_ladder(size[:, :, r], cost) for r in range(resources)]
    lower: Ints = np.full((len(search.shapes), hosts), MANY, np.int64)
    exact: Bools = np.zeros(lower.shape, np.bool_)
    for number, shape in enumerate(search.shapes):
        takers = _takers(houses, everything, shape) & ~closed
        strict = search.strict(number)
        if strict:
            takers &= ~crowded
        rows = np.flatnonzero(takers)
        if strict:
            lower[number, rows] = base[rows] + cost[rows].sum(axis=1)
            exact[number, rows] = True
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
