"""From the linear program to whole hosts: fix what is whole, round the rest one pattern at a time, price again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from placement.exact.master import choose_columns
from placement.packing.columns import Generator
from placement.packing.fill import best_fill
from placement.packing.instance import Load, Packing
from placement.problem.index import Ints
from placement.stop import Stop

WHOLE = 1e-6
NEARLY = 0.8


class Residue:
    """What is still to place while loads are fixed one after another."""

    def __init__(self, packing: Packing) -> None:
        self.packing = packing
        self.counts: list[int] = packing.counts.tolist()
        self.hosts: list[int] = packing.hosts.tolist()
        self.loads: list[Load] = []

    def fix(self, cls: int, pattern: Sequence[int], times: int) -> int:
        """Uses a pattern on up to ``times`` hosts, cut to what is still wanted; how many hosts it took."""
        taken = 0
        while taken < times and self.hosts[cls] > 0:
            cut = tuple(min(copies, left) for copies, left in zip(pattern, self.counts, strict=True))
            if not any(cut):
                break
            alike = min(times - taken, self.hosts[cls], *(self.counts[k] // c for k, c in enumerate(cut) if c))
            for kind, copies in enumerate(cut):
                self.counts[kind] -= copies * alike
            self.hosts[cls] -= alike
            self.loads.append(Load(cls, cut, alike))
            taken += alike
        return taken

    def copy(self) -> Residue:
        """The same state, to come back to."""
        twin = Residue(self.packing)
        twin.counts, twin.hosts, twin.loads = list(self.counts), list(self.hosts), list(self.loads)
        return twin

    @property
    def done(self) -> bool:
        """Whether everything is placed."""
        return not any(self.counts)

    def rest(self) -> Packing:
        """The packing that is left."""
        return replace(self.packing, counts=np.array(self.counts, np.int64), hosts=np.array(self.hosts, np.int64))


def cost_of(generator: Generator, loads: Sequence[Load]) -> int:
    """What loads cost under the generator's goal."""
    return sum(generator.column(load.cls, load.pattern).cost * load.times for load in loads)


def finish(generator: Generator, residue: Residue, weights: Ints, stop: Stop) -> None:
    """Completes the fixed loads by filling hosts greedily, and offers the result."""
    fixed = cost_of(generator, residue.loads)
    search = generator.search
    rest = residue.rest()
    loads, _, _ = best_fill(rest, weights, max(0, search.lower - fixed), stop)
    if loads is not None:
        whole = [*residue.loads, *loads]
        search.offer(whole, cost_of(generator, whole), "dive")


def dive(
    generator: Generator,
    weights: Ints,
    stop: Stop,
    spread: float = 0.0,
    retreats: int = 0,
    pricing: bool = True,
) -> None:
    """One dive from the master's present solution. ``spread`` prefers other fractions than the largest first.

    ``retreats``: how often a fixing after which the linear program passes the goal is taken back and forbidden.
    ``pricing``: whether new columns are sought on the way; without, it ends where the columns at hand do not suffice.
    """
    master, search = generator.master, generator.search
    residue = Residue(generator.packing)
    goal = 0
    forbidden: set[int] = set()
    last: tuple[Residue, int] | None = None
    for _ in range(4 * len(generator.counts) + 40 + 2 * retreats):
        if stop() or search.closed or not master.solve():
            break
        goal = goal or max(search.lower, math.ceil(master.value - WHOLE))
        room = goal - cost_of(generator, residue.loads)
        if master.value > room + WHOLE:
            if not pricing:
                break
            price_again(generator, room)
        if last is not None and retreats and master.value > room + WHOLE:
            residue, culprit = last
            forbidden.add(culprit)
            last, retreats = None, retreats - 1
            master.restrict(residue.counts, residue.hosts)
            continue
        chosen = _to_fix(master.values, spread, forbidden)
        last = (residue.copy(), chosen[0][0]) if len(chosen) == 1 else None
        before = len(residue.loads)
        for number, times in chosen:
            residue.fix(master.columns[number].cls, master.columns[number].pattern, times)
        fixed = cost_of(generator, residue.loads)
        if residue.done:
            search.offer(list(residue.loads), fixed, "dive")
            break
        if len(residue.loads) == before or (search.cost is not None and fixed >= search.cost):
            break
        finish(generator, residue, weights, stop)
        master.restrict(residue.counts, residue.hosts)
    master.restrict(generator.counts, generator.hosts)


def _to_fix(values: Sequence[float], spread: float, forbidden: set[int]) -> list[tuple[int, int]]:
    """(column, times): what is whole, else what is nearly whole, else the largest fraction that is not forbidden."""
    whole = [(number, math.floor(value + WHOLE)) for number, value in enumerate(values) if value > 1 - WHOLE]
    if whole:
        return whole
    nearly = [(number, 1) for number, value in enumerate(values) if value > NEARLY]
    if nearly and not spread and not forbidden:
        return nearly
    parts = [
        (number in forbidden, spread * (number % 3) - value, number)
        for number, value in enumerate(values)
        if value > WHOLE
    ]
    return [(min(parts)[2], 1)] if parts else []


def price_again(generator: Generator, target: int, rounds: int = 4) -> None:
    """A few pricing rounds for what is left, so that the dive is not bound to the root's patterns."""
    master = generator.master
    for _ in range(rounds):
        _, worth = generator.priced()
        if generator.stop() or not generator.extend(worth) or not master.solve() or master.value <= target + WHOLE:
            return


def round_by_search(generator: Generator, branches: int, stop: Stop) -> None:
    """The restricted master as an integer program over all columns found, by SCIP."""
    search, columns = generator.search, generator.master.columns
    chosen = choose_columns(columns, generator.counts, generator.hosts, branches, stop, search.cost)
    if chosen is None:
        return
    residue = Residue(generator.packing)
    for column, times in zip(columns, chosen, strict=True):
        if times:
            residue.fix(column.cls, column.pattern, times)
    if residue.done:
        search.offer(residue.loads, cost_of(generator, residue.loads), "restricted-master")
