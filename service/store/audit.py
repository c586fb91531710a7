"""Who changed what: a row in the very transaction of the change, so that neither stands without the other."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, insert, select

from service.domain.tenants import AuditEvent, AuditFilter
from service.store import schema
from service.store.statement import Statement

_RECORD = Statement(
    insert(schema.audit),
    ("time", "principal", "project", "method", "subject", "request_id", "client_request_id", "peer"),
)
_NEWEST = (
    select(schema.audit.c.request_id)
    .where(schema.audit.c.subject == bindparam("of"))
    .order_by(schema.audit.c.id.desc())
    .limit(1)
)
_EQUALS = ("project", "principal", "method", "subject", "request_id")


def record(
    connection: Connection,
    *,
    principal: str,
    project: str,
    method: str,
    subject: str,
    request_id: str,
    now: int,
    client_request_id: str = "",
    peer: str = "",
) -> None:
    """`method`: the API's own name; `subject`: the uuid of what was changed; `now`: ms since the epoch.

    `request_id`: as the call's log line has it; `client_request_id`: the one in the request, or empty.
    `peer`: where the call came from; empty of what nobody called for.
    """
    _RECORD.run(
        connection,
        {
            "time": now,
            "principal": principal,
            "project": project,
            "method": method,
            "subject": subject,
            "request_id": request_id,
            "client_request_id": client_request_id,
            "peer": peer,
        },
    )


def newest_request(connection: Connection, subject: str) -> str:
    """The request id of the last call that changed it; empty where none did, or where it had none."""
    found = connection.scalar(_NEWEST, {"of": subject})
    return "" if found is None else str(found)


def page(connection: Connection, wanted: AuditFilter, before: int | None, limit: int) -> tuple[AuditEvent, ...]:
    """Up to `limit` changes, the newest first, with numbers below `before` (None: from the newest on)."""
    table = schema.audit
    query = select(table).order_by(table.c.id.desc()).limit(limit)
    for name in _EQUALS:
        if value := getattr(wanted, name):
            query = query.where(table.c[name] == value)
    if wanted.start:
        query = query.where(table.c.time >= wanted.start)
    if wanted.end:
        query = query.where(table.c.time < wanted.end)
    if before is not None:
        query = query.where(table.c.id < before)
    return tuple(AuditEvent(**row._mapping) for row in connection.execute(query))
