"""How full hosts are, in thousandths of what they have, by the resource of which they have given most; and a bound on
how even a bounded number of moves can make them."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from placement.model import Host
from placement.modes.plans import PER_HOST, ZoneLoad

MOST_TARGETS = 48
"""On how many hosts, the least full, a member is tried at most."""


class Load:
    """How full one host is."""

    @staticmethod
    def of(host: Host, names: Iterable[str], less: Mapping[str, int] | None = None) -> int:
        """In thousandths, rounded up; above 1000 where more is used than there is. ``less``: taken off first."""
        most = 0
        for name in names:
            capacity = host.capacity.get(name, 0)
            used = host.used.get(name, 0) - (less.get(name, 0) if less else 0)
            if capacity and used > 0:
                most = max(most, -(-used * PER_HOST // capacity))
        return most


@dataclass(slots=True, eq=False)
class Loads:
    """The open hosts ``within``. ``order``: (-load, name), so the fullest first. ``used``, ``capacity``: float64[H, R],
    which rule hosts out before they are looked at exactly."""

    hosts: dict[str, Host]
    movers: Mapping[str, int]
    resources: tuple[str, ...]
    order: list[tuple[int, str]]
    known: dict[str, int]
    rows: dict[str, int]
    names: list[str]
    zones: np.ndarray[tuple[int], np.dtype[np.int64]]
    zone_of: dict[str, int]
    used: np.ndarray[tuple[int, int], np.dtype[np.float64]] = field(repr=False)
    capacity: np.ndarray[tuple[int, int], np.dtype[np.float64]] = field(repr=False)

    @classmethod
    def of(
        cls,
        hosts: Mapping[str, Host],
        movers: Mapping[str, int],
        resources: tuple[str, ...],
        within: frozenset[str] | None,
    ) -> Loads:
        """``movers``: the members that may move, as keys."""
        mine = {n: h for n, h in hosts.items() if h.schedulable and (within is None or n in within)}
        names = sorted(mine)
        zone_of = {zone: code for code, zone in enumerate(sorted({h.zone for h in mine.values()}))}
        shape = (len(names), len(resources))
        used = np.array([[mine[n].used.get(r, 0) for r in resources] for n in names], np.float64).reshape(shape)
        there = np.array([[mine[n].capacity.get(r, 0) for r in resources] for n in names], np.float64).reshape(shape)
        zones = np.array([zone_of[mine[n].zone] for n in names], np.int64)
        known = {name: Load.of(host, resources) for name, host in mine.items()}
        order = sorted((-load, name) for name, load in known.items())
        rows = {name: row for row, name in enumerate(names)}
        return cls(mine, movers, resources, order, known, rows, names, zones, zone_of, used, there)

    def of_host(self, name: str, less: Mapping[str, int] | None = None) -> int:
        """How full a host is, without ``less``."""
        return Load.of(self.hosts[name], self.resources, less) if less else self.known[name]

    def fullest(self, threshold: int) -> Iterator[str]:
        """The hosts that are so much fuller than the emptiest of their zone, the fullest first."""
        lowest = {self.hosts[name].zone: -load for load, name in self.order}
        for load, name in list(self.order):
            if -load - lowest[self.hosts[name].zone] >= max(threshold, 1):
                yield name

    def takers(
        self, zone: str, source: str, demand: Mapping[str, int], most: int, before: int
    ) -> list[tuple[int, str]]:
        """(load once it has the demand as well, host) of those that are then no fuller than ``most`` and are no fuller
        than ``before`` now, the least full first."""
        code = self.zone_of.get(zone)
        if code is None or not self.names:
            return []
        more = np.array([demand.get(r, 0) for r in self.resources], np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            then = np.where(self.capacity > 0, (self.used + more) / self.capacity, 0.0).max(axis=1, initial=0.0)
            lacking = ((self.capacity <= 0) & (more > 0)).any(axis=1)
        likely = np.flatnonzero((self.zones == code) & (then * PER_HOST <= most + 1) & ~lacking)
        found = []
        less = {r: -demand.get(r, 0) for r in self.resources}
        for row in likely[np.argsort(then[likely], kind="stable")][:MOST_TARGETS].tolist():
            name = self.names[row]
            if name != source and self.known[name] <= before:
                load = Load.of(self.hosts[name], self.resources, less)
                if load <= most:
                    found.append((load, name))
        return sorted(found)

    def change(self, hosts: Iterable[Host]) -> None:
        """Take over what has become of some of the hosts."""
        for host in hosts:
            self.order.remove((-self.of_host(host.id), host.id))
            self.hosts[host.id], self.known[host.id] = host, Load.of(host, self.resources)
            insort(self.order, (-self.of_host(host.id), host.id))
            self.used[self.rows[host.id]] = [host.used.get(r, 0) for r in self.resources]

    def peak(self, zone: str) -> int:
        """How full the fullest host of a zone is."""
        return max((-load for load, name in self.order if self.hosts[name].zone == zone), default=0)


def least_peaks(before: Loads, after: Loads, moves: int) -> tuple[ZoneLoad, ...]:
    """The fullest host of each zone, with a bound that no plan of so many moves within the zone can beat."""
    found = []
    for zone in before.zone_of:
        hosts = [host for host in before.hosts.values() if host.zone == zone]
        peak = before.peak(zone)
        bound = _least(hosts, before, moves, peak)
        found.append(ZoneLoad(zone, peak, after.peak(zone), bound))
    return tuple(found)


def _least(hosts: Sequence[Host], loads: Loads, moves: int, peak: int) -> int:
    """The least load for which neither the room of all hosts nor the number of moves is too small."""
    prefixes = {host.id: _prefixes(host, loads) for host in hosts}
    low, high = 0, peak
    while low < high:
        middle = (low + high) // 2
        if _possible(hosts, prefixes, loads.resources, moves, middle):
            high = middle
        else:
            low = middle + 1
    return low


def _prefixes(host: Host, loads: Loads) -> tuple[list[int], ...]:
    """By resource: how much the one, two, three … largest movers of a host take of it."""
    found = []
    for name in loads.resources:
        sums = [0]
        for amount in sorted((m.demand.get(name, 0) for m in host.members if m.id in loads.movers), reverse=True):
            sums.append(sums[-1] + amount)
        found.append(sums)
    return tuple(found)


def _possible(
    hosts: Sequence[Host],
    prefixes: Mapping[str, tuple[list[int], ...]],
    names: tuple[str, ...],
    moves: int,
    load: int,
) -> bool:
    for name in names:
        holding = [host for host in hosts if host.capacity.get(name, 0)]
        room = sum(host.capacity.get(name, 0) * load // PER_HOST for host in holding)
        if sum(host.used.get(name, 0) for host in holding) > room:
            return False
    needed = 0
    for host in hosts:
        most = 0
        for number, name in enumerate(names):
            capacity = host.capacity.get(name, 0)
            excess = host.used.get(name, 0) - capacity * load // PER_HOST
            if not capacity or excess <= 0:
                continue
            sums = prefixes[host.id][number]
            fewest = next((n for n, total in enumerate(sums) if total >= excess), None)
            if fewest is None:
                return False
            most = max(most, fewest)
        needed += most
        if needed > moves:
            return False
    return True
