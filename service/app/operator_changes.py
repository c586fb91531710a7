"""What changes of zones, hosts and the catalogue have in common: request ids, audit rows, calls that only check."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Generic, TypeVar

from service.app.auditing import audited
from service.domain.tenants import Caller
from service.errors import WrongState
from service.store import requests, rows
from service.store.codec import canonical
from service.store.connection import Connection, Table
from service.store.engine import Store

T = TypeVar("T")


class _Checked(Exception, Generic[T]):
    """Carries a result out of a transaction that is rolled back."""

    def __init__(self, result: T) -> None:
        super().__init__()
        self.result = result


async def commit(store: Store, work: Callable[[Connection], T], *, validate_only: bool) -> T:
    """Run `work` in a transaction; with `validate_only` roll it back after all its checks. Raises like `work`."""
    if not validate_only:
        return await store.write(work)

    def check(connection: Connection) -> None:
        raise _Checked(work(connection))

    try:
        await store.write(check)
    except _Checked as done:
        result: T = done.result
        return result
    raise AssertionError("unreachable: the check always ends by its exception")


def require_run_time(connection: Connection, table: Table, subject: str, uuid: str) -> None:
    """Raises WrongState where the configuration file defines the row: it would come back at the next start."""
    if rows.is_configured(connection, table, uuid):
        raise WrongState(subject, "defined in the configuration file", "that it is taken out of the file")


def made_before(connection: Connection, caller: Caller, method: str, request_id: str, request: object) -> str | None:
    """The uuid of what this request made earlier, or None. Raises RequestIdReused."""
    if not request_id:
        return None
    known = requests.find(connection, caller.principal, method, request_id, _hash(request))
    return known.group_uuid if known is not None else None


def made(
    connection: Connection, caller: Caller, method: str, request_id: str, request: object, uuid: str, now: int
) -> None:
    """Keep what the request made, and who asked for it, in the transaction that makes it."""
    audited(connection, caller, method, uuid, request_id, now)
    if request_id:
        requests.remember(connection, caller.principal, method, request_id, _hash(request), uuid, 0, now)


def _hash(request: object) -> str:
    return hashlib.sha256(canonical(request).encode()).hexdigest()
