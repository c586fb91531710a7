"""`python -m tests.faults --kills n`: thousands of real kills by hand. Exit code 1 for any violation."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.faults.scenario import ROOT_MANIFEST, run
from tests.lab.fleet import Lab
from tests.lab.requirements import why_not


def main() -> int:
    """A new lab for each round of at most 200 faults, with the next seed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hypervisors", type=int, default=3)
    parser.add_argument("--manifest", type=Path, default=ROOT_MANIFEST, help="guest.json of deploy/guest/build.sh")
    options = parser.parse_args()
    reason = why_not()
    if reason:
        print(reason, file=sys.stderr)
        return 2
    done, violations = 0, 0
    points: set[str] = set()
    while done < options.kills:
        wanted = min(200, options.kills - done)
        with Lab(options.hypervisors, network="10.79") as lab:
            report = run(lab, options.manifest, kills=wanted, seconds=wanted * 30, seed=options.seed + done)
        done += sum(report.kills.values())
        violations += len(report.violations)
        points |= report.points
        print(f"--- {done} faults so far", *report.lines(), sep="\n", flush=True)
        if sum(report.kills.values()) < wanted:
            print("the round did too little work in its time", file=sys.stderr)
            return 1
    print(f"{len(points)} named points at which the service was killed", flush=True)
    if done >= 100 and len(points) < 5:
        print("the service was killed at too few points", file=sys.stderr)
        return 1
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
