"""The newest schema in a database of this process's memory, without the time that every migration takes."""

from __future__ import annotations

import sqlite3
from functools import cache

from sqlalchemy import Engine

from service.store.engine import Store
from service.store.migrations import upgrade


def migrated(engine: Engine) -> None:
    """What `upgrade` does. Into a new SQLite database in memory it lays the image of one that was upgraded."""
    if engine.dialect.name != "sqlite" or engine.url.database not in (None, "", ":memory:"):
        upgrade(engine)
        return
    pooled = engine.raw_connection()
    connection = pooled.driver_connection
    assert isinstance(connection, sqlite3.Connection)
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,), "it is not new"
    connection.deserialize(_image())
    pooled.close()


@cache
def _image() -> bytes:
    store = Store("sqlite://", inline=True)
    upgrade(store.engine)
    pooled = store.engine.raw_connection()
    connection = pooled.driver_connection
    assert isinstance(connection, sqlite3.Connection)
    image = connection.serialize()
    pooled.close()
    store.close()
    return image
