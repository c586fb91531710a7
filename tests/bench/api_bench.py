"""How fast the API answers: unary and stream throughput with p50 and p99, a thousand watchers, the service's start.

    python -m tests.bench.api_bench [--calls 4000] [--clients 8] [--watchers 1000] [--json FILE]

On loopback against one service on simulated hosts, as its own process. Unary load comes from h2load where it is
installed (Debian's nghttp2-client), else from this process's own gRPC client, which costs CPU of the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc
from corral.v1 import deploy_pb2, deploy_pb2_grpc

from tests.service.client.test_client import node as seed_node
from tests.support.process import CONFIGURATION, CorralProcess

HEALTH = "/grpc.health.v1.Health/Check"
GET = "/corral.v1.DistributedModelService/GetInstanceGroup"
LIST = "/corral.v1.DistributedModelService/ListInstanceGroups"
GROUPS = 20
MIB = 1 << 20


@dataclass
class Report:
    """All figures. Times are ms where the name says so; `source`: who made the unary load;
    `unary`: calls per second, p50 and p99 ms by method."""

    load_average: float
    processors: int
    source: str = ""
    start_seconds: float = 0.0
    start_memory_mib: float = 0.0
    unary: dict[str, tuple[float, ...]] = field(default_factory=dict)
    streams_per_second: float = 0.0
    stream_p50_ms: float = 0.0
    stream_p99_ms: float = 0.0
    events_per_second: float = 0.0
    watchers: int = 0
    watcher_kib: float = 0.0
    event_to_all_p50_ms: float = 0.0
    event_to_all_p99_ms: float = 0.0
    notes: list[str] = field(default_factory=list)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of all lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) << 10


Load = tuple[float, float, float]
"""Calls per second, p50 and p99 in ms."""


def h2load(port: int, path: str, message: bytes, calls: int, clients: int, directory: Path) -> Load:
    """Unary calls, four at a time on each of `clients` connections. RuntimeError where some are not answered."""
    body, log = directory / "body", directory / "h2load.log"
    body.write_bytes(struct.pack(">BI", 0, len(message)) + message)
    log.unlink(missing_ok=True)
    command = ["h2load", f"-n{calls}", f"-c{clients}", "-m4", "-t1", f"--log-file={log}", f"--data={body}"]
    command += ["-Hcontent-type: application/grpc", "-Hte: trailers", f"http://127.0.0.1:{port}{path}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout
    if f"{calls} succeeded" not in shown:
        raise RuntimeError(f"not every call succeeded:\n{shown}")
    rate = re.search(r"finished in [^,]+, ([\d.]+) req/s", shown)
    if rate is None:
        raise RuntimeError(f"h2load tells no rate:\n{shown}")
    # start (us since the epoch), status, duration (us): one line a call.
    taken = [int(line.split("\t")[2]) / 1000 for line in log.read_text().splitlines()]
    return float(rate[1]), quantile(taken, 0.5), quantile(taken, 0.99)


async def own_client(port: int, path: str, message: bytes, calls: int, clients: int) -> Load:
    """The same by grpc.aio, one at a time by each of `clients`."""
    taken: list[float] = []

    async def run(invoke: Any) -> None:
        for _ in range(calls // clients):
            begun = time.perf_counter()
            await invoke(message)
            taken.append((time.perf_counter() - begun) * 1000)

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        begun = time.perf_counter()
        await asyncio.gather(*(run(channel.unary_unary(path)) for _ in range(clients)))
        seconds = time.perf_counter() - begun
    return len(taken) / seconds, quantile(taken, 0.5), quantile(taken, 0.99)


def _stub(channel: grpc.aio.Channel) -> Any:
    make: Any = deploy_pb2_grpc.DistributedModelServiceStub
    return make(channel)


async def streams(port: int, count: int, clients: int) -> tuple[float, float, float, float]:
    """(streams per second, p50 and p99 ms until a watch has told all GROUPS groups, events per second)."""
    taken: list[float] = []
    events = 0

    async def run(stub: Any) -> None:
        nonlocal events
        for _ in range(count // clients):
            begun = time.perf_counter()
            call = stub.WatchInstanceGroups(deploy_pb2.WatchInstanceGroupsRequest())
            async for answer in call:
                events += 1
                if answer.event.bookmark.initial_state_complete:
                    break
            taken.append((time.perf_counter() - begun) * 1000)
            call.cancel()

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = _stub(channel)
        begun = time.perf_counter()
        await asyncio.gather(*(run(stub) for _ in range(clients)))
        seconds = time.perf_counter() - begun
    return len(taken) / seconds, quantile(taken, 0.5), quantile(taken, 0.99), events / seconds


async def watchers(port: int, pid: int, count: int, rounds: int) -> tuple[float, list[float]]:
    """(KiB of the service for each watcher, ms from a change of a group until every watcher has its event)."""
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", (("bench.number", n),)) for n in range(8)]
    stubs = [_stub(channel) for channel in channels]
    words = f"round of {time.time_ns()}:"  # none that an earlier run left
    arrived: dict[str, int] = {}
    all_have = asyncio.Event()
    ready = 0
    all_ready = asyncio.Event()

    async def watch(stub: Any) -> None:
        nonlocal ready
        async for answer in stub.WatchInstanceGroups(deploy_pb2.WatchInstanceGroupsRequest()):
            if answer.event.bookmark.initial_state_complete:
                ready += 1
                if ready == count:
                    all_ready.set()
            name = answer.event.group.description
            if name.startswith(words):
                arrived[name] = arrived.get(name, 0) + 1
                if arrived[name] == count:
                    all_have.set()

    listed = await stubs[0].ListInstanceGroups(deploy_pb2.ListInstanceGroupsRequest())
    uuid = listed.inventories[0].uuid
    before = memory(pid)
    tasks = [asyncio.create_task(watch(stubs[number % len(stubs)])) for number in range(count)]
    await asyncio.wait_for(all_ready.wait(), 120)
    each = (memory(pid) - before) / count / 1024
    taken = []
    for number in range(rounds):
        all_have.clear()
        begun = time.perf_counter()
        change = deploy_pb2.UpdateInstanceGroupRequest(uuid=uuid, description=f"{words} {number}")
        change.update_mask.paths.append("description")
        await stubs[0].UpdateInstanceGroup(change)
        await asyncio.wait_for(all_have.wait(), 60)
        taken.append((time.perf_counter() - begun) * 1000)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for channel in channels:
        await channel.close()
    return each, taken


def measure(directory: Path, calls: int, clients: int, watching: int) -> Report:
    """Start a service, load it, stop it."""
    report = Report(os.getloadavg()[0], os.cpu_count() or 1)
    service = CorralProcess(directory, CONFIGURATION.replace('boot_ms = "700"', 'boot_ms = "10"'))
    begun = time.perf_counter()
    service.start()
    report.start_seconds = time.perf_counter() - begun
    try:
        pid = service.pid
        report.start_memory_mib = memory(pid) / MIB
        made = [service.follow(service.deploy(f"group {n}", [seed_node()])) for n in range(GROUPS)]
        report.source = "h2load" if shutil.which("h2load") else "grpc.aio"
        requests = {
            HEALTH: b"",
            GET: deploy_pb2.GetInstanceGroupRequest(uuid=made[0].uuid).SerializeToString(),
            LIST: b"",
        }
        for path, message in requests.items():
            if report.source == "h2load":
                figures = h2load(service.port, path, message, calls, clients, directory)
            else:
                figures = asyncio.run(own_client(service.port, path, message, calls, clients))
            report.unary[path] = tuple(round(figure, 2) for figure in figures)
        report.streams_per_second, report.stream_p50_ms, report.stream_p99_ms, report.events_per_second = asyncio.run(
            streams(service.port, max(clients, calls // 10), clients)
        )
        each, taken = asyncio.run(watchers(service.port, pid, watching, 20))
        report.watchers, report.watcher_kib = watching, each
        report.event_to_all_p50_ms, report.event_to_all_p99_ms = quantile(taken, 0.5), quantile(taken, 0.99)
    finally:
        service.stop()
    report.notes.append(
        f"ListInstanceGroups answers with {GROUPS} groups; a stream is a watch until its state is whole"
    )
    report.notes.append("the clients share the processors with the service")
    return report


def main() -> int:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--watchers", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        report = measure(Path(directory), arguments.calls, arguments.clients, arguments.watchers)
    figures = {name: round(value, 2) if isinstance(value, float) else value for name, value in asdict(report).items()}
    for name, value in figures.items():
        print(f"{name:22} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
