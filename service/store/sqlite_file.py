"""A SQLite database's file: one process has it, its owner alone reads it, and how connections to it are set up."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import stat
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, exc

from service.errors import Unavailable

logger = logging.getLogger(__name__)

BUSY_MS = 5_000
STATEMENTS = 1024
"""So many the driver keeps prepared for a connection. The service has a few hundred, and the driver's own 128 let a
statement go before it is run again."""
_PRIVATE = 0o600  # sessions' digests, specifications, who did what: nothing for other users of the machine


class DatabaseLocked(Exception):
    """Another process has the database, or may have it."""


def lock(path: Path) -> int:
    """A descriptor that keeps other processes from the file until it is closed. Raises DatabaseLocked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise DatabaseLocked(f"{path} is in use by another corral process") from error
    return handle


def keep_private(path: Path) -> None:
    """The file is its owner's alone, whatever the umask and whoever made it; SQLite gives its WAL the same mode.

    A file that is another user's stays as it is. Raises Unavailable for one that cannot be written.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE))
    except OSError as error:
        raise Unavailable(f"the database cannot be opened: {path}: {error.strerror}") from error
    for one in (path, *(path.with_name(path.name + ending) for ending in ("-wal", "-shm", ".lock"))):
        try:
            if stat.S_IMODE(one.stat().st_mode) & ~_PRIVATE:
                one.chmod(_PRIVATE)
                logger.info("%s can be read by its owner alone from now on", one)
        except FileNotFoundError:
            continue
        except PermissionError:
            logger.warning("%s is another user's and can be read by others", one)


def configure(connection: Any, _record: Any) -> None:
    """Set a new connection up, before anything is asked on it."""
    connection.isolation_level = None  # the driver must not begin transactions by itself; `begin_*` do
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_MS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def begin_immediate(connection: Connection) -> None:
    """Begin a transaction that writes: the file is its own from here on."""
    directly(connection, "BEGIN IMMEDIATE")


def begin_deferred(connection: Connection) -> None:
    """Begin a transaction that only reads."""
    directly(connection, "BEGIN")


def end(connection: Connection) -> None:
    """After a commit that failed: SQLite leaves the transaction open, and none could be begun on this connection."""
    if connection.dialect.name == "sqlite":
        connection.connection.driver_connection.rollback()  # type: ignore[union-attr]


def directly(connection: Connection, statement: str) -> None:
    """Past SQLAlchemy's machinery for statements, which costs ten times what SQLite needs for this one."""
    try:
        connection.connection.driver_connection.execute(statement)  # type: ignore[union-attr]
    except sqlite3.OperationalError as error:
        raise exc.OperationalError(statement, None, error) from error
