"""Request ids: the same id with the same body gets the same group as its answer, with another body it is refused."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, insert, select

from service.errors import RequestIdReused
from service.store import schema
from service.store.statement import Statement

_FIND = Statement(
    select(schema.requests).where(
        schema.requests.c.principal == bindparam("by"),
        schema.requests.c.method == bindparam("what"),
        schema.requests.c.request_id == bindparam("of"),
    )
)
_REMEMBER = Statement(
    insert(schema.requests),
    ("principal", "method", "request_id", "body_hash", "group_uuid", "after_revision", "created_at"),
)


@dataclass(frozen=True, slots=True)
class Remembered:
    """The group that a request was about, and the revision after which the events of its operation begin."""

    group_uuid: str
    after_revision: int


def find(connection: Connection, principal: str, method: str, request_id: str, body_hash: str) -> Remembered | None:
    """What this request started earlier, or None. Raises RequestIdReused for another body."""
    asked = {"by": principal, "what": method, "of": request_id}
    row = _FIND.first(connection, asked)
    if row is None:
        return None
    if row.body_hash != body_hash:
        raise RequestIdReused(request_id)
    return Remembered(row.group_uuid, row.after_revision)


def forget(connection: Connection, before: int) -> int:
    """Forget requests from before this time (ms since the epoch); returns how many there were."""
    table = schema.requests
    return connection.execute(delete(table).where(table.c.created_at < before)).rowcount


def remember(
    connection: Connection,
    principal: str,
    method: str,
    request_id: str,
    body_hash: str,
    group_uuid: str,
    after_revision: int,
    now: int,
) -> None:
    """Keep the id with the intent, in the same transaction."""
    _REMEMBER.run(
        connection,
        {
            "principal": principal,
            "method": method,
            "request_id": request_id,
            "body_hash": body_hash,
            "group_uuid": group_uuid,
            "after_revision": after_revision,
            "created_at": now,
        },
    )
