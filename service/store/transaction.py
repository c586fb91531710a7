"""One transaction on one connection: begun, worked, committed; bounded retries; errors in domain terms."""

from __future__ import annotations

import logging
import os
import random
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, exc

from service.errors import Unavailable
from service.failpoints import failpoint
from service.store import sqlite_file

T = TypeVar("T")
Work = Callable[[Connection], T]

logger = logging.getLogger(__name__)

RETRIES = 5
# Serialization failure, deadlock, and a key that another transaction took since this one looked: trying again helps.
_RETRYABLE_SQLSTATES = frozenset({"40001", "40P01", "23505"})
_BUSY_SQLSTATES = frozenset({"55P03", "57014"})  # a lock or a statement took longer than it may
OF_THE_WORK = (exc.IntegrityError, exc.ProgrammingError, exc.DataError)
"""Errors of a statement, not of the database: the transaction itself can go on."""

NO_SPACE = "the database has no space left on its file system: nothing can be written until some is freed"
_READ_ONLY = "the database is read-only: nothing can be written"
REFUSES_WRITES = frozenset({NO_SPACE, _READ_ONLY})


class Call:
    """One running transaction, seen from outside of its thread, so that a hung one can be cut off."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._connection: Any = None
        self.cut = False

    def holds(self, connection: Connection | None) -> None:
        """The transaction runs on this connection now; None: on none."""
        with self._guard:
            self._connection = None if connection is None else connection.connection.dbapi_connection
            if self.cut and self._connection is not None:
                _shut_down(self._connection)

    def cut_off(self) -> None:
        """Shut the connection's socket down: whatever waits on it ends with an error at once."""
        with self._guard:
            self.cut = True
            if self._connection is not None:
                _shut_down(self._connection)


def run(engine: Engine, work: Work[T], call: Call | None = None) -> T:
    """Run `work` in one transaction of its own; again, up to RETRIES times, where that certainly had no effect and
    may do better. Raises what `work` raises, or Unavailable."""
    call = call or Call()
    for attempt in range(1, RETRIES + 1):
        if call.cut:
            raise Unavailable("the database does not answer")
        try:
            return _once(engine, work, call)
        except exc.DBAPIError as error:
            # A commit whose answer was lost is never repeated: it may have happened.
            if _may_repeat(error) and attempt < RETRIES and not call.cut:
                time.sleep(random.uniform(0.002, 0.02) * attempt)
                continue
            if isinstance(error, OF_THE_WORK):
                raise
            raise unavailable(error) from error
        except exc.TimeoutError as error:
            raise Unavailable("the database is busy") from error
    raise AssertionError("unreachable: the last attempt returns or raises")


def _once(engine: Engine, work: Work[T], call: Call) -> T:
    with engine.connect() as connection:
        call.holds(connection)
        try:
            return within(connection, lambda: done(connection, work))
        finally:
            call.holds(None)


def within(connection: Connection, body: Callable[[], T]) -> T:
    """Call `body` between the beginning and the commit of a transaction; nothing of it stays where that raises."""
    transaction = connection.begin()
    try:
        result = body()
    except BaseException:
        transaction.rollback()
        raise
    try:
        transaction.commit()
    except exc.DBAPIError as error:
        error.add_detail(_IN_COMMIT)
        sqlite_file.end(connection)
        raise
    failpoint("transaction.committed")
    return result


def done(connection: Connection, work: Work[T]) -> T:
    """What `work` returns inside a transaction."""
    failpoint("transaction.begun")
    result = work(connection)
    failpoint("transaction.worked")
    return result


_IN_COMMIT = "while committing"


def unavailable(error: exc.DBAPIError) -> Unavailable:
    """What callers are told of it."""
    logger.warning("database call failed: %s", error.orig)
    return Unavailable(_trouble(error))


def _trouble(error: exc.DBAPIError) -> str:
    """What is wrong with the database, in words that an operator can act on."""
    state = getattr(error.orig, "sqlstate", None) or (getattr(error.orig, "sqlite_errorcode", 0) & 0xFF)
    if state in _BUSY_SQLSTATES or state in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "the database is busy"
    if state in ("53100", sqlite3.SQLITE_FULL):
        return NO_SPACE
    if state in ("25006", sqlite3.SQLITE_READONLY):
        return _READ_ONLY
    return "the database cannot be reached"


def is_of_the_commit(error: exc.DBAPIError) -> bool:
    """Whether it is the commit's own, so that what was done may have been kept."""
    return _IN_COMMIT in error.detail


def _may_repeat(error: exc.DBAPIError) -> bool:
    """Whether the transaction certainly had no effect and another try may do better."""
    if getattr(error.orig, "sqlstate", None) in _RETRYABLE_SQLSTATES:
        return True
    return error.connection_invalidated and not is_of_the_commit(error)


def _shut_down(connection: Any) -> None:
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as handle:
            handle.shutdown(socket.SHUT_RDWR)
    except Exception as error:  # of the database's library, which differs by URL: it was closed in the meantime
        logger.info("a connection that hung was closed already: %s", error)
