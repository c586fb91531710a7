"""Rows by which this database knows what is its own: the installation, hypervisors, quarantine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from uuid import uuid4

from sqlalchemy import (
    Connection,
    Engine,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.exc import IntegrityError

from service.domain.fleet import HostStatus
from service.domain.ownership import LEGACY_CLUSTER, Holding, HostRecord, Installation, Quarantined, held
from service.errors import AlreadyExists, NotFound
from service.store import devices, events, fleet_events, schema
from service.store.codec import decode_known, encode
from service.store.fleet_events import FleetChange
from service.store.statement import Statement, among

_INSTALLATION, _QUARANTINE, _HOSTS = schema.installation, schema.quarantine, schema.hosts
_AMOUNTS = schema.host_resources
_THIS = Statement(select(_INSTALLATION).where(_INSTALLATION.c.id == 1))
_HELD_OF = Statement(
    select(_QUARANTINE.c.group_uuid, _QUARANTINE.c.document).where(
        among(_QUARANTINE.c.group_uuid, "groups"), _QUARANTINE.c.holding == Holding.MACHINE.value
    )
)
_AHEAD = select(_HOSTS.c.name).where(_HOSTS.c.ahead)
_AHEAD_NAMES = Statement(_AHEAD.order_by(_HOSTS.c.name))
_IN_THE_WAY = Statement(
    union_all(
        _AHEAD.with_only_columns(_HOSTS.c.name.label("host"), literal("").label("document")),
        select(literal(""), _QUARANTINE.c.document).where(
            _QUARANTINE.c.group_uuid == bindparam("group"), _QUARANTINE.c.holding == Holding.MACHINE.value
        ),
    )
)
_SAID_AHEAD = _HOSTS.c.status == HostStatus.AHEAD.value
_AHEAD_OR_FLAGGED = Statement(
    select(_HOSTS.c.uuid, _HOSTS.c.ahead, _HOSTS.c.status, _HOSTS.c.status_reason).where(_HOSTS.c.ahead | _SAID_AHEAD)
)
_HELD = Statement(select(_QUARANTINE).where(_QUARANTINE.c.host_uuid == bindparam("host")))
_HOST = Statement(
    select(_HOSTS.c.hypervisor, _HOSTS.c.zone_uuid, _HOSTS.c.claim_ordered, _HOSTS.c.ahead, _HOSTS.c.marked).where(
        _HOSTS.c.uuid == bindparam("of")
    )
)
_TWIN = Statement(
    select(_HOSTS.c.name).where(_HOSTS.c.hypervisor == bindparam("hypervisor"), _HOSTS.c.uuid != bindparam("of"))
)
_COUNTS = Statement(
    select(_QUARANTINE.c.host_uuid, _QUARANTINE.c.holding, func.count().label("n")).group_by(
        _QUARANTINE.c.host_uuid, _QUARANTINE.c.holding
    )
)
_TAKE_FOR = Statement(
    update(_HOSTS)
    .where(_HOSTS.c.uuid == bindparam("of"))
    .values(
        hypervisor=bindparam("is"),
        generation=_HOSTS.c.generation + 1,
        claim_ordered=False,
        ahead=False,
        marked=case((_HOSTS.c.claim_ordered, 0), else_=_HOSTS.c.marked),
    )
)
_MARK = Statement(
    update(_HOSTS)
    .where(_HOSTS.c.uuid == bindparam("of"), _HOSTS.c.marked < bindparam("seen"))
    .values(marked=bindparam("seen"))
)


class AnotherCluster(Exception):
    """The configuration names another cluster id than the one that this database's machines bear."""


# --- the installation ----------------------------------------------------------------------------------------------


def establish(engine: Engine, named: str, now: int) -> Installation:
    """The installation of this database; made at its first start. `named`: the configuration's cluster id, or empty.

    A database that an older version made keeps the id that its machines bear. Raises AnotherCluster where the
    configuration names another id than the database has, or gives a new database the id that all old ones have.
    """
    with engine.begin() as connection:
        found = installation(connection)
        if found is None:
            found = _first(connection, named, now)
        elif not found.cluster:  # migrated from a version in which databases had no ids of their own
            found = replace(found, cluster=named or LEGACY_CLUSTER)
            connection.execute(update(_INSTALLATION).values(cluster=found.cluster))
    if named and named != found.cluster:
        raise AnotherCluster(
            f"the configuration names the cluster {named!r}, and this database's machines bear {found.cluster!r}: "
            "a cluster's id never changes; name that one, or leave it out"
        )
    return found


def _first(connection: Connection, named: str, now: int) -> Installation:
    if named == LEGACY_CLUSTER:
        raise AnotherCluster(
            f"{named!r} was every installation's id and tells nobody's machines apart: name another, or leave it out"
        )
    made = first_installation(named)
    try:
        with connection.begin_nested():
            connection.execute(
                insert(_INSTALLATION).values(
                    id=1, database=made.database, cluster=made.cluster, generation_offset=0, created_at=now
                )
            )
    except IntegrityError:  # another replica started in this moment
        there = installation(connection)
        assert there is not None
        return there
    return made


def first_installation(named: str = "") -> Installation:
    """What a new database is: its ids are made at random, unless the configuration names the cluster's."""
    return Installation(database=uuid4().hex, cluster=named or uuid4().hex)


def installation(connection: Connection) -> Installation | None:
    """What this database is; None before its first start."""
    row = _THIS.first(connection)
    return None if row is None else Installation(row.database, row.cluster, row.generation_offset)


def generation(connection: Connection) -> int:
    """How far the database has come; see Installation.generation."""
    found = installation(connection)
    revision = events.head(connection)[1]
    return revision if found is None else found.generation(revision)


def lift(connection: Connection, above: int) -> None:
    """Lift the generation above this one: an operator has said that what hosts have seen up to it counts as known."""
    missing = above + 1 - generation(connection)
    if missing > 0:
        connection.execute(update(_INSTALLATION).values(generation_offset=_INSTALLATION.c.generation_offset + missing))


def in_use(connection: Connection) -> bool:
    """Whether the database has placed anything: then what it is does not change any more."""
    return connection.execute(select(schema.claims.c.instance_uuid).limit(1)).first() is not None


def become(connection: Connection, wanted: Installation, now: int) -> None:
    """A database that has placed nothing is this installation from now on; one that is it already stays as it is."""
    there = installation(connection)
    values = {"database": wanted.database, "cluster": wanted.cluster}
    if there is None:
        connection.execute(
            insert(_INSTALLATION).values(id=1, **values, generation_offset=wanted.generation_offset, created_at=now)
        )
    elif (there.database, there.cluster) != (wanted.database, wanted.cluster):
        if there.cluster and in_use(connection):
            raise AnotherCluster("the database has machines of its own: it cannot become another installation")
        connection.execute(update(_INSTALLATION).values(**values))


# --- hosts ---------------------------------------------------------------------------------------------------------


def host_record(connection: Connection, host_uuid: str, hypervisor: str) -> HostRecord | None:
    """What is known of a host at whose address this hypervisor answers (empty: its kind has no uuid). None: the host is
    gone."""
    row = _HOST.first(connection, {"of": host_uuid})
    if row is None:
        return None
    twin = _TWIN.scalar(connection, {"hypervisor": hypervisor, "of": host_uuid}) if hypervisor else None
    return HostRecord(host_uuid, row.hypervisor or "", twin or "", row.claim_ordered, row.ahead, row.marked)


def knows(connection: Connection, host_uuid: str) -> bool:
    """Whether a host of this uuid is of the fleet."""
    return _HOST.first(connection, {"of": host_uuid}) is not None


def host_of_hypervisor(connection: Connection, hypervisor: str) -> str | None:
    """The uuid of the host that is this hypervisor."""
    found: str | None = connection.scalar(select(_HOSTS.c.uuid).where(_HOSTS.c.hypervisor == hypervisor))
    return found


def set_hypervisor(connection: Connection, host_uuid: str, hypervisor: str) -> None:
    """The host is this hypervisor from now on, and what its operator ordered about that is done.

    Raises AlreadyExists where another host is it.
    """
    try:
        with connection.begin_nested():
            _TAKE_FOR.run(connection, {"of": host_uuid, "is": hypervisor or None})
    except IntegrityError as error:
        raise AlreadyExists("host", host_of_hypervisor(connection, hypervisor) or "") from error


def set_marked(connection: Connection, host_uuid: str, generation: int) -> None:
    """The host's mark was seen to have this generation for a while: an older one is no longer its own."""
    _MARK.run(connection, {"of": host_uuid, "seen": generation})


def set_ahead(connection: Connection, host_uuid: str) -> None:
    """Record that the host has seen a later generation than this database. The mark stays when the database reaches
    that number by going on: what it lost does not come back by that."""
    connection.execute(update(_HOSTS).where(_HOSTS.c.uuid == host_uuid).values(ahead=True))


def ahead(connection: Connection) -> tuple[str, ...]:
    """Names of the hosts that have seen what this database does not know, or may have: nobody is placed meanwhile."""
    return tuple(_AHEAD_NAMES.scalars(connection))


def ahead_or_flagged(connection: Connection) -> tuple[Mapping[str, str], frozenset[str]]:
    """Host uuid -> why, of those that some replica has found to be ahead of this database; and uuids of the hosts that
    may have seen what it does not know, whatever is recorded of their answers."""
    rows = _AHEAD_OR_FLAGGED.all(connection)
    said = {r.uuid: r.status_reason for r in rows if r.status == HostStatus.AHEAD.value}
    return said, frozenset(r.uuid for r in rows if r.ahead)


def in_the_way(connection: Connection, group_uuid: str) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """What keeps a group from being placed, in one look: see `ahead` and `held_of`."""
    rows = _IN_THE_WAY.all(connection, {"group": group_uuid})
    held = (decode_known(Quarantined, row.document) for row in rows if row.document)
    return tuple(sorted(row.host for row in rows if not row.document)), {one.instance: one.host for one in held}


def all_known(connection: Connection, seen: Iterable[str], unseen: Iterable[str]) -> None:
    """What these hosts (uuids) have seen is in the database now. What those that were not looked at have is not known:
    nobody is placed until they were, or their operator has said that they are off or are to be taken as they are."""
    for uuids, value in ((seen, False), (unseen, True)):
        connection.execute(update(_HOSTS).where(_HOSTS.c.uuid.in_(sorted(uuids))).values(ahead=value))


def off(connection: Connection, host_uuid: str) -> None:
    """An operator's word that the host is off: what ran there runs no more."""
    connection.execute(update(_HOSTS).where(_HOSTS.c.uuid == host_uuid).values(ahead=False))


def order_claim(connection: Connection, host_uuid: str, now: int) -> None:
    """An operator's word that the host is this database's, whatever it bears: carried out when it is next looked at."""
    row = _HOST.first(connection, {"of": host_uuid})
    if row is None:
        raise NotFound("host", host_uuid)
    connection.execute(
        update(_HOSTS).where(_HOSTS.c.uuid == host_uuid).values(claim_ordered=True, generation=_HOSTS.c.generation + 1)
    )
    fleet_events.append(connection, FleetChange.HOST, host_uuid, row.zone_uuid, now)


# --- the quarantine ------------------------------------------------------------------------------------------------


def quarantine(connection: Connection, host_uuid: str) -> tuple[Quarantined, ...]:
    """What is held on a host, by key."""
    rows = _HELD.all(connection, {"host": host_uuid})
    return tuple(sorted((_held(r.document, r.since, r.removal) for r in rows), key=lambda q: q.key))


def held_on(connection: Connection, host_uuid: str) -> Mapping[str, int]:
    """What those machines hold together."""
    return held(quarantine(connection, host_uuid))


def page(connection: Connection, host_uuid: str, after: tuple[str, str] | None, limit: int) -> tuple[Quarantined, ...]:
    """Up to `limit` of what is held, by host and key, after the given (host, key). `host_uuid` empty: on all hosts."""
    table = _QUARANTINE
    query = select(table).order_by(table.c.host_uuid, table.c.key).limit(limit)
    if host_uuid:
        query = query.where(table.c.host_uuid == host_uuid)
    if after is not None:
        same = and_(table.c.host_uuid == after[0], table.c.key > after[1])
        query = query.where(or_(table.c.host_uuid > after[0], same))
    return tuple(_held(r.document, r.since, r.removal) for r in connection.execute(query))


def quarantined(connection: Connection, host_uuid: str, key: str) -> Quarantined:
    """One that is held. Raises NotFound."""
    for one in quarantine(connection, host_uuid):
        if one.key == key:
            return one
    raise NotFound("quarantined machine", key)


def held_of(connection: Connection, group_uuid: str) -> Mapping[str, str]:
    """Instance -> host uuid, of the group's machines that are in quarantine."""
    return held_of_each(connection, [group_uuid]).get(group_uuid, {})


def held_of_each(connection: Connection, group_uuids: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    """`held_of` of several groups, of those of which something is held."""
    found: dict[str, dict[str, str]] = {}
    for row in _HELD_OF.all(connection, {"groups": group_uuids}):
        one = decode_known(Quarantined, row.document)
        found.setdefault(row.group_uuid, {})[one.instance] = one.host
    return found


def counts(connection: Connection) -> Mapping[tuple[str, Holding], int]:
    """(host uuid, kind) -> how many are held."""
    return {(r.host_uuid, Holding(r.holding)): int(r.n) for r in _COUNTS.all(connection)}


def hold(connection: Connection, host_uuid: str, found: Sequence[Quarantined], now: int) -> bool:
    """Bring the quarantine of a host to what was found there now; returns whether anything is new or gone."""
    before = {q.key: q for q in quarantine(connection, host_uuid)}
    after = {q.key: q for q in found}
    gone = sorted(set(before) - set(after))
    if gone:
        connection.execute(delete(_QUARANTINE).where(_QUARANTINE.c.host_uuid == host_uuid, _QUARANTINE.c.key.in_(gone)))
    for key in sorted(after):
        one = replace(after[key], host=host_uuid, since=0, removal=False)
        if key not in before:
            values = {"host_uuid": host_uuid, "key": key, "holding": one.holding.value, "group_uuid": one.group}
            connection.execute(insert(_QUARANTINE).values(**values, document=encode(one), since=now, removal=False))
        elif replace(before[key], since=0, removal=False) != one:
            which = and_(_QUARANTINE.c.host_uuid == host_uuid, _QUARANTINE.c.key == key)
            connection.execute(update(_QUARANTINE).where(which).values(document=encode(one)))
    other_devices = {a for q in before.values() for a in q.devices} != {a for q in found for a in q.devices}
    if other_devices:
        devices.lock(connection, host_uuid)
        devices.recount(connection, [host_uuid])
    changed = bool(gone) or not set(after) <= set(before) or other_devices
    if changed and (row := _HOST.first(connection, {"of": host_uuid})) is not None:
        fleet_events.append(connection, FleetChange.HOST, host_uuid, row.zone_uuid, now)
    return changed


def adopt(connection: Connection, machines: Iterable[tuple[str, str]]) -> None:
    """Take these (host, machine uuid) out of the quarantine: this transaction makes them members', and claims what
    counted as used by others so far."""
    for host_uuid, key in sorted(machines):
        which = and_(_QUARANTINE.c.host_uuid == host_uuid, _QUARANTINE.c.key == key)
        row = connection.execute(select(_QUARANTINE).where(which)).one_or_none()
        if row is None:
            continue
        devices.lock(connection, host_uuid)
        for name, amount in sorted(_held(row.document, row.since, row.removal).resources.items()):
            of = (_AMOUNTS.c.host_uuid == host_uuid, _AMOUNTS.c.resource == name)
            less = case((_AMOUNTS.c.foreign_used > amount, _AMOUNTS.c.foreign_used - amount), else_=0)
            connection.execute(update(_AMOUNTS).where(*of).values(foreign_used=less))
        connection.execute(delete(_QUARANTINE).where(which))
        devices.recount(connection, [host_uuid])


def order_removal(connection: Connection, host_uuid: str, key: str) -> Quarantined:
    """An operator's word that this is to be ended: the record by which the sweep may. Raises NotFound."""
    one = quarantined(connection, host_uuid, key)
    here = (_QUARANTINE.c.host_uuid == host_uuid, _QUARANTINE.c.key == key)
    connection.execute(update(_QUARANTINE).where(*here).values(removal=True))
    return replace(one, removal=True)


def _held(document: str, since: int, removal: bool) -> Quarantined:
    return replace(decode_known(Quarantined, document), since=since, removal=removal)
