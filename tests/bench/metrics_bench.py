"""What metrics cost: CPU time of a call's counting beside the whole call's, and of a scrape.

    python -m tests.bench.metrics_bench [--calls 4000] [--hosts 1000] [--json FILE]

Counting is timed by itself, as a call of each face does it; the whole call is GetInstanceGroup and Check of a service
as its own process on loopback, by the CPU time that the process took. A scrape has `hosts` simulated hosts in it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
from corral.v1 import group_pb2

from service.telemetry.call_metrics import GRPC, JSON, CallMetrics
from service.telemetry.grpc_metrics import Method
from service.telemetry.metrics import Metrics
from tests.bench.api_bench import GET, HEALTH, own_client
from tests.support.builders import ENTRY, ZONE
from tests.support.process import CONFIGURATION, CorralProcess, ServiceProcess
from tests.web.conftest import configuration

ROUNDS = 50_000
CLIENTS = 8
SCRAPES = 10
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Report:
    """All figures; `..._us`: CPU microseconds a call, `scrape_cpu_ms`: CPU milliseconds a scrape."""

    load_average: float
    processors: int
    hosts: int
    counting_grpc_us: float = 0.0
    counting_json_us: float = 0.0
    check_us: float = 0.0
    get_us: float = 0.0
    share_of_check: float = 0.0
    share_of_get: float = 0.0
    scrape_cpu_ms: float = 0.0
    scrape_kib: float = 0.0
    scrape_series: int = 0


def counting(face: str) -> float:
    """CPU microseconds for what one unary call counts."""
    metrics, method = CallMetrics(Metrics()), Method("unary", "corral.v1.DistributedModelService", "GetInstanceGroup")

    def call() -> None:
        metrics.started(face, method)
        metrics.received(face, method)
        metrics.sent(face, method)
        metrics.ended(face, method, "OK", 0.003)

    return timed(call)


def timed(call: Callable[[], None]) -> float:
    """The least CPU microseconds of `call` in five rounds: what disturbs only adds."""
    found = []
    for _ in range(5):
        begun = time.thread_time_ns()
        for _ in range(ROUNDS // 5):
            call()
        found.append((time.thread_time_ns() - begun) / (ROUNDS // 5) / 1000)
    return min(found)


def cpu_seconds(pid: int) -> float:
    """What the process has taken by now, in its own code and the kernel's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def whole_calls(report: Report, calls: int, directory: Path) -> None:
    """What a whole call takes of the service's CPU."""
    node = group_pb2.NodeSpec(uuid=ENTRY, zone_uuid=ZONE, cpu_num=1, memory_size=1 << 28)
    with CorralProcess(directory, CONFIGURATION) as service:
        uuid = service.follow(service.deploy("counted", [node])).uuid
        for name, path, message in (
            ("check_us", HEALTH, b""),
            ("get_us", GET, b"\x0a" + bytes([len(uuid)]) + uuid.encode()),
        ):
            asyncio.run(own_client(service.port, path, message, calls // 4, CLIENTS))  # warm
            before = cpu_seconds(service.pid)
            asyncio.run(own_client(service.port, path, message, calls, CLIENTS))
            setattr(report, name, (cpu_seconds(service.pid) - before) / calls * 1e6)
    report.share_of_check = report.counting_grpc_us / report.check_us
    report.share_of_get = report.counting_grpc_us / report.get_us


def scrapes(report: Report, directory: Path) -> None:
    """What a scrape of many hosts takes."""
    (directory / "kernel").touch()
    file = directory / "corral.toml"
    file.write_text(configuration(directory, report.hosts))
    with (
        ServiceProcess(file, start_seconds=600) as service,
        httpx.Client(base_url=service.http, timeout=60) as http,
    ):
        while up(http.get("/metrics").text) < report.hosts:
            time.sleep(1)
        idle_from, idle = time.monotonic(), cpu_seconds(service.pid)
        time.sleep(10)
        a_second = (cpu_seconds(service.pid) - idle) / (time.monotonic() - idle_from)
        begun, before = time.monotonic(), cpu_seconds(service.pid)
        for _ in range(SCRAPES):
            text = http.get("/metrics").text
        taken = cpu_seconds(service.pid) - before - a_second * (time.monotonic() - begun)
    report.scrape_cpu_ms = taken / SCRAPES * 1000
    report.scrape_kib = len(text) / 1024
    report.scrape_series = sum(not line.startswith("#") for line in text.splitlines())


def up(text: str) -> int:
    """How many hosts a scrape tells to answer."""
    return sum(line.startswith("corral_host_up{") and line.endswith(" 1.0") for line in text.splitlines())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.metrics_bench", description=__doc__)
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = Report(os.getloadavg()[0], os.cpu_count() or 1, options.hosts)
    report.counting_grpc_us, report.counting_json_us = counting(GRPC), counting(JSON)
    with tempfile.TemporaryDirectory(prefix="corral-metrics-") as directory:
        for name in ("calls", "scrape"):
            (Path(directory) / name).mkdir()
        whole_calls(report, options.calls, Path(directory) / "calls")
        if options.hosts:
            scrapes(report, Path(directory) / "scrape")
    for name, value in asdict(report).items():
        print(f"{name:20} {value:,.2f}" if isinstance(value, float) else f"{name:20} {value:,}")
    if options.json:
        options.json.write_text(json.dumps(asdict(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
