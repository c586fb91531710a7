"""Filling many hosts at once: the largest nodes first, each where it points the way that the free room points.

A host filled by itself uses up what it has most of and leaves the others what nobody wants; side by side, hosts that
have more memory get the nodes that ask for more of it. (Dot-product packing by cosine: Panigrahy, Talwar, Uyeda and
Wieder, "Heuristics for Vector Bin Packing", 2011; here on as many of the best hosts as the bound asks for.)
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from placement.packing.instance import Load, Packing
from placement.problem.index import Bools, Floats, Ints
from placement.stop import Stop

MOST_LOOKS = 4_000_000
"""Nodes times hosts of one filling, about a tenth of a second."""


def side_by_side(packing: Packing, weights: Ints, hosts: int, stop: Stop) -> list[Load] | None:
    """A placement of all on the ``hosts`` of most weighted room, None where this finds none. NUMA cells aside."""
    if int(packing.counts.sum()) * hosts > MOST_LOOKS:
        return None
    classes = _roomiest(packing, weights, hosts)
    largest = np.maximum(1, packing.caps.max(axis=0, initial=1)).astype(np.float64)
    shares = packing.demand / largest
    for measure in (shares.sum(axis=1), shares.max(axis=1)):
        held = _filled(packing, classes, np.lexsort([-measure]), largest, stop)
        if held is not None:
            return _loads(classes, held)
    return None


def _roomiest(packing: Packing, weights: Ints, hosts: int) -> Ints:
    """int64[<= hosts]: the class of each host that is filled."""
    room = packing.caps @ np.minimum(weights, 1 << 20)
    order = np.argsort(-room, kind="stable")
    return np.repeat(order, np.minimum(packing.hosts[order], hosts))[:hosts]


def _filled(packing: Packing, classes: Ints, order: Ints, largest: Floats, stop: Stop) -> Ints | None:
    """int64[hosts, K]: what each host holds once all are placed."""
    room = packing.caps[classes].copy()
    may: Bools = packing.eligible[packing.group[classes]]
    held = np.zeros((len(classes), len(packing.counts)), np.int64)
    for kind in order.tolist():
        size = packing.demand[kind]
        asked = size / largest
        for _ in range(int(packing.counts[kind])):
            rows = np.flatnonzero((room >= size).all(axis=1) & may[:, kind])
            if not len(rows) or stop():
                return None
            share = room[rows] / largest
            alike = (share @ asked) / np.sqrt(np.maximum(1e-18, (share * share).sum(axis=1)))
            chosen = rows[np.argmax(alike)]
            room[chosen] -= size
            held[chosen, kind] += 1
    return held


def _loads(classes: Ints, held: Ints) -> list[Load]:
    alike = Counter(
        (int(cls), tuple(row)) for cls, row in zip(classes.tolist(), held.tolist(), strict=True) if any(row)
    )
    return [Load(cls, pattern, times) for (cls, pattern), times in alike.items()]
