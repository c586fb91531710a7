"""Groups that need no turn: when they are due next is set without anybody taking their lease."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, bindparam, select, update

from service.store import schema
from service.store.statement import Statement, among

_GROUPS = schema.groups
_PUT_OFF = Statement(
    update(_GROUPS)
    .where(
        _GROUPS.c.uuid == bindparam("of"),
        _GROUPS.c.version == bindparam("seen"),
        _GROUPS.c.due_at <= bindparam("now"),
        _GROUPS.c.lease_until <= bindparam("leases"),
    )
    .values(due_at=bindparam("at"))
)

_FREE = Statement(
    select(_GROUPS.c.uuid, _GROUPS.c.version, _GROUPS.c.due_at).where(
        among(_GROUPS.c.uuid, "uuids"), _GROUPS.c.lease_until <= bindparam("leases")
    )
)

_DUE = Statement(
    select(_GROUPS.c.uuid)
    .where(_GROUPS.c.due_at <= bindparam("now"), _GROUPS.c.lease_until <= bindparam("leases"))
    .limit(1)
)


def is_any_due(connection: Connection, now: int, *, leases_as_of: int) -> bool:
    """Whether a group is due at `now` (ms) that nobody holds."""
    return bool(_DUE.all(connection, {"now": now, "leases": leases_as_of}))


def put_off(
    connection: Connection, versions: Mapping[str, int], until: Callable[[str], int], now: int, *, leases_as_of: int
) -> Mapping[str, int]:
    """Groups (uuid -> version) that are due, that nobody holds and that are of these versions still are due `until`
    (ms, of each uuid) from now on; those that are due then, and when that is."""
    later = {uuid: until(uuid) for uuid in sorted(versions)}
    rows = [
        {"now": now, "leases": leases_as_of, "at": at, "of": uuid, "seen": versions[uuid]} for uuid, at in later.items()
    ]
    if _PUT_OFF.many(connection, rows) == len(rows):
        return later
    stored = _FREE.all(connection, {"uuids": list(later), "leases": leases_as_of}) if later else ()
    return {r.uuid: r.due_at for r in stored if (r.version, r.due_at) == (versions[r.uuid], later[r.uuid])}
