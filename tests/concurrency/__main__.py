"""`python -m tests.concurrency`: the claims test on any scale, and its figures. Exit code 1 for any violation."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.concurrency.fleet_of_claims import crowd
from tests.concurrency.observer import over_commits
from tests.concurrency.test_claims_history import make_fleet
from tests.support.postgres import Postgres


def main() -> int:
    """Print one line for each round, so that a long run can be followed."""
    parser = argparse.ArgumentParser(prog="python -m tests.concurrency", description=__doc__)
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql")
    parser.add_argument("--claims", type=int, default=10_000)
    parser.add_argument("--races", type=int, default=200, help="races for one last slot")
    parser.add_argument("--processes", type=int, default=3, help="1 on SQLite, whose file belongs to one process")
    parser.add_argument("--clients", type=int, default=48, help="in all processes together")
    parser.add_argument("--hosts", type=int, default=16)
    parser.add_argument("--vcpu", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="corral-claims-") as directory:
        if options.database == "sqlite":
            options.processes = 1
            return run(options, Path(directory), None)
        # As in production: without it the lock of the events' counter is not held through a flush, which is what costs.
        with Postgres(fsync="on") as server:
            return run(options, Path(directory), server)


def run(options: argparse.Namespace, directory: Path, server: Postgres | None) -> int:
    """Churn, then races; returns the exit code."""
    violations: list[str] = []
    database = server.create_database() if server else ""
    url = server.url(database) if server else f"sqlite:///{directory}/corral.db"
    hosts = make_fleet(url, options.hosts, options.vcpu)
    done = 0
    with crowd(url, directory, processes=options.processes, clients=options.clients, seed=options.seed) as clients:
        while done < options.claims:
            claims, lost, rate = clients.churn(hosts, min(10_000, options.claims - done))
            done += claims
            violations += over_commits(server, database) if server else []
            print(f"{done} claims, {lost} lost races this round, {rate:.0f} claims/s", flush=True)
        violations += clients.overlaps(options.vcpu)
        narrow = f"UPDATE host_resources SET usable = 1 WHERE host_uuid = '{hosts[0]}'"
        if server and options.races:
            server.query(narrow, database)
            winners = clients.races(hosts[0], options.races)
            violations += [f"a race had {count} winners" for count in winners if count != 1]
            print(f"{len(winners)} races, {winners.count(1)} with one winner", flush=True)
            violations += over_commits(server, database)
    print(f"{len(violations)} violations", *violations[:20], sep="\n")
    return 1 if violations or done < options.claims else 0


if __name__ == "__main__":
    sys.exit(main())
