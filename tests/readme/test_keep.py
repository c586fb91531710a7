"""The shell that keeps libvirt's daemons running where no systemd does."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.lab.namespaces import wait_until
from tests.support import ROOT

KEEP = str(ROOT / "deploy/quickstart/keep.sh")
CRASH = "echo begun >> log; kill -KILL $$"


def begun(directory: Path) -> int:
    """How often the command was run."""
    log = directory / "log"
    return log.read_text().count("begun") if log.exists() else 0


def test_what_ends_by_itself_is_not_run_again(tmp_path: Path) -> None:
    done = subprocess.run([KEEP, "sh", "-c", "echo begun >> log; exit 3"], cwd=tmp_path, timeout=120, check=False)
    assert (done.returncode, begun(tmp_path)) == (3, 1)


def test_what_a_signal_ends_is_run_again_until_the_keeper_is_told_to_end(tmp_path: Path) -> None:
    keeper = subprocess.Popen([KEEP, "sh", "-c", CRASH], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: begun(tmp_path) >= 2, 60, "a second run")
    keeper.terminate()  # most likely between two runs
    _, told = keeper.communicate(timeout=120)
    assert "ended by signal 9, and is started again" in told


def test_who_ends_the_keeper_ends_what_it_keeps(tmp_path: Path) -> None:
    command = "trap 'echo ended >> log; exit 0' TERM; echo begun >> log; while :; do sleep 0.05; done"
    keeper = subprocess.Popen([KEEP, "sh", "-c", command], cwd=tmp_path)
    wait_until(lambda: begun(tmp_path) == 1, 60, "the first run")
    keeper.terminate()
    assert keeper.wait(120) == 0
    assert (tmp_path / "log").read_text() == "begun\nended\n"
