"""The alert rules that operators take: valid, tested by promtool, and about metrics that exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

from service.telemetry.metrics import Metrics
from tests.support import ROOT

RULES = ROOT / "deploy/prometheus"


@pytest.fixture(scope="module")
def promtool() -> str:
    bundled = ROOT / ".cache/tools/promtool"
    found = shutil.which("promtool") or (str(bundled) if os.access(bundled, os.X_OK) else None)
    if found is None:
        pytest.skip("no promtool: `make tools` brings Debian's")
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "config", "scrape.yml"],
        ["check", "rules", "corral.rules.yml"],
        ["test", "rules", "corral.rules.test.yml"],
    ],
    ids=" ".join,
)
def test_promtool_accepts_what_operators_take(promtool: str, arguments: list[str]) -> None:
    told = subprocess.run([promtool, *arguments], cwd=RULES, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


def test_every_metric_that_a_rule_names_exists() -> None:
    known = set()
    for family in Metrics().registry.collect():
        known |= {
            family.name,
            f"{family.name}_total",
            f"{family.name}_count",
            f"{family.name}_bucket",
            f"{family.name}_sum",
        }
    named = set(re.findall(r"\bcorral_[a-z_]+", (RULES / "corral.rules.yml").read_text()))
    assert named
    assert named <= known


def test_every_alert_has_its_heading_in_the_operators_guide() -> None:
    alerts = re.findall(r"- alert: (\w+)", (RULES / "corral.rules.yml").read_text())
    guide = (ROOT / "deploy/README.md").read_text()
    assert alerts
    assert re.findall(r"^### (Corral\w+)$", guide, re.MULTILINE) == alerts
