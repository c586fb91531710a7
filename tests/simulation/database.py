"""One in-memory database for all replicas of a run, and a store whose transactions travel to it over the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

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


class _Looking(_Quick):
    """For transactions that only read: nobody else is at the database meanwhile, so that none is begun."""

    def begin(self) -> Any:
        """As Connection.begin."""
        return self

    def commit(self) -> None:
        """As Transaction.commit."""

    def rollback(self) -> None:
        """As Transaction.rollback."""


class Answer(NamedTuple):
    """What a read was answered. `tick`, `tables`: see WatchedConnection."""

    tick: int
    tables: frozenset[str]
    result: Any


class _Kept:
    """Stands for the engine: its one connection stays checked out, because a pool's bookkeeping costs a lot."""

    def __init__(self, engine: Engine, kind: type[_Quick] = _Quick) -> None:
        self._connection = kind(engine)
        Connection.begin(self._connection)
        _Quick.rollback(self._connection)  # the driver's, not Core's, which is told of none

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


@cache
def _looking() -> Any:
    return _Kept(shared()[0], _Looking)


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
        self.answers: dict[object, Answer] = {}
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
_FINAL = "Evacuation._final.<locals>.read"
_LOOK = "Reconciler._take.<locals>.look"
_RENEW = "GroupWorker._renew.<locals>.renew"
_SEATS = "Sweep._host.<locals>.<lambda>"
_TAKE = "Reconciler._take.<locals>.take"
_TAKEN_FROM = frozenset({"groups", "hosts", "counters"})
_VOLUMES = "Sweep._unwanted.<locals>.<lambda>"
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
        await world.loop.pause(world.latency())
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
            await world.loop.pause(world.late_reply(_lease_of(result) if deploys else LEASE.get(), deploys=deploys))
        else:
            await world.loop.pause(world.latency())
        return result

    def _run_once(self, work: Work[T], told: list[Event] | None) -> T:
        """The real transaction; what another replica has just read, and nobody has changed, is not read again."""
        world, connection = self._world, self._world.database.connection
        if told is None:
            return self._look(work)
        before = connection.total_changes
        try:
            result = transaction.run(_kept(), events.noting(work, told), _UNCUT)
        finally:
            if connection.total_changes != before:
                world.committed()
        if _name(work) == _TAKE and isinstance(result, Taken) and not result.leases:
            self._keep(_TAKE, result, connection.tick, _TAKEN_FROM)
        return result

    def _look(self, work: Work[T]) -> T:
        connection, key = self._world.database.connection, self._key(work)
        if key is None:
            return transaction.run(_looking(), work, _UNCUT)
        # Of a look for what is due it was seen already that time has gone on too far for the last answer.
        known = None if _name(work) == _LOOK else self._known(key)
        if known is not None:
            for point in ("begun", "worked", "committed"):
                self._world.point(f"transaction.{point}")
            return cast(T, known.result)
        connection.reading = set()
        try:
            result = transaction.run(_looking(), work, _UNCUT)
        finally:
            tables, connection.reading = frozenset(connection.reading), None
        if result is not None or _name(work) == _FINAL:
            self._keep(key, result, connection.tick, tables)
        return result

    def _known(self, key: object) -> Answer | None:
        """What was answered, where no table that it was read from has changed since."""
        database = self._world.database
        known = database.answers.get(key)
        return None if known is None or database.connection.is_since(known.tables, known.tick) else known

    def _keep(self, key: object, result: Any, tick: int, tables: frozenset[str]) -> None:
        database = self._world.database
        if key in (_TAKE, (_LOOK, True), (_LOOK, False)):
            (until,) = database.rows("SELECT MIN(MAX(due_at, lease_until)) FROM groups")[0]
            result = replace(result, now=until or 0)  # from when on the answer may be another
        database.answers[key] = Answer(tick, tables, result)

    def _nothing_new(self, work: Any) -> Any:
        """The empty answers of polls, where nothing was committed since they were last asked: most polls are such.

        They are what the real code would answer again; asking it every time takes most of a run.
        """
        name = _name(work)
        if name == _LOOK or (name == _TAKE and not (_cell(work, "hinted") or _cell(work, "unsure"))):
            now, last = self._world.now_ms(), self._known(_TAKE if name == _TAKE else self._key(work))
            if last is None or last.result.ahead or (last.result.now and now >= last.result.now):
                return None
            return replace(last.result, now=now)
        if name == _CATCH_UP and _cell(work, "self")._head == self._world.observer.revision:
            return ()
        known = self._known(self._key(work)) if name == _SEATS else None
        return None if known is None else known.result

    def _key(self, work: Any) -> object:
        """Of a read that is often repeated: which one, and all that its answer depends on beside the rows."""
        name = _name(work)
        if name == _LOOK:
            return _LOOK, bool(_cell(work, "given_back"))
        if name == _CATCH_UP:
            return _CATCH_UP, _cell(work, "self")._head
        if name in (_SEATS, _VOLUMES):
            return name, _cell(work, "host_uuid"), tuple(_cell(work, "instances"))
        if name == _LOAD:
            return _LOAD, _cell(work, "self").uuid
        if name == _FINAL:
            return _FINAL, _cell(work, "uuid"), _cell(work, "told"), tuple(_cell(work, "intent").leaving.items())
        which = getattr(work, "__module__", ""), name
        return which if which in _OF_THE_ROWS_ALONE else None
