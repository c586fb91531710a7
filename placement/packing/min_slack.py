"""Filling hosts one at a time without waste: large nodes first, then the best-fitting rest by an exact small table.

(The minimum-bin-slack idea of Gupta and Ho 1999, with the subset found by dynamic programming over what is left of the
host.)
"""

from __future__ import annotations

import math

import numpy as np

from placement.packing.fill import class_order
from placement.packing.instance import NO_ROWS, Load, Packing
from placement.packing.knapsack import DenseTable
from placement.problem.index import Bools, Ints
from placement.stop import Stop

ROOM = 1 << 16
CHOICE = 36


def balanced(packing: Packing) -> Ints:
    """int64[D]: weights by which the whole gang weighs the same in every dimension."""
    need = [sum(int(n) * int(a) for n, a in zip(packing.counts, column, strict=True)) for column in packing.demand.T]
    return np.array([max(1, (1 << 30) // amount) if amount else 0 for amount in need], np.int64)


def min_slack_fill(
    packing: Packing,
    weights: Ints,
    most: int,
    coarse: float,
    stop: Stop,
) -> tuple[list[Load], bool]:
    """(loads on at most ``most`` hosts, whether they hold everything).

    ``coarse``: which share of a host's weighted room is filled by the largest first before the table fills the rest.
    """
    size = packing.demand @ weights
    order = np.lexsort([-packing.demand.sum(axis=1), -size])
    left = packing.counts.copy()
    loads: list[Load] = []
    used = 0
    for cls in class_order(packing, weights):
        may = packing.eligible[packing.group[cls]]
        spare = int(packing.hosts[cls])
        while spare and left.any():
            if used >= most or stop():
                return loads, False
            pattern = _fill_one(packing, cls, left, order, may, size, weights, coarse)
            if not pattern.any():
                break
            times = min(spare, most - used, *(left[pattern > 0] // pattern[pattern > 0]).tolist())
            left = left - pattern * times
            loads.append(Load(cls, tuple(pattern.tolist()), times))
            used += times
            spare -= times
        if not left.any():
            break
    return loads, not left.any()


def _fill_one(
    packing: Packing,
    cls: int,
    left: Ints,
    order: Ints,
    may: Bools,
    size: Ints,
    weights: Ints,
    coarse: float,
) -> Ints:
    room = packing.caps[cls].copy()
    pattern = np.zeros(len(left), np.int64)
    enough = int(room @ weights) * (1 - coarse)
    for kind in order.tolist():
        if not left[kind] or not may[kind]:
            continue
        if int(room @ weights) < enough:
            break
        asked = packing.demand[kind]
        if (asked <= room).all():
            copies = _copies(asked, room, int(left[kind]))
            copies = min(copies, max(1, math.ceil(copies * coarse)))
            pattern[kind] += copies
            room = room - asked * copies
    return pattern + _best_rest(packing, room, left - pattern, order, may, size)


def _copies(asked: Ints, room: Ints, left: int) -> int:
    return min([left, *(int(have) // int(want) for have, want in zip(room, asked, strict=True) if want)])


def _best_rest(packing: Packing, room: Ints, left: Ints, order: Ints, may: Bools, size: Ints) -> Ints:
    """The pattern that uses most of the room by weight, of fewer and larger nodes where equal."""
    fits = order[((packing.demand[order] <= room).all(axis=1)) & (left[order] > 0) & may[order]]
    rest = np.zeros(len(left), np.int64)
    if not len(fits):
        return rest
    if len(fits) > CHOICE:
        fits = fits[np.unique(np.linspace(0, len(fits) - 1, CHOICE).astype(np.int64))]
    if len(fits) == 1 or math.prod((room + 1).tolist()) > ROOM:
        for kind in fits.tolist():
            rest[kind] = _copies(packing.demand[kind], room, int(left[kind]))
            room = room - packing.demand[kind] * rest[kind]
        return rest
    small = Packing(
        left[fits],
        packing.demand[fits],
        room[None, :],
        np.ones(1, np.int64),
        np.zeros(1, np.int64),
        np.ones((1, len(fits)), np.bool_),
        NO_ROWS,
        packing.unit,
    )
    table = DenseTable(small)
    table.price(np.maximum(1, size[fits] * 64 // max(1, int(size.min(initial=1))) - 1))
    rest[fits] = table.walk(0, room.tolist())
    return rest
