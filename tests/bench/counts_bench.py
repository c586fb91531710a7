"""What a deploy costs in transactions, statements, fsyncs, hops to threads and tasks, by exact count on both databases.

    python -m tests.bench.counts_bench [--members 1,8,64] [--why]

Counts are free of noise: time is virtual, and a transaction, a call to a host and a boot take a fixed while. On unlike
hosts each is slower than the one before, so that their answers come one after the other and not all at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tests.support.counting import UNLIKE_MS, deploy_counts
from tests.support.postgres import Postgres, why_not


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each database, number of members and kind of fleet."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.counts_bench", description=__doc__)
    parser.add_argument("--members", default="1,8,64")
    parser.add_argument("--why", action="store_true", help="which transactions they are")
    options = parser.parse_args(arguments)
    print(f"{'':34}{'writes':>8}{'reads':>8}{'fsyncs':>8}{'statements':>12}{'hops':>8}{'tasks':>8}")
    for members in [int(text) for text in options.members.split(",")]:
        for slower in (0, UNLIKE_MS):
            _show("SQLite", "sqlite://", members, slower, why=options.why)
    if reason := why_not():
        print(f"PostgreSQL: {reason}")
        return 0
    with Postgres() as server:
        for members in [int(text) for text in options.members.split(",")]:
            for slower in (0, UNLIKE_MS):
                _show("PostgreSQL", server.url(server.create_database()), members, slower, why=options.why)
    return 0


def _show(database: str, url: str, members: int, slower: int, *, why: bool) -> None:
    found = deploy_counts(url, members, slower)
    name = f"{database}, {members} on {'unlike' if slower else 'alike'} hosts"
    hops = found.writes + found.reads
    print(
        f"{name:34}{found.writes:8}{found.reads:8}{found.flushes:8}{found.statements:12}{hops:8}{found.tasks:8}",
        flush=True,
    )
    for work, times in sorted(found.by_work.items()) if why else ():
        print(f"{times:12} {work}")


if __name__ == "__main__":
    raise SystemExit(main())
