"""What continuous integration runs, in a small checkout whose `make test` is pytest on a file of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT

# Fails when it runs for the first time; each later time it does what `then` says.
ONCE = """
def {name}():
    first = not Path("{name}").exists()
    Path("{name}").touch()
    assert not first
    {then}
"""
STEADY = "def {name}():\n    assert False\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The script, what it calls, and a `make` that takes `test` alone."""
    for name in (".ci/run", "deploy/quickstart/as_root.sh", "deploy/quickstart/give_back.sh"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    (tmp_path / "bin").mkdir()
    make = tmp_path / "bin/make"
    make.write_text(
        '#!/bin/sh\n[ "$*" = test ] && [ ! -e lint-fails ] && .venv/bin/pytest -ra $OPTIONS tests || exit 2\n'
    )
    make.chmod(0o755)
    (tmp_path / "tests").mkdir()
    return tmp_path


def ci(checkout: Path, *tests: str, options: str = "") -> tuple[int, list[str]]:
    """(exit code, lines) of a run on these tests and one that passes."""
    head = "import os\nfrom pathlib import Path\nimport pytest\n\ndef test_good():\n    pass\n"
    (checkout / "tests/test_some.py").write_text("\n".join((head, *tests)))
    # The plugins of this project's own tests take longer to load than all that is looked at here.
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OPTIONS": options}
    command = [str(checkout / ".ci/run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout.splitlines()


def flaky(name: str, then: str = "pass") -> str:
    return ONCE.format(name=name, then=then)


def test_what_passes_ends_with_pytests_closing_line(checkout: Path) -> None:
    code, lines = ci(checkout)
    assert code == 0
    assert "1 passed" in lines[-1]


def test_up_to_three_tests_that_pass_alone_are_named_and_no_failure(checkout: Path) -> None:
    code, lines = ci(checkout, *(flaky(f"test_{number}") for number in range(3)))
    assert code == 0, lines
    assert [line for line in lines if line.startswith("FLAKY")] == [
        f"FLAKY tests/test_some.py::test_{number}" for number in range(3)
    ]
    assert "3 failed, 1 passed in" in lines[-1]


@pytest.mark.parametrize(
    ("tests", "told", "again"),
    [
        ([STEADY.format(name="test_bad"), flaky("test_0")], "2 failed, 1 passed", 2),
        ([flaky(f"test_{number}") for number in range(4)], "4 failed, 1 passed", 0),
        ([flaky("test_0", 'pytest.skip("no")')], "1 failed, 1 passed", 1),
        ([flaky("test_0"), "@pytest.fixture\ndef broken():\n    1 / 0\n\ndef test_e(broken):\n    pass"], "1 error", 2),
        (["import nothing_like_this"], "1 error", 0),
        ([flaky("test_0"), "def test_stop():\n    raise KeyboardInterrupt\n"], "1 failed, 1 passed", 0),
    ],
    ids=["fails again", "four", "skips", "cannot be set up", "cannot be read", "interrupted"],
)
def test_all_else_is_a_failure(checkout: Path, tests: list[str], told: str, again: int) -> None:
    code, lines = ci(checkout, *tests)
    assert code != 0
    assert told in lines[-1]
    assert sum(line.startswith("==> once more") for line in lines) == again


GROUPED = "@pytest.mark.xdist_group('{group}')\n@pytest.mark.parametrize('at', ['a@b', 'c'])\n{test}"


def test_one_that_shares_a_worker_is_found_again_alone(checkout: Path) -> None:
    shares = GROUPED.format(group="browser", test="def test_shares(at):" + flaky("test_0")[len("\ndef test_0():") :])
    two_workers = "-p xdist.plugin -p xdist.looponfail -n 1 --dist loadgroup"
    code, lines = ci(checkout, shares, options=two_workers)
    assert code == 0, lines
    assert [line for line in lines if line.startswith("FLAKY")] == ["FLAKY tests/test_some.py::test_shares[a@b]"]


def test_what_failed_before_a_test_ran_is_told(checkout: Path) -> None:
    (checkout / "lint-fails").touch()
    code, lines = ci(checkout)
    assert (code, lines[-1]) == (2, "no test ran: make test ended with 2")
