"""Pricing: the most valuable way to fill a host, for every class of hosts at once.

The dense table is the bounded multi-dimensional knapsack over all capacities up to the largest (Bellman's recursion
with counts split in powers of two); every class reads its answer from it.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from placement.packing.instance import Packing
from placement.problem.index import Ints

Table = npt.NDArray[np.int32] | npt.NDArray[np.int64]
Shift = tuple[int, tuple[slice, ...], tuple[slice, ...], tuple[int, ...]]

MANY = 40


class Pricer(Protocol):
    """Prices one packing's classes for given kinds' values."""

    def price(self, values: Ints) -> Ints:
        """int64[C]: an upper bound on pattern value (plus the room's base value) for non-negative int64[K] values."""

    def patterns(self, cls: int) -> list[tuple[int, ...]]:
        """Good patterns for the values last priced, best first; the first reaches the bound where it is exact."""


class DenseTable:
    """Knapsack tables for each group of classes. Exact.

    ``base``: int64 table over all capacities, the value of room that stays free (least lost value); None is zero.
    """

    def __init__(self, packing: Packing, base: Ints | None = None) -> None:
        self.packing = packing
        self.base = base
        self.narrow = False
        self.highest = int(base.max(initial=0)) if base is not None else 0
        self.shape = tuple((packing.caps.max(axis=0, initial=0) + 1).tolist())
        self.values = np.zeros(len(packing.counts), np.int64)
        self.places = np.ravel_multi_index(tuple(packing.caps.T), self.shape) if len(self.shape) else None
        strides = [math.prod(self.shape[d + 1 :]) for d in range(len(self.shape))]
        self.steps = (packing.demand @ np.array(strides, np.int64)).tolist()
        self.demand = packing.demand.tolist()
        self.kinds = [np.flatnonzero(row).tolist() for row in packing.eligible]
        self.tables: dict[int, tuple[list[int], list[Table]]] = {}
        self.limits = self._limits()
        self.spare = np.zeros(math.prod(self.shape), np.int32)

    @staticmethod
    def cells(packing: Packing) -> int:
        """How many entries the tables of one pricing need."""
        extent = math.prod(int(cap) + 1 for cap in packing.caps.max(axis=0, initial=0))
        return extent * (len(packing.counts) + 1) * max(1, len(np.unique(packing.group)))

    def _limits(self) -> list[int]:
        limits = []
        for sizes, count in zip(self.demand, self.packing.counts.tolist(), strict=True):
            room = [(extent - 1) // size for size, extent in zip(sizes, self.shape, strict=True) if size]
            limits.append(min([count, *room]))
        return limits

    @cached_property
    def shifts(self) -> list[list[Shift]]:
        """How each kind is added to a table, worked out when the first table is filled."""
        return [self._shifts(kind) for kind in range(len(self.demand))]

    def _shifts(self, kind: int) -> list[Shift]:
        """(copies, slice of the target, slice of the source, extent) for each power of two: together they make any
        number of copies up to the limit."""
        shifts = []
        left, chunk = self.limits[kind], 1
        while left > 0:
            take = min(chunk, left)
            reach = [size * take for size in self.demand[kind]]
            extent = tuple(whole - part for whole, part in zip(self.shape, reach, strict=True))
            ahead = tuple(slice(part, None) for part in reach)
            shifts.append((take, ahead, tuple(slice(None, part) for part in extent), extent))
            left -= take
            chunk *= 2
        return shifts

    def price(self, values: Ints) -> Ints:
        """See ``Pricer``."""
        self.values = values
        self.narrow = self._most(values) + self.highest < 1 << 30
        self.tables = {}
        result = np.zeros(len(self.packing.caps), np.int64)
        for group in np.unique(self.packing.group).tolist():
            used = [k for k in self.kinds[group] if values[k] > 0 and self.limits[k] > 0]
            tables = self._fill(used)
            self.tables[group] = (used, tables)
            mine = self.packing.group == group
            result[mine] = tables[-1].reshape(-1)[self._place()[mine]]
        return result

    def _place(self) -> Ints:
        return self.places if self.places is not None else np.zeros(len(self.packing.caps), np.int64)

    def _most(self, values: Ints) -> int:
        """More than any pattern can be worth: each kind at its limit, or the best rate in one dimension."""
        limit = sum(int(value) * copies for value, copies in zip(values, self.limits, strict=True))
        for d, extent in enumerate(self.shape):
            if all(row[d] or not value for row, value in zip(self.demand, values.tolist(), strict=True)):
                rates = [-(-int(v) // row[d]) for row, v in zip(self.demand, values.tolist(), strict=True) if row[d]]
                limit = min(limit, max(rates, default=0) * extent)
        return limit

    def _fill(self, used: list[int]) -> list[Table]:
        """The tables after no kind, the first kind, ... Half-width integers where values allow: twice as fast."""
        kind_of_number = np.int32 if self.narrow else np.int64
        base = np.zeros(self.shape, np.int64) if self.base is None else self.base
        table: Table = base.astype(np.int32) if self.narrow else base.astype(np.int64)
        if self.spare.dtype != kind_of_number:
            self.spare = np.zeros(len(self.spare), kind_of_number)
        tables = [table]
        for kind in used:
            table = table.copy()
            value = int(self.values[kind])
            for copies, ahead, behind, extent in self.shifts[kind]:
                shifted = self.spare[: math.prod(extent)].reshape(extent)
                np.add(table[behind], kind_of_number(value * copies), out=shifted)
                np.maximum(table[ahead], shifted, out=table[ahead])
            tables.append(table)
        return tables

    def patterns(self, cls: int) -> list[tuple[int, ...]]:
        """See ``Pricer``: the best pattern, and the best that holds each kind at least once."""
        group, room = int(self.packing.group[cls]), self.packing.caps[cls].tolist()
        found = [tuple(self.walk(group, room))]
        used = self.tables[group][0]
        for kind in used if len(used) <= MANY else used[:0]:
            left = [have - size for have, size in zip(room, self.demand[kind], strict=True)]
            if min(left, default=0) >= 0:
                pattern = self.walk(group, left)
                pattern[kind] += 1
                if pattern[kind] <= self.limits[kind]:
                    found.append(tuple(pattern))
        return found

    def walk(self, group: int, room: list[int]) -> list[int]:
        """The best pattern in a room, read from the tables back from the last kind to the first."""
        used, tables = self.tables[group]
        place = int(np.ravel_multi_index(tuple(room), self.shape)) if self.shape else 0
        pattern = [0] * len(self.packing.counts)
        for level in range(len(used), 0, -1):
            kind = used[level - 1]
            value, step = int(self.values[kind]), self.steps[kind]
            here, before = tables[level].item(place), tables[level - 1]
            copies = 0
            while before.item(place) + value * copies != here:
                copies += 1
                place -= step
                room = [have - size for have, size in zip(room, self.demand[kind], strict=True)]
                assert min(room, default=0) >= 0, "the tables disagree with themselves"
            pattern[kind] = copies
        return pattern
