"""The metrics: valid for promtool, separate for each service, and gauges that forget what is gone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest
from prometheus_client import generate_latest

from service.telemetry.metrics import Metrics, replace
from tests.support import ROOT

_BUNDLED = ROOT / ".cache/tools/promtool"


def _filled() -> Metrics:
    metrics = Metrics(process=True)
    metrics.build.labels("0.1.0").set(1)
    replace(metrics.groups, {("Running",): 2})
    replace(metrics.instances, {("Running",): 5})
    replace(metrics.hosts, {("Enabled", "Connected"): 3})
    for amounts in (metrics.host_allocatable, metrics.host_claimed, metrics.host_foreign):
        replace(amounts.vcpus, {("hv1", "zone-1"): 8})
        replace(amounts.memory, {("hv1", "zone-1"): float(1 << 34)})
        replace(amounts.gpus, {("hv1", "zone-1", "a100"): 2})
    replace(metrics.project_quota.memory, {("red",): float(1 << 34)})
    metrics.watch_streams.set(1)
    metrics.deploy_duration.labels("parallel", "Running").observe(3.2)
    metrics.update_duration.labels("surge", "done").observe(5.1)
    metrics.reconcile_steps.labels("done").inc()
    metrics.orphans_removed.labels("machine").inc()
    metrics.plan_duration.labels("greedy", "optimal").observe(0.002)
    metrics.driver_calls.labels("libvirt", "create_paused", "ok").observe(0.3)
    metrics.driver_calls_running.labels("libvirt").inc()
    return metrics


def test_promtool_has_nothing_to_say_about_any_metric() -> None:
    promtool = shutil.which("promtool") or (str(_BUNDLED) if os.access(_BUNDLED, os.X_OK) else None)
    if promtool is None:
        pytest.skip("no promtool: `make tools` brings Debian's")
    told = subprocess.run(
        [promtool, "check", "metrics"], input=generate_latest(_filled().registry), capture_output=True, check=False
    )
    ours = [line for line in (told.stdout + told.stderr).decode().splitlines() if line.startswith("corral_")]
    assert ours == []
    # The Python client's own process metrics have names that promtool finds fault with; exit code 3 means only that.
    assert told.returncode in (0, 3)


def test_every_metric_is_ours_by_name_and_has_a_sentence_of_help() -> None:
    for family in Metrics().registry.collect():
        assert family.name.startswith("corral_")
        assert family.documentation.endswith(".")


def test_no_metric_mixes_units_and_each_name_ends_in_its_unit() -> None:
    for family in Metrics().registry.collect():
        help_text, name = family.documentation.lower(), family.name
        assert "resource" not in getattr(family, "_labelnames", ())
        if "bytes" in help_text.split(".")[0].split() or help_text.startswith("memory"):
            assert name.endswith("_bytes"), name
        if "duration of" in help_text:
            assert name.endswith("_seconds"), name


def test_two_services_in_one_process_do_not_share_counters() -> None:
    one, other = Metrics(), Metrics()
    one.claims_lost.inc()
    assert one.registry.get_sample_value("corral_claims_lost_total") == 1
    assert other.registry.get_sample_value("corral_claims_lost_total") == 0


def test_a_replaced_gauge_tells_only_what_is_there_now() -> None:
    metrics = Metrics()
    replace(metrics.groups, {("Running",): 2, ("Deploying",): 1})
    replace(metrics.groups, {("Running",): 3})
    assert metrics.registry.get_sample_value("corral_groups", {"status": "Running"}) == 3
    assert metrics.registry.get_sample_value("corral_groups", {"status": "Deploying"}) is None


def test_every_metric_is_moved_by_some_part_of_the_service() -> None:
    source = ROOT / "service"
    own = source / "telemetry/metrics.py"
    mine = own.read_text().partition("\nclass Amounts")[0]
    named = re.findall(r"^        self\.([a-z_]+) = (?:Gauge|Counter|Histogram|Amounts)\(", mine, re.MULTILINE)
    assert len(named) > 15
    code = "".join(path.read_text() for path in source.rglob("*.py") if path != own)
    assert [name for name in named if not re.search(rf"metrics\.{name}\b", code)] == []
