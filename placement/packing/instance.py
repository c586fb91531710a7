"""A gang as a packing problem: counts of kinds into classes of identical hosts, in the smallest integers.

Every step here is exact: no feasible placement is lost and none is invented. A kind of the packing is a bundle of the
gang's nodes that must share a host (mostly one node).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from placement.problem.index import Bools, Ints

REACH = 1 << 15


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """The two NUMA cells of each host, the smaller first; a host with one cell has a second without room.

    ``share``: int64[K, R] what one cell gives to one of the kind; ``wanted``: int64[K] cells it is split over (1 or
    2); ``caps``: int64[C, 2, R] the cells' room. A host may have less room than its cells together: guests that are not
    pinned, a reserve and a ratio below one take from the host alone, so a pattern must fit both. ``tight``: bool[C]
    hosts of which this is so.
    """

    share: Ints
    wanted: Ints
    caps: Ints
    tight: Bools

    def part(self, kinds: Ints, classes: Ints) -> Cells:
        """The cells of some kinds and classes."""
        return Cells(self.share[kinds], self.wanted[kinds], self.caps[classes], self.tight[classes])


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The hosts of each class, cut from one array when they are asked for, since most classes are never used.

    ``hosts``: int64[H'] rows of the fleet, class by class; ``first``, ``last``: int64[C] where each class lies.
    """

    hosts: Ints
    first: Ints
    last: Ints

    @staticmethod
    def of_sizes(hosts: Ints, sizes: Ints) -> Rows:
        """Classes of the given sizes, one after the other."""
        last = np.cumsum(sizes)
        return Rows(hosts, last - sizes, last)

    def __getitem__(self, cls: int) -> Ints:
        return self.hosts[self.first[cls] : self.last[cls]]

    def __len__(self) -> int:
        return len(self.first)

    def __iter__(self) -> Iterator[Ints]:
        return (self[cls] for cls in range(len(self)))

    def part(self, classes: Ints) -> Rows:
        """The rows of some classes."""
        return Rows(self.hosts, self.first[classes], self.last[classes])


NO_ROWS = Rows(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class Packing:
    """K kinds, C classes, D dimensions.

    ``counts``: int64[K] bundles wanted; ``demand``: int64[K, D]; ``caps``: int64[C, D]; ``hosts``: int64[C] how
    many hosts a class has, ``rows`` which; ``group``: int64[C] which row of ``eligible`` (bool[G, K]) says what a class
    may take; ``unit``: int64[D] what one of each dimension is in the units of the input; ``cells``: NUMA, where
    somebody asks for it.
    """

    counts: Ints
    demand: Ints
    caps: Ints
    hosts: Ints
    group: Ints
    eligible: Bools
    rows: Rows
    unit: Ints
    cells: Cells | None = None

    def part(self, kinds: Ints, classes: Ints) -> Packing:
        """The packing of some of its kinds into some of its classes."""
        return Packing(
            self.counts[kinds],
            self.demand[kinds],
            self.caps[classes],
            self.hosts[classes],
            self.group[classes],
            self.eligible[:, kinds],
            self.rows.part(classes),
            self.unit,
            self.cells.part(kinds, classes) if self.cells is not None else None,
        )


@dataclass(frozen=True, slots=True)
class Load:
    """A way to fill a host: ``pattern`` (kinds' counts) on ``times`` hosts of a class."""

    cls: int
    pattern: tuple[int, ...]
    times: int


def classes_of(
    free: Ints,
    demand: Ints,
    counts: Ints,
    group: Ints,
    eligible: Bools,
    fixed: Ints | None = None,
    cells: Cells | None = None,
) -> Packing:
    """Collapses hosts (free: int64[H, D], group: int64[H] rows of ``eligible``) to classes by usable capacity.

    ``fixed``: int64[D], where not zero the unit of a dimension whose capacity must be kept as it is. ``cells``: with
    ``caps`` a host instead of a class.
    """
    kept_whole = fixed is not None and bool(fixed.any())
    demand, caps, unit = _in_smallest_units(demand, counts, free, fixed)
    fits = _takes_something(caps, demand, group, eligible)
    kept = np.flatnonzero(fits)
    caps = caps[kept] if kept_whole else usable(caps[kept], demand, counts)
    group = group[kept]
    told = [group, *caps.T]
    if cells is not None:
        cells = _small_cells(cells, counts, kept)
        told.extend(cells.caps[:, cell, d] for cell in (0, 1) for d in range(cells.caps.shape[2]))
    order, first = _grouped(told, len(kept))
    if cells is not None:
        tight = np.logical_or.reduceat(cells.tight[order], first) if len(first) else cells.tight[:0]
        cells = Cells(cells.share, cells.wanted, cells.caps[order[first]], tight)
    hosts = np.diff(np.append(first, len(kept)))
    rows = Rows.of_sizes(kept[order], hosts)
    first = order[first]
    return Packing(counts, demand, caps[first], hosts, group[first], eligible, rows, unit, cells)


def _small_cells(cells: Cells, counts: Ints, kept: Ints) -> Cells:
    """Cells in the smallest units, cut at the gang's demand, the smaller cell of each host first."""
    unit = np.maximum(1, np.gcd.reduce(cells.share, axis=0))
    share = cells.share // unit
    most = counts @ share
    caps = np.minimum(np.maximum(cells.caps[kept], 0) // unit, most)
    swap = np.zeros(len(kept), np.bool_)
    equal = np.ones(len(kept), np.bool_)
    for column in range(caps.shape[2]):
        swap |= equal & (caps[:, 0, column] > caps[:, 1, column])
        equal &= caps[:, 0, column] == caps[:, 1, column]
    caps[swap] = caps[swap][:, ::-1]
    return Cells(share, cells.wanted, caps, cells.tight[kept])


def _in_smallest_units(demand: Ints, counts: Ints, free: Ints, fixed: Ints | None) -> tuple[Ints, Ints, Ints]:
    """Divides each dimension by its demands' common factor and cuts capacity at the whole gang's demand."""
    unit = np.maximum(1, np.gcd.reduce(demand, axis=0))
    if fixed is not None:
        unit = np.where(fixed > 0, fixed, unit)
    demand = demand // unit
    total = [sum(int(n) * int(a) for n, a in zip(counts, column, strict=True)) for column in demand.T]
    most = np.array([min(amount, 1 << 62) for amount in total], np.int64)
    if fixed is not None:
        most = np.where(fixed > 0, 1 << 62, most)
    return demand, np.minimum(free // unit, most), unit


def _takes_something(caps: Ints, demand: Ints, group: Ints, eligible: Bools) -> Bools:
    """bool[H]: hosts that can take at least one bundle."""
    fits: Bools = np.zeros(len(caps), np.bool_)
    some: Bools = np.any(eligible, axis=1)
    open_rows = np.flatnonzero(some[group])
    for kind in smallest(demand, eligible):
        if not len(open_rows):
            break
        roomy = np.ones(len(open_rows), np.bool_)
        for d in range(demand.shape[1]):
            if demand[kind, d]:
                roomy &= caps[open_rows, d] >= demand[kind, d]
        if not eligible[:, kind].all():
            roomy &= eligible[group[open_rows], kind]
        fits[open_rows[roomy]] = True
        open_rows = open_rows[~roomy]
    return fits


def smallest(demand: Ints, eligible: Bools) -> list[int]:
    """Kinds of which no other kind with the same eligibility asks for less everywhere."""
    if len(demand) > 400:
        return list(range(len(demand)))
    less: Bools = np.all(demand[:, None, :] <= demand[None, :, :], axis=2)
    same: Bools = np.all(eligible[:, :, None] >= eligible[:, None, :], axis=0)
    beats = less & same
    equal = beats & beats.T
    strictly: Bools = beats & ~equal | np.triu(equal, 1)
    kinds: list[int] = np.flatnonzero(~strictly.any(axis=0)).tolist()
    return kinds


def usable(caps: Ints, demand: Ints, counts: Ints) -> Ints:
    """Lowers each capacity to what the kinds can use of it, by sums that they can reach and by the other capacities."""
    dims = demand.shape[1]
    if dims > 4 or len(demand) > 400 or not len(caps):
        return caps
    most = caps.max(axis=0)
    if (most >= REACH).any():
        return caps
    caps = caps.copy()
    reachable = [_reachable(demand[:, d], counts, int(most[d])) for d in range(dims)]
    for d in range(dims):
        caps[:, d] = reachable[d][caps[:, d]]
    for d in range(dims):
        for other in range(dims):
            if d != other and most[other] > 0 and most[d] > 0:
                ceiling = _most_of(demand[:, d], demand[:, other], counts, int(most[other]))
                np.minimum(caps[:, d], ceiling[caps[:, other]], out=caps[:, d])
    for d in range(dims):
        caps[:, d] = reachable[d][caps[:, d]]
    return caps


def _reachable(sizes: Ints, counts: Ints, most: int) -> Ints:
    """int64[most + 1]: the largest sum of sizes, each used at most count times, that is not above x."""
    return _most_of(sizes, sizes, counts, most)


def _most_of(gain: Ints, cost: Ints, counts: Ints, most: int) -> Ints:
    """int64[most + 1]: the largest total gain of bundles whose total cost is at most x (a bounded knapsack)."""
    table = np.zeros(most + 1, np.int64)
    merged: dict[tuple[int, int], int] = {}
    for g, c, n in zip(gain.tolist(), cost.tolist(), counts.tolist(), strict=True):
        merged[g, c] = merged.get((g, c), 0) + n
    for (g, c), n in merged.items():
        if not c:
            table += g * n
        elif g:
            left, chunk = min(n, most // c), 1
            while left > 0:
                take = min(chunk, left)
                np.maximum(table[c * take :], table[: most + 1 - c * take] + g * take, out=table[c * take :])
                left -= take
                chunk *= 2
    return table


def _grouped(columns: Sequence[Ints], rows: int) -> tuple[Ints, Ints]:
    """(int64[rows] the rows so that equal ones lie side by side in their own order, int64[.] where each set begins)."""
    room = max(1, rows)
    key = np.zeros(rows, np.int64)
    for column in columns:
        extent = int(column.max(initial=0)) + 1
        room *= extent
        if room >= 1 << 62:
            break
        key = key * extent + column
    if room < 1 << 62:
        # With the row as the last digit all keys differ, so that the quickest sort gives the one order.
        key = np.sort(key * rows + np.arange(rows))
        order = key % max(1, rows)
        fresh = np.diff(key // max(1, rows)) > 0
    else:
        order = np.lexsort(tuple(reversed(columns)))
        fresh = np.zeros(max(0, rows - 1), np.bool_)
        for column in columns:
            fresh |= np.diff(column[order]) != 0
    return order, np.flatnonzero(np.concatenate([[True], fresh])) if rows else np.zeros(0, np.int64)


def components(packing: Packing) -> list[tuple[Ints, Ints]]:
    """(kinds, classes) of the independent parts: kinds that no class may take together fall apart."""
    groups, kinds = packing.eligible.shape
    if groups == 1 or packing.eligible.all():
        return [(np.arange(kinds), np.arange(len(packing.caps)))]
    label = np.arange(kinds)
    for row in packing.eligible[np.unique(packing.group)]:
        touched = np.flatnonzero(row)
        if len(touched) > 1:
            merged = np.isin(label, label[touched])
            label[merged] = label[touched].min()
    parts = []
    for value in np.unique(label):
        mine = np.flatnonzero(label == value)
        takes: Bools = np.any(packing.eligible[:, mine], axis=1)
        parts.append((mine, np.flatnonzero(takes[packing.group])))
    return parts
