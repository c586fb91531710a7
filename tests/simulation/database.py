"""One in-memory database for all replicas of a run, and a store whose transactions travel to it over the network."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Engine

from service.errors import Unavailable
from service.store import migrations
from service.store.clock import CLOCK
from service.store.engine import Store, Work, _transaction
from tests.simulation.loop import Process

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")


@cache
def shared() -> tuple[Engine, sqlite3.Connection, bytes]:
    """The engine that all runs of this operating system process use, its connection, and an image of a new schema."""
    store = Store("sqlite://", inline=True)
    migrations.upgrade(store.engine)
    pooled = store.engine.raw_connection()
    connection = pooled.driver_connection
    assert isinstance(connection, sqlite3.Connection)
    image = connection.serialize()
    pooled.close()
    return store.engine, connection, image


class Database:
    """The shared database as the observer and the network see it."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.engine, self.connection, image = shared()
        self.connection.deserialize(image)
        pooled = self.engine.raw_connection()
        pooled.info[CLOCK] = now_ms
        pooled.close()
        self.available = True

    def rows(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Plain SQL, outside of any replica."""
        return self.connection.execute(query, arguments).fetchall()


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
        result = await self._transact(work, write=True)
        for hook in self._committed:
            hook()
        return result

    async def read(self, work: Work[T]) -> T:
        """See Store.read."""
        return await self._transact(work, write=False)

    async def _transact(self, work: Work[T], *, write: bool) -> T:
        world = self._world
        kind = "write" if write else "read"
        world.point(f"db.{kind}.request")
        await asyncio.sleep(world.latency())
        fault = world.database_fault(self._process, write=write)
        if fault == "unavailable" or not world.database.available:
            raise Unavailable("the database can not be reached")
        connection = world.database.connection
        before = connection.total_changes
        try:
            result = _transaction(world.database.engine, work)
        finally:
            if connection.total_changes != before:
                world.committed()
        world.point(f"db.{kind}.reply")
        if fault == "lost_reply":
            raise Unavailable("the connection was lost while the transaction was committed")
        await asyncio.sleep(world.latency())
        return result
