"""All ways in which three nodes at most leave nothing of a host."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from placement.exact.master import Column
from placement.packing.instance import Packing
from placement.problem.index import Ints
from placement.stop import Stop

MOST_KINDS = 500
MOST_COLUMNS = 20_000


def exact_columns(packing: Packing, stop: Stop) -> list[Column] | None:
    """A column for each way to fill a host of each class; None where they are too many or the stop is heard."""
    if len(packing.counts) > MOST_KINDS:
        return None
    keys = _Keys.of(packing)
    if keys is None:
        return None
    columns = []
    for cls in range(len(packing.caps)):
        if stop():
            return None
        for kinds in keys.fillings(cls):
            pattern = [0] * len(packing.counts)
            for kind in kinds:
                pattern[kind] += 1
            if all(pattern[kind] <= packing.counts[kind] for kind in kinds):
                columns.append(Column(cls, tuple(pattern), 1))
        if len(columns) > MOST_COLUMNS:
            return None
    return columns


class _Keys:
    """Sizes and rooms as one number each, so that sums of three sizes are equal where their numbers are."""

    def __init__(self, packing: Packing, weights: Ints) -> None:
        self.packing = packing
        self.sizes, self.rooms = packing.demand @ weights, packing.caps @ weights

    @staticmethod
    def of(packing: Packing) -> _Keys | None:
        """None where the numbers would pass 62 bits."""
        largest = np.maximum(packing.caps.max(axis=0), packing.demand.max(axis=0)).tolist()
        radix = [3 * extent + 1 for extent in largest]
        if math.prod(radix) >= 1 << 62:
            return None
        return _Keys(packing, np.array([math.prod(radix[d + 1 :]) for d in range(len(radix))], np.int64))

    def fillings(self, cls: int) -> Iterator[tuple[int, ...]]:
        """The kinds, in order, of one, two or three nodes that fill a host of the class."""
        packing, room = self.packing, int(self.rooms[cls])
        may = packing.eligible[packing.group[cls]] & (packing.counts > 0)
        kinds = np.flatnonzero(may & (packing.demand <= packing.caps[cls]).all(axis=1) & (self.sizes > 0))
        sizes = self.sizes[kinds]
        for kind in kinds[sizes == room].tolist():
            yield (kind,)
        first, second = np.triu_indices(len(kinds))
        pairs = sizes[first] + sizes[second]
        for at in np.flatnonzero(pairs == room).tolist():
            yield int(kinds[first[at]]), int(kinds[second[at]])
        order = np.argsort(sizes, kind="stable")
        ranked = sizes[order]
        begin, end = (np.searchsorted(ranked, room - pairs, side=side) for side in ("left", "right"))
        for at in np.flatnonzero(begin < end).tolist():
            for third in sorted(order[begin[at] : end[at]].tolist()):
                if third >= second[at]:
                    yield int(kinds[first[at]]), int(kinds[second[at]]), int(kinds[third])
