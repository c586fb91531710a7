"""What was changed is read again, and only that."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from tests.simulation.watched import WatchedConnection

SCHEMA = """
CREATE TABLE one (a INTEGER);
CREATE TABLE two (a INTEGER);
CREATE TABLE three (a INTEGER);
CREATE TRIGGER noted AFTER INSERT ON two BEGIN INSERT INTO three VALUES (NEW.a); END;
"""


@pytest.fixture
def connection() -> Iterator[WatchedConnection]:
    made = sqlite3.connect(":memory:", factory=WatchedConnection)
    made.executescript(SCHEMA)
    made.know()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("sql", "changed"),
    [
        ("INSERT INTO one VALUES (1)", {"one"}),
        ('INSERT OR REPLACE INTO "one" VALUES (1)', {"one"}),
        ("UPDATE one SET a = 2 WHERE a IN (SELECT a FROM two)", {"one"}),
        ("  DELETE FROM one", {"one"}),
        ("INSERT INTO two VALUES (1)", {"two", "three"}),
        ("WITH x AS (SELECT 1) INSERT INTO one SELECT * FROM x", {"one", "two", "three"}),
        ("SELECT * FROM one, two", set()),
    ],
)
@pytest.mark.parametrize("how", ["connection", "cursor", "many"])
def test_a_statement_changes_the_tables_that_it_writes(
    connection: WatchedConnection, sql: str, changed: set[str], how: str
) -> None:
    before = connection.tick
    if how == "connection":
        connection.execute(sql)
    elif how == "cursor":
        connection.cursor().execute(sql)
    elif not sql.startswith("SELECT"):
        connection.cursor().executemany(sql, [()])
    assert {table for table in ("one", "two", "three") if connection.is_since([table], before)} == changed
    assert connection.tables_of("SELECT one.a FROM one JOIN two ON one.a = two.a") == {"one", "two"}


def test_what_is_read_is_told_to_whoever_wants_to_know(connection: WatchedConnection) -> None:
    connection.reading = set()
    connection.execute("SELECT * FROM one")
    connection.cursor().execute("SELECT * FROM three")
    assert connection.reading == {"one", "three"}


def test_another_database_is_another_in_all(connection: WatchedConnection) -> None:
    before = connection.tick
    connection.everything_changed()
    assert connection.is_since(["one"], before)
    assert not connection.is_since(["one"], connection.tick)
