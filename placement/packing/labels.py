"""Pricing without a table: patterns grown kind by kind as labels, cut by a bound. For many or awkward dimensions.

A label is a partial pattern. Kinds come in order of value per surrogate size (the sum over dimensions of the share of
the host), and a label lives while its value plus the fractional knapsack of the kinds to come passes the best pattern
known (Martello and Toth 1990, surrogate bound).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from placement.packing.instance import Packing
from placement.problem.index import Floats, Ints
from placement.stop import Stop


class LabelPricer:
    """Prices classes one by one, exactly until more than ``most`` labels are alive; beyond it the bound stays valid.

    ``base``: value of the room that stays free, int64[..., D] -> int64[...]; None is zero.
    """

    def __init__(
        self,
        packing: Packing,
        stop: Stop,
        most: int = 60_000,
        base: Callable[[int, Ints], Ints] | None = None,
    ) -> None:
        self.packing = packing
        self.stop = stop
        self.most = most
        self.base = base
        self.values = np.zeros(len(packing.counts), np.int64)
        self.found: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
        self.exact = True
        self.threshold = 0

    def price(self, values: Ints) -> Ints:
        """See ``knapsack.Pricer``; classes that are left once the stop is heard get a rough bound and no pattern."""
        self.values = values
        self.found = {}
        self.exact = True
        worth = self._rough_bounds()
        for cls in range(len(self.packing.caps)):
            if self.stop():
                break
            worth[cls] = self._price_class(cls)
        return worth

    def _rough_bounds(self) -> Ints:
        """int64[C]: bounds that need no search: the gang's whole value, or the best rate in one that all use."""
        packing, valued = self.packing, np.flatnonzero(self.values > 0)
        whole = sum(int(n) * int(v) for n, v in zip(packing.counts, self.values, strict=True))
        worth = np.full(len(packing.caps), min(whole, 1 << 62), np.int64)
        for d in range(packing.demand.shape[1]):
            sizes = packing.demand[valued, d]
            if len(valued) and sizes.all():
                rate = float((self.values[valued] / sizes).max()) * (1 + 1e-9)
                most: Ints = np.minimum(packing.caps[:, d] * rate + 1, float(1 << 61)).astype(np.int64)
                worth = np.minimum(worth, most)
        if self.base is not None:
            worth += np.array([int(self.base(cls, cap)) for cls, cap in enumerate(packing.caps)], np.int64)
        return worth

    def patterns(self, cls: int) -> list[tuple[int, ...]]:
        """See ``knapsack.Pricer``."""
        return [pattern for _, pattern in self.found.get(cls, ())]

    def _price_class(self, cls: int) -> int:
        packing, values = self.packing, self.values
        cap = packing.caps[cls]
        may = packing.eligible[packing.group[cls]] & (values > 0) & (packing.counts > 0)
        kinds = np.flatnonzero(may & (packing.demand <= cap).all(axis=1))
        scale = 1.0 / np.maximum(1, cap)
        size = packing.demand[kinds] @ scale
        order = np.lexsort([kinds, -values[kinds] / np.maximum(size, 1e-12)])
        kinds, size = kinds[order], size[order]
        growth = _Growth(self, cls, cap, kinds, size, scale)
        growth.run()
        self.found[cls] = growth.best_patterns()
        self.exact &= growth.dropped <= growth.best
        return max(growth.best, growth.dropped)


class _Growth:
    """The labels of one class while its patterns grow."""

    def __init__(self, pricer: LabelPricer, cls: int, cap: Ints, kinds: Ints, size: Floats, scale: Floats) -> None:
        self.pricer, self.cls, self.cap, self.kinds, self.size, self.scale = pricer, cls, cap, kinds, size, scale
        self.limits = np.minimum(pricer.packing.counts[kinds], 1 << 20)
        self.gain = pricer.values[kinds]
        copies = self._copies()
        self.mass = np.concatenate([[0.0], np.cumsum(size * copies)])
        self.sum = np.concatenate([[0.0], np.cumsum((self.gain * copies).astype(np.float64))])
        self.used = np.zeros((1, len(cap)), np.int64)
        self.value = np.zeros(1, np.int64)
        self.trail = np.zeros(1, np.int64)
        self.steps: list[tuple[Ints, int, int]] = []
        self.born = 1
        self.best = int(self._worth(self.used, self.value)[0])
        self.dropped = 0
        self.top: list[tuple[int, int]] = [(self.best, 0)]

    def _copies(self) -> Ints:
        copies = self.limits.copy()
        demand = self.pricer.packing.demand[self.kinds]
        for d in range(len(self.cap)):
            asks = demand[:, d] > 0
            copies[asks] = np.minimum(copies[asks], self.cap[d] // demand[asks, d])
        return copies

    def _worth(self, used: Ints, value: Ints) -> Ints:
        if self.pricer.base is None:
            return value
        return value + self.pricer.base(self.cls, self.cap - used)

    def run(self) -> None:
        """Takes the kinds in turn."""
        self._greedy()
        for step in range(len(self.kinds)):
            self._take(step)
            if step + 1 < len(self.kinds):
                self._cut(step + 1)
            if self.pricer.stop():
                self._give_up(step + 1)
                return

    def _give_up(self, step: int) -> None:
        """Ends early: what the labels could still have become is kept as the bound."""
        if step < len(self.kinds) and len(self.used):
            self.dropped = max(self.dropped, int(self._bound(self.used, self.value, step).max()))

    def _greedy(self) -> None:
        """A first pattern, to cut by."""
        room, value = self.cap.copy(), 0
        demand = self.pricer.packing.demand[self.kinds]
        for step in range(len(self.kinds)):
            asks = demand[step] > 0
            copies = int(self.limits[step])
            if asks.any():
                copies = min(copies, int((room[asks] // demand[step, asks]).min()))
            if copies > 0:
                room -= copies * demand[step]
                value += copies * int(self.gain[step])
        self.floor = int(self._worth((self.cap - room)[None, :], np.array([value], np.int64))[0]) - 1
        self.floor = max(self.floor, self.pricer.threshold)

    def _take(self, step: int) -> None:
        demand, gain = self.pricer.packing.demand[self.kinds[step]], int(self.gain[step])
        used, value, trail = self.used, self.value, self.trail
        for _ in range(int(self.limits[step])):
            grown = used + demand
            fits = np.flatnonzero((grown <= self.cap).all(axis=1))
            if not len(fits):
                return
            used, value = grown[fits], value[fits] + gain
            self.steps.append((trail[fits], step, self.born))
            trail = np.arange(self.born, self.born + len(fits))
            self.born += len(fits)
            worth = self._worth(used, value)
            peak = int(worth.argmax())
            self.best = max(self.best, int(worth[peak]))
            for spot in np.flatnonzero(worth >= max(self.floor, (self.best * 63) >> 6))[:200].tolist():
                self.top.append((int(worth[spot]), int(trail[spot])))
            bound = self._bound(used, value, step)
            alive = bound > max(self.floor, self.best)
            used, value, trail = used[alive], value[alive], trail[alive]
            self.used = np.concatenate([self.used, used])
            self.value = np.concatenate([self.value, value])
            self.trail = np.concatenate([self.trail, trail])
            if not len(used):
                return

    def _bound(self, used: Ints, value: Ints, step: int) -> Floats:
        """An upper bound on what each label can still become, using kinds from ``step`` on; + 1 covers rounding."""
        room = (self.cap - used) @ self.scale
        filled = np.interp(self.mass[step] + room, self.mass, self.sum)
        bound: Floats = self._worth(used, value) + (filled - self.sum[step]) * (1 + 1e-9) + 1
        return bound

    def _cut(self, step: int) -> None:
        bound = self._bound(self.used, self.value, step)
        alive = np.flatnonzero(bound > max(self.floor, self.best))
        if len(alive) > self.pricer.most:
            ranked = alive[np.argsort(-bound[alive], kind="stable")]
            self.dropped = max(self.dropped, int(bound[ranked[self.pricer.most]]))
            alive = np.sort(ranked[: self.pricer.most])
        self.used, self.value, self.trail = self.used[alive], self.value[alive], self.trail[alive]

    def best_patterns(self, most: int = 40) -> list[tuple[int, tuple[int, ...]]]:
        """(value, pattern), best first."""
        patterns = []
        for value, label in sorted(self.top, key=lambda pair: (-pair[0], pair[1]))[:most]:
            row = [0] * len(self.pricer.packing.counts)
            at = label
            for parents, step, first in reversed(self.steps):
                if first <= at < first + len(parents):
                    row[self.kinds[step]] += 1
                    at = int(parents[at - first])
            patterns.append((value, tuple(row)))
        return patterns
