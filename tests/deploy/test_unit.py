"""The systemd unit: valid, and what it leaves the service able to do is rated as little."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT

UNIT = ROOT / "deploy/systemd/corral.service"
MOST_EXPOSED = 2.0


def _analyze(*arguments: str) -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze")
    told = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120, check=False)
    return told.stdout + told.stderr


def test_it_is_exposed_less_than_2() -> None:
    told = _analyze("security", "--offline=true", str(UNIT))
    found = re.search(r"Overall exposure level for corral\.service: (\d+\.\d+)", told)
    assert found, told
    assert float(found[1]) < MOST_EXPOSED


def test_systemd_finds_nothing_wrong_but_the_programs_that_are_not_installed_here(tmp_path: Path) -> None:
    # With a program that is here in place of the service's own, which only the package brings.
    unit = tmp_path / "corral.service"
    unit.write_text(UNIT.read_text().replace("/opt/corral/bin/python", "/bin/true"))
    told = [line for line in _analyze("verify", "--man=no", str(unit)).splitlines() if "corral.service" in line]
    assert told == []
