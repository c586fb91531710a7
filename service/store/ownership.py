"""Rows by which this database knows what is its own: the installation, hypervisors, retired attempts, quarantine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from uuid import uuid4

from sqlalchemy import Connection, Engine, and_, bindparam, case, delete, func, insert, or_, select, tuple_, update
from sqlalchemy.exc import IntegrityError

from service.domain.fleet import HostStatus
from service.domain.groups import InstanceStatus
from service.domain.ownership import LEGACY_CLUSTER, Holding, HostRecord, Installation, Quarantined, Records, held
from service.errors import AlreadyExists, NotFound
from service.store import events, fleet_events, schema
from service.store.codec import decode_known, encode
from service.store.fleet_events import FleetChange

_INSTALLATION, _RETIRED, _QUARANTINE = schema.installation, schema.retired, schema.quarantine
_HOSTS, _INSTANCES = schema.hosts, schema.instances
_THIS = select(_INSTALLATION).where(_INSTALLATION.c.id == 1)
_RETIRED_HERE = select(_RETIRED.c.instance_uuid, _RETIRED.c.attempt, _RETIRED.c.why).where(
    _RETIRED.c.host_uuid == bindparam("host"), _RETIRED.c.instance_uuid.in_(bindparam("of", expanding=True))
)
_RETIRED_OF = select(_RETIRED.c.instance_uuid, _RETIRED.c.attempt, _RETIRED.c.host_uuid).where(
    _RETIRED.c.instance_uuid.in_(bindparam("of", expanding=True))
)
_ATTEMPTS = select(_INSTANCES.c.uuid, _INSTANCES.c.attempt, _INSTANCES.c.status).where(
    _INSTANCES.c.uuid.in_(bindparam("of", expanding=True))
)
_KEYS = select(_QUARANTINE.c.key, _QUARANTINE.c.removal).where(_QUARANTINE.c.host_uuid == bindparam("host"))
_HELD_OF = select(_QUARANTINE).where(
    _QUARANTINE.c.group_uuid == bindparam("group"), _QUARANTINE.c.holding == Holding.MACHINE.value
)
_AHEAD = select(_HOSTS.c.name).where(_HOSTS.c.ahead).order_by(_HOSTS.c.name)
_SAID_AHEAD = select(_HOSTS.c.uuid, _HOSTS.c.status_reason).where(_HOSTS.c.status == HostStatus.AHEAD.value)
_HELD = select(_QUARANTINE).where(_QUARANTINE.c.host_uuid == bindparam("host"))
_HOST = select(_HOSTS.c.hypervisor, _HOSTS.c.zone_uuid, _HOSTS.c.claim_ordered, _HOSTS.c.ahead, _HOSTS.c.marked).where(
    _HOSTS.c.uuid == bindparam("of")
)
_TWIN = select(_HOSTS.c.name).where(_HOSTS.c.hypervisor == bindparam("hypervisor"), _HOSTS.c.uuid != bindparam("of"))
_UNSEEN = select(_RETIRED.c.instance_uuid, _RETIRED.c.attempt).where(
    _RETIRED.c.host_uuid == bindparam("host"), _RETIRED.c.seen_gone.is_(False)
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
    row = connection.execute(_THIS).one_or_none()
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
    row = connection.execute(_HOST, {"of": host_uuid}).one_or_none()
    if row is None:
        return None
    twin = connection.scalar(_TWIN, {"hypervisor": hypervisor, "of": host_uuid}) if hypervisor else None
    return HostRecord(host_uuid, row.hypervisor or "", twin or "", row.claim_ordered, row.ahead, row.marked)


def knows(connection: Connection, host_uuid: str) -> bool:
    """Whether a host of this uuid is of the fleet."""
    return connection.execute(_HOST, {"of": host_uuid}).first() is not None


def host_of_hypervisor(connection: Connection, hypervisor: str) -> str | None:
    """The uuid of the host that is this hypervisor."""
    found: str | None = connection.scalar(select(_HOSTS.c.uuid).where(_HOSTS.c.hypervisor == hypervisor))
    return found


def set_hypervisor(connection: Connection, host_uuid: str, hypervisor: str) -> None:
    """The host is this hypervisor from now on, and what its operator ordered about that is done.

    Raises AlreadyExists where another host is it.
    """
    marked = case((_HOSTS.c.claim_ordered, 0), else_=_HOSTS.c.marked)
    values = {"hypervisor": hypervisor or None, "claim_ordered": False, "ahead": False, "marked": marked}
    row = update(_HOSTS).where(_HOSTS.c.uuid == host_uuid)
    try:
        with connection.begin_nested():
            connection.execute(row.values(generation=_HOSTS.c.generation + 1, **values))
    except IntegrityError as error:
        raise AlreadyExists("host", host_of_hypervisor(connection, hypervisor) or "") from error


def set_marked(connection: Connection, host_uuid: str, generation: int) -> None:
    """The host's mark was seen to have this generation for a while: an older one is no longer its own."""
    older = and_(_HOSTS.c.uuid == host_uuid, _HOSTS.c.marked < generation)
    connection.execute(update(_HOSTS).where(older).values(marked=generation))


def set_ahead(connection: Connection, host_uuid: str) -> None:
    """Record that the host has seen a later generation than this database. The mark stays when the database reaches
    that number by going on: what it lost does not come back by that."""
    connection.execute(update(_HOSTS).where(_HOSTS.c.uuid == host_uuid).values(ahead=True))


def ahead(connection: Connection) -> tuple[str, ...]:
    """Names of the hosts that have seen what this database does not know, or may have: nobody is placed meanwhile."""
    return tuple(connection.scalars(_AHEAD))


def flagged(connection: Connection) -> frozenset[str]:
    """Uuids of the hosts that may have seen what this database does not know, whatever is recorded of their answers."""
    return frozenset(connection.scalars(select(_HOSTS.c.uuid).where(_HOSTS.c.ahead)))


def said_ahead(connection: Connection) -> Mapping[str, str]:
    """Host uuid -> why, of those that some replica has found to be ahead of this database."""
    return {r.uuid: r.status_reason for r in connection.execute(_SAID_AHEAD)}


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
    row = connection.execute(_HOST, {"of": host_uuid}).one_or_none()
    if row is None:
        raise NotFound("host", host_uuid)
    connection.execute(
        update(_HOSTS).where(_HOSTS.c.uuid == host_uuid).values(claim_ordered=True, generation=_HOSTS.c.generation + 1)
    )
    fleet_events.append(connection, FleetChange.HOST, host_uuid, row.zone_uuid, now)


# --- retired attempts ----------------------------------------------------------------------------------------------


def retire(connection: Connection, seats: Iterable[tuple[str, int, str]], group_uuid: str, why: str, now: int) -> None:
    """Record that these (instance, attempt, host) were let go: what is found of them there may be ended."""
    values = [
        {"instance_uuid": i, "attempt": a, "host_uuid": h, "group_uuid": group_uuid, "why": why, "at": now}
        for i, a, h in seats
    ]
    if values:
        take_back(connection, [(v["instance_uuid"], v["attempt"], v["host_uuid"]) for v in values])  # type: ignore[misc]
        connection.execute(insert(_RETIRED), values)


def take_back(connection: Connection, seats: Sequence[tuple[str, int, str]]) -> None:
    """A member is seated there again: what is found of it is its own."""
    key = tuple_(_RETIRED.c.instance_uuid, _RETIRED.c.attempt, _RETIRED.c.host_uuid)
    if seats:
        connection.execute(delete(_RETIRED).where(key.in_(seats)))


def records(
    connection: Connection, host_uuid: str, wanted: frozenset[tuple[str, int]], instances: Sequence[str]
) -> Records:
    """What is on record of these instances on a host; `wanted`: attempts that members want there."""
    of = sorted(set(instances))
    retired = {
        (r.instance_uuid, r.attempt): r.why for r in connection.execute(_RETIRED_HERE, {"host": host_uuid, "of": of})
    }
    current = {
        r.uuid: r.attempt for r in connection.execute(_ATTEMPTS, {"of": of}) if r.status != InstanceStatus.REMOVED.value
    }
    keys = {r.key: r.removal for r in connection.execute(_KEYS, {"host": host_uuid})}
    ordered = frozenset(key for key, removal in keys.items() if removal)
    return Records(wanted, current, retired, ordered, frozenset(keys))


def retired_of(connection: Connection, instances: Sequence[str]) -> frozenset[tuple[str, int, str]]:
    """(instance, attempt, host) of every record of these instances."""
    found = connection.execute(_RETIRED_OF, {"of": instances})
    return frozenset((r.instance_uuid, r.attempt, r.host_uuid) for r in found)


def seen_gone(connection: Connection, host_uuid: str, there: frozenset[tuple[str, int]]) -> None:
    """A complete listing has shown these attempts on the host: the records of all others there have done their work."""
    gone = [
        (r.instance_uuid, r.attempt)
        for r in connection.execute(_UNSEEN, {"host": host_uuid})
        if (r.instance_uuid, r.attempt) not in there
    ]
    if gone:
        key = tuple_(_RETIRED.c.instance_uuid, _RETIRED.c.attempt)
        connection.execute(
            update(_RETIRED).where(_RETIRED.c.host_uuid == host_uuid, key.in_(gone)).values(seen_gone=True)
        )


def has_unseen(connection: Connection, host_uuid: str) -> bool:
    """Whether some record of the host waits to be seen carried out."""
    return connection.execute(_UNSEEN.limit(1), {"host": host_uuid}).first() is not None


def forget_retired(connection: Connection, before: int) -> None:
    """Forget records older than `before` (ms) whose attempts were seen gone, or whose host is of the fleet no more."""
    known = select(_HOSTS.c.uuid)
    connection.execute(
        delete(_RETIRED).where(_RETIRED.c.at < before, _RETIRED.c.seen_gone | _RETIRED.c.host_uuid.not_in(known))
    )


# --- the quarantine ------------------------------------------------------------------------------------------------


def quarantine(connection: Connection, host_uuid: str) -> tuple[Quarantined, ...]:
    """What is held on a host, by key."""
    rows = connection.execute(_HELD, {"host": host_uuid})
    return tuple(sorted((_held(r.document, r.since, r.removal) for r in rows), key=lambda q: q.key))


def held_on(connection: Connection, host_uuid: str) -> Mapping[str, int]:
    """What the machines in quarantine on a host hold together."""
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
    found = (_held(r.document, r.since, r.removal) for r in connection.execute(_HELD_OF, {"group": group_uuid}))
    return {one.instance: one.host for one in found}


def counts(connection: Connection) -> Mapping[tuple[str, Holding], int]:
    """(host uuid, kind) -> how many are held."""
    kinds = (_QUARANTINE.c.host_uuid, _QUARANTINE.c.holding)
    found = connection.execute(select(*kinds, func.count().label("n")).group_by(*kinds))
    return {(r.host_uuid, Holding(r.holding)): int(r.n) for r in found}


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
    changed = bool(gone) or not set(after) <= set(before)
    if changed:
        row = connection.execute(_HOST, {"of": host_uuid}).one_or_none()
        if row is not None:
            fleet_events.append(connection, FleetChange.HOST, host_uuid, row.zone_uuid, now)
    return changed


def adopt(connection: Connection, machines: Iterable[tuple[str, str]]) -> None:
    """Take these (host, machine uuid) out of the quarantine: this transaction makes them members', and claims what
    counted as used by others so far."""
    resources = schema.host_resources
    for host_uuid, key in sorted(machines):
        which = and_(_QUARANTINE.c.host_uuid == host_uuid, _QUARANTINE.c.key == key)
        row = connection.execute(select(_QUARANTINE).where(which)).one_or_none()
        if row is None:
            continue
        for name, amount in sorted(_held(row.document, row.since, row.removal).resources.items()):
            connection.execute(
                update(resources)
                .where(resources.c.host_uuid == host_uuid, resources.c.resource == name)
                .values(
                    foreign_used=case((resources.c.foreign_used > amount, resources.c.foreign_used - amount), else_=0)
                )
            )
        connection.execute(delete(_QUARANTINE).where(which))


def order_removal(connection: Connection, host_uuid: str, key: str) -> Quarantined:
    """An operator's word that this is to be ended: the record by which the sweep may. Raises NotFound."""
    one = quarantined(connection, host_uuid, key)
    which = and_(_QUARANTINE.c.host_uuid == host_uuid, _QUARANTINE.c.key == key)
    connection.execute(update(_QUARANTINE).where(which).values(removal=True))
    return replace(one, removal=True)


def _held(document: str, since: int, removal: bool) -> Quarantined:
    return replace(decode_known(Quarantined, document), since=since, removal=removal)
