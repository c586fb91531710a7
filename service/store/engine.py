"""Connections and transactions: one executor for writes, one for reads, bounded retries, errors in domain terms.

SQLite: one writer thread whose commits are shared by all that waits, BEGIN IMMEDIATE, WAL, synchronous=FULL, and a file
lock, because only one process may own the file. PostgreSQL: a few writer threads, READ COMMITTED with guards inside the
UPDATEs and row locks on groups; reads are REPEATABLE READ, so that a group and its members are of one moment.
(Measured for the plan: this made 1,980 claims/s on SQLite where an async driver made 241.)
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc, make_url, text
from sqlalchemy.pool import QueuePool, StaticPool

from service.domain.events import Event
from service.errors import Unavailable
from service.store import events, sqlite_file, transaction
from service.store.shared_commit import SharedCommit
from service.store.transaction import NO_SPACE, REFUSES_WRITES, T, Work

Watch = Callable[[str, str, float], None]
"""Hears of each transaction's end: kind (read, write), outcome (ok, refused, unavailable), seconds with waits."""

logger = logging.getLogger(__name__)

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
        shares = self.sqlite and not self.in_memory and not inline
        self._shared = SharedCommit(self.engine, self._writes) if shares else None
        self._alone = asyncio.Lock()
        self._committed: list[Callable[[Sequence[Event]], None]] = []
        self._refused: list[Callable[[], None]] = []
        self._watch: Watch | None = None
        self.full_at: float | None = None
        """When (s of the event loop's clock) a write failed last because the database had no space."""

    def on_commit(self, hook: Callable[[Sequence[Event]], None]) -> None:
        """Call `hook` on the event loop after every write of this process, with the events that it appended."""
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
        told: list[Event] = []
        try:
            result = await self._watched("write", self._write(events.noting(work, told)))
        except Unavailable as error:
            if error.message == NO_SPACE:
                self.full_at = asyncio.get_running_loop().time()
            if error.message in REFUSES_WRITES:
                for hook in self._refused:
                    hook()
            raise
        for listener in self._committed:
            listener(told)
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

    async def _write(self, work: Work[T]) -> T:
        if self._shared is None:
            return await self._run(self._writes, self.engine, work)
        running = self._shared.run(work)
        running.add_done_callback(_retrieve)
        return await asyncio.shield(running)

    async def _run(self, executor: ThreadPoolExecutor, engine: Engine, work: Work[T]) -> T:
        if self._inline:
            return transaction.run(engine, work)
        call = transaction.Call()
        running = asyncio.get_running_loop().run_in_executor(executor, transaction.run, engine, work, call)
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
            # Whatever a database or its server was made with (`SQL_ASCII` under a bare locale): texts are texts.
            arguments = {"connect_timeout": _CONNECT_SECONDS, "client_encoding": "utf8", "options": settings, **_TCP}
            return create_engine(
                self.url, poolclass=QueuePool, pool_size=8, max_overflow=4, pool_timeout=5, connect_args=arguments
            )
        engine = create_engine(
            self.url,
            poolclass=StaticPool if self.in_memory else (QueuePool if reader else StaticPool),
            connect_args={
                "check_same_thread": False,
                "timeout": sqlite_file.BUSY_MS / 1000,
                "cached_statements": sqlite_file.STATEMENTS,
            },
        )
        event.listen(engine, "connect", sqlite_file.configure)
        event.listen(engine, "begin", sqlite_file.begin_deferred if reader else sqlite_file.begin_immediate)
        return engine


def _retrieve(done: asyncio.Future[Any]) -> None:
    """Take note of the error: where nobody waits for the transaction any more, asyncio would complain about it."""
    if not done.cancelled():
        done.exception()


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
