"""The alert rules that operators take: valid, tested by promtool, and about metrics that exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

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
    named = set(re.findall(r"\bcorral_[a-z_]+", " ".join(rule["expr"] for rule in _alerts())))
    assert named
    assert named <= known


def _alerts() -> list[dict[str, Any]]:
    """The rules, as they stand in the file."""
    (group,) = yaml.safe_load((RULES / "corral.rules.yml").read_text())["groups"]
    return list(group["rules"])


def test_every_alert_names_a_runbook_that_is_there() -> None:
    runbooks = (ROOT / "deploy/RUNBOOKS.md").read_text()
    for rule in _alerts():
        assert rule["annotations"]["runbook_url"] == f"deploy/RUNBOOKS.md#{rule['alert'].lower()}"
        assert f"\n## {rule['alert']}\n" in runbooks
    headings = re.findall(r"^## (Corral\w+)$", runbooks, re.MULTILINE)
    assert sorted(headings) == sorted(rule["alert"] for rule in _alerts())


def test_every_alert_is_tested_quiet_and_firing() -> None:
    seen: dict[str, list[bool]] = {}
    for test in yaml.safe_load((RULES / "corral.rules.test.yml").read_text())["tests"]:
        for one in test["alert_rule_test"]:
            seen.setdefault(one["alertname"], []).append(bool(one["exp_alerts"]))
    assert seen == {rule["alert"]: [False, True] for rule in _alerts()}
