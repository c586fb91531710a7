"""What is free in the parts of many hosts as arrays, so that the seats of all of them are counted at once.

It answers as `placement.devices.most` does for one host; what that has to search for is left to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from placement.devices import DEVICES, Devices, Part, Want, is_of

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class PartsTable:
    """P parts of at most X cells and M pools each.

    ``cells``: int64[P, X, Rc] free, -1 where a part has no such cell. ``free``: int64[P, M] of each pool. ``resource``:
    int64[P, M] its code in ``resources``. ``cell``: int64[P, M] its cell's position plus one, 0 where that is not
    known. ``partition``: int64[P, M] its partition, numbered from one within the part, 0 where it is in none.
    """

    resources: tuple[str, ...]
    cells: Ints
    free: Ints
    resource: Ints
    cell: Ints
    partition: Ints

    @classmethod
    def of(cls, parts: Sequence[Part]) -> PartsTable:
        """The table of these parts, a row each."""
        resources = tuple(sorted({pool.resource for part in parts for pool in part.pools}))
        most_cells = max((len(part.cells) for part in parts), default=0)
        amounts = max((len(cell) for part in parts for cell in part.cells), default=0)
        most_pools = max((len(part.pools) for part in parts), default=0)
        return cls(resources, *_arrays(parts, resources, (most_cells, amounts), most_pools))

    def extended(self, parts: Sequence[Part]) -> PartsTable | None:
        """With rows for more parts after the others, None where those do not fit its columns."""
        _, most_cells, amounts = self.cells.shape
        for part in parts:
            if len(part.cells) > most_cells or len(part.pools) > self.free.shape[1]:
                return None
            if any(len(cell) != amounts for cell in part.cells):
                return None
            if not {pool.resource for pool in part.pools} <= set(self.resources):
                return None
        more = _arrays(parts, self.resources, (most_cells, amounts), self.free.shape[1])
        mine = (self.cells, self.free, self.resource, self.cell, self.partition)
        return PartsTable(self.resources, *(np.concatenate([old, new]) for old, new in zip(mine, more, strict=True)))

    def most(self, want: Want, limit: int) -> Ints | None:
        """int64[P]: how many such nodes each part takes, at most ``limit``; None where counting does not tell."""
        seats = self._seats(want, limit) if want.cells else None
        if not want.devices:
            return self._by_cells(seats, want.cells, limit)
        if len(want.devices) != 1 or want.cells > 1 or (want.devices[0].resource == DEVICES and want.loose):
            return None
        found: Ints
        of_cell = np.minimum(self._devices(want.devices[0]), limit)
        if want.devices[0].local:
            assert seats is not None, "devices are of a node's cells, and it has some"
            found = np.minimum(limit, np.minimum(seats, of_cell[:, 1:]).sum(axis=1))
        else:
            found = np.minimum(limit, of_cell.sum(axis=1))
            found = found if seats is None else np.minimum(found, seats.sum(axis=1))
        return found

    def _seats(self, want: Want, limit: int) -> Ints:
        """int64[P, X]: how many shares of the node each cell gives, at most ``limit``."""
        found = np.where((self.cells >= 0).all(axis=2), limit, 0)
        for column, size in enumerate(want.share):
            if size:
                found = np.minimum(found, np.maximum(0, self.cells[:, :, column]) // size)
        return found

    def _by_cells(self, seats: Ints | None, cells: int, limit: int) -> Ints:
        """As many that the cells give each node one share in so many of them (Gale 1957)."""
        found = np.full(len(self.free), limit, np.int64)
        while seats is not None:
            fewer = np.minimum(found, np.minimum(seats, found[:, None]).sum(axis=1) // cells)
            if (fewer == found).all():
                break
            found = fewer
        return found

    def _devices(self, one: Devices) -> Ints:
        """int64[P, X + 1]: how many times the devices are there, by cell, first where that is not known; all stand
        first where the cell makes no difference."""
        size, most_cells = len(self.free), self.cells.shape[1]
        known = np.array([is_of(name, one.resource) for name in self.resources], np.bool_)
        mine = np.zeros(self.free.shape, np.bool_) if not len(known) else known[self.resource]
        if one.joint:
            mine &= self.partition > 0
        partitions = 1 + int(self.partition.max(initial=0)) if one.joint else 1
        sums = np.zeros((size, most_cells + 1, partitions), np.int64)
        rows = np.arange(size)
        nowhere = np.zeros(size, np.int64)
        for column in range(self.free.shape[1]):
            cell = self.cell[:, column] if one.local else nowhere
            partition = self.partition[:, column] if one.joint else nowhere
            sums[rows, cell, partition] += np.where(mine[:, column], self.free[:, column], 0)
        found: Ints = (sums // one.count).sum(axis=2)
        return found


def _arrays(
    parts: Sequence[Part], resources: Sequence[str], cells: tuple[int, int], pools: int
) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    code = {name: number for number, name in enumerate(resources)}
    free_of_cells = np.full((len(parts), *cells), -1, np.int64)
    free, resource, cell, partition = (np.zeros((len(parts), pools), np.int64) for _ in range(4))
    for row, part in enumerate(parts):
        if part.cells and cells[1]:
            free_of_cells[row, : len(part.cells)] = part.cells
        names: dict[str, int] = {"": 0}
        for column, pool in enumerate(part.pools):
            free[row, column], resource[row, column] = pool.free, code[pool.resource]
            cell[row, column] = 0 if pool.cell is None else pool.cell + 1
            partition[row, column] = names.setdefault(pool.partition, len(names))
    return free_of_cells, free, resource, cell, partition
