"""The fleet for the planner, read often: only hosts that changed since the last read are read and translated anew.

Which did is told by `store.changed_hosts`, for the moment of the same transaction as the rest, so a snapshot is of one
moment, as if all of it had been read. A snapshot that is too old costs a lost claim and no more: the claim's guard
stands in its UPDATE.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from placement import model
from placement.model import Snapshot
from service.domain.catalog import ModelService
from service.domain.devices import Device
from service.domain.fleet import GPU, Host, Size
from service.domain.fleet import Host as FleetHost
from service.planning import bare_metal, translate
from service.planning.residents import Pinned
from service.planning.translate import catalogue_sizes, snapshot
from service.store import changed_hosts, devices, fleet, groups, stock
from service.store.changed_hosts import Moment, Rows
from service.store.connection import Connection
from service.store.stock import Held

_MANY = 2_000
"""With this many changed hosts or more, all are read: one statement cannot name more."""

Seated = tuple[str, str, bool]
"""(instance, group, whether the group wants its hosts alone)."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A host as it was read, and as the planner sees it."""

    host: Host
    seats: Sequence[Seated]
    sizes: Sequence[Size]
    pinned: Pinned
    devices: Sequence[Device]
    seen: model.Host


@dataclass(frozen=True, slots=True)
class _Memory:
    """One read: its moment, all hosts in order, which groups were to be apart from which, and what was answered."""

    moment: Moment | None
    known: Mapping[str, _Known]
    apart: Mapping[str, frozenset[str]]
    sizes: Counter[Size]
    graded: Mapping[Size, int]
    hosts: Mapping[str, Host]
    snapshot: model.Snapshot


_NOTHING = _Memory(None, {}, {}, Counter(), {}, {}, model.Snapshot(()))


class FleetReader:
    """Reads of one process share it; it may be used by several threads at once."""

    def __init__(self) -> None:
        self._memory = _NOTHING

    def read(
        self, connection: Connection, *, apart: bool = True, catalogue: Mapping[str, ModelService] | None = None
    ) -> tuple[Mapping[str, Host], model.Snapshot]:
        """All hosts by uuid, and the snapshot made of them; both are kept and must be treated as read-only. `apart`:
        False where this transaction has seen that no group is to be apart from another one; `catalogue`: as it has
        read it.

        The transaction must not be one whose writes may still be taken back.
        """
        before, moment, named = _compared(connection, self._memory)
        others = groups.keeping_apart(connection) if apart else {}
        fresh, gone = _changed(connection, before, moment, named, others)
        if fresh or gone:
            before = _renewed(before, gone, others, fresh)
        before = replace(before, moment=moment)
        entries = fleet.model_services(connection) if catalogue is None else catalogue
        sizes = translate.catalogue_sizes(entries.values())
        flavours = translate.flavours(sizes + before.sizes, before.graded)
        if flavours != before.snapshot.flavours:
            before = replace(before, snapshot=before.snapshot.updated(flavours=flavours))
        # What is kept may be later than this: of a transaction that began later. It stays.
        if moment == self._memory.moment or not moment.is_before(self._memory.moment):
            self._memory = before
        return before.hosts, before.snapshot


def _renewed(
    before: _Memory, gone: Set[str], apart: Mapping[str, frozenset[str]], fresh: Mapping[str, _Known]
) -> _Memory:
    known = {uuid: fresh.get(uuid) or one for uuid, one in before.known.items() if uuid not in gone}
    if added := fresh.keys() - known.keys():
        known = {uuid: known.get(uuid) or fresh[uuid] for uuid in sorted(known.keys() | added)}
    graded = bare_metal.grades(one.host for one in known.values())
    for uuid, one in known.items():
        if one.host.bare_metal and (uuid in fresh or graded != before.graded):
            known[uuid] = replace(one, seen=translate.seen(one.host, one.seats, apart, graded))
    sizes = before.sizes.copy()
    for uuid in gone | fresh.keys() & before.known.keys():
        sizes.subtract(before.known[uuid].sizes)
    for one in fresh.values():
        sizes.update(one.sizes)
    snapshot = model.Snapshot(tuple(one.seen for one in known.values()), before.snapshot.flavours)
    hosts = {uuid: one.host for uuid, one in known.items()}
    return _Memory(before.moment, known, apart, +sizes, graded, hosts, snapshot)


def _compared(connection: Connection, kept: _Memory) -> tuple[_Memory, Moment, Rows | None]:
    """What is kept, the moment of this transaction, and what may be changed since; None: anything."""
    if kept.moment is None:
        return _NOTHING, changed_hosts.moment(connection), None
    moment, named = changed_hosts.changes(connection, kept.moment)
    if not kept.moment.is_before(moment):
        return _NOTHING, moment, None  # of a moment that is no later than what is kept, nothing of that may be used
    return kept, moment, named if len(named) < _MANY else None


def _changed(
    connection: Connection, before: _Memory, moment: Moment, named: Rows | None, apart: Mapping[str, frozenset[str]]
) -> tuple[dict[str, _Known], frozenset[str]]:
    """The hosts that are not as they were, by uuid, and those that are not there any more."""
    known = before.known
    found: dict[str, _Known] = {}
    gone: frozenset[str] = frozenset()
    if named is None or named:
        hosts, (seated, sizes, pinned) = _all_read(connection) if named is None else _some_read(connection, named)
        units = _devices(connection, hosts, None if named is None else list(named))
        for uuid, host in hosts.items():
            # What is claimed of bare metal is more than was asked.
            asked = () if host.bare_metal else sizes.get(uuid, ())
            here, seats, its = pinned.get(uuid, {}), seated.get(uuid, ()), units.get(uuid, ())
            was = known.get(uuid)
            now = (host, seats, asked, here, its)
            if was is None or (was.host, was.seats, was.sizes, was.pinned, was.devices) != now:
                before_it = was.seen if was is not None else None
                seen = translate.seen(host, seats, apart, pinned=here, devices=its, was=before_it)
                found[uuid] = _Known(*now, seen)
        gone = frozenset(known.keys() - hosts.keys() if named is None else known.keys() & named - hosts.keys())
    if len(known) + len(found.keys() - known.keys()) - len(gone) != moment.hosts:
        gone = frozenset(known.keys() - fleet.host_uuids(connection))
    if before.apart != apart:
        regrouped = {uuid for uuid in {*before.apart, *apart} if before.apart.get(uuid) != apart.get(uuid)}
        for uuid, one in known.items():
            if uuid not in gone and uuid not in found and any(group in regrouped for _, group, _ in one.seats):
                found[uuid] = replace(one, seen=_seen_again(one, apart, before.graded))
    return found, gone


def _all_read(connection: Connection) -> tuple[Mapping[str, Host], Held]:
    return fleet.hosts(connection), stock.held(connection)


def _some_read(connection: Connection, named: Rows) -> tuple[Mapping[str, Host], Held]:
    """Those of the hosts that are there."""
    there = {uuid: row for uuid, row in named.items() if row is not None}
    if not there:
        return {}, Held({}, {}, {})
    vectors, guests, held = stock.of_hosts(connection, list(there))
    return fleet.hosts_from(there.values(), vectors, guests), held


def _devices(
    connection: Connection, hosts: Mapping[str, Host], some: Sequence[str] | None
) -> Mapping[str, Sequence[Device]]:
    """The devices of these hosts; a fleet without any is not asked for them."""
    if any(name.startswith(GPU) for host in hosts.values() for name in host.total):
        return devices.of_hosts(connection, some)
    return {}


def _seen_again(one: _Known, apart: Mapping[str, frozenset[str]], graded: Mapping[Size, int]) -> model.Host:
    return translate.seen(one.host, one.seats, apart, graded, one.pinned, one.devices)


def read_fleet(connection: Connection) -> tuple[Mapping[str, FleetHost], Snapshot]:
    """All hosts, and the snapshot made of them, read in full; `FleetReader` gives the same and reads what changed."""
    hosts, (seated, claimed, pinned) = _all_read(connection)
    sizes = catalogue_sizes(fleet.model_services(connection).values())
    for uuid, of_host in claimed.items():
        sizes.update(() if hosts[uuid].bare_metal else of_host)
    apart, units = groups.keeping_apart(connection), _devices(connection, hosts, None)
    return hosts, snapshot(hosts, seated, apart, sizes, pinned, units)
