"""Groups that need no turn: when they are due next is set without anybody taking their lease."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, bindparam, select, update

from service.store import schema
from service.store.statement import Statement

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

_DUE = Statement(
    select(_GROUPS.c.uuid)
    .where(_GROUPS.c.due_at <= bindparam("now"), _GROUPS.c.lease_until <= bindparam("leases"))
    .limit(1)
)


def is_any_due(connection: Connection, now: int, *, leases_as_of: int) -> bool:
    """Whether a group is due at `now` (ms) that nobody holds."""
    return bool(_DUE.all(connection, {"now": now, "leases": leases_as_of}))


def put_off(
    connection: Connection, versions: Mapping[str, int], now: int, until: int, *, leases_as_of: int
) -> frozenset[str]:
    """Groups (uuid -> version) that are due, that nobody holds and that are of these versions still are due `until`
    (ms) from now on; which ones."""
    asked = {"now": now, "leases": leases_as_of, "at": until}
    return frozenset(
        uuid
        for uuid, version in sorted(versions.items())
        if _PUT_OFF.run(connection, {**asked, "of": uuid, "seen": version})
    )
