"""The fleet's reader on both databases, and with transactions that see different moments."""

from __future__ import annotations

import pytest

from service.planning import fleet_reader
from service.planning.fleet_reader import FleetReader
from service.store import fleet
from tests.service.planning.test_fleet_reader import World
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


def _whole(connection: object) -> object:
    hosts, snapshot = fleet_reader.read_fleet(connection)  # type: ignore[arg-type]
    return dict(hosts), snapshot
