"""What is there: hosts with their members, and the fleet at one moment. Frozen data, checked on construction.

Every wrong value raises ``InvalidPlacementInput(field, message)``. Mappings are copied on construction and must be
treated as read-only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from placement.devices import DEVICES, MAX_POOLS, Pool, is_device, is_of
from placement.resources import (
    MAX_CONSTRAINTS,
    MAX_HOSTS,
    InvalidPlacementInput,
    checked_amounts,
    checked_labels,
    checked_name,
)

MAX_CELLS = 8


@dataclass(frozen=True, slots=True)
class Cell:
    """One NUMA cell of a host: what it has and what is used of it, in the host's own units."""

    capacity: Mapping[str, int]
    used: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "capacity", checked_amounts("cell.capacity", self.capacity))
        object.__setattr__(self, "used", checked_amounts("cell.used", self.used))
        for name in self.capacity:
            if is_device(name):
                raise InvalidPlacementInput("cell.capacity", f"names {name}: devices of a cell are pools of the host")


@dataclass(frozen=True, slots=True)
class Member:
    """An instance that already lives on a host. Its demand is part of the host's ``used`` already.

    ``movable`` matters to drain and gather alone; ``cells`` are the NUMA cells that it is pinned to. ``exclusive``:
    its host takes nodes of its own gang alone. ``holds``: (position, count) of what it has of its host's pools.
    """

    id: str
    demand: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    movable: bool = True
    exclusive: bool = False
    cells: tuple[int, ...] = ()
    holds: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        checked_name("member.id", self.id)
        object.__setattr__(self, "demand", checked_amounts("member.demand", self.demand))
        object.__setattr__(self, "labels", checked_labels("member.labels", self.labels))
        object.__setattr__(self, "cells", tuple(self.cells))
        object.__setattr__(self, "holds", tuple((pool, count) for pool, count in self.holds))


@dataclass(frozen=True, slots=True)
class Host:
    """One machine. ``capacity``: what may be claimed at all, floor((total - reserved) * ratio). ``used``: all that is
    taken of it, by claims and by foreign guests together (a stored host keeps the two apart).

    Use above capacity (a lowered ratio, an unknown guest) counts as no room, not as an error. GPUs are resources named
    by model, such as ``gpu.a100``; ``pools`` say which of them stand where.
    """

    id: str
    zone: str
    capacity: Mapping[str, int]
    used: Mapping[str, int] = field(default_factory=dict)
    rack: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    schedulable: bool = True
    members: tuple[Member, ...] = ()
    cells: tuple[Cell, ...] = ()
    pools: tuple[Pool, ...] = ()

    def __post_init__(self) -> None:
        checked_name("host.id", self.id)
        checked_name("host.zone", self.zone)
        if self.rack is not None:
            checked_name("host.rack", self.rack)
        object.__setattr__(self, "capacity", checked_amounts("host.capacity", self.capacity))
        object.__setattr__(self, "used", checked_amounts("host.used", self.used))
        if self.labels:
            object.__setattr__(self, "labels", checked_labels("host.labels", self.labels))
        object.__setattr__(self, "members", tuple(self.members))
        object.__setattr__(self, "cells", tuple(self.cells))
        if len(self.cells) > MAX_CELLS:
            raise InvalidPlacementInput("host.cells", f"more than {MAX_CELLS} NUMA cells")
        object.__setattr__(self, "pools", tuple(self.pools))
        if len(self.pools) > MAX_POOLS:
            raise InvalidPlacementInput("host.pools", f"more than {MAX_POOLS} pools of devices")
        if any(pool.cell is not None and not 0 <= pool.cell < len(self.cells) for pool in self.pools):
            raise InvalidPlacementInput("host.pools", "names a NUMA cell that the host has not")

    def free(self, resource: str) -> int:
        """What is left of a resource, never below zero."""
        return max(0, self.capacity.get(resource, 0) - self.used.get(resource, 0))

    @property
    def empty(self) -> bool:
        """Whether nothing uses it and nobody lives on it."""
        return not self.members and not any(self.used.values())

    @property
    def rack_key(self) -> str:
        """The rack, or a rack of its own."""
        return f"rack:{self.rack}" if self.rack is not None else f"host:{self.id}"


def left(host: Host, *members: Member) -> Host:
    """The host once these members have left it; use never falls below zero."""
    used, cells, pools = host.used, host.cells, host.pools
    for member in members:
        used = _changed(used, member.demand, -1)
        cells = _cells(cells, member, -1)
        pools = _pools(pools, dict(member.holds), -1)
    gone = {member.id for member in members}
    there = tuple(other for other in host.members if other.id not in gone)
    return replace(host, used=used, cells=cells, pools=pools, members=there)


def joined(host: Host, member: Member, devices: Sequence[tuple[int, int]] = ()) -> Host:
    """The host once a member lives on it, in the cells that the member names, with these devices of the host's pools
    and the rest of those that it demands from wherever most are free."""
    member = replace(member, holds=_held(host, member, devices)) if host.pools or member.holds else member
    return replace(
        host,
        pools=_pools(host.pools, dict(member.holds), 1),
        used=_changed(host.used, member.demand, 1),
        cells=_cells(host.cells, member, 1),
        members=(*host.members, member),
    )


def _changed(used: Mapping[str, int], amounts: Mapping[str, int], sign: int) -> dict[str, int]:
    after = dict(used)
    for name, amount in amounts.items():
        after[name] = max(0, after.get(name, 0) + sign * amount)
    return after


def _cells(cells: tuple[Cell, ...], member: Member, sign: int) -> tuple[Cell, ...]:
    """A host's cells with the member's share taken from or added to those it is pinned to."""
    if not member.cells:
        return cells
    named = {name for cell in cells for name in cell.capacity}
    share = {name: -(-amount // len(member.cells)) for name, amount in member.demand.items() if name in named}
    return tuple(
        replace(cell, used=_changed(cell.used, share, sign)) if number in member.cells else cell
        for number, cell in enumerate(cells)
    )


def _held(host: Host, member: Member, devices: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """(pool, count) of all devices that a member has on a host where it has these."""
    counts = dict(devices)
    models = {name for name in member.demand if is_device(name) and name != DEVICES}
    for name in sorted(models) or [DEVICES]:
        mine = [number for number, pool in enumerate(host.pools) if is_of(pool.resource, name)]
        missing = member.demand.get(name, 0) - sum(counts.get(number, 0) for number in mine)
        for number in sorted(mine, key=lambda n: counts.get(n, 0) - host.pools[n].free):
            taken = max(0, min(missing, host.pools[number].free - counts.get(number, 0)))
            if taken:
                counts[number] = counts.get(number, 0) + taken
                missing -= taken
    return tuple(sorted(counts.items()))


def _pools(pools: tuple[Pool, ...], counts: Mapping[int, int], sign: int) -> tuple[Pool, ...]:
    """A host's pools with so many devices of each taken or given back."""
    if not counts:
        return pools
    return tuple(
        replace(pool, used=max(0, pool.used + sign * counts.get(number, 0))) for number, pool in enumerate(pools)
    )


@dataclass(frozen=True, slots=True)
class Flavour:
    """A size that the fleet expects to be asked for."""

    demand: Mapping[str, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "demand", checked_amounts("flavour.demand", self.demand))


@dataclass(slots=True, eq=False)
class Derived:
    """What ``problem/index.py`` has worked out from a snapshot's hosts, kept with them.

    ``value``: None until it is worked out. ``base``: the value of an earlier snapshot that differs from this one in the
    hosts ``changed`` alone, so that working it out costs as much as these; None where there is none. ``places``: where
    each host is among the snapshot's, by id, once that was asked for.
    """

    value: object | None = None
    base: object | None = None
    changed: dict[str, Host] = field(default_factory=dict)
    places: dict[str, int] | None = None

    def after(self, changed: Sequence[Host]) -> Derived:
        """The same for a snapshot in which some of the hosts are replaced."""
        new = {host.id: host for host in changed}
        if self.value is not None:
            return Derived(None, self.value, new, self.places)
        if self.base is not None:
            return Derived(None, self.base, {**self.changed, **new}, self.places)
        return Derived(places=self.places)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The fleet at one moment. ``flavours`` define what room is worth; without them the request's own nodes do."""

    hosts: tuple[Host, ...]
    flavours: tuple[Flavour, ...] = ()
    version: str = ""
    derived: Derived = field(default_factory=Derived, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        hosts = tuple(self.hosts)
        object.__setattr__(self, "hosts", hosts)
        object.__setattr__(self, "flavours", tuple(self.flavours))
        if len(hosts) > MAX_HOSTS:
            raise InvalidPlacementInput("snapshot.hosts", f"more than {MAX_HOSTS} hosts")
        if len({host.id for host in hosts}) != len(hosts):
            raise InvalidPlacementInput("snapshot.hosts", "two hosts have the same id")
        if len(self.flavours) > MAX_CONSTRAINTS:
            raise InvalidPlacementInput("snapshot.flavours", f"more than {MAX_CONSTRAINTS} flavours")

    def __reduce__(self) -> tuple[type[Snapshot], tuple[tuple[Host, ...], tuple[Flavour, ...], str]]:
        """Travels between processes without its arrays, which cost less to build than to send."""
        return Snapshot, (self.hosts, self.flavours, self.version)

    def updated(
        self,
        changed: Sequence[Host] = (),
        removed: frozenset[str] = frozenset(),
        *,
        flavours: Sequence[Flavour] | None = None,
        version: str | None = None,
    ) -> Snapshot:
        """A snapshot with some hosts changed, added or removed. Keeps what is derived where none is added or removed.

        ``flavours``, ``version``: the new ones, None to keep them.
        """
        if changed and not removed and flavours is None and (after := self._replaced(changed, version)) is not None:
            return after
        new = {host.id: host for host in changed}
        hosts = self.hosts
        if new or removed:
            hosts = tuple(new.pop(host.id, host) for host in hosts if host.id not in removed) + tuple(new.values())
        after = Snapshot(
            hosts,
            self.flavours if flavours is None else tuple(flavours),
            self.version if version is None else version,
        )
        if hosts is self.hosts:
            object.__setattr__(after, "derived", self.derived)
        elif not removed and len(hosts) == len(self.hosts):
            object.__setattr__(after, "derived", self.derived.after(changed))
        return after

    def _replaced(self, changed: Sequence[Host], version: str | None) -> Snapshot | None:
        """The snapshot with these hosts in their places, None where one is new: what was checked of the others stays
        true, so that a stream of small changes costs a copy of the hosts' list each."""
        derived = self.derived
        if derived.places is None:
            derived.places = {host.id: number for number, host in enumerate(self.hosts)}
        if any(host.id not in derived.places for host in changed):
            return None
        hosts = list(self.hosts)
        for host in changed:
            hosts[derived.places[host.id]] = host
        after = object.__new__(Snapshot)
        values = (tuple(hosts), self.flavours, self.version if version is None else version, derived.after(changed))
        for name, value in zip(("hosts", "flavours", "version", "derived"), values, strict=True):
            object.__setattr__(after, name, value)
        return after

    def difference(self, before: Snapshot) -> tuple[tuple[Host, ...], frozenset[str]]:
        """(hosts that are new or other than before, ids of those that are gone): what ``before.updated`` needs.

        Hosts that are the same object cost nothing, so snapshots that share theirs are compared fast.
        """
        if len(self.hosts) == len(before.hosts):
            pairs = [(old, new) for old, new in zip(before.hosts, self.hosts, strict=True) if old is not new]
            if all(old.id == new.id for old, new in pairs):
                return tuple(new for old, new in pairs if old != new), frozenset()
        known = {host.id: host for host in before.hosts}
        changed = tuple(host for host in self.hosts if known.pop(host.id, None) != host)
        return changed, frozenset(known)
