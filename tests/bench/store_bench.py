"""What sharing a commit brings: claims on SQLite with it, with a commit each, and the same rows by the bare driver.

    python -m tests.bench.store_bench [--clients 1,8,48] [--claims 960] [--rounds 5]
    python -m tests.bench.store_bench --postgresql    (see tests/bench/changes_bench.py)

A claim is what a plan is followed by: one member's seat, taken with all checks, in a transaction that is kept on the
disk before it is answered. The bare driver writes a claim's two rows and adds to two sums, 48 claims a transaction:
no check, no SQLAlchemy, no event loop. Kinds take turns; the figures are medians.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sqlite3
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, event

from service.store.claims import take
from tests.bench import changes_bench
from tests.support.database import GIB, Database, member

HOSTS = 16
BATCH = 48


class Figures(NamedTuple):
    """Claims a second; CPU of this process a claim (us); commits, of which each is an fsync, a claim."""

    rate: float
    cpu_us: float
    commits: float


def claims(directory: Path, clients: int, number: int, *, shared: bool) -> Figures:
    """Claims by so many callers at the same time."""
    with Database(f"sqlite:///{directory}/claims.db", migrate=True) as database:
        hosts = database.fill(HOSTS, vcpu=number, memory=number * GIB)
        store, numbers = database.store, count(1)
        if not shared:
            store._shared = None
        commits = 0

        def committed(_connection: Connection) -> None:
            nonlocal commits
            commits += 1

        event.listen(store.engine, "commit", committed)

        async def client(turns: int) -> None:
            for _ in range(turns):
                n = next(numbers)
                seat = member(n, hosts[n % HOSTS])
                await store.write(lambda c, n=n, seat=seat: take(c, f"{n:032x}", [seat]))  # type: ignore[misc]

        async def all_of_them() -> None:
            await asyncio.gather(*(client(number // clients) for _ in range(clients)))

        return _measured(
            lambda: asyncio.run_coroutine_threadsafe(all_of_them(), database._loop).result(),
            number // clients * clients,
            lambda: commits,
        )


def bare(directory: Path, number: int) -> Figures:
    """The same rows by the driver alone."""
    connection = sqlite3.connect(directory / "bare.db", isolation_level=None)
    connection.executescript(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
        "CREATE TABLE claims (instance TEXT, resource TEXT, host TEXT, amount INTEGER,"
        " PRIMARY KEY (instance, resource));"
        "CREATE TABLE sums (host TEXT, resource TEXT, used INTEGER, PRIMARY KEY (host, resource))"
    )
    kinds = (("vcpu", 1), ("memory", GIB))
    connection.executemany(
        "INSERT INTO sums VALUES (?, ?, 0)", [(f"{h:032x}", k) for h in range(HOSTS) for k, _ in kinds]
    )

    def write() -> None:
        for start in range(0, number, BATCH):
            connection.execute("BEGIN IMMEDIATE")
            for n in range(start, min(start + BATCH, number)):
                for kind, amount in kinds:
                    place = (f"{n % HOSTS:032x}", kind)
                    connection.execute(
                        "UPDATE sums SET used = used + ? WHERE host = ? AND resource = ?", (amount, *place)
                    )
                    connection.execute("INSERT INTO claims VALUES (?, ?, ?, ?)", (f"{n:032x}", kind, place[0], amount))
            connection.execute("COMMIT")

    figures = _measured(write, number, lambda: -(-number // BATCH))
    connection.close()
    return figures


def _measured(work: Callable[[], None], number: int, commits: Callable[[], int]) -> Figures:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Figures(number / wall, cpu / number * 1e6, commits() / number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each kind and number of callers."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.store_bench", description=__doc__)
    parser.add_argument("--postgresql", action="store_true", help="changes by several replicas, with fsync on")
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each kind in each round, on PostgreSQL")
    parser.add_argument("--clients", default="", help="1,8,48; on PostgreSQL 8 a replica")
    parser.add_argument("--claims", type=int, default=960)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if options.postgresql:
        counts = [int(text) for text in (options.clients or "8").split(",")]
        return max(changes_bench.show(options.replicas, count, options.seconds, options.rounds) for count in counts)
    print(f"{'':28}{'claims/s':>10}{'CPU us':>10}{'commits':>10}")
    for clients in [int(text) for text in (options.clients or "1,8,48").split(",")]:
        found: dict[str, list[Figures]] = defaultdict(list)
        for _ in range(options.rounds):
            for shared in (True, False):
                with tempfile.TemporaryDirectory(prefix="corral-bench-") as directory:
                    name = f"{clients} callers, {'shared' if shared else 'a commit each'}"
                    found[name].append(claims(Path(directory), clients, options.claims, shared=shared))
            with tempfile.TemporaryDirectory(prefix="corral-bench-") as directory:
                found["bare driver"].append(bare(Path(directory), options.claims))
        for name, figures in found.items():
            rate, cpu, commits = (statistics.median(column) for column in zip(*figures, strict=True))
            print(f"{name:28}{rate:10.0f}{cpu:10.0f}{commits:10.2f}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
