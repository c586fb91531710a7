"""Connections and transactions: one executor for writes, one for reads, bounded retries, errors in domain terms.

SQLite: one writer thread, BEGIN IMMEDIATE, WAL, synchronous=FULL, and a file lock, because only one process may own the
file. PostgreSQL: a few writer threads, READ COMMITTED with guards inside the UPDATEs and row locks on groups; reads are
REPEATABLE READ, so that a group and its members are of one moment.
(Measured for the plan: this made 1,980 claims/s on SQLite where an async driver made 241.)
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, exc, make_url, text
from sqlalchemy.pool import QueuePool, StaticPool

from service.errors import Unavailable
from service.failpoints import failpoint
from service.store import sqlite_file

T = TypeVar("T")
Work = Callable[[Connection], T]
Watch = Callable[[str, str, float], None]
"""Hears of each transaction's end: kind (read, write), outcome (ok, refused, unavailable), seconds with waits."""

logger = logging.getLogger(__name__)

RETRIES = 5
# Serialization failure, deadlock, and a key that another transaction took since this one looked: trying again helps.
_RETRYABLE_SQLSTATES = frozenset({"40001", "40P01", "23505"})
_BUSY_SQLSTATES = frozenset({"55P03", "57014"})  # a lock or a statement took longer than it may

CALL_SECONDS = 15.0
"""A transaction on PostgreSQL that takes longer is cut off: a server may hang without closing its connections."""
_CONNECT_SECONDS = 5
_SERVER_SETTINGS = {
    "statement_timeout": 10_000,
    "lock_timeout": 5_000,
    "idle_in_transaction_session_timeout": 20_000,  # a replica that froze must not hold row locks for ever
}
_TCP = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}

FLEET_LOCK = 0x_C0_44_A1_01
"""Key of the advisory lock: shared by every claim, held alone by a gang that lost too many races."""
SPARE_LOCK = 0x_C0_44_A1_02
"""Key of the advisory lock of those that leave hosts empty; taken after the rows of the hosts that they claim."""
ALONE_MS = 10_000
"""How long one gang may have the fleet to itself; a plan and its claim take less."""


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


class Store:
    """Runs transactions for the event loop. One per process; `close` gives threads, connections and the lock back."""

    def __init__(self, url: str, *, readers: int = 2, writers: int = 4, inline: bool = False) -> None:
        """`url`: `sqlite:///path`, `sqlite://` (in memory, one connection) or `postgresql+psycopg://…`.

        `inline`: run transactions on the caller's thread, for simulations, whose order of events must be repeatable.

        Raises DatabaseLocked where another process has the SQLite file open, Unavailable where it cannot be opened.
        """
        self.url = make_url(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self.in_memory = self.sqlite and self.url.database in (None, "", ":memory:")
        self._lock_file: int | None = None
        if self.sqlite and not self.in_memory:
            path = Path(str(self.url.database))
            self._lock_file = sqlite_file.lock(path)
            sqlite_file.keep_private(path)
        self.engine = self._make_engine()
        self._reader_engine = self._make_reader()
        self._writes = ThreadPoolExecutor(1 if self.sqlite else writers, thread_name_prefix="store-write")
        self._reads = self._writes if self.in_memory else ThreadPoolExecutor(readers, thread_name_prefix="store-read")
        self._inline = inline
        self._alone = asyncio.Lock()
        self._committed: list[Callable[[], None]] = []
        self._refused: list[Callable[[], None]] = []
        self._watch: Watch | None = None
        self.full_at: float | None = None
        """When (s of the event loop's clock) a write failed last because the database had no space."""

    def on_commit(self, hook: Callable[[], None]) -> None:
        """Call `hook` on the event loop after every write of this process: a hint to look for new events."""
        self._committed.append(hook)

    def on_refusal(self, hook: Callable[[], None]) -> None:
        """Call `hook` on the event loop whenever the database takes no write, because it is full or read-only."""
        self._refused.append(hook)

    def on_end(self, watch: Watch) -> None:
        """Call `watch` on the event loop after every transaction."""
        self._watch = watch

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a read-write transaction; commit on return, roll back on any exception.

        `work` may run more than once (serialization failures), so it must touch nothing but its connection.
        Raises what `work` raises, or Unavailable where the database cannot be reached.
        """
        try:
            result = await self._watched("write", self._run(self._writes, self.engine, work))
        except Unavailable as error:
            if error.message == NO_SPACE:
                self.full_at = asyncio.get_running_loop().time()
            if error.message in REFUSES_WRITES:
                for hook in self._refused:
                    hook()
            raise
        for hook in self._committed:
            hook()
        return result

    async def read(self, work: Work[T]) -> T:
        """Run `work` on a consistent read. Raises like `write`."""
        return await self._watched("read", self._run(self._reads, self._reader_engine, work))

    @asynccontextmanager
    async def claiming(self, *, alone: bool = False) -> AsyncIterator[None]:
        """Around planning and claiming. `alone`: nobody else claims meanwhile, so that a large gang that lost too
        many races is placed in the end. Raises Unavailable where others keep the fleet for too long.

        After ALONE_MS the database itself lets others claim, so a replica that freezes in here holds nobody up.
        """
        if not alone and (self.sqlite or self._inline):
            async with self._alone:
                pass  # one process: it is enough to wait until whoever has the fleet alone is done
            yield
        elif not alone:
            yield  # `claims.take` shares the advisory lock inside its transaction
        elif self.sqlite:
            async with self._alone:
                yield
        else:
            async with self._alone:
                held = await self._off_loop(_take_fleet, self.engine)
                try:
                    yield
                finally:
                    await self._off_loop(_give_fleet_back, held)

    def close(self) -> None:
        """Wait for running transactions, then let everything go."""
        self._writes.shutdown(wait=True)
        self._reads.shutdown(wait=True)
        self.engine.dispose()
        self._reader_engine.dispose()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    async def _watched(self, kind: str, running: Awaitable[T]) -> T:
        started = time.perf_counter()
        try:
            result = await running
        except Exception as error:
            self._tell(kind, "unavailable" if isinstance(error, Unavailable) else "refused", started)
            raise
        self._tell(kind, "ok", started)
        return result

    def _tell(self, kind: str, outcome: str, started: float) -> None:
        if self._watch is not None:
            self._watch(kind, outcome, time.perf_counter() - started)

    async def _run(self, executor: ThreadPoolExecutor, engine: Engine, work: Work[T]) -> T:
        if self._inline:
            return _transaction(engine, work)
        call = Call()
        running = asyncio.get_running_loop().run_in_executor(executor, _transaction, engine, work, call)
        running.add_done_callback(_retrieve)
        # A cancelled caller must not leave a half-known outcome to its own cleanup: the transaction runs to its end.
        if self.sqlite:
            return await asyncio.shield(running)
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await asyncio.shield(running)
        except TimeoutError as error:
            call.cut_off()
            raise Unavailable("the database does not answer") from error

    async def _off_loop(self, work: Callable[..., T], *arguments: object) -> T:
        """Run on a thread of its own: it must not queue after the transactions that wait for it."""
        return await asyncio.shield(asyncio.to_thread(work, *arguments))

    def _make_reader(self) -> Engine:
        if not self.sqlite:
            return self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        return self.engine if self.in_memory else self._make_engine(reader=True)

    def _make_engine(self, *, reader: bool = False) -> Engine:
        if not self.sqlite:
            settings = " ".join(f"-c {name}={value}" for name, value in _SERVER_SETTINGS.items())
            arguments = {"connect_timeout": _CONNECT_SECONDS, "options": settings, **_TCP}
            return create_engine(
                self.url, poolclass=QueuePool, pool_size=8, max_overflow=4, pool_timeout=5, connect_args=arguments
            )
        engine = create_engine(
            self.url,
            poolclass=StaticPool if self.in_memory else (QueuePool if reader else StaticPool),
            connect_args={"check_same_thread": False, "timeout": sqlite_file.BUSY_MS / 1000},
        )
        event.listen(engine, "connect", sqlite_file.configure)
        event.listen(engine, "begin", sqlite_file.begin_deferred if reader else sqlite_file.begin_immediate)
        return engine


def _transaction(engine: Engine, work: Work[T], call: Call | None = None) -> T:
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
            if isinstance(error, exc.IntegrityError | exc.ProgrammingError | exc.DataError):
                raise
            logger.warning("database call failed: %s", error.orig)
            raise Unavailable(_trouble(error)) from error
        except exc.TimeoutError as error:
            raise Unavailable("the database is busy") from error
    raise AssertionError("unreachable: the last attempt returns or raises")


def _once(engine: Engine, work: Work[T], call: Call) -> T:
    with engine.connect() as connection:
        call.holds(connection)
        try:
            transaction = connection.begin()
            try:
                failpoint("transaction.begun")
                result = work(connection)
                failpoint("transaction.worked")
            except BaseException:
                transaction.rollback()
                raise
            try:
                transaction.commit()
            except exc.DBAPIError as error:
                error.add_detail(_IN_COMMIT)
                raise
            failpoint("transaction.committed")
            return result
        finally:
            call.holds(None)


_IN_COMMIT = "while committing"


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


def _retrieve(done: asyncio.Future[Any]) -> None:
    """Take note of the error: where nobody waits for the transaction any more, asyncio would complain about it."""
    if not done.cancelled():
        done.exception()


def _may_repeat(error: exc.DBAPIError) -> bool:
    """Whether the transaction certainly had no effect and another try may do better."""
    if getattr(error.orig, "sqlstate", None) in _RETRYABLE_SQLSTATES:
        return True
    return error.connection_invalidated and _IN_COMMIT not in error.detail


def _take_fleet(engine: Engine) -> Connection:
    connection = engine.connect()
    try:
        connection.begin()
        connection.execute(text(f"SET LOCAL lock_timeout = {2 * ALONE_MS}"))
        connection.execute(text(f"SET LOCAL statement_timeout = {2 * ALONE_MS}"))
        connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = {ALONE_MS}"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": FLEET_LOCK})
    except exc.DBAPIError as error:
        connection.close()
        raise Unavailable("the fleet is busy") from error
    return connection


def _give_fleet_back(connection: Connection) -> None:
    try:
        connection.close()
    except exc.DBAPIError as error:  # the database took it back already
        logger.info("a gang had the fleet to itself for too long: %s", error.orig)


def _shut_down(connection: Any) -> None:
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as handle:
            handle.shutdown(socket.SHUT_RDWR)
    except Exception as error:  # of the database's library, which differs by URL: it was closed in the meantime
        logger.info("a connection that hung was closed already: %s", error)
