"""The fleet's reader on both databases, and with transactions that see different moments."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from sqlalchemy import Connection, text, update

from service.domain.fleet import Host, HostState
from service.planning import fleet_reader
from service.planning.fleet_reader import FleetReader
from service.store import fleet, schema
from service.store.migrations import upgrade
from tests.service.planning.test_fleet_reader import World
from tests.support import builders
from tests.support.database import Database


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_changed_is_found_in_either_database(db: Database, seed: int) -> None:
    reader = FleetReader()
    with db.store.engine.connect() as connection, connection.begin():
        world = World(connection, seed)
        for _ in range(60):
            world.happen()
            hosts, snapshot = reader.read(connection)
            assert (dict(hosts), snapshot) == _whole(connection)


def test_a_transaction_that_began_earlier_sees_its_own_moment(db: Database) -> None:
    reader = FleetReader()
    with db.store.engine.connect() as connection, connection.begin():
        world = World(connection, 4)
        uuids = sorted(fleet.hosts(connection))
    with db.store._reader_engine.connect() as earlier, earlier.begin():
        before = reader.read(earlier)
        with db.store.engine.connect() as connection, connection.begin():
            world.connection = connection
            for _ in range(30):
                world.happen()
            after = _whole(connection)
        with db.store._reader_engine.connect() as later, later.begin():
            hosts, snapshot = reader.read(later)
            assert (dict(hosts), snapshot) == after
        assert sorted(before[0]) == uuids
        again = reader.read(earlier)
        assert (dict(again[0]), again[1]) == (dict(before[0]), before[1]) == _whole(earlier)
    assert before[1] != snapshot


def test_what_was_not_committed_yet_at_one_read_is_found_at_the_next(db: Database) -> None:
    """Its transaction is older than others whose changes were seen."""
    if db.store.sqlite:
        pytest.skip("SQLite has one writer")
    reader, (one, two) = FleetReader(), _two_hosts(db)
    with db.store.engine.connect() as slow, slow.begin():
        _disable(slow, one)
        assert _read(db, reader)[one].state is HostState.ENABLED
        db.write(lambda c: _disable(c, two))
        seen = _read(db, reader)
        assert (seen[one].state, seen[two].state) == (HostState.ENABLED, HostState.DISABLED)
    assert {host.state for host in _read(db, reader).values()} == {HostState.DISABLED}


def test_a_host_that_is_removed_while_another_is_added_is_gone(db: Database) -> None:
    reader, (one, two) = FleetReader(), _two_hosts(db)
    assert set(_read(db, reader)) == {one, two}
    third = builders.host(3)
    db.write(lambda c: fleet.delete_host(c, fleet.host(c, one), 2))
    db.write(lambda c: fleet.put_host(c, third))
    assert set(_read(db, reader)) == {two, third.uuid}


def test_a_table_that_is_written_anew_hides_no_change(db: Database) -> None:
    """As an upgrade does with SQLite's, and `VACUUM FULL` with PostgreSQL's."""
    reader, (one, _two) = FleetReader(), _two_hosts(db)
    assert _read(db, reader)[one].state is HostState.ENABLED
    if db.store.sqlite:
        db.write(_as_an_earlier_version)
        upgrade(db.store.engine)
    db.write(lambda c: _disable(c, one))
    if not db.store.sqlite:
        with db.store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM (FULL, FREEZE) hosts"))
    assert _read(db, reader)[one].state is HostState.DISABLED


def _two_hosts(db: Database) -> tuple[str, str]:
    one, two = builders.host(1), builders.host(2)

    def rows(connection: Connection) -> None:
        fleet.put_zone(connection, builders.zone())
        for host in (one, two):
            fleet.put_host(connection, host)

    db.write(rows)
    return one.uuid, two.uuid


def _as_an_earlier_version(connection: Connection) -> None:
    """One trigger is gone with its table, another looks at less."""
    for table in ("hosts", "host_resources"):
        connection.exec_driver_sql(f"DROP TRIGGER {table}_update_noted")
    connection.exec_driver_sql(
        "CREATE TRIGGER hosts_update_noted AFTER UPDATE ON hosts WHEN OLD.version <> NEW.version BEGIN SELECT 1; END"
    )


def _disable(connection: Connection, uuid: str) -> None:
    # Without its event, whose number others would wait for.
    table = schema.hosts
    connection.execute(update(table).where(table.c.uuid == uuid).values(state=HostState.DISABLED.value))


def _read(db: Database, reader: FleetReader) -> Mapping[str, Host]:
    """What the reader gives, which is what there is."""
    hosts, snapshot = db.read(reader.read)
    assert (dict(hosts), snapshot) == db.read(_whole)
    return hosts


def _whole(connection: object) -> object:
    hosts, snapshot = fleet_reader.read_fleet(connection)  # type: ignore[arg-type]
    return dict(hosts), snapshot
