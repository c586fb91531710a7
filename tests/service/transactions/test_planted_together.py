"""Bugs in commits that are shared on PostgreSQL, planted one at a time: the tests of it notice each."""

# ruff: noqa: E501  (pieces of source stand here as they stand in the program)

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.planting import Plant, one
from tests.simulation.plants import changed, put
from tests.support import ROOT

TOGETHER, BATCHES = "service.transactions.together", "service.store.group_batches"
STANDING, EVENTS = "service.store.standing", "service.store.events"
_BEGIN = "            ended: Sequence[Stored | None] = await self._together([one.change for one in some])\n"
_UNKNOWN = "            for one in some:\n                one.done.set_exception(Unavailable(error.message))\n            return\n"
_EACH_ALONE = "        except Exception:\n            ended = [None] * len(some)  # the fault of one of them, and nothing of any was kept: each for itself\n"

PLANTS: tuple[Plant, ...] = (
    one("answers before the commit", TOGETHER, _BEGIN,
        "            for one in some:\n                one.done.set_result(Stored(one.change.known, False))\n"
        "            await self._together([one.change for one in some])\n            return\n"),
    one("an error poisons the commit of others", TOGETHER, _EACH_ALONE,
        "        except Exception as error:\n            for one in some:\n                one.done.set_exception(error)\n            return\n"),
    one("what may have been committed is made again", TOGETHER, _UNKNOWN, "            ended = [None] * len(some)\n"),
    one("the counter is taken first", TOGETHER, "    ready: list[_Ready] = []\n",
        "    ready: list[_Ready] = []\n    events.count(connection, 0)\n"),
    one("a group that is locked is waited for", BATCHES, ".with_for_update(of=_GROUPS, skip_locked=True)", ".with_for_update(of=_GROUPS)"),
    one("what is known is not compared with what is stored", STANDING,
        "    if not rows or (rows[0].version, rows[0].epoch) != (known.version, known.epoch):\n", "    if not rows:\n"),
    one("invariants are not checked", TOGETHER, "            invariants.check(before, after, held, differs.changed)\n", "            pass\n"),
    one("two of one group share a commit", TOGETHER, "            if one.change.known.uuid in seen:\n", "            if False:\n"),
    one("claims are released in a shared commit", TOGETHER, "    if ended or before.updating or", "    if before.updating or"),
    one("a group has the revision of another one's event", EVENTS, "\"back\": behind}", "\"back\": behind[::-1]}"),
    one("a shared commit has no end", TOGETHER, "len(some) < MOST_CHANGES and ", ""),
    one("who waits is left with him who leads", TOGETHER, "            if self._waiting:\n                self._go_on(self._lead())\n            else:\n                self._is_led = False\n",
        "            self._is_led = False\n"),
)  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_a_plant_fits_the_program_as_it_is(plant: Plant) -> None:
    for edit in plant.edits:
        spec = importlib.util.find_spec(edit.module)
        assert spec is not None
        assert spec.origin is not None
        compile(changed(Path(spec.origin).read_text(), [edit]), edit.module, "exec")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_a_planted_bug_is_noticed(plant: Plant) -> None:
    assert _tested(plant) == pytest.ExitCode.TESTS_FAILED


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_no_bug_is_not_noticed() -> None:
    """Otherwise a way of planting that breaks the tests would find everything."""
    assert _tested(_NO_BUG) == pytest.ExitCode.OK


_TESTED = 10
_NO_BUG = one("no bug", TOGETHER, "_TURNS = 3\n", "_TURNS = 2\n")


def _tested(plant: Plant) -> int:
    from tests.support.postgres import why_not  # pytest wants to import it itself, where this is no test

    if reason := why_not():
        pytest.skip(reason)
    ended = subprocess.run(
        [sys.executable, "-m", "tests.service.transactions.test_planted_together", plant.name],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "protos:."},
        capture_output=True,
        text=True,
        check=False,
    )
    print(ended.stdout[-3000:], ended.stderr[-1000:])
    return ended.returncode - _TESTED


def main() -> int:
    """Run the tests with the plant of this name. The exit code is pytest's, above _TESTED."""
    put({plant.name: plant for plant in (*PLANTS, _NO_BUG)}[sys.argv[1]], checked=True)
    tests = ROOT / "tests/service/transactions/test_together.py"
    return _TESTED + int(pytest.main([str(tests), "-q", "-x", "-p", "no:cacheprovider", "--timeout", "60"]))


if __name__ == "__main__":
    sys.exit(main())
