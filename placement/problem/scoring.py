"""What free room is worth.

The value of a host's free room is the value of the best multiset of flavours that fits in it (an unbounded
multi-dimensional knapsack, Gilmore and Gomory 1966), so that room which no flavour can use is worth nothing and is
filled first. A flavour is worth the sum over resources of its share of an average host's capacity, in thousandths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from placement.model import Flavour
from placement.problem.gang import Gang
from placement.problem.index import FleetIndex, Ints

VALUE_GRID = 1 << 18
"""Entries of a table. On hosts that all differ, with 400 sizes, 2**16 leave the bound 3.1 to 4.4 % below the answer by
rounding alone, 2**18 1.4 to 2.0 %."""
VALUE_RESOURCES = 4


@dataclass(frozen=True, slots=True, eq=False)
class RoomValue:
    """``table[c // unit]`` is what free room c (int64[F], over ``names``) is worth."""

    names: tuple[str, ...]
    unit: Ints
    table: Ints
    flavours: Ints
    worth: Ints

    def of(self, room: Ints) -> Ints:
        """int64[...] for room int64[..., F]; room below zero counts as zero."""
        if not self.names:
            return np.zeros(room.shape[:-1], np.int64)
        # A resource at a time: numpy is slow on rows of few columns.
        cells = np.zeros(room.shape[:-1], np.int64)
        for column, (step, extent) in enumerate(zip(self.unit.tolist(), self.table.shape, strict=True)):
            cells = cells * extent + np.minimum(np.maximum(room[..., column], 0) // step, extent - 1)
        values: Ints = self.table.reshape(-1)[cells]
        return values

    def least_lost(self, sizes: Ints, counts: Ints) -> int:
        """What nodes of these sizes (int64[K, F]) cost at least, wherever they land: each the value of its own size.

        A room c is worth at least v(c - x) + v(x), since what fits in two rooms fits in both together; so all that
        lands on a host, x, costs no less than v(x), and that no less than the nodes' own values together.
        """
        return sum(int(n) * int(v) for n, v in zip(counts, self.of(sizes), strict=True))


def room_value(gang: Gang) -> RoomValue:
    """The value table for a gang's fleet; kept with the fleet's index for the next request with the same flavours."""
    sizes = gang.flavours or tuple(Flavour(kind.sample.demand) for kind in gang.kinds)
    key = ("value", tuple(sorted({tuple(sorted(flavour.demand.items())) for flavour in sizes})))
    return gang.index.cached(key, lambda: _build(gang.index, sizes))


def _build(index: FleetIndex, flavours: tuple[Flavour, ...]) -> RoomValue:
    most = {name: int(index.capacity[:, column].max(initial=0)) for name, column in index.resources.items()}
    fitting = [f for f in flavours if all(amount <= most.get(name, 0) for name, amount in f.demand.items())]
    asked: dict[str, int] = {}
    for flavour in fitting:
        for name, amount in flavour.demand.items():
            asked[name] = asked.get(name, 0) + (amount > 0)
    names = tuple(sorted(sorted(n for n in asked if asked[n]), key=lambda name: -asked[name])[:VALUE_RESOURCES])
    sizes = np.array([[f.demand.get(name, 0) for name in names] for f in fitting], np.int64)
    sizes = sizes.reshape(len(fitting), len(names))
    sizes = np.unique(sizes[(sizes > 0).any(axis=1)], axis=0) if len(names) else sizes[:0]
    if not len(sizes):
        return RoomValue((), np.zeros(0, np.int64), np.zeros(1, np.int64), sizes, np.zeros(0, np.int64))
    worth = _worth(index, names, sizes)
    unit = [math.gcd(*sizes[:, column].tolist()) for column in range(len(names))]
    while math.prod(most[name] // step + 1 for name, step in zip(names, unit, strict=True)) > VALUE_GRID:
        widest = max(range(len(names)), key=lambda column: most[names[column]] // unit[column])
        unit[widest] *= 2
    steps = np.array(unit, np.int64)
    cells = -(-sizes // steps)
    extent = tuple(most[name] // step + 1 for name, step in zip(names, unit, strict=True))
    return RoomValue(names, steps, _table(extent, cells, worth), sizes, worth)


def _table(extent: tuple[int, ...], cells: Ints, worth: Ints) -> Ints:
    """The value of every room of the grid. Small flavours come first, and one that is worth no more than what smaller
    ones make of its room is left out. Half-width integers where all values fit: three times as fast."""
    best: dict[tuple[int, ...], int] = {}
    for cell, value in zip(map(tuple, cells.tolist()), worth.tolist(), strict=True):
        best[cell] = max(best.get(cell, 0), value)
    rate = max(value / sum(cell) for cell, value in best.items())
    narrow = rate * sum(extent) < 1 << 30
    table: npt.NDArray[np.int32] | Ints = np.zeros(extent, np.int32) if narrow else np.zeros(extent, np.int64)
    spare = np.empty_like(table).reshape(-1)

    def size(cell: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
        return sum(part / whole for part, whole in zip(cell, extent, strict=True)), cell

    for cell in sorted(best, key=size):
        inside = all(part < whole for part, whole in zip(cell, extent, strict=True))
        if inside and int(table[cell]) < best[cell]:
            _fill(table, cell, best[cell], spare)
    return table.astype(np.int64)


def _worth(index: FleetIndex, names: tuple[str, ...], sizes: Ints) -> Ints:
    worth = []
    totals = [int(index.capacity[:, index.resources[name]].sum()) for name in names]
    having = [int((index.capacity[:, index.resources[name]] > 0).sum()) for name in names]
    for row in sizes.tolist():
        shares = (amount * 1000 * hosts // total for amount, hosts, total in zip(row, having, totals, strict=True))
        worth.append(max(1, sum(shares)))
    return np.array(worth, np.int64)


def _fill(
    table: npt.NDArray[np.int32] | Ints, size: tuple[int, ...], value: int, spare: npt.NDArray[np.int32] | Ints
) -> None:
    """Lets the table use a flavour any number of times: 1, 2, 4, ... copies compose to any count."""
    copies = 1
    while all(step * copies < extent for step, extent in zip(size, table.shape, strict=True)):
        ahead = tuple(slice(step * copies, None) for step in size)
        behind = tuple(slice(None, extent - step * copies) for step, extent in zip(size, table.shape, strict=True))
        shifted = spare[: table[behind].size].reshape(table[behind].shape)
        np.add(table[behind], table.dtype.type(value * copies), out=shifted)
        np.maximum(table[ahead], shifted, out=table[ahead])
        copies *= 2


def sizes_for(gang: Gang, names: tuple[str, ...]) -> Ints:
    """int64[K, F]: what one node of each kind asks of the given resources."""
    sizes = np.array([[kind.sample.demand.get(name, 0) for name in names] for kind in gang.kinds], np.int64)
    return sizes.reshape(len(gang.kinds), len(names))


def free_for(index: FleetIndex, names: tuple[str, ...]) -> Ints:
    """int64[H, F]: free room in the given resources."""
    return index.free[:, [index.resources[name] for name in names]]


def lost_value(gang: Gang, room: RoomValue, landed: dict[int, Ints]) -> int:
    """The least_lost_value objective: ``landed`` maps a host's row to int64[K] nodes of each kind."""
    demand = sizes_for(gang, room.names)
    rows = sorted(landed)
    before = free_for(gang.index, room.names)[rows]
    after = before - np.array([landed[row] @ demand for row in rows], np.int64).reshape(before.shape)
    return int((room.of(before) - room.of(after)).sum())
