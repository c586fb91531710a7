"""Run seeds: `python -m tests.simulation --seeds 1000 [--first 1] [--seed 17]`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections import Counter

from tests.simulation.scenario import Result, run


def main() -> int:
    """0: no violation, enough was done. 1: a violation, whose timeline is printed. 2: too little was done."""
    options = argparse.ArgumentParser(prog="simulate", description=__doc__)
    options.add_argument("--seeds", type=int, default=200, help="how many")
    options.add_argument("--first", type=int, default=1, help="the first seed")
    options.add_argument("--seed", type=int, help="this one alone, with its timeline")
    options.add_argument("--keep-going", action="store_true", help="do not stop at the first violation")
    chosen = options.parse_args()
    logging.disable(logging.CRITICAL)
    if chosen.seed is not None:
        result = run(chosen.seed)
        print(story(result))
        print(result.digest)
        return 1 if result.violations else 0
    return many(range(chosen.first, chosen.first + chosen.seeds), keep_going=chosen.keep_going)


def many(seeds: range, *, keep_going: bool) -> int:
    """Run all; print a summary."""
    stats: Counter[str] = Counter()
    failed: list[Result] = []
    started = time.perf_counter()
    virtual = 0.0
    done = 0
    for seed in seeds:
        result = run(seed)
        done += 1
        stats += result.stats
        virtual += result.virtual_seconds
        if result.violations:
            failed.append(result)
            print(f"seed {seed}: {result.violations[0]}", flush=True)
            if not keep_going:
                print(story(result))
                break
    seconds = time.perf_counter() - started
    print(f"{done} seeds in {seconds:.1f} s ({done / seconds:.1f}/s), {virtual / 3600:.1f} virtual hours, {len(failed)} with violations")
    print(", ".join(f"{name} {count}" for name, count in sorted(stats.items())))
    return 1 if failed else 0


def story(result: Result) -> str:
    """The timeline and what was wrong, as text."""
    told = [m for m in result.timeline if not (m[1] == "call" and m[4] in ("probe", "list", "observe") and m[6] is None)]
    lines = [f"{moment[0]:10.3f}  " + " ".join(str(part) for part in moment[1:]) for moment in told]
    return "\n".join([*lines, f"seed {result.seed}: {len(result.violations)} violations", *result.violations])


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    sys.exit(main())
