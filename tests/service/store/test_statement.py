"""Statements that run past SQLAlchemy say and raise what they would by it."""

from __future__ import annotations

import importlib
import pkgutil
from functools import partial

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, bindparam, exc, insert, select, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import psycopg

import service.store
from service.store import claims, groups, schema
from service.store.statement import Statement, _compiled, among
from tests.support.builders import host
from tests.support.database import Database, member, together

_HOSTS = schema.hosts
_SOME = Statement(select(_HOSTS.c.uuid, _HOSTS.c.ahead, _HOSTS.c.version).where(among(_HOSTS.c.uuid, "these")))
_RAISE = Statement(
    update(_HOSTS).where(_HOSTS.c.uuid == bindparam("of")).values(version=_HOSTS.c.version + bindparam("more"))
)
_COUNTER = Statement(insert(schema.counters), ("name", "value"))
_FIRST, _NOBODY = host(1).uuid, "e" * 32


def test_rows_are_named_and_of_the_types_of_their_columns(db: Database) -> None:
    db.fill(2)
    (row,) = db.read(_SOME.all, {"these": [_FIRST, _NOBODY]})
    assert (row.uuid, row.ahead) == (_FIRST, False)
    assert row.ahead is False
    assert db.read(_SOME.all, {"these": []}) == []
    assert db.read(_SOME.first, {"these": [_NOBODY]}) is None
    assert db.read(_SOME.scalar, {"these": [_NOBODY]}) is None
    assert db.read(_SOME.scalars, {"these": [_FIRST]}) == [_FIRST]


def test_a_statement_for_many_rows_tells_how_many_it_touched(db: Database) -> None:
    db.fill(2)
    rows = [{"of": uuid, "more": 5} for uuid in (_FIRST, host(2).uuid, _NOBODY)]
    before = db.read(_SOME.first, {"these": [_FIRST]}).version
    assert db.write(_RAISE.many, rows) == 2
    assert db.write(_RAISE.many, []) == 0
    assert db.write(_RAISE.run, {"of": _FIRST, "more": 1}) == 1
    assert db.read(_SOME.first, {"these": [_FIRST]}).version == before + 6


def test_an_error_is_the_one_that_sqlalchemy_raises_and_shows_no_values(db: Database) -> None:
    db.write(_COUNTER.run, {"name": "mine", "value": 1})
    with pytest.raises(exc.IntegrityError) as raised:
        db.write(_COUNTER.run, {"name": "mine", "value": 4711})
    assert "4711" not in str(raised.value)
    assert db.write(_COUNTER.run, {"name": "other", "value": 2}) == 1  # the connection is as good as it was


def test_what_it_does_is_part_of_the_transaction(db: Database) -> None:
    def broken(connection: Connection) -> None:
        _COUNTER.run(connection, {"name": "mine", "value": 1})
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  # it is this test's own
        db.write(broken)
    assert db.write(_COUNTER.run, {"name": "mine", "value": 1}) == 1


def test_a_default_that_python_gives_is_refused(db: Database) -> None:
    table = Table("t", MetaData(), Column("a", String), Column("b", Integer, default=1))
    with pytest.raises(TypeError):
        db.read(Statement(insert(table), ("a",)).run, {"a": "x"})


@pytest.mark.parametrize("statement", [claims._WRONG, claims._SEATED_HERE, groups._MEMBERS, groups._SOME_GROUPS])
def test_one_of_several_is_found_by_an_index(db: Database, statement: Statement) -> None:
    if not db.store.sqlite:
        pytest.skip("PostgreSQL reads a small table as a whole, whatever indexes it has")

    def plan(connection: Connection) -> list[str]:
        sql, values = statement._form(connection).ready({name: [_FIRST] * 3 for name in ("of", "hosts")})
        driver = connection.connection.dbapi_connection
        return [row[3] for row in driver.execute(f"EXPLAIN QUERY PLAN {sql}", values)]  # type: ignore[union-attr]

    steps = db.read(plan)
    assert [step for step in steps if step.startswith("SCAN")] == []


def test_gangs_that_cross_wait_for_each_other_and_none_is_a_deadlocks_victim(db: Database) -> None:
    """A victim would be tried again, and nobody would see it: so the server is asked."""
    if db.store.sqlite:
        pytest.skip("SQLite has one writer")
    hosts = db.fill(6, vcpu=1000, memory=1 << 50)

    def turn(worker: int) -> None:
        for step in range(12):
            numbers = range(worker * 1000 + step * 10, worker * 1000 + step * 10 + 6)
            order = hosts if worker % 2 else hosts[::-1]
            gang = [member(number, uuid) for number, uuid in zip(numbers, order, strict=True)]
            db.write(claims.take, "f" * 32, gang)
            db.write(claims.release, [(seat.instance_uuid, 1) for seat in gang])

    assert together([partial(turn, worker) for worker in range(8)]) == [None] * 8
    assert set(db.used().values()) == {0}
    assert db.read(_deadlocks) == 0


def _deadlocks(connection: Connection) -> int:
    """Of this database, as the server's statistics tell once everybody's counters were written."""
    connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
    query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    return int(connection.exec_driver_sql(query).scalar_one())


def test_every_statement_can_be_made_for_both_databases() -> None:
    """One that cannot is noticed here, and not by the first caller who needs it."""
    made = 0
    for module in pkgutil.iter_modules(service.store.__path__, "service.store."):
        for one in vars(importlib.import_module(module.name)).values():
            if isinstance(one, Statement):
                made += len(
                    [_compiled(one.core, one._names, dialect()) for dialect in (sqlite.dialect, psycopg.dialect)]
                )
    assert made > 150


def test_a_list_that_would_be_written_out_when_it_runs_is_refused() -> None:
    query = Statement(select(_HOSTS.c.uuid).where(_HOSTS.c.status.in_(["Connected", "Degraded"])))
    with pytest.raises(TypeError, match="among"):
        _compiled(query.core, None, sqlite.dialect())
