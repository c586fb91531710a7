"""Who changed what: a row in the transaction of the change itself."""

from __future__ import annotations

from service.domain.tenants import Caller
from service.store import audit
from service.store.connection import Connection


def audited(connection: Connection, caller: Caller, method: str, subject: str, request_id: str, now: int) -> None:
    """Leave a row about a change in its own transaction. `request_id`: the one in the request, or empty. `now`: ms."""
    audit.record(
        connection,
        principal=caller.principal,
        project=caller.project,
        method=method,
        subject=subject,
        request_id=caller.request_id,
        client_request_id=request_id,
        peer=caller.peer,
        now=now,
    )
