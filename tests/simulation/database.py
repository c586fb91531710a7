"""One in-memory database for all replicas of a run, and a store whose transactions travel to it over the network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sqlalchemy import Connection, Engine, event

from service.domain.events import Event
from service.errors import Unavailable
from service.reconcile.finding import Taken
from service.store import events, migrations, ownership, transaction
from service.store.clock import CLOCK
from service.store.engine import Store
from service.store.transaction import Work
from tests.simulation.hosts import CLUSTER
from tests.simulation.loop import LEASE, Process
from tests.simulation.watched import WatchedConnection

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")


class _Shared(Store):
    def _make_engine(self, *, reader: bool = False) -> Engine:
        engine = super()._make_engine(reader=reader)
        event.listen(engine, "do_connect", _watch)
        return engine


def _watch(_dialect: object, _record: object, _arguments: object, named: dict[str, Any]) -> None:
    named["factory"] = WatchedConnection


@cache
def shared() -> tuple[Engine, WatchedConnection, bytes]:
    """The engine that all runs of this operating system process use, its connection, and an image of a new schema."""
    store = _Shared("sqlite://", inline=True)
    migrations.upgrade(store.engine)
    ownership.establish(store.engine, CLUSTER, 0)
    pooled = store.engine.raw_connection()
    connection = pooled.driver_connection
    assert isinstance(connection, WatchedConnection)
    connection.know()
    image = connection.serialize()
    pooled.close()
    return store.engine, connection, image


class _Quick(Connection):
    """A connection whose transactions are the driver's own: SQLAlchemy's bookkeeping of each costs as much as its work.

    As far as Core can tell it is always in one. `begin` is answered with the connection itself, which stands for it.
    """

    def begin(self) -> Any:
        """As Connection.begin."""
        self._driver.unwatched.execute("BEGIN IMMEDIATE")
        return self

    def commit(self) -> None:
        """As Transaction.commit."""
        self._driver.unwatched.execute("COMMIT")

    def rollback(self) -> None:
        """As Transaction.rollback."""
        self._driver.unwatched.execute("ROLLBACK")
        self._driver.everything_changed()

    @cached_property
    def _driver(self) -> WatchedConnection:
        driver = self.connection.driver_connection
        assert isinstance(driver, WatchedConnection)
        return driver


class _Kept:
    """Stands for the engine: its one connection stays checked out, because a pool's bookkeeping costs a lot."""

    def __init__(self, engine: Engine) -> None:
        self._connection = _Quick(engine)
        Connection.begin(self._connection)
        self._connection.rollback()  # the driver's, not Core's, which is told of none

    def connect(self) -> _Kept:
        """As Engine.connect, to be entered."""
        return self

    def __enter__(self) -> Connection:
        return self._connection

    def __exit__(self, *_error: object) -> None:
        """Transactions end by themselves."""


class _Uncut(transaction.Call):
    """Nobody cuts a transaction off that runs on the caller's own thread."""

    def holds(self, connection: Connection | None) -> None:
        """See transaction.Call."""


_UNCUT = _Uncut()


@cache
def _kept() -> Any:
    return _Kept(shared()[0])


class Database:
    """The shared database as the observer and the network see it."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.engine, self.connection, image = shared()
        self.connection.deserialize(image)
        self.connection.everything_changed()
        pooled = self.engine.raw_connection()
        pooled.info[CLOCK] = now_ms
        pooled.close()
        self.available = True
        self.answers: dict[object, Any] = {}
        self._asked: dict[tuple[object, ...], tuple[int, list[tuple[Any, ...]]]] = {}

    def image(self) -> bytes:
        """All of it as it is now: a backup."""
        return self.connection.serialize()

    def restore(self, image: bytes) -> None:
        """From now on it is what it was when the image was taken. Nobody may have it open."""
        self.connection.deserialize(image)
        self.connection.everything_changed()
        self.answers.clear()
        self._asked.clear()

    def transact(self, work: Work[T]) -> T:
        """One transaction of somebody who has the database to himself."""
        self.answers.clear()
        return transaction.run(_kept(), work, _UNCUT)

    def rows(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Plain SQL, outside of any replica. What was asked before, and no table of it has changed since, is not asked
        again: the list is the same one. Nobody may change it."""
        connection, asked = self.connection, (query, *arguments)
        known = self._asked.get(asked)
        if known is not None and not connection.is_since(connection.tables_of(query), known[0]):
            return known[1]
        found = connection.unwatched.execute(query, arguments).fetchall()
        self._asked[asked] = connection.tick, found
        return found


_CATCH_UP = "Feed._catch_up.<locals>.<lambda>"
_DEPLOY = "Groups.deploy.<locals>.intent"
_LOAD = "GroupWorker._load.<locals>.<lambda>"
_RENEW = "GroupWorker._renew.<locals>.renew"
_SEATS = "Sweep._host.<locals>.<lambda>"
_TAKE = "Reconciler._take.<locals>.take"
_OF_THE_ROWS_ALONE = frozenset({("service.reconcile.roster", "_read"), ("service.store.rolls", "unended")})
"""Reads whose answer follows from the database's rows and nothing else, and is changed by nobody."""


def _name(work: Any) -> str:
    """What a transaction's function is called; of a `partial` nothing."""
    return getattr(work, "__qualname__", "")


def _lease_of(deployed: Any) -> tuple[str, int]:
    """Of the group that a deploy took in."""
    started, _ = deployed
    return started.group.uuid, started.group.epoch


def _cell(work: Any, name: str) -> Any:
    return work.__closure__[work.__code__.co_freevars.index(name)].cell_contents


class SimulatedStore(Store):
    """The real store on the shared database; every transaction is a request and a reply, and both may be lost."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process
        super().__init__("sqlite://", inline=True)

    def _make_engine(self, *, reader: bool = False) -> Engine:
        return self._world.database.engine

    async def write(self, work: Work[T]) -> T:
        """See Store.write."""
        told: list[Event] = []
        result = await self._transact(work, told)
        for hook in self._committed:
            hook(told)
        return result

    async def read(self, work: Work[T]) -> T:
        """See Store.read."""
        return await self._transact(work, None)

    async def _transact(self, work: Work[T], told: list[Event] | None) -> T:
        world, write = self._world, told is not None
        kind = "write" if write else "read"
        world.point(f"db.{kind}.request")
        known = self._nothing_new(work)
        if known is not None:
            world.stats["shortcuts"] += 1
            return cast(T, known)
        await asyncio.sleep(world.latency())
        if _name(work) == _RENEW:
            world.sever_before_renewal(self._process, LEASE.get())
        deploys = _name(work) == _DEPLOY
        fault = world.database_fault(self._process, write=write, deploys=deploys)
        if fault == "unavailable" or not world.database.available:
            self._process.troubles += 1
            raise Unavailable("the database cannot be reached")
        result = self._run_once(work, told)
        world.point(f"db.{kind}.reply")
        if fault == "lost_reply":
            self._process.troubles += 1
            raise Unavailable("the connection was lost while the transaction was committed")
        if fault == "late_reply":
            await asyncio.sleep(world.late_reply(_lease_of(result) if deploys else LEASE.get(), deploys=deploys))
        else:
            await asyncio.sleep(world.latency())
        return result

    def _run_once(self, work: Work[T], told: list[Event] | None) -> T:
        """The real transaction; what another replica has just read, and nobody has changed, is not read again."""
        world, answers = self._world, self._world.database.answers
        key = None if told is not None else self._key(work)
        if key is not None and key in answers:
            if (work.__module__, _name(work)) in _OF_THE_ROWS_ALONE:
                for point in ("begun", "worked", "committed"):
                    world.point(f"transaction.{point}")
            return cast(T, answers[key])
        before = world.database.connection.total_changes
        try:
            result = transaction.run(_kept(), work if told is None else events.noting(work, told), _UNCUT)
        finally:
            if world.database.connection.total_changes != before:
                world.committed()
        if key is not None:
            answers[key] = result
        if _name(work) == _TAKE and isinstance(result, Taken) and not result.leases:
            answers[_TAKE] = result
        return result

    def _nothing_new(self, work: Any) -> Any:
        """The empty answers of polls, where nothing was committed since they were last asked: most polls are such.

        They are what the real code would answer again; asking it every time takes most of a run.
        """
        world = self._world
        if _name(work) == _TAKE and not (_cell(work, "hinted") or _cell(work, "unsure")):
            now = world.now_ms()
            free = (
                "SELECT 1 FROM groups WHERE due_at <= ?1 AND lease_until <= ?1"
                " UNION ALL SELECT 1 FROM hosts WHERE status = 'Ahead' LIMIT 1"
            )
            last = world.database.answers.get(_TAKE)
            return None if last is None or last.ahead or world.database.rows(free, now) else replace(last, now=now)
        if _name(work) == _CATCH_UP and _cell(work, "self")._head == world.observer.revision:
            return ()
        return world.database.answers.get(self._key(work)) if _name(work) == _SEATS else None

    def _key(self, work: Any) -> object:
        """Of a read that is often repeated: which one, and all that its answer depends on."""
        observer = self._world.observer
        if (which := (getattr(work, "__module__", ""), _name(work))) in _OF_THE_ROWS_ALONE:
            return which, observer.commits
        if _name(work) == _CATCH_UP:
            return _CATCH_UP, _cell(work, "self")._head, observer.revision
        if _name(work) == _SEATS:
            asked = tuple(_cell(work, "instances"))
            (held,) = self._world.database.rows("SELECT count(*), sum(removal) FROM quarantine")
            (unseen,) = self._world.database.rows("SELECT count(*), sum(rowid) FROM retired WHERE NOT seen_gone")
            return _SEATS, _cell(work, "host_uuid"), asked, held, unseen, observer.revision, observer.claim_changes
        if _name(work) == _LOAD:
            return _LOAD, _cell(work, "self").uuid, observer.commits
        return None
