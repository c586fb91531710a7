"""Changes of groups on PostgreSQL with fsync on, by several replicas at once: what sharing a commit brings, and what is
left of the price of the one counter that gives events their revisions.

    python -m tests.bench.store_bench --postgresql [--replicas 3] [--clients 8] [--seconds 4] [--rounds 5]

A unit is one change under a group's lease: the group is looked at, its row and a member's are written, with an event of
each. It is answered once it is on the disk. Kinds take turns; the figures are medians. "Without a counter" is the same
with numbers that each process makes by itself, and nobody is told of the news.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple
from unittest.mock import patch

from sqlalchemy import Connection, Dialect, event

from service.domain.groups import Group
from service.store import events, groups
from service.store.engine import Store
from service.store.statement import Statement, _compiled
from service.transactions.together import SharedChanges, Stored
from tests.support import ROOT
from tests.support.changing import next_change, put
from tests.support.database import Database
from tests.support.postgres import Postgres, why_not

KINDS = {
    "shared": "with events, shared",
    "each": "with events, a commit each",
    "shared-bare": "no counter, shared",
    "each-bare": "no counter, a commit each",
}
_OWN_NUMBERS = 1_000_000_000_000
"""Revisions above this are those of a process without a counter: the next replica's are as much above its."""


class Figures(NamedTuple):
    """Units a second; CPU of the replicas a unit (us); commits a unit; how long a unit took (ms): median, p99."""

    rate: float
    cpu_us: float
    commits: float
    median_ms: float
    p99_ms: float


class OwnNumbers:
    """A statement that tells events, with numbers of this process instead of the counter's, and without the news."""

    def __init__(self, statement: Statement, dialect: Dialect, numbers: Iterator[int]) -> None:
        self._numbers = numbers
        sql = _compiled(statement.core, None, dialect).sql
        sql, counters = re.subn(r"UPDATE counters .*? RETURNING counters\.value", "SELECT %(last)s AS value", sql)
        self._sql, news = re.subn(r"pg_notify\(.*\) AS told", "NULL AS told", sql)
        assert (counters, news) == (1, 1), sql

    def scalar(self, connection: Connection, values: Mapping[str, Any]) -> int:
        """As Statement.scalar."""
        last = next(self._numbers)
        connection.exec_driver_sql(self._sql, {**values, "last": last}).close()
        return last


class Replica:
    """One process's clients, each with a group of its own."""

    def __init__(self, url: str, number: int, clients: int) -> None:
        self.store = Store(url)
        self.changes = SharedChanges(self.store)
        self.uuids = [f"{number:016x}{client:016x}" for client in range(clients)]
        numbers = count(_OWN_NUMBERS * (number + 1), 1 << 16)
        self.counted = {"_TELL": events._TELL, "_TELL_AND_STAMP": events._TELL_AND_STAMP}
        dialect = self.store.engine.dialect
        self.bare = {name: OwnNumbers(one, dialect, numbers) for name, one in self.counted.items()}
        self.commits = 0
        event.listen(self.store.engine, "commit", self._committed)

    def _committed(self, _connection: Connection) -> None:
        self.commits += 1

    async def run(self, kind: str, seconds: float) -> dict[str, Any]:
        """What was done in that time."""
        found = [await self.store.read(lambda c, u=uuid: groups.load(c, u)) for uuid in self.uuids]  # type: ignore[misc]
        self.commits, took = 0, list[float]()
        with patch.multiple(events, **(self.bare if kind.endswith("bare") else self.counted)):
            began, cpu = time.perf_counter(), time.process_time()
            until = began + seconds
            await asyncio.gather(*(self._client(one, kind.startswith("shared"), until, took) for one in found))
        return {
            "took": took,
            "cpu": time.process_time() - cpu,
            "seconds": time.perf_counter() - began,
            "commits": self.commits,
        }

    async def _client(self, known: Group, shared: bool, until: float, took: list[float]) -> None:
        turn = 0
        while (began := time.perf_counter()) < until:
            turn += 1
            change = next_change(known, turn)
            stored: Stored = await (self.changes.write(change) if shared else self.store.write(change.alone))
            known = stored.group
            took.append(time.perf_counter() - began)


@contextmanager
def replicas(url: str, number: int, clients: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that wait for orders."""
    made = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.changes_bench", url, str(n), str(clients)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": "protos:."},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(number)
    ]
    try:
        for process in made:
            _hear(process)
        yield made
    finally:
        for process in made:
            process.communicate(timeout=60)


def _hear(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("a replica has ended")
    return json.loads(line)


def measured(made: Sequence[subprocess.Popen[str]], kind: str, seconds: float) -> Figures:
    """Of all replicas at work for that time."""
    for process in made:
        assert process.stdin is not None
        process.stdin.write(json.dumps([kind, seconds]) + "\n")
        process.stdin.flush()
    found = [_hear(process) for process in made]
    took = sorted(second for one in found for second in one["took"])
    return Figures(
        sum(len(one["took"]) / one["seconds"] for one in found),
        sum(one["cpu"] for one in found) / len(took) * 1e6,
        sum(one["commits"] for one in found) / len(took),
        statistics.median(took) * 1e3,
        took[len(took) * 99 // 100] * 1e3,
    )


def show(number: int, clients: int, seconds: float, rounds: int) -> int:
    """Print a line for each kind, and the ratios. Exit code."""
    if reason := why_not():
        print(f"PostgreSQL: {reason}")
        return 1
    found: dict[str, list[Figures]] = defaultdict(list)
    with Postgres(fsync="on") as server:
        url = server.url(server.create_database())
        with Database(url, migrate=True) as database:
            database.fill(1, vcpu=number * clients, memory=1 << 50)
            database.write(put, [f"{n:016x}{client:016x}" for n in range(number) for client in range(clients)])
        with replicas(url, number, clients) as made:
            for _ in range(rounds):
                for kind in KINDS:
                    found[kind].append(measured(made, kind, seconds))
    print(f"{number} replicas, {clients} clients each, fsync=on")
    print(f"{'':28}{'units/s':>10}{'CPU us':>10}{'commits':>10}{'ms':>8}{'p99 ms':>8}")
    for kind, name in KINDS.items():
        rate, cpu, commits, median, p99 = (statistics.median(column) for column in zip(*found[kind], strict=True))
        print(f"{name:28}{rate:10.0f}{cpu:10.0f}{commits:10.2f}{median:8.1f}{p99:8.1f}", flush=True)
    for kind in ("each", "shared"):
        for bare in ("each-bare", "shared-bare"):
            ratios = [one.rate / other.rate for one, other in zip(found[kind], found[bare], strict=True)]
            print(f"{KINDS[kind]} / {KINDS[bare]}: {statistics.median(ratios):.2f}")
    return 0


def main() -> None:
    """One replica. Arguments: URL NUMBER CLIENTS; orders, [kind, seconds], come by the standard input."""
    url, number, clients = sys.argv[1:]
    replica = Replica(url, int(number), int(clients))
    print(json.dumps("ready"), flush=True)
    try:
        for line in sys.stdin:
            kind, seconds = json.loads(line)
            print(json.dumps(asyncio.run(replica.run(kind, seconds))), flush=True)
    finally:
        replica.store.close()


if __name__ == "__main__":
    main()
