"""What a deploy, and groups at rest, may cost, by exact count (`make bench-counts` prints the counts).

A change that makes it cheaper lowers the bound in the same commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.support.counting import UNLIKE_MS, Counts, deploy_counts, idle_counts
from tests.support.database import InTurn
from tests.support.postgres import Postgres


class Bound(NamedTuple):
    """What the counts of `Counts` are at most. PostgreSQL has a lock more, and writes events with their counter."""

    writes: int
    reads: int
    flushes: int
    statements: int
    on_postgresql: int
    tasks: int


ALIKE = {
    1: Bound(5, 1, 5, 35, 31, 8),
    8: Bound(5, 1, 5, 35, 31, 50),
    64: Bound(5, 1, 5, 35, 31, 330),
}
"""By the number of members, on hosts that answer at the same time."""
UNLIKE = {8: Bound(7, 26, 7, 134, 128, 58)}
"""The same where each host is slower than the one before: what comes of them comes one after the other, and is written
together where nobody waits for it."""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where an empty database is, of one kind and then of the other."""
    if request.param == "sqlite":
        yield "sqlite://"
        return
    server: Postgres = request.getfixturevalue("postgres")
    shared: InTurn = request.getfixturevalue("postgres_in_turn")
    try:
        yield server.url(shared.name)
    finally:
        shared.give_back()


@pytest.mark.parametrize("members", ALIKE)
def test_a_deploy_on_alike_hosts_costs_no_more(url: str, members: int) -> None:
    _holds(deploy_counts(url, members), ALIKE[members], url)


@pytest.mark.parametrize("members", UNLIKE)
def test_a_deploy_on_unlike_hosts_costs_no_more(url: str, members: int) -> None:
    _holds(deploy_counts(url, members, UNLIKE_MS), UNLIKE[members], url)


def _holds(found: Counts, bound: Bound, url: str) -> None:
    on_postgresql = url.startswith("postgresql")
    # SQLite writes nothing where nothing was changed; PostgreSQL's locks of rows are writes.
    assert found.writes <= bound.writes, found.by_work
    assert found.flushes <= (bound.writes if on_postgresql else bound.flushes), found.by_work
    assert found.reads <= bound.reads, found.by_work
    assert found.statements <= (bound.on_postgresql if on_postgresql else bound.statements)
    assert found.tasks <= bound.tasks


def test_groups_at_rest_write_next_to_nothing_and_what_is_lost_is_missed_all_the_same(url: str) -> None:
    counts, seconds = idle_counts(url)
    # In a minute: a turn each 10 s of each group made 92, and each second's groups put off by themselves 20.
    assert counts.flushes <= 12, counts.by_work
    assert counts.writes <= 12, counts.by_work
    # Each second it is asked whether anybody waits for hosts, and on PostgreSQL what the time is; the log, which nobody
    # watches, each ten seconds, which by where the minute begins falls into it 6 or 7 times.
    assert counts.statements <= 673 + 60 * url.startswith("postgresql")
    assert counts.reads <= 133 + 60 * url.startswith("postgresql")
    assert counts.tasks <= 96
    assert seconds <= 25.0
