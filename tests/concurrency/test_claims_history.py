"""Clients of several processes on a nearly full fleet: nothing is ever given out twice, and every last slot has one
winner. The same on a larger scale: `python -m tests.concurrency`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.concurrency.fleet_of_claims import crowd
from tests.concurrency.observer import Held, over_commits, overlaps
from tests.support.database import Database
from tests.support.postgres import Postgres

HOSTS = 4
VCPU = 8


@pytest.fixture
def fleet(postgres: Postgres, database: str) -> list[str]:
    """A small fleet in an empty database; returns the hosts' uuids."""
    return make_fleet(postgres.url(database), HOSTS, VCPU)


def make_fleet(url: str, hosts: int, vcpu: int) -> list[str]:
    """Migrate the database and put connected hosts into it."""
    with Database(url, migrate=True) as made:
        return list(made.fill(hosts, vcpu=vcpu))


def test_three_processes_on_a_nearly_full_fleet_over_commit_nothing(
    postgres: Postgres, database: str, fleet: list[str], tmp_path: Path
) -> None:
    with crowd(postgres.url(database), tmp_path, processes=3, clients=18) as clients:
        claims, lost, _ = clients.churn(fleet, 300)
        assert over_commits(postgres, database) == []
        assert clients.overlaps(VCPU) == []
    assert claims >= 300
    assert lost >= claims / 10  # otherwise the fleet was not full, and nothing was shown
    assert postgres.query("SELECT count(*) FROM claims", database) == [["0"]]
    assert postgres.query("SELECT DISTINCT used FROM host_resources", database) == [["0"]]


def test_every_race_for_the_last_slot_has_one_winner(postgres: Postgres, database: str, tmp_path: Path) -> None:
    (host,) = make_fleet(postgres.url(database), 1, 1)
    with crowd(postgres.url(database), tmp_path, processes=3, clients=12) as clients:
        assert clients.races(host, 30) == [1] * 30
    assert over_commits(postgres, database) == []


def test_the_observer_sees_what_was_given_out_twice(postgres: Postgres, database: str, fleet: list[str]) -> None:
    """An observer that cannot fail would prove nothing."""
    assert overlaps([Held("a", 3, 0, 2), Held("a", 2, 1, 3)], 4) != []
    assert overlaps([Held("a", 3, 0, 1), Held("a", 2, 1, 3)], 4) == []
    row = f"('{'a' * 32}', 1, 'vcpu', '{fleet[0]}', '{'c' * 32}', 9)"
    postgres.query(f"INSERT INTO claims VALUES {row}", database)
    assert over_commits(postgres, database) != []
