"""The same tests on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.store.engine import Store
from service.store.migrations import upgrade
from tests.postgres import Postgres, database, postgres

from .database import Database

__all__ = ["database", "postgres"]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database, of one kind and then of the other."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/corral.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.url(request.getfixturevalue("database"))


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied."""
    path = tmp_path_factory.mktemp("template") / "corral.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres: Postgres) -> str:
    """The name of a migrated database, to be copied."""
    name = postgres.create_database()
    _migrate(postgres.url(name))
    return name


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database with the newest schema, of one kind and then of the other."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "corral.db")
        with Database(f"sqlite:///{tmp_path}/corral.db") as opened:
            yield opened
        return
    server: Postgres = request.getfixturevalue("postgres")
    name = server.create_database(template=request.getfixturevalue("postgres_template"))
    with Database(server.url(name)) as opened:
        yield opened
    server.drop_database(name)


def _migrate(url: str) -> None:
    store = Store(url)
    upgrade(store.engine)
    store.close()
