"""The database for one command alone, while no service has it: in earnest, or as a rehearsal of which nothing stays."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, exc, make_url, text

from service.errors import Unavailable
from service.store import clock, groups
from service.store.engine import Store
from service.store.hints import SERVING_LOCK
from service.store.migrations import is_newest, upgrade
from service.store.sqlite_file import DatabaseLocked
from service.store.transaction import T, Work

Run = Callable[[Work[Any]], Any]
"""Carries out one transaction and answers what its work does."""


class Offline:
    """A database that is this command's alone."""

    def __init__(self, store: Store, *, rehearse: bool) -> None:
        self._store = store
        self._rehearse = rehearse

    @contextmanager
    def session(self) -> Iterator[Callable[[Work[T]], T]]:
        """Runs transactions, each of which sees those before it; on PostgreSQL a rehearsal undoes them at its end."""
        engine = self._store.engine
        if not self._rehearse or self._store.sqlite:

            def run(work: Work[T]) -> T:
                with engine.begin() as connection:
                    return work(connection)

            yield run
            return
        with engine.connect() as connection, connection.begin() as whole:

            def rehearse(work: Work[T]) -> T:
                with connection.begin_nested():
                    return work(connection)

            yield rehearse
            whole.rollback()


@contextmanager
def offline(url: str, *, rehearse: bool) -> Iterator[Offline]:
    """The database at `url`, brought up to date. `rehearse`: what is written is to be seen and not to stay.

    Raises DatabaseLocked where a service has it, Unavailable.
    """
    if rehearse and (lost := _file(url)) is not None and not lost.exists():
        # A file that is not there is served by nobody, and a rehearsal must not make it.
        with closing(Store("sqlite://")) as empty:
            upgrade(empty.engine)
            yield Offline(empty, rehearse=True)
        return
    held = Store(url)
    try:
        if not held.sqlite:
            with _nobody_serves(held):
                if not rehearse:
                    upgrade(held.engine)
                elif not is_newest(held.engine):
                    raise Unavailable("the database has an older schema: its next start, or --write, brings it up")
                yield Offline(held, rehearse=rehearse)
        elif rehearse:
            with closing(_copy(_file(url))) as copy:
                upgrade(copy.engine)
                yield Offline(copy, rehearse=True)
        else:
            upgrade(held.engine)
            yield Offline(held, rehearse=False)
    finally:
        held.close()


class NoBackup(Exception):
    """Why no copy was made."""


def backup(url: str, target: Path) -> int:
    """A copy of a SQLite database as of one moment, readable to its owner alone, however much is written meanwhile.

    Returns its bytes. Raises NoBackup.
    """
    source = _file(url)
    if source is None:
        raise NoBackup("the database is no SQLite file: pg_dump makes a backup of PostgreSQL's")
    if not source.is_file():
        raise NoBackup(f"there is no database {source}")
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        return _backed_up(source, target)
    except (OSError, sqlite3.Error) as error:
        raise NoBackup(str(error)) from error


def _backed_up(source: Path, target: Path) -> int:
    try:
        with closing(_readable(source)) as whole, closing(sqlite3.connect(target)) as copy:
            whole.backup(copy)
            if copy.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError(f"{source} is damaged")
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, whatever the source has beside it
    except BaseException:
        target.unlink()
        raise
    return target.stat().st_size


def _file(url: str) -> Path | None:
    """The file of a SQLite database; None for one in memory, and for PostgreSQL."""
    address = make_url(url)
    named = address.database if address.get_backend_name() == "sqlite" else None
    return Path(named) if named and named != ":memory:" else None


def _readable(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)


def _copy(path: Path | None) -> Store:
    """A copy of the file in memory."""
    store = Store("sqlite://")
    if path is not None:
        with closing(_readable(path)) as source:
            pooled = store.engine.raw_connection()
            try:
                source.backup(pooled.driver_connection)  # type: ignore[arg-type]
            finally:
                pooled.close()
    return store


@contextmanager
def _nobody_serves(store: Store) -> Iterator[None]:
    """Raises DatabaseLocked where a replica is connected, or has left groups under a lease that has not run out."""
    try:
        connection = store.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    except exc.DBAPIError as error:
        raise Unavailable(f"the database cannot be reached: {error.orig}") from error
    with connection:
        if not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": SERVING_LOCK}):
            raise DatabaseLocked("a replica of the service is connected to the database: stop all of them first")
        if is_newest(store.engine) and (owners := _owners(connection)):
            raise DatabaseLocked(f"groups are under lease, of {len(owners)} processes that may live: wait 45 s")
        yield
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": SERVING_LOCK})


def _owners(connection: Connection) -> frozenset[str]:
    return groups.owners(connection, clock.now(connection))
