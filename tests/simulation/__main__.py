"""Run seeds: `python -m tests.simulation --seeds 1000 [--first 1] [--seed 17] [--plant NAME | --plants]`."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context
from typing import TYPE_CHECKING

from tests.simulation import planting, plants

if TYPE_CHECKING:
    from tests.simulation.scenario import Result

ENOUGH = {"running": 0.8, "deploys acknowledged": 1.5, "streams ended": 0.5, "faults": 10.0, "points": 0.5}
"""What must have happened in each seed, on average over many, for a run to count at all."""
MANY = 50
"""From this many seeds on a run is judged by ENOUGH; fewer may by chance have done little."""
ALL_POINTS = 1000
"""From this many seeds on every named point must have been passed; some stand for what one seed of hundreds does."""
LEAST = 25
"""This many seeds are run at least, however slow the machine is; a hundred took one that did much else 15 min."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0: no violation, enough was done. 1: a violation, whose timeline is printed. 2: too little was done."""
    chosen = _options().parse_args(arguments)
    logging.disable(logging.WARNING)
    logging.getLogger("service").propagate = False  # what it logs as an error is heard by the run itself
    if chosen.plants:
        return all_plants(chosen.seeds, chosen.first, chosen.jobs, chosen.only)
    if chosen.plant:
        plants.put(plants.find(chosen.plant))
    if chosen.seed is not None:
        from tests.simulation.scenario import run

        result = run(chosen.seed, chosen.theme)
        print(story(result))
        print(result.digest)
        return 1 if result.violations else 0
    seeds = range(chosen.first, chosen.first + chosen.seeds)
    if chosen.plant:
        return hunt(seeds, chosen.theme or plants.find(chosen.plant).theme)
    return many(seeds, chosen.theme, keep_going=chosen.keep_going, within=chosen.within, jobs=chosen.jobs)


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="simulate", description=__doc__)
    options.add_argument("--seeds", type=int, default=200, help="how many")
    options.add_argument("--first", type=int, default=1, help="the first seed")
    options.add_argument("--seed", type=int, help="this one alone, with its timeline")
    options.add_argument("--keep-going", action="store_true", help="do not stop at the first violation")
    options.add_argument("--within", type=float, default=0.0, help="start no seed after so many seconds; 0: all")
    options.add_argument("--plant", help="with this bug in the program; how many seeds it takes to find it")
    options.add_argument("--theme", default="", help="all of one kind, as scenario.THEMES has them")
    options.add_argument("--plants", action="store_true", help="all planted bugs, a table")
    options.add_argument("--only", nargs="*", default=[], help="with --plants: these")
    options.add_argument("--jobs", type=int, default=1, help="processes at a time, of seeds or of plants")
    return options


def many(seeds: range, theme: str, *, keep_going: bool, within: float, jobs: int) -> int:
    """Run all, or as many as the time allows, `jobs` at a time; print a summary."""
    stats: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    failed: list[Result] = []
    started = time.perf_counter()
    virtual = 0.0
    done = 0
    for result in _results(seeds, theme, within, jobs):
        done += 1
        stats += result.stats
        passed += result.passed
        virtual += result.virtual_seconds
        if result.violations:
            failed.append(result)
            print(f"seed {result.seed}: {result.violations[0]}", flush=True)
            if not keep_going:
                print(story(result))
                break
    seconds = time.perf_counter() - started
    print(
        f"{done} seeds in {seconds:.1f} s ({done / seconds:.1f}/s), {virtual / 3600:.1f} virtual hours,"
        f" {len(passed)} named points passed, {len(failed)} seeds with violations"
    )
    print(", ".join(f"{name} {count}" for name, count in sorted(stats.items())))
    if failed:
        return 1
    return 2 if done >= MANY and _too_little(stats, passed, done) else 0


def _results(seeds: range, theme: str, within: float, jobs: int) -> Iterator[Result]:
    """In the order of the seeds, whoever is done first. Of seeds that violate nothing other processes keep the timeline
    to themselves."""
    from tests.simulation.scenario import run

    started, done = time.perf_counter(), 0
    waiting: deque[Future[Result]] = deque()
    left = iter(seeds)

    def is_over() -> bool:
        return bool(within) and time.perf_counter() - started > within and done >= LEAST

    if jobs == 1:
        for seed in left:
            if is_over():
                return
            yield run(seed, theme)
            done += 1
        return
    with ProcessPoolExecutor(jobs, get_context("fork")) as pool:
        try:
            while True:
                ahead = islice(left, 0 if is_over() else 2 * jobs - len(waiting))
                waiting += (pool.submit(_brief, seed, theme) for seed in ahead)
                if not waiting:
                    return
                yield waiting.popleft().result()
                done += 1
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _brief(seed: int, theme: str) -> Result:
    from tests.simulation.scenario import run

    result = run(seed, theme)
    return result if result.violations else replace(result, timeline=[])


def _too_little(stats: Counter[str], passed: Counter[str], seeds: int) -> bool:
    """Whether the run was too idle to say anything."""
    from tests.simulation.faults import POINTS

    done = Counter(stats)
    done["faults"] = sum(count for name, count in stats.items() if name.startswith("fault "))
    done["points"] = sum(count for name, count in stats.items() if name.startswith("point "))
    short = [f"{name} {done[name]}" for name, least in ENOUGH.items() if done[name] < least * seeds]
    missed = sorted(set(POINTS) - set(passed)) if seeds >= ALL_POINTS else []
    if short or missed:
        print(f"too little was done: {short}, points never passed: {missed}")
    return bool(short or missed)


def hunt(seeds: range, theme: str) -> int:
    """Until a planted bug is found: prints how many seeds that took and what was violated."""
    from tests.simulation.scenario import run

    for number, seed in enumerate(seeds, 1):
        found = [v for v in run(seed, theme).violations if v.split()[1][0] in "ID"]
        if found:
            print(f"{number}\t{found[0]}")
            return 0
    print("not found")
    return 1


def all_plants(seeds: int, first: int, jobs: int, only: Sequence[str]) -> int:
    """Every plant in a process of its own; prints the table. 1 where one was not found."""
    chosen = [p for p in plants.PLANTS if not only or p.name in only]

    def look(plant: planting.Plant) -> tuple[str, int, str]:
        command = [sys.executable, "-m", "tests.simulation", "--plant", plant.name, "--seeds", str(seeds)]
        ended = subprocess.run([*command, "--first", str(first)], capture_output=True, text=True, check=False)
        count, _, what = ended.stdout.strip().rpartition("\n")[2].partition("\t")
        if ended.returncode != 0:
            return plant.name, 0, ended.stdout.strip()[-200:] or ended.stderr.strip()[-400:]
        return plant.name, int(count), what

    rows = []
    with ThreadPoolExecutor(jobs) as pool:
        for name, count, what in pool.map(look, chosen):
            rows.append((name, count, what))
            print(f"{count or 'NOT FOUND':>9}  {name}: {what}", flush=True)
    missing = sum(1 for _, count, _ in rows if not count)
    worst = max((count for _, count, _ in rows), default=0)
    print(f"{len(rows) - missing} of {len(rows)} planted bugs found, the hardest after {worst} seeds")
    return 1 if missing else 0


def story(result: Result) -> str:
    """The timeline and what was wrong, as text; calls that only look and went well are left out."""
    told = [
        m for m in result.timeline if not (m[1] == "call" and m[4] in ("probe", "list", "observe") and m[6] is None)
    ]
    lines = [f"{moment[0]:10.3f}  " + " ".join(str(part) for part in moment[1:]) for moment in told]
    return "\n".join([*lines, f"seed {result.seed}: {len(result.violations)} violations", *result.violations])


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets of words follows from it, and with it the order of what the service does.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    sys.exit(main())
