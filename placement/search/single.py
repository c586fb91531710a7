"""One node without rules: every host is looked at, so that the best one is proven; the host is the one that the whole
search would have chosen.

A stream of single nodes on a large fleet takes this way alone, in well under a millisecond each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from placement.problem.gang import Gang, fitting_hosts
from placement.problem.index import Bools, Ints
from placement.problem.scoring import RoomValue, room_value, sizes_for
from placement.search.incumbent import Incumbent
from placement.strategy import Strategy


def is_single(gang: Gang) -> bool:
    """Whether the gang is one node that no rule, cell or device concerns."""
    node = gang.kinds[0].sample
    return bool(
        gang.size == 1
        and gang.request.strategy in _CHOICES
        and gang.names
        and not (gang.request.constraints or node.cells or node.devices)
    )


def single(gang: Gang, order: Ints | None) -> Incumbent | None:
    """The node on its best host; None where it fits on none. ``order``: as ``Reduction.spread_out`` takes it."""
    rows = np.flatnonzero(fitting_hosts(gang, 0))
    if not len(rows):
        return None
    alike, objective = _CHOICES[gang.request.strategy](gang, rows)
    mine = rows[alike]
    host = int(mine[0])
    if order is not None and gang.request.strategy is not Strategy.SPREAD:
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        host = int(mine[np.argmin(rank[mine])])
    return Incumbent([(0, host, ())], objective, objective, "greedy")


def _fewest(gang: Gang, rows: Ints) -> tuple[Bools | slice, int]:
    """Any host is one host."""
    return slice(None), 1


def _spread(gang: Gang, rows: Ints) -> tuple[Bools | slice, int]:
    """The host with the most room left, each resource as a share of the largest host's."""
    left = np.zeros(len(rows), np.int64)
    for column, size in enumerate(gang.demand[0].tolist()):
        largest = max(1, int(gang.capacity[:, column].max(initial=1)))
        left += (gang.free[rows, column] - size) * 1000 // largest
    return left == left.max(), 1


def _least_lost(gang: Gang, rows: Ints) -> tuple[Bools | slice, int]:
    """The hosts whose room loses least by the node; of those the tightest; of those the ones with the least room in the
    first resource, and so on."""
    value, index = room_value(gang), gang.index
    if not value.names:
        return slice(None), 0
    sizes = sizes_for(gang, value.names)[0].tolist()
    room = [index.free[rows, index.resources[name]] for name in value.names]
    lost = _lost(value, room, sizes)
    best = np.flatnonzero(lost == lost.min())
    caps, tight = [], np.zeros(len(best), np.int64)
    for column, size, step in zip(room, sizes, value.unit.tolist(), strict=True):
        unit = math.gcd(size, step)
        caps.append(column[best] // unit)
        tight += (caps[-1] - size // unit) * 1000 // max(1, int(column.max()) // unit)
    alike = tight == tight.min()
    for column in caps:
        alike &= column == column[alike].min()
    chosen = np.zeros(len(rows), np.bool_)
    chosen[best[alike]] = True
    return chosen, int(lost[best[0]])


def _lost(value: RoomValue, room: list[Ints], sizes: list[int]) -> Ints:
    """What rooms (int64 of each host, a resource at a time, where the node fits) lose of their value by the node."""
    cells, left, less = np.zeros(len(room[0]), np.int64), np.zeros(len(room[0]), np.int64), 0
    whole = all(size % step == 0 for size, step in zip(sizes, value.unit.tolist(), strict=True))
    for column, size, step, extent in zip(room, sizes, value.unit.tolist(), value.table.shape, strict=True):
        cells = cells * extent + column // step
        if whole:  # then what is left lies the same number of cells before in every room
            less = less * extent + size // step
        else:
            left = left * extent + (column - size) // step
    table = value.table.reshape(-1)
    lost: Ints = table[cells] - table[cells - less if whole else left]
    return lost


_CHOICES: Mapping[Strategy, Callable[[Gang, Ints], tuple[Bools | slice, int]]] = {
    Strategy.LEAST_LOST_VALUE: _least_lost,
    Strategy.FEWEST_HOSTS: _fewest,
    Strategy.SPREAD: _spread,
}
