"""Filling one host at a time, the most useful hosts first: fast, and often already optimal for the fewest hosts.

Each try is a first-fit-decreasing over counts: a pattern is built for one host and used on as many alike hosts as the
remaining counts allow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from placement.packing.instance import Load, Packing
from placement.problem.index import Ints
from placement.stop import Stop


def class_order(packing: Packing, weights: Ints) -> list[int]:
    """Classes by weighted capacity, largest first; equal ones by all capacities."""
    scaled = packing.caps @ np.minimum(weights, 1 << 20)
    keys = [packing.caps[:, d] for d in range(packing.caps.shape[1])]
    order: list[int] = np.lexsort([*(-key for key in keys), -scaled]).tolist()
    return order


def kind_orders(packing: Packing, weights: Ints) -> Iterator[list[int]]:
    """Orders of kinds, most demanding first, by several measures of size."""
    largest = np.maximum(1, packing.caps.max(axis=0, initial=1)).astype(np.float64)
    shares = packing.demand / largest
    mix = weights * largest
    mix = mix / max(1e-12, float(mix.sum()))
    total = packing.counts @ shares
    pressure = total / max(1e-12, float(total.sum()))
    seen = set()
    for size in (
        shares @ mix + 1e-6 * shares.sum(axis=1),
        shares.max(axis=1),
        shares @ pressure,
        shares.sum(axis=1),
        (shares**2) @ pressure,
        -(shares @ mix) + shares.sum(axis=1),
    ):
        order = tuple(np.lexsort([-size]).tolist())
        if order not in seen:
            seen.add(order)
            yield list(order)


def fill(
    packing: Packing,
    order: Sequence[int],
    classes: Sequence[int],
    stop: Stop,
    most: int | None = None,
) -> tuple[list[Load], list[int]]:
    """Loads in the given order of classes, and what is left of each kind.

    ``most``: gives up once so many hosts are used, for an answer no better than one at hand.
    """
    left = packing.counts.tolist()
    demand = packing.demand.tolist()
    # Of ten thousand classes mostly a hundred are looked at, so each is taken out of the arrays when it comes.
    rows: dict[int, list[bool]] = {}
    waiting = [kind for kind in order if left[kind]]
    pinned = packing.cells is not None
    loads: list[Load] = []
    used = 0
    for cls in classes:
        if stop():
            return loads, left
        free_hosts, group = int(packing.hosts[cls]), int(packing.group[cls])
        if group not in rows:
            rows[group] = packing.eligible[group].tolist()
        may, cap = rows[group], packing.caps[cls].tolist()
        while free_hosts and waiting:
            if stop() or (most is not None and used >= most):
                return loads, left
            mine = [kind for kind in waiting if may[kind]]
            if pinned:
                pattern = first_fit_cells(packing, cls, cap, demand, left, mine)
            else:
                pattern = _first_fit(cap, demand, left, mine)
            if not pattern:
                break
            times = min(free_hosts, *(left[kind] // copies for kind, copies in pattern))
            if most is not None:
                times = min(times, most - used)
            row = [0] * len(left)
            for kind, copies in pattern:
                row[kind] = copies
                left[kind] -= copies * times
            loads.append(Load(cls, tuple(row), times))
            used += times
            free_hosts -= times
            waiting = [kind for kind in waiting if left[kind]]
        if not waiting:
            break
    return loads, left


def _first_fit(cap: list[int], demand: list[list[int]], left: list[int], order: list[int]) -> list[tuple[int, int]]:
    """(kind, copies) that fill one host, in the given order."""
    room = list(cap)
    pattern = []
    for kind in order:
        copies = left[kind]
        for have, size in zip(room, demand[kind], strict=True):
            if size and have < size * copies:
                copies = have // size
        if copies:
            pattern.append((kind, copies))
            room = [have - size * copies for have, size in zip(room, demand[kind], strict=True)]
    return pattern


def first_fit_cells(
    packing: Packing, cls: int, cap: list[int], demand: list[list[int]], left: Sequence[int], order: Sequence[int]
) -> list[tuple[int, int]]:
    """(kind, copies) that fill one host and its two NUMA cells, in the given order."""
    assert packing.cells is not None
    whole = list(cap)
    rooms: list[list[int]] = packing.cells.caps[cls].tolist()
    shares, wanted = packing.cells.share.tolist(), packing.cells.wanted.tolist()
    pattern = []
    for kind in order:
        share, size = shares[kind], demand[kind]
        copies = min([left[kind], *(have // amount for have, amount in zip(whole, size, strict=True) if amount)])
        if wanted[kind] == 2:
            copies = min([copies, *(room[d] // part for room in rooms for d, part in enumerate(share) if part)])
            taken = [copies, copies]
        else:
            taken = []
            for room in rooms:
                fit = min([copies - sum(taken), *(room[d] // part for d, part in enumerate(share) if part)])
                taken.append(fit)
            copies = sum(taken)
        if copies:
            pattern.append((kind, copies))
            whole = [have - amount * copies for have, amount in zip(whole, size, strict=True)]
            for room, times in zip(rooms, taken, strict=True):
                for d, part in enumerate(share):
                    room[d] -= part * times
    return pattern


def used_hosts(loads: Sequence[Load]) -> int:
    """How many hosts the loads use."""
    return sum(load.times for load in loads)


def quick_fill(packing: Packing, weights: Ints, stop: Stop) -> list[Load] | None:
    """One filling in a fixed order, or None where it leaves something out."""
    loads, left = fill(packing, next(kind_orders(packing, weights)), class_order(packing, weights), stop)
    return None if any(left) else loads


def best_fill(
    packing: Packing, weights: Ints, lower: int, stop: Stop, tried: list[Load] | None = None
) -> tuple[list[Load] | None, list[Load], list[int]]:
    """(the best complete filling or None, the filling with the fewest left over, what that leaves).

    ``tried`` gets the loads of all fillings, good or not.
    """
    best: list[Load] | None = None
    fullest: tuple[int, list[Load], list[int]] | None = None
    classes = class_order(packing, weights)
    for order in kind_orders(packing, weights):
        if fullest is not None and stop():
            break
        limit = used_hosts(best) - 1 if best is not None else None
        loads, left = fill(packing, order, classes, stop, limit)
        if tried is not None:
            tried.extend(loads)
        missing = sum(left)
        if fullest is None or missing < fullest[0]:
            fullest = (missing, loads, left)
        if not missing:
            best = loads
            if used_hosts(loads) <= lower:
                break
    assert fullest is not None
    return best, fullest[1], fullest[2]
