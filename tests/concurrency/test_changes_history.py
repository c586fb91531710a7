"""Three processes whose changes share commits, on groups that at times are each other's: whoever was answered finds it
kept, events are numbered without gaps and come in order, and nobody is a deadlock's victim."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.concurrency.changer import group_uuid
from tests.concurrency.observer import broken_histories
from tests.support import ROOT
from tests.support.changing import put
from tests.support.database import Database
from tests.support.postgres import Postgres

PROCESSES, CLIENTS = 3, 8
# Events of groups and of the fleet have one counter; none is to be seen before all that have lower numbers.
_SEEN = """
SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM fleet_events),
greatest((SELECT max(revision) FROM events), (SELECT max(revision) FROM fleet_events))
"""
_ROWS_DIFFER = """
SELECT g.uuid FROM groups g JOIN events e ON e.group_uuid = g.uuid AND e.sequence = g.sequence
WHERE g.revision <> e.revision OR e.body::json ->> 'reason' <> g.reason
"""
_DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


@pytest.fixture
def server() -> Iterator[Postgres]:
    """One of its own, which may be killed."""
    with Postgres(fsync="on") as made:
        yield made


def _filled(server: Postgres) -> str:
    """The name of a database with a group for each client."""
    database = server.create_database()
    with Database(server.url(database), migrate=True) as made:
        made.fill(1, vcpu=PROCESSES * CLIENTS)
        made.write(put, [group_uuid(n, client) for n in range(PROCESSES) for client in range(CLIENTS)])
    return database


def _begin(server: Postgres, database: str, directory: Path, answers: int) -> list[subprocess.Popen[bytes]]:
    def begin(number: int) -> subprocess.Popen[bytes]:
        numbers = (str(n) for n in (number, CLIENTS, PROCESSES, answers))
        words = (server.url(database), *numbers, str(directory / f"answers-{number}"))
        return subprocess.Popen(
            [sys.executable, "-m", "tests.concurrency.changer", *words],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": "protos:."},
        )

    return [begin(number) for number in range(PROCESSES)]


def _answers(directory: Path) -> list[str]:
    """The whole lines that all processes have written."""
    texts = [path.read_text() for path in sorted(directory.glob("answers-*"))]
    return [line for text in texts for line in text[: text.rfind("\n") + 1].splitlines()]


def _unkept(server: Postgres, database: str, answers: list[str]) -> set[str]:
    """Those of which there is no event of that group, number and revision."""
    kept = {" ".join(row) for row in server.query("SELECT group_uuid, sequence, revision FROM events", database)}
    return {line for line in answers if not line.endswith(" 0 0")} - kept  # a group of which nothing was told yet


def test_what_was_answered_is_kept_in_order_and_without_gaps(server: Postgres, tmp_path: Path) -> None:
    database = _filled(server)
    running = _begin(server, database, tmp_path, 200)
    looks = 0
    try:
        while any(process.poll() is None for process in running):
            (row,) = server.query(_SEEN, database)
            assert row[0] == row[1]
            looks += 1
    finally:
        codes = [process.wait(120) for process in running]
    assert codes == [0] * PROCESSES
    assert looks >= 3
    answers = _answers(tmp_path)
    assert len(answers) >= PROCESSES * 200
    assert _unkept(server, database, answers) == set()
    assert broken_histories(server, database) == []
    assert server.query(_ROWS_DIFFER, database) == []
    assert server.query(_DEADLOCKS, database) == [["0"]]


def test_what_was_answered_is_kept_when_the_database_and_a_replica_are_killed(server: Postgres, tmp_path: Path) -> None:
    database = _filled(server)
    running = _begin(server, database, tmp_path, 1_000_000)
    try:
        _until_answered(tmp_path, 100)
        running[0].kill()
        before = len(_answers(tmp_path))
        _until_answered(tmp_path, before + 100)
        server.kill()
        server.start()
        after = len(_answers(tmp_path))
        _until_answered(tmp_path, after + 100)
    finally:
        for process in running:
            process.kill()
            process.wait(60)
    server.query(_NOBODY_ELSE, database)
    assert _unkept(server, database, _answers(tmp_path)) == set()
    assert broken_histories(server, database) == []
    assert server.query(_ROWS_DIFFER, database) == []
    (row,) = server.query(_SEEN, database)
    assert row[0] == row[1]


_NOBODY_ELSE = """
SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def _until_answered(directory: Path, number: int) -> None:
    deadline = time.monotonic() + 300
    while len(_answers(directory)) < number:
        assert time.monotonic() < deadline, "the processes do not go on"
        time.sleep(0.05)
