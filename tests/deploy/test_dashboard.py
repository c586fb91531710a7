"""The dashboard: each of its queries, asked of a real Prometheus that scrapes a real run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from corral.v1 import group_pb2

from tests.support import ROOT
from tests.support.builders import ENTRY, ZONE
from tests.support.process import CONFIGURATION, CorralProcess

DASHBOARD = ROOT / "deploy/grafana/corral.json"
DEADLINE_SECONDS = 120.0
# What a run in which all goes well has no series of.
SILENT = (
    "corral_rate_limited_calls_total",
    'outcome!="ok"',
    'code=~"Internal',
    "corral_host_claimed_gpus",
    "corral_host_allocatable_gpus",
    "corral_host_devices_reported",
)
GPU_HOST = """
[[hosts]]
name = "two"
zone = "zone-1"
driver = "simulated"
options = { cpu = "8", memory = "32GiB", boot_ms = "10", busy = "50", "gpu.a100" = "2" }
[[quotas]]
project = "default"
cpu = 8000
memory = "16GiB"
"""


def queries() -> list[tuple[str, str]]:
    """(panel, query) of the dashboard, with its variables filled in."""
    found = json.loads(DASHBOARD.read_text())
    asked = [(p["title"], t["expr"]) for p in found["panels"] for t in p.get("targets", ())]
    asked += [("annotations", one["expr"]) for one in found["annotations"]["list"]]
    return [(title, query.replace("$job", "corral")) for title, query in asked]


class Prometheus:
    """A server of its own on a free port, which looks at one address every three seconds."""

    def __init__(self, directory: Path, target: str) -> None:
        program = shutil.which("prometheus") or str(ROOT / ".cache/tools/prometheus")
        if not os.access(program, os.X_OK):
            pytest.skip("no Prometheus: `make tools` brings Debian's")
        configuration = directory / "prometheus.yml"
        configuration.write_text(
            f"global: {{scrape_interval: 3s, scrape_timeout: 3s, evaluation_interval: 3s}}\n"
            f"scrape_configs: [{{job_name: corral, static_configs: [{{targets: ['{target}']}}]}}]\n"
            f"rule_files: ['{ROOT / 'deploy/prometheus/corral.rules.yml'}']\n"
        )
        options = [f"--config.file={configuration}", f"--storage.tsdb.path={directory / 'tsdb'}"]
        self._log = (directory / "prometheus.log").open("w+")
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "--", program, *options, "--web.listen-address=127.0.0.1:0"],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        self.client = httpx.Client(base_url=f"http://{self._address(directory)}", timeout=DEADLINE_SECONDS)
        self._await_ready()

    def _address(self, directory: Path) -> str:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            told = (directory / "prometheus.log").read_text()
            if found := re.search(r'Listening on" address=(127\.0\.0\.1:\d+)', told):
                return found[1]
            time.sleep(0.05)
        self.end()
        raise AssertionError((directory / "prometheus.log").read_text())

    def _await_ready(self) -> None:
        """It listens before it has read its store, and until then answers every query with words instead of JSON."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (answer := self.client.get("/-/ready")).status_code != httpx.codes.OK:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.05)

    def ask(self, query: str) -> list[Any]:
        """The result of a query. Raises AssertionError where it is not one."""
        answer = self.client.get("/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", f"{query}: {answer.get('error')}"
        return list(answer["data"]["result"])

    def end(self) -> None:
        """Kill it: nothing of it is kept."""
        self._process.kill()
        self._process.wait()
        self._log.close()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Looks at a service that has deployed something, refused something, and answered on two faces."""
    directory = tmp_path_factory.mktemp("run")
    with CorralProcess(directory, CONFIGURATION + GPU_HOST) as service:
        server = Prometheus(directory, service.http.removeprefix("http://"))
        try:
            _until(server, "corral_database_up == 1")
            node = group_pb2.NodeSpec(uuid=ENTRY, zone_uuid=ZONE, cpu_num=1, memory_size=1 << 28)
            assert service.follow(service.deploy("runs", [node])).status == "Running"
            large = group_pb2.NodeSpec(uuid=ENTRY, zone_uuid=ZONE, cpu_num=4096, memory_size=1 << 28)
            with pytest.raises(grpc.RpcError, match="no host can take"):
                service.follow(service.deploy("refused", [large]))
            httpx.get(f"{service.http}/corral/v1/hosts").raise_for_status()
            _until(server, 'corral_deploy_duration_seconds_count{outcome="Refused"} == 1')
            _until(server, 'increase(corral_calls_total{face="json"}[5m]) >= 0')
            yield server
        finally:
            server.client.close()
            server.end()


def _until(server: Prometheus, query: str) -> list[Any]:
    """The query's first answer that is not empty: a scrape that a busy machine does not finish in its three seconds
    ends every series until the next."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (found := server.ask(query)):
        assert time.monotonic() < deadline, f"never true: {query}"
        time.sleep(0.1)
    return found


@pytest.mark.parametrize(("title", "query"), queries())
def test_each_query_has_an_answer(prometheus: Prometheus, title: str, query: str) -> None:
    if title != "annotations" and not any(words in query for words in SILENT):
        _until(prometheus, query)
    else:
        prometheus.ask(query)


def test_refusals_are_no_failures_and_the_rules_are_quiet_in_a_run_in_which_all_goes_well(
    prometheus: Prometheus,
) -> None:
    assert prometheus.ask('corral_deploy_duration_seconds_count{outcome="Failed"}') == []
    (refused,) = _until(prometheus, "corral_deploys_ended_without_running_total")
    assert refused["metric"]["outcome"] == "Refused"
    assert refused["metric"]["reason"] in ("QUOTA_EXCEEDED", "UNSATISFIABLE", "NO_CAPACITY")
    rules = prometheus.client.get("/api/v1/rules").json()["data"]["groups"][0]["rules"]
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    assert prometheus.ask('ALERTS{alertstate="firing"}') == []
    (one, two) = sorted(_until(prometheus, "corral_host_up"), key=lambda series: series["metric"]["host"])
    assert (one["metric"]["host"], one["metric"]["zone"], one["value"][1]) == ("one", "zone-1", "1")
    assert two["metric"]["host"] == "two"
