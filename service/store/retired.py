"""Rows of attempts that were let go: by them alone a machine that is found later may be ended (ARCHITECTURE I15)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from service.domain.groups import InstanceStatus
from service.domain.ownership import Records
from service.store import schema
from service.store.statement import Statement, among

_RETIRED, _INSTANCES, _QUARANTINE, _HOSTS = schema.retired, schema.instances, schema.quarantine, schema.hosts
_RETIRED_HERE = Statement(
    select(_RETIRED.c.instance_uuid, _RETIRED.c.attempt, _RETIRED.c.why).where(
        _RETIRED.c.host_uuid == bindparam("host"), among(_RETIRED.c.instance_uuid, "of")
    )
)
_RETIRED_OF = select(_RETIRED.c.instance_uuid, _RETIRED.c.attempt, _RETIRED.c.host_uuid).where(
    _RETIRED.c.instance_uuid.in_(bindparam("of", expanding=True))
)
_ATTEMPTS = Statement(
    select(_INSTANCES.c.uuid, _INSTANCES.c.attempt, _INSTANCES.c.status).where(among(_INSTANCES.c.uuid, "of"))
)
_KEYS = Statement(select(_QUARANTINE.c.key, _QUARANTINE.c.removal).where(_QUARANTINE.c.host_uuid == bindparam("host")))
_UNSEEN = Statement(
    select(_RETIRED.c.instance_uuid, _RETIRED.c.attempt).where(
        _RETIRED.c.host_uuid == bindparam("host"), _RETIRED.c.seen_gone.is_(False)
    )
)
_SEEN_GONE = Statement(
    update(_RETIRED)
    .where(
        _RETIRED.c.host_uuid == bindparam("host"),
        _RETIRED.c.instance_uuid == bindparam("instance"),
        _RETIRED.c.attempt == bindparam("of"),
    )
    .values(seen_gone=True)
)
_RETIRE = Statement(insert(_RETIRED), ("instance_uuid", "attempt", "host_uuid", "group_uuid", "why", "at", "seen_gone"))
_TAKE_BACK = Statement(
    delete(_RETIRED).where(
        _RETIRED.c.instance_uuid == bindparam("instance"),
        _RETIRED.c.attempt == bindparam("of"),
        _RETIRED.c.host_uuid == bindparam("host"),
    )
)


def retire(connection: Connection, seats: Iterable[tuple[str, int, str]], group_uuid: str, why: str, now: int) -> None:
    """Record that these (instance, attempt, host) were let go: what is found of them there may be ended."""
    values = [
        {
            "instance_uuid": i,
            "attempt": a,
            "host_uuid": h,
            "group_uuid": group_uuid,
            "why": why,
            "at": now,
            "seen_gone": False,
        }
        for i, a, h in seats
    ]
    if values:
        take_back(connection, [(v["instance_uuid"], v["attempt"], v["host_uuid"]) for v in values])  # type: ignore[misc]
        _RETIRE.many(connection, values)


def take_back(connection: Connection, seats: Sequence[tuple[str, int, str]]) -> None:
    """A member is seated there again: what is found of it is its own."""
    _TAKE_BACK.many(connection, [{"instance": i, "of": a, "host": h} for i, a, h in seats])


def records(
    connection: Connection, host_uuid: str, wanted: frozenset[tuple[str, int]], instances: Sequence[str]
) -> Records:
    """What is on record of these instances on a host; `wanted`: attempts that members want there."""
    of = sorted(set(instances))
    here = _RETIRED_HERE.all(connection, {"host": host_uuid, "of": of}) if of else ()
    retired = {(r.instance_uuid, r.attempt): r.why for r in here}
    attempts = _ATTEMPTS.all(connection, {"of": of}) if of else ()
    current = {r.uuid: r.attempt for r in attempts if r.status != InstanceStatus.REMOVED.value}
    keys = {r.key: r.removal for r in _KEYS.all(connection, {"host": host_uuid})}
    ordered = frozenset(key for key, removal in keys.items() if removal)
    return Records(wanted, current, retired, ordered, frozenset(keys))


def retired_of(connection: Connection, instances: Sequence[str]) -> frozenset[tuple[str, int, str]]:
    """(instance, attempt, host) of every record of these instances."""
    found = connection.execute(_RETIRED_OF, {"of": instances})
    return frozenset((r.instance_uuid, r.attempt, r.host_uuid) for r in found)


def seen_gone(connection: Connection, host_uuid: str, there: Set[tuple[str, int]]) -> None:
    """A complete listing has shown these attempts on the host: the records of all others there have done their work."""
    gone = [
        {"host": host_uuid, "instance": r.instance_uuid, "of": r.attempt}
        for r in _UNSEEN.all(connection, {"host": host_uuid})
        if (r.instance_uuid, r.attempt) not in there
    ]
    _SEEN_GONE.many(connection, gone)


def has_unseen(connection: Connection, host_uuid: str) -> bool:
    """Whether some record of the host waits to be seen carried out."""
    return _UNSEEN.first(connection, {"host": host_uuid}) is not None


def forget_retired(connection: Connection, before: int) -> None:
    """Forget records older than `before` (ms) whose attempts were seen gone, or whose host is of the fleet no more."""
    known = select(_HOSTS.c.uuid)
    connection.execute(
        delete(_RETIRED).where(_RETIRED.c.at < before, _RETIRED.c.seen_gone | _RETIRED.c.host_uuid.not_in(known))
    )
