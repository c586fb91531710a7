"""What `make run` tells while it waits for pip and apt-get: how many, and the log's end where it fails."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.support import ROOT

PREPARE = (ROOT / "deploy/quickstart/prepare.sh").read_text()
FUNCTIONS = "".join(re.findall(r"^(?:counted|progress)\(\) \{\n.*?^\}\n", PREPARE, re.MULTILINE | re.DOTALL))
PIP = "'^(Collecting|Processing) ([^=; ]+)'"


def counted(directory: Path, total: str, pattern: str, command: str) -> subprocess.CompletedProcess[str]:
    """What the function does with a command of bash."""
    script = f"set -euo pipefail\n{FUNCTIONS}counted {directory}/log {total} {pattern} bash -c {command!r}"
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, check=False)


def test_every_tenth_is_told_and_all_of_them_at_the_end(tmp_path: Path) -> None:
    lines = "for n in $(seq 21); do echo Collecting part$n==1; echo noise; done; echo Processing /a/b/last-1.whl"
    done = counted(tmp_path, "22", PIP, lines)
    assert (done.returncode, done.stderr) == (0, "")
    told = [re.sub(r"\d+ s$", "- s", line.strip()) for line in done.stdout.splitlines()]
    assert told == ["10 of 22, part10, - s", "20 of 22, part20, - s", "22 of 22 in - s"]
    assert (tmp_path / "log").read_text().count("noise") == 21


def test_the_number_is_apts_own_where_it_tells_one(tmp_path: Path) -> None:
    lines = 'echo "0 upgraded, 2 newly installed, 0 to remove"; echo "Setting up gcc (1)"; echo "Setting up tini (1)"'
    done = counted(tmp_path, "''", "'^Setting up ([^ :]+)'", lines)
    assert re.fullmatch(r"    2 of 2 in \d+ s\n", done.stdout)


def test_what_fails_shows_the_end_of_its_log(tmp_path: Path) -> None:
    done = counted(tmp_path, "9", PIP, "echo Collecting one==1; echo no space left >&2; exit 7")
    assert (done.returncode, done.stdout) == (7, "")
    assert [line for line in done.stderr.splitlines() if line] == ["Collecting one==1", "no space left"]
