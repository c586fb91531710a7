"""Seeds of the simulation hold every invariant, do enough, and replay exactly."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.failpoints import NAMES
from tests.support import ROOT
from tests.support.process import ENVIRONMENT

SLICE_SECONDS = 25
"""Each of the two slices starts seeds for so long: 25 to 120, by the machine and what else it does."""


def simulate(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """The simulation's own command, because the order of sets follows from a process's hash seed."""
    environment = {**os.environ, **ENVIRONMENT, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", [1, 500_001])
def test_whatever_fails_no_invariant_breaks_and_all_comes_to_rest(first: int) -> None:
    _run(first, "--within", str(SLICE_SECONDS))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_over_thousands_of_seeds_every_point_is_passed_and_no_invariant_breaks() -> None:
    _run(1_000_001, "--jobs", str(len(os.sched_getaffinity(0))))


def _run(first: int, *more: str) -> None:
    ended = simulate("--first", str(first), "--seeds", "2000", *more)
    print(ended.stdout[-4000:])
    assert ended.returncode == 0, ended.stdout[-20_000:] + ended.stderr[-4000:]


@pytest.mark.timeout(900)
def test_what_guests_say_and_their_silence_decide_what_is_told_of_their_group() -> None:
    _run(1, "--theme", "guests", "--within", "5")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("theme", "count"), [("fence", 12), ("metal", 6)])
def test_what_hypervisors_and_machines_do_by_their_bmcs_breaks_nothing(theme: str, count: int) -> None:
    """Half a minute each: these seeds are long."""
    _run(1, "--theme", theme, "--seeds", str(count))


# In the second a backup is put back, which an address was taken after.
@pytest.mark.parametrize("seed", [11, 1_000_004])
def test_a_seed_replays_exactly_in_another_process(seed: int) -> None:
    first, second = simulate("--seed", str(seed)), simulate("--seed", str(seed), hash_seed="77")
    assert first.returncode == 0, first.stdout[-4000:] + first.stderr
    assert first.stdout == second.stdout


@pytest.mark.timeout(900)
def test_members_that_run_are_told_where_their_engines_need_each_other() -> None:
    """Few seeds do that, so it is looked for in those that an engine of this kind serves."""
    program = (
        "from tests.simulation.scenario import needs_fellows, run\n"
        "for seed in filter(needs_fellows, range(1, 200)):\n"
        "    result = run(seed)\n"
        "    assert not result.violations, (seed, result.violations)\n"
        "    if result.passed['tell.after']: break\n"
        "print(result.passed['tell.after'])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", "import logging; logging.disable(30)\n" + program],
        cwd=ROOT, env={**os.environ, **ENVIRONMENT, "PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert int(ended.stdout) > 0, "none of many seeds tells anybody"


def test_a_seed_does_not_depend_on_the_seeds_before_it() -> None:
    alone = simulate("--seed", "14")
    program = "from tests.simulation.scenario import run; run(12); run(13); print(run(14).digest)"
    environment = {**os.environ, **ENVIRONMENT, "PYTHONHASHSEED": "0"}
    after = subprocess.run(
        [sys.executable, "-c", "import logging; logging.disable(30); " + program],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert alone.stdout.splitlines()[-1] == after.stdout.strip()


def test_seeds_in_several_processes_are_told_as_those_in_one() -> None:
    one, two = (simulate("--first", "40", "--seeds", "6", "--jobs", jobs) for jobs in ("1", "2"))
    assert one.returncode == two.returncode == 0, one.stdout[-4000:] + two.stdout[-4000:] + two.stderr[-4000:]
    assert one.stdout.splitlines()[1:] == two.stdout.splitlines()[1:]


def test_the_observer_shares_no_code_with_the_service() -> None:
    imported: set[str] = set()
    for name in (
        "observer",
        "cards",
        "custodian",
        "guests",
        "pinned",
        "rest",
        "rooms",
        "lines",
        "evictions",
        "hosts",
        "loop",
        "repeats",
        "rules",
        "watched",
    ):
        imported |= _imports(ROOT / f"tests/simulation/{name}.py")
    assert not {name for name in imported if name.split(".")[0] in ("service", "placement", "corral")}


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def test_every_failpoint_has_a_name_and_one_place() -> None:
    places: list[str] = []
    for path in sorted((ROOT / "service").rglob("*.py")):
        places += re.findall(r'failpoint\("([a-z_.]+)"\)', path.read_text())
    assert len(places) == len(set(places))
    by_effect = {f"{e}.{side}" for e in ("create", "resume", "observe", "shutdown", "poweroff", "remove",
                                        "migrate", "abortmove", "tell", "take", "quiesce")
                 for side in ("before", "after")}  # fmt: skip
    assert set(places) | by_effect == NAMES
    assert len(NAMES) >= 48
