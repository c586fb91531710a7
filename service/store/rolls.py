"""Rolls that were begun: which hosts they empty, and how far each is."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, insert, select, tuple_, update

from service.domain.rolls import Roll
from service.errors import NotFound
from service.store import schema
from service.store.codec import decode, encode
from service.store.statement import Statement

_ROWS = schema.rolls
_THIS = select(_ROWS.c.body).where(_ROWS.c.uuid == bindparam("of"))
_GET, _LOCKED = Statement(_THIS), Statement(_THIS.with_for_update())
_UNENDED = Statement(select(_ROWS.c.body).where(_ROWS.c.ended_at == 0).order_by(_ROWS.c.created_at, _ROWS.c.uuid))


def add(connection: Connection, roll: Roll) -> None:
    """Keep one that begins with this commit."""
    values = {"uuid": roll.uuid, "created_at": roll.created_at, "ended_at": roll.ended_at, "body": encode(roll)}
    connection.execute(insert(_ROWS).values(values))


def put(connection: Connection, roll: Roll) -> None:
    """Write one as it is now. The caller holds its lock."""
    values = {"ended_at": roll.ended_at, "body": encode(roll)}
    connection.execute(update(_ROWS).where(_ROWS.c.uuid == roll.uuid).values(values))


def get(connection: Connection, uuid: str, *, lock: bool = False) -> Roll:
    """One that was begun. Raises NotFound."""
    body = (_LOCKED if lock else _GET).scalar(connection, {"of": uuid})
    if body is None:
        raise NotFound("roll", uuid)
    return decode(Roll, body)


def unended(connection: Connection) -> Sequence[Roll]:
    """Those that go on, the oldest first."""
    return [decode(Roll, body) for body in _UNENDED.scalars(connection)]


def page(connection: Connection, after: tuple[int, str] | None, limit: int) -> Sequence[Roll]:
    """Those that were begun, the newest first. `after`: the time (ms) and uuid of the last one of the page before."""
    query = select(_ROWS.c.body).order_by(_ROWS.c.created_at.desc(), _ROWS.c.uuid.desc()).limit(limit)
    if after is not None:
        query = query.where(tuple_(_ROWS.c.created_at, _ROWS.c.uuid) < tuple_(*after))
    return [decode(Roll, body) for body in connection.scalars(query)]
