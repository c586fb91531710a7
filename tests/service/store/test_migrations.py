"""A database that was migrated is the one that the schema describes."""

from __future__ import annotations

from functools import partial

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from service.store.engine import Store
from service.store.migrations import upgrade
from service.store.schema import metadata
from tests.support.database import Database, together


def test_migrations_make_exactly_the_schema(db: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"target_metadata": metadata, "compare_type": True})
        found: list[object] = compare_metadata(context, metadata)
        return found

    assert db.write(differences) == []


def test_an_up_to_date_database_is_left_alone(db: Database) -> None:
    db.write(lambda c: c.execute(text("UPDATE counters SET value = 7 WHERE name = 'revision'")))
    upgrade(db.store.engine)
    assert db.read(lambda c: c.scalar(text("SELECT value FROM counters WHERE name = 'revision'"))) == 7


def test_replicas_that_start_at_once_on_an_empty_database_wait_for_each_other(url: str) -> None:
    count = 1 if url.startswith("sqlite") else 4  # one process owns a SQLite file
    stores = [Store(url) for _ in range(count)]
    try:
        assert together([partial(upgrade, store.engine) for store in stores]) == [None] * count
    finally:
        for store in stores:
            store.close()
