"""`python -m tests.faults --kills n`: as many faults as are asked for. Exit code 1 for any violation.

Half of them are mishaps (see `tests.faults.rounds`), each kind as often as any other, on an installation at rest; the
other half are kills under clients at work (see `tests.faults.harm`).
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter
from pathlib import Path

from tests.faults import rounds
from tests.faults.scenario import ROOT_MANIFEST, run
from tests.faults.signs import Times
from tests.faults.stores import open_store
from tests.lab.fleet import Lab
from tests.lab.requirements import why_not

MOST_MISHAPS = 64
MOST_KILLS = 100


def main() -> int:
    """A new lab, database and service for each round, with the next seed."""
    options = _options()
    reason = why_not()
    if reason:
        print(reason, file=sys.stderr)
        return 2
    table = rounds.Table()
    mishaps = options.kills // 2 if options.mishaps is None else options.mishaps
    _mishaps(options, table, mishaps)
    points, enough = _kills(options, table, options.kills - mishaps)
    print(*table.lines(), sep="\n")
    print(f"{table.done} faults, violations {len(table.violations)}", *table.violations[:40], sep="\n", flush=True)
    if options.kills - mishaps >= 100 and len(points) < 5:
        print("the service was killed at too few points", file=sys.stderr)
        return 1
    return 1 if table.violations or not enough else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="faults in all, mishaps included")
    parser.add_argument("--mishaps", type=int, help="how many of them are mishaps; half of them where it is not said")
    parser.add_argument("--only", default="", help="only these mishaps, with commas between them")
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="postgresql")
    parser.add_argument("--replicas", type=int, help="2 on PostgreSQL; SQLite has one process")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no fault later than that; the table tells")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hypervisors", type=int, default=3)
    parser.add_argument("--network", default="10.79", help="the first half of the lab's addresses")
    parser.add_argument("--manifest", type=Path, default=ROOT_MANIFEST, help="guest.json of deploy/guest/build.sh")
    options = parser.parse_args()
    options.until = time.monotonic() + options.minutes * 60
    if options.replicas is None:
        options.replicas = 1 if options.store == "sqlite" else 2
    unknown = set(filter(None, options.only.split(","))) - set(rounds.MISHAPS)
    if unknown:
        parser.error(f"no such mishaps: {', '.join(sorted(unknown))}; there are {', '.join(rounds.MISHAPS)}")
    return options


def _mishaps(options: argparse.Namespace, table: rounds.Table, count: int) -> None:
    only = [name for name in options.only.split(",") if name]
    names = itertools.islice(itertools.cycle(only) if only else rounds.order(options.seed), count)
    for number in itertools.count():
        names_of_round = tuple(itertools.islice(names, MOST_MISHAPS))
        if not names_of_round or time.monotonic() > options.until:
            return
        with Lab(options.hypervisors, network=options.network) as lab:
            rounds.run(
                lab, options.manifest, table, names=names_of_round, kind=options.store, seed=options.seed + number,
                count=options.replicas, until=options.until,
            )  # fmt: skip


def _kills(options: argparse.Namespace, table: rounds.Table, count: int) -> tuple[set[str], bool]:
    """The points at which the service was killed, and whether enough was done in its time."""
    points: set[str] = set()
    done = 0
    while done < count and (left := options.until - time.monotonic()) > 0:
        wanted = min(MOST_KILLS, count - done)
        with Lab(options.hypervisors, network=options.network) as lab, open_store(options.store) as store:
            report = run(
                lab, options.manifest, store, kills=wanted, seconds=min(wanted * 60, left), seed=options.seed + done,
                count=options.replicas,
            )  # fmt: skip
        for name, times in Counter(report.kills).items():
            table.rows.setdefault(name, Times()).done += times
        table.violations += report.violations
        points |= report.points
        carried_out = sum(report.kills.values())
        done += carried_out
        print(f"--- {done} kills so far", *report.lines(), sep="\n", flush=True)
        if carried_out < wanted and time.monotonic() < options.until:
            print("the round did too little work in its time", file=sys.stderr)
            return points, False
    return points, True


if __name__ == "__main__":
    sys.exit(main())
