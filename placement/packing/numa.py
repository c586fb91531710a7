"""NUMA-exact packing on hosts with two cells: pricing, and which cells each node of a host gets.

A kind on one cell is priced by one table over a cell's room; a kind split over both takes the same share of each, so a
host's best pattern is the best u of both(u) + one(first cell - u) + one(second cell - u).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from placement.packing.fill import first_fit_cells
from placement.packing.instance import NO_ROWS, Cells, Packing
from placement.packing.knapsack import DenseTable, Table
from placement.problem.gang import Gang, Landed, arranged, cell_demand
from placement.problem.index import Bools, Ints

CELL_TABLE = 1 << 18
WHOLE_TABLE = 4_000_000


def pair_cells(gang: Gang) -> Cells | None:
    """The cells of each host, or None where some have more than two or the cells lack a resource that is asked for."""
    names, free = gang.index.cells()
    wanted = np.array([kind.sample.cells for kind in gang.kinds], np.int64)
    if not names or free.shape[1] > 2 or not set(gang.names) <= set(names):
        return None
    if not ((wanted == 1) | (wanted == 2)).all():
        return None
    share = np.stack([cell_demand(gang, number) for number in range(len(gang.kinds))])
    asked = np.flatnonzero(share.any(axis=0))
    if not len(asked):
        return None
    caps = np.full((len(free), 2, len(asked)), -1, np.int64)
    caps[:, : free.shape[1]] = free[:, :, asked]
    unit = np.maximum(1, np.gcd.reduce(share[:, asked], axis=0))
    if float(np.prod(np.maximum(caps, 0).max(axis=(0, 1)) // unit + 1.0)) > CELL_TABLE:
        return None
    columns = [gang.names.index(name) for name in np.array(names)[asked].tolist()]
    tight: Bools = (gang.free[:, columns] < np.maximum(caps, 0).sum(axis=1)).any(axis=1)
    return Cells(share[:, asked], wanted, caps, tight)


class CellPricer:
    """Prices hosts of two cells; exact but for counts, which it bounds a cell instead of a host.

    A host that is tighter than its cells is bounded by the cells and by the host, each by itself.
    """

    def __init__(self, packing: Packing) -> None:
        assert packing.cells is not None
        self.packing, self.cells = packing, packing.cells
        self.single = np.flatnonzero(packing.cells.wanted == 1)
        self.double = np.flatnonzero(packing.cells.wanted == 2)
        self.one = DenseTable(self._cell_packing(self.single))
        self.both = DenseTable(self._cell_packing(self.double))
        self.split: dict[int, tuple[int, ...]] = {}
        self.values = np.zeros(len(packing.counts), np.int64)
        fits = DenseTable.cells(packing) <= WHOLE_TABLE
        self.whole = DenseTable(packing) if packing.cells.tight.any() and fits else None

    def _cell_packing(self, kinds: Ints) -> Packing:
        """Kinds packed into one cell; its single class per group is the largest cell, so the table covers all."""
        whole = self.packing
        largest = self.cells.caps.max(axis=(0, 1), initial=0)
        groups = np.arange(len(whole.eligible))
        return Packing(
            whole.counts[kinds],
            self.cells.share[kinds],
            np.tile(largest, (len(groups), 1)),
            np.ones(len(groups), np.int64),
            groups,
            whole.eligible[:, kinds],
            NO_ROWS,
            np.ones(len(largest), np.int64),
        )

    def price(self, values: Ints) -> Ints:
        """See ``knapsack.Pricer``."""
        self.values = values
        self.one.price(values[self.single])
        self.both.price(values[self.double])
        worth = np.zeros(len(self.packing.caps), np.int64)
        for cls in range(len(worth)):
            group = int(self.packing.group[cls])
            one, both = self.one.tables[group][1][-1], self.both.tables[group][1][-1]
            first, second = self.cells.caps[cls]
            common = tuple((np.minimum(first, second) + 1).tolist())
            shared = both[tuple(slice(0, extent) for extent in common)].astype(np.int64)
            shared = shared + _downward(one, first, common) + _downward(one, second, common)
            best = int(np.argmax(shared))
            self.split[cls] = tuple(int(part) for part in np.unravel_index(best, common))
            worth[cls] = shared.reshape(-1)[best]
        if self.whole is not None:
            tight = self.cells.tight
            worth[tight] = np.minimum(worth, self.whole.price(values))[tight]
        return worth

    def patterns(self, cls: int) -> list[tuple[int, ...]]:
        """See ``knapsack.Pricer``."""
        group, used = int(self.packing.group[cls]), np.array(self.split[cls], np.int64)
        pattern = np.zeros(len(self.packing.counts), np.int64)
        pattern[self.double] = self.both.walk(group, used.tolist())
        for cell in self.cells.caps[cls]:
            pattern[self.single] += np.array(self.one.walk(group, (cell - used).tolist()), np.int64)
        if not self.cells.tight[cls]:
            return [tuple(pattern.tolist())]
        found = [pattern.tolist(), *(self.whole.patterns(cls) if self.whole is not None else ())]
        return list(dict.fromkeys(self._cut(cls, wanted) for wanted in found))

    def _cut(self, cls: int, wanted: Sequence[int]) -> tuple[int, ...]:
        """The part of a pattern that fits the host and its cells, the most valuable for their size first."""
        packing = self.packing
        size = (packing.demand / np.maximum(1, packing.caps[cls])).sum(axis=1)
        order = np.argsort(-self.values / np.maximum(size, 1e-12), kind="stable").tolist()
        pattern = [0] * len(wanted)
        room, demand = packing.caps[cls].tolist(), packing.demand.tolist()
        for kind, copies in first_fit_cells(packing, cls, room, demand, wanted, order):
            pattern[kind] = copies
        return tuple(pattern)


def _downward(table: Table, start: Ints, extent: tuple[int, ...]) -> Ints:
    """table[start - u] for all u below the extent."""
    window = table[tuple(slice(int(top) - length + 1, int(top) + 1) for top, length in zip(start, extent, strict=True))]
    flipped: Ints = np.flip(window).astype(np.int64)
    return flipped


def in_cells(gang: Gang, host: int, held: list[tuple[int, int]]) -> Landed:
    """(kind, host, cells) of a host's nodes: those on both cells first, then the rest divided so that all fit."""
    _, cells = gang.index.cells()
    rooms = [cells[host, number].tolist() for number in range(cells.shape[1]) if (cells[host, number] >= 0).any()]
    landed: Landed = []
    single: list[tuple[int, int, list[int]]] = []
    for kind, copies in held:
        share = cell_demand(gang, kind).tolist()
        if gang.kinds[kind].sample.cells == 2:
            landed.extend([(kind, host, (0, 1))] * copies)
            rooms = [[have - copies * size for have, size in zip(room, share, strict=True)] for room in rooms]
        elif copies:
            single.append((kind, copies, share))
    single.sort(key=lambda entry: (-sum(entry[2]), entry[0]))
    division = _divide(rooms, single)
    assert division is not None, "a pattern that was priced or filled must fit its cells"
    for (kind, copies, _), first in zip(single, division, strict=True):
        landed.extend([(kind, host, (0,))] * first + [(kind, host, (1,))] * (copies - first))
    return landed


def _divide(rooms: list[list[int]], single: list[tuple[int, int, list[int]]]) -> list[int] | None:
    """How many copies of each kind go to the first cell so that both cells hold what they get."""
    if not single:
        return []
    (_, copies, share), rest = single[0], single[1:]
    for first in range(copies, -1, -1):
        given = [first, copies - first]
        if len(rooms) == 1 and given[1]:
            break
        left = [
            [have - times * size for have, size in zip(room, share, strict=True)]
            for room, times in zip(rooms, given, strict=False)
        ]
        if min(min(room, default=0) for room in left) >= 0:
            further = _divide(left, rest)
            if further is not None:
                return [first, *further]
    return None


def in_parts(gang: Gang, host: int, held: list[tuple[int, int]]) -> Landed:
    """(kind, host, cells) of a host's nodes, so that the cells and devices of all can be given."""
    kinds = [kind for kind, copies in held for _ in range(copies)]
    got = arranged(gang, host, kinds)
    assert got is not None, "as many were placed on the host as it has seats"
    return [(kind, host, one.cells) for kind, one in zip(kinds, got, strict=True)]
