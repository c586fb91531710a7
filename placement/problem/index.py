"""The fleet as arrays, built once and then updated row by row, so that a decision costs milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.ma
import numpy.typing as npt

from placement.devices import DEVICES, Part, Pool
from placement.model import Host, Snapshot
from placement.problem.parts_table import PartsTable
from placement.resources import MAX_AMOUNT, MAX_RESOURCES, InvalidPlacementInput

Ints = npt.NDArray[np.int64]
T = TypeVar("T")
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class FleetIndex:
    """Arrays over H hosts, sorted by id so that the snapshot's own order does not matter.

    ``capacity``, ``free``: int64[H, R] in the hosts' units, R = ``resources``. ``zone``, ``rack``: int64[H] codes
    into ``zones`` and ``racks``. ``empty``: nothing uses it and nobody lives there. ``schedulable``: in service.
    ``shared``: nobody lives there who wants the host for its own gang alone. ``inhabited``: members live there.
    What is an array of ``updated`` may be another index's as well: nothing writes into one.
    """

    hosts: tuple[Host, ...]
    position: dict[str, int]
    resources: dict[str, int]
    capacity: Ints
    free: Ints
    zones: dict[str, int]
    zone: Ints
    racks: dict[str, int]
    rack: Ints
    schedulable: Bools
    shared: Bools
    empty: Bools
    inhabited: Bools
    cache: dict[object, object]

    @classmethod
    def build(cls, hosts: tuple[Host, ...]) -> FleetIndex:
        """The index of a fleet; O(H x R) in Python, once."""
        hosts = tuple(sorted(hosts, key=lambda host: host.id))
        resources = _codes(name for host in hosts for name in host.capacity)
        if len(resources) > MAX_RESOURCES:
            raise InvalidPlacementInput("snapshot.hosts", f"the fleet names more than {MAX_RESOURCES} resources")
        zones = _codes(host.zone for host in hosts)
        racks = _codes(host.rack_key for host in hosts)
        capacity = _matrix(hosts, resources, lambda host, name: host.capacity.get(name, 0))
        used = _matrix(hosts, resources, lambda host, name: host.used.get(name, 0))
        _check_totals(hosts, resources)
        return cls(
            hosts=hosts,
            position={host.id: number for number, host in enumerate(hosts)},
            resources=resources,
            capacity=capacity,
            free=np.maximum(capacity - used, 0),
            zones=zones,
            zone=np.fromiter((zones[host.zone] for host in hosts), np.int64, len(hosts)),
            racks=racks,
            rack=np.fromiter((racks[host.rack_key] for host in hosts), np.int64, len(hosts)),
            schedulable=np.fromiter((host.schedulable for host in hosts), np.bool_, len(hosts)),
            shared=np.fromiter(map(_is_shared, hosts), np.bool_, len(hosts)),
            empty=np.fromiter((host.empty for host in hosts), np.bool_, len(hosts)),
            inhabited=np.fromiter((bool(host.members) for host in hosts), np.bool_, len(hosts)),
            cache={},
        )

    def updated(self, changed: Sequence[Host]) -> FleetIndex:
        """The index with some of its hosts replaced; costs the changed rows and a copy of the arrays.

        The same arrays and codes as `build` would make of the hosts, so that a decision is the same on both.
        """
        hosts = list(self.hosts)
        for host in changed:
            hosts[self.position[host.id]] = host
        pairs = [(self.hosts[self.position[host.id]], host) for host in changed]
        if not all(_alike(old, new) for old, new in pairs):
            return FleetIndex.build(tuple(hosts))
        # What is cached goes by labels, capacities, cells and pools, never by other use.
        wholes = all(old.labels == new.labels and old.capacity == new.capacity for old, new in pairs)
        kept = wholes and all(old.cells == new.cells and old.pools == new.pools for old, new in pairs)
        after = replace(
            self,
            hosts=tuple(hosts),
            capacity=self.capacity if wholes else self.capacity.copy(),
            free=self.free.copy(),
            schedulable=self.schedulable.copy(),
            shared=self.shared.copy(),
            empty=self.empty.copy(),
            inhabited=self.inhabited.copy(),
            cache=dict(self.cache) if kept else self._parts_after(changed) if wholes else {},
        )
        for host in changed:
            row = self.position[host.id]
            for name, column in self.resources.items():
                if not wholes:
                    after.capacity[row, column] = host.capacity.get(name, 0)
                after.free[row, column] = host.free(name)
            after.schedulable[row], after.shared[row] = host.schedulable, _is_shared(host)
            after.empty[row], after.inhabited[row] = host.empty, bool(host.members)
        if not wholes:
            _check_totals(after.hosts, self.resources)
        return after

    def _parts_after(self, changed: Sequence[Host]) -> dict[object, object]:
        """What is cached of cells and pools with that of the changed hosts made anew; nothing where that is not all."""
        if "cells" not in self.cache or "parts" not in self.cache:
            return {}
        names, free = self.cells()
        there, which = self.parts()
        if any(len(host.cells) > free.shape[1] or not _named(host) <= set(names) for host in changed):
            return {}
        if len(there) > 2 * len(self.hosts):
            return {}
        free, which = free.copy(), which.copy()
        found = {part: number for number, part in enumerate(there)}
        for host in changed:
            row = self.position[host.id]
            _fill_cells(free[row], host, names)
            which[row] = found.setdefault(part_of_host(host, names), len(found))
        kept: dict[object, object] = {"cells": (names, free), "parts": (tuple(found), which)}
        if "table" in self.cache and (table := self.table().extended(list(found)[len(there) :])) is not None:
            kept["table"] = table
        return kept

    @staticmethod
    def appended(index: FleetIndex, new: tuple[Host, ...]) -> FleetIndex:
        """The index with hosts added after the others; rebuilt where they bring new resources or zones."""
        names = set(index.resources)
        if not all(set(host.capacity) <= names and host.zone in index.zones for host in new):
            return FleetIndex.build((*index.hosts, *new))
        racks = dict(index.racks)
        for host in new:
            racks.setdefault(host.rack_key, len(racks))
        capacity = _matrix(new, index.resources, lambda host, name: host.capacity.get(name, 0))
        used = _matrix(new, index.resources, lambda host, name: host.used.get(name, 0))
        size, count = len(index.hosts), len(new)
        return replace(
            index,
            hosts=(*index.hosts, *new),
            position={**index.position, **{host.id: size + number for number, host in enumerate(new)}},
            capacity=np.concatenate([index.capacity, capacity]),
            free=np.concatenate([index.free, np.maximum(capacity - used, 0)]),
            zone=np.concatenate([index.zone, np.array([index.zones[host.zone] for host in new], np.int64)]),
            racks=racks,
            rack=np.concatenate([index.rack, np.array([racks[host.rack_key] for host in new], np.int64)]),
            schedulable=np.concatenate(
                [index.schedulable, np.fromiter((host.schedulable for host in new), np.bool_, count)]
            ),
            shared=np.concatenate([index.shared, np.fromiter(map(_is_shared, new), np.bool_, count)]),
            empty=np.concatenate([index.empty, np.fromiter((host.empty for host in new), np.bool_, count)]),
            inhabited=np.concatenate(
                [index.inhabited, np.fromiter((bool(host.members) for host in new), np.bool_, count)]
            ),
            cache={},
        )

    def label_mask(self, key: str, allowed: tuple[str, ...]) -> Bools:
        """bool[H]: hosts whose label ``key`` has one of the allowed values."""
        return self.cached(
            ("label", key, allowed),
            lambda: np.fromiter((host.labels.get(key) in allowed for host in self.hosts), np.bool_, len(self.hosts)),
        )

    def cells(self) -> tuple[tuple[str, ...], Ints]:
        """NUMA: the resources that cells name, and int64[H, X, Rc] free a cell, -1 where a host has no such cell."""

        def build() -> tuple[tuple[str, ...], Ints]:
            names = tuple(sorted({name for host in self.hosts for cell in host.cells for name in cell.capacity}))
            most = max((len(host.cells) for host in self.hosts), default=0)
            free = np.full((len(self.hosts), most, len(names)), -1, np.int64)
            for row, host in enumerate(self.hosts):
                _fill_cells(free[row], host, names)
            return names, free

        return self.cached("cells", build)

    def cells_there(self) -> Ints:
        """int64[H]: how many NUMA cells each host has."""

        def build() -> Ints:
            found: Ints = (self.cells()[1] >= 0).any(axis=2).sum(axis=1)
            return found

        return self.cached("cells there", build)

    def parts(self) -> tuple[tuple[Part, ...], Ints]:
        """What is free in the parts of hosts: each that there is once, and int64[H] which of them a host has."""

        def build() -> tuple[tuple[Part, ...], Ints]:
            names, _ = self.cells()
            found: dict[Part, int] = {}
            which = np.empty(len(self.hosts), np.int64)
            for row, host in enumerate(self.hosts):
                which[row] = found.setdefault(part_of_host(host, names), len(found))
            return tuple(found), which

        return self.cached("parts", build)

    def table(self) -> PartsTable:
        """The parts that there are as arrays, a row each, in their order."""
        return self.cached("table", lambda: PartsTable.of(self.parts()[0]))

    def cached(self, key: object, build: Callable[[], T]) -> T:
        """A value derived from this index, computed at most once; at most 64 are kept."""
        if key not in self.cache:
            if len(self.cache) >= 64:
                del self.cache[next(iter(self.cache))]
            self.cache[key] = build()
        return self.cache[key]  # type: ignore[return-value]


def _named(host: Host) -> set[str]:
    return {name for cell in host.cells for name in cell.capacity}


def _fill_cells(row: Ints, host: Host, names: Sequence[str]) -> None:
    """Writes what is free in a host's cells into its int64[X, Rc]."""
    row[:] = -1
    for number, cell in enumerate(host.cells):
        row[number] = [max(0, cell.capacity.get(n, 0) - cell.used.get(n, 0)) for n in names]


def part_of_host(host: Host, names: Sequence[str]) -> Part:
    """What is free in the host's parts. ``names``: the resources of cells. Devices that its pools do not tell stand
    anywhere on it."""
    if not host.pools and not host.cells:
        return _NO_PARTS
    cells = tuple(
        tuple(max(0, cell.capacity.get(name, 0) - cell.used.get(name, 0)) for name in names) for cell in host.cells
    )
    pools = tuple(Pool(pool.resource, pool.free, 0, pool.cell, pool.partition) for pool in host.pools)
    told = {pool.resource: 0 for pool in pools}
    for pool in pools:
        told[pool.resource] += pool.capacity
    others = {name: host.free(name) - told.get(name, 0) for name in host.capacity if name.startswith(f"{DEVICES}.")}
    return Part(cells, (*pools, *(Pool(name, free) for name, free in sorted(others.items()) if free > 0)))


_NO_PARTS = Part((), ())


def index_of(snapshot: Snapshot) -> FleetIndex:
    """The fleet's arrays, built once and kept with the snapshot; ``Snapshot.updated`` leaves the changed rows to build.

    Raises ``InvalidPlacementInput`` when the fleet's total of a resource passes 2**62.
    """
    kept = snapshot.derived
    if not isinstance(kept.value, FleetIndex):
        if isinstance(kept.base, FleetIndex):
            index = kept.base.updated(tuple(kept.changed.values()))
        else:
            index = FleetIndex.build(snapshot.hosts)
        kept.value, kept.base, kept.changed = index, None, {}
        return index
    return kept.value


def _alike(old: Host, new: Host) -> bool:
    """Whether codes and columns stay as a new index would have them; zones and racks seldom change."""
    return old.zone == new.zone and old.rack_key == new.rack_key and old.capacity.keys() == new.capacity.keys()


def _codes(names: Iterable[str]) -> dict[str, int]:
    codes: dict[str, int] = {}
    for name in names:
        if name not in codes:
            codes[name] = len(codes)
    return codes


def _is_shared(host: Host) -> bool:
    return not any(member.exclusive for member in host.members)


def _matrix(hosts: tuple[Host, ...], resources: dict[str, int], read: Callable[[Host, str], int]) -> Ints:
    matrix = np.zeros((len(hosts), len(resources)), np.int64)
    for name, column in resources.items():
        matrix[:, column] = np.fromiter((read(host, name) for host in hosts), np.int64, len(hosts))
    return matrix


def _check_totals(hosts: tuple[Host, ...], resources: dict[str, int]) -> None:
    """Sums over the fleet must stay within 64 bits everywhere in the planner."""
    for name in resources:
        if sum(host.capacity.get(name, 0) for host in hosts) > MAX_AMOUNT:
            raise InvalidPlacementInput("snapshot.hosts", f"the total of {name} is above 2**62; use a larger unit")
