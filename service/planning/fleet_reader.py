"""The fleet for the planner, read often: only hosts that changed since the last read are read and translated anew.

What was read before is kept for as long as the host's value of `fleet.marks` is the same; it differs whenever the host
or its claims do. The marks come from the same transaction as the rest, so a snapshot is of one moment, as if all of it
had been read. A snapshot that is too old costs a lost claim and no more: the claim's guard stands in its UPDATE.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from placement import model
from placement.model import Snapshot
from service.domain.fleet import Host, Size
from service.domain.fleet import Host as FleetHost
from service.planning import bare_metal, translate
from service.planning.translate import catalogue_sizes, snapshot
from service.store import claims, fleet, groups
from service.store.connection import Connection

_MANY = 2_000
"""With this many changed hosts or more, all are read: one statement cannot name more."""

Seated = tuple[str, str, bool]
"""(instance, group, whether the group wants its hosts alone)."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A host as it was read, and as the planner sees it."""

    mark: Hashable
    host: Host
    seats: Sequence[Seated]
    sizes: Sequence[Size]
    pinned: translate.Pinned
    seen: model.Host


@dataclass(frozen=True, slots=True)
class _Memory:
    """One read: all hosts in order, which groups were to be apart from which, and what was answered."""

    known: Mapping[str, _Known]
    apart: Mapping[str, frozenset[str]]
    sizes: Counter[Size]
    graded: Mapping[Size, int]
    hosts: Mapping[str, Host]
    snapshot: model.Snapshot


class FleetReader:
    """Reads of one process share it; it may be used by several threads at once."""

    def __init__(self) -> None:
        self._memory = _Memory({}, {}, Counter(), {}, {}, model.Snapshot(()))

    def read(self, connection: Connection) -> tuple[Mapping[str, Host], model.Snapshot]:
        """All hosts by uuid, and the snapshot made of them; both are kept and must be treated as read-only."""
        before = self._memory
        marks = fleet.marks(connection)
        apart = groups.keeping_apart(connection)
        fresh = _changed(connection, before, marks, apart)
        if fresh or len(marks) != len(before.known):
            before = _renewed(before, marks, apart, fresh)
            self._memory = before
        sizes = translate.catalogue_sizes(fleet.model_services(connection).values())
        flavours = translate.flavours(sizes + before.sizes, before.graded)
        if flavours != before.snapshot.flavours:
            before = replace(before, snapshot=before.snapshot.updated(flavours=flavours))
            self._memory = before
        return before.hosts, before.snapshot


def _renewed(
    before: _Memory,
    marks: Mapping[str, Hashable],
    apart: Mapping[str, frozenset[str]],
    fresh: Mapping[str, _Known],
) -> _Memory:
    known = {uuid: fresh.get(uuid) or before.known[uuid] for uuid in marks}
    graded = bare_metal.grades(one.host for one in known.values())
    for uuid, one in known.items():
        if one.host.bare_metal and (uuid in fresh or graded != before.graded):
            known[uuid] = replace(one, seen=translate.seen(one.host, one.seats, apart, graded))
    sizes = before.sizes.copy()
    for uuid, one in before.known.items():
        if uuid in fresh or uuid not in known:
            sizes.subtract(one.sizes)
    for one in fresh.values():
        sizes.update(one.sizes)
    snapshot = model.Snapshot(tuple(one.seen for one in known.values()), before.snapshot.flavours)
    return _Memory(known, apart, +sizes, graded, {uuid: one.host for uuid, one in known.items()}, snapshot)


def _changed(
    connection: Connection, before: _Memory, marks: Mapping[str, Hashable], apart: Mapping[str, frozenset[str]]
) -> dict[str, _Known]:
    """The hosts that are not as they were, by uuid."""
    known = before.known
    others = [uuid for uuid, mark in marks.items() if uuid not in known or known[uuid].mark != mark]
    some = others if len(others) < _MANY else None
    hosts = fleet.hosts(connection, some) if others else {}
    seated = claims.seated(connection, some) if others else {}
    sizes, pinned = claims.sizes_and_cells(connection, some) if others else ({}, {})
    found = {
        uuid: _Known(marks[uuid], host, seats, asked, here, translate.seen(host, seats, apart, pinned=here))
        for uuid in others
        for host, seats, here in ((hosts[uuid], seated.get(uuid, ()), pinned.get(uuid, {})),)
        for asked in (() if host.bare_metal else sizes.get(uuid, ()),)  # what is claimed there is more than was asked
    }
    if before.apart != apart:
        regrouped = {uuid for uuid in {*before.apart, *apart} if before.apart.get(uuid) != apart.get(uuid)}
        for uuid, one in known.items():
            if uuid in marks and uuid not in found and any(group in regrouped for _, group, _ in one.seats):
                found[uuid] = replace(one, seen=translate.seen(one.host, one.seats, apart, before.graded, one.pinned))
    return found


def read_fleet(connection: Connection) -> tuple[Mapping[str, FleetHost], Snapshot]:
    """All hosts, and the snapshot made of them, read in full; `FleetReader` gives the same and reads what changed."""
    hosts = fleet.hosts(connection)
    sizes = catalogue_sizes(fleet.model_services(connection).values())
    claimed, pinned = claims.sizes_and_cells(connection)
    for uuid, of_host in claimed.items():
        sizes.update(() if hosts[uuid].bare_metal else of_host)
    return hosts, snapshot(hosts, claims.seated(connection), groups.keeping_apart(connection), sizes, pinned)
