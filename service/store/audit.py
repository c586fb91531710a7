"""Who changed what: a row in the very transaction of the change, so that neither stands without the other."""

from __future__ import annotations

from sqlalchemy import Connection, insert

from service.store import schema

_RECORD = insert(schema.audit)


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
) -> None:
    """`method`: the API's own name; `subject`: the uuid of what was changed; `now`: ms since the epoch.

    `request_id`: as the call's log line has it; `client_request_id`: the one in the request, or empty.
    """
    connection.execute(
        _RECORD,
        {
            "time": now,
            "principal": principal,
            "project": project,
            "method": method,
            "subject": subject,
            "request_id": request_id,
            "client_request_id": client_request_id,
        },
    )
