"""Column generation with a bound that holds at every round, a rounding dive, and the restricted master.

(Gilmore and Gomory 1961 for the columns; Farley 1990 and Vance 1994 for the bound.) Prices are brought to whole numbers
before anything is proved with them, so that no bound rests on floating point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from placement.exact.master import Column, Master, rounded_prices
from placement.packing.bounds import fewest_for
from placement.packing.instance import Load, Packing
from placement.packing.knapsack import Pricer
from placement.problem.index import Ints
from placement.stop import Stop

PRICE_SCALE = 1 << 24


@dataclass(frozen=True, slots=True, eq=False)
class Goal:
    """What a column costs: ``fixed`` for each used host, plus the base value that its room loses; ``missing`` for each
    bundle that is left out.

    ``base``: int64[C] value of each class's free room, and ``base_table`` the same over all capacities; None is zero.
    ``lost``: cost of a pattern on a class, as an integer.
    """

    fixed: int
    missing: int
    base: Ints | None
    lost: Callable[[int, Sequence[int]], int]


@dataclass(slots=True, eq=False)
class Search:
    """What is known so far about one packing: the best loads, their cost, and the lower bound."""

    lower: int
    loads: list[Load] | None
    cost: int | None
    stage: str
    columns: int = 0

    @property
    def closed(self) -> bool:
        """Whether the bounds meet."""
        return self.cost is not None and self.cost <= self.lower

    def offer(self, loads: list[Load], cost: int, stage: str) -> None:
        """Keeps an answer that is better than the best."""
        if self.cost is None or cost < self.cost:
            self.loads, self.cost, self.stage = loads, cost, stage


class Generator:
    """Column generation over one packing. ``search`` is sharpened in place, so it can be stopped at any moment.

    ``scale``: whole units of price for one unit of cost; a pricer with a base table must have it in the same scale.
    """

    def __init__(
        self,
        packing: Packing,
        goal: Goal,
        pricer: Pricer,
        search: Search,
        stop: Stop,
        scale: int | None = None,
    ) -> None:
        self.packing, self.goal, self.pricer, self.search, self.stop = packing, goal, pricer, search, stop
        self.counts: list[int] = packing.counts.tolist()
        self.hosts: list[int] = packing.hosts.tolist()
        self.master = Master(self.counts, self.hosts, [goal.missing] * len(self.counts), stop)
        self.scale = scale or max(1, PRICE_SCALE // max(1, goal.missing // 64))

    def column(self, cls: int, pattern: Sequence[int]) -> Column:
        """The column of a pattern on a class."""
        return Column(cls, tuple(pattern), self.goal.fixed + self.goal.lost(cls, pattern))

    def start(self, weights: Ints) -> None:
        """Starts from each class's best patterns by weighted volume, the prices that gave the volume bound."""
        values = self.packing.demand @ weights
        values = values * self.scale // max(1, int((self.packing.caps @ weights).max(initial=1)))
        worth = self.pricer.price(values)
        for cls in np.argsort(-worth, kind="stable")[:24].tolist():
            self.add_patterns(cls)

    def start_from(self, loads: Sequence[Load]) -> None:
        """Starts from the patterns of known answers."""
        for load in loads:
            self.master.add(self.column(load.cls, load.pattern))

    def run(self, rounds: int, enough: bool = True) -> bool:
        """Prices until no column improves, the bounds meet, or the rounds are used up; whether it converged.

        ``enough``: also ends once the master's value is within the bound that stands, where prices prove nothing
        more.
        """
        for _ in range(rounds):
            if self.stop() or not self.master.solve():
                return False
            if enough and self.master.value <= self.search.lower + 1e-6:
                return True
            values, worth = self.priced()
            self.sharpen(values, worth)
            if self.stop():
                return False
            if self.search.closed or not self.extend(worth):
                return True
        return False

    def priced(self) -> tuple[Ints, Ints]:
        """The master's prices as whole numbers, and what each class's best pattern is worth at them."""
        values = np.minimum(rounded_prices(self.master.prices, self.scale), self.goal.missing * self.scale)
        return values, self.pricer.price(values)

    def sharpen(self, values: Ints, worth: Ints) -> None:
        """Raises the lower bound by what these prices prove."""
        gain = worth - (self.goal.base * self.scale if self.goal.base is not None else 0)
        if self.goal.base is None and self.goal.fixed == 1:
            bound = fewest_for(values, gain, self.packing)
        else:
            need = sum(int(n) * int(v) for n, v in zip(self.counts, values, strict=True))
            saved = np.minimum(0, self.goal.fixed * self.scale - gain)
            total = need + sum(int(m) * int(s) for m, s in zip(self.hosts, saved, strict=True))
            bound = -(-total // self.scale)
        self.search.lower = max(self.search.lower, bound)

    def extend(self, worth: Ints, most: int = 24) -> int:
        """Adds the most promising columns; how many were new."""
        base = self.goal.base if self.goal.base is not None else np.zeros(len(worth), np.int64)
        price = np.full(len(worth), self.goal.fixed, np.float64) + base
        for cls, dual in self.master.limits.items():
            price[cls] -= dual
        reduced = worth / self.scale - price
        promising = np.flatnonzero(reduced > 1e-7)
        promising = promising[np.argsort(-reduced[promising] * self.packing.hosts[promising], kind="stable")]
        added = 0
        for cls in promising[:most].tolist():
            added += self.add_patterns(cls)
        return added

    def add_patterns(self, cls: int) -> int:
        """Adds the class's patterns for the last prices; how many were new."""
        return sum(self.master.add(self.column(cls, pattern)) for pattern in self.pricer.patterns(cls))
