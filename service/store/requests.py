"""Request ids: the same id and body answer with the same group, another body is refused."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from service.errors import RequestIdReused
from service.store import schema


def find(connection: Connection, principal: str, method: str, request_id: str, body_hash: str) -> str | None:
    """The group that this request made earlier, or None. Raises RequestIdReused for another body."""
    row = connection.execute(
        select(schema.requests.c.body_hash, schema.requests.c.group_uuid).where(
            schema.requests.c.principal == principal,
            schema.requests.c.method == method,
            schema.requests.c.request_id == request_id,
        )
    ).one_or_none()
    if row is None:
        return None
    if row.body_hash != body_hash:
        raise RequestIdReused(request_id)
    return str(row.group_uuid)


def remember(
    connection: Connection, principal: str, method: str, request_id: str, body_hash: str, group_uuid: str, now: int
) -> None:
    """Keep the id with the intent, in the same transaction."""
    connection.execute(
        insert(schema.requests).values(
            principal=principal,
            method=method,
            request_id=request_id,
            body_hash=body_hash,
            group_uuid=group_uuid,
            created_at=now,
        )
    )
