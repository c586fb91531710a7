"""A large fleet as one running service: filled, at rest, watched, read, planned on, drained, started again.

    python -m tests.bench.scale_bench [--hosts 1000] [--members 10000] [--gang 25] [--rest-seconds 60] [--json FILE]
        [--plot FILE.png]

Everything is measured twice, with half of the members and with all of them, so that the growth shows. One service on
SQLite with simulated hosts, as its own process; its clients share the machine. CPU is the service's, with its planner
processes; a machine's boot takes 10 ms there, so that what is measured is the service. The fill goes by whole gangs
that are deployed by a few clients at a time, and follows each stream to its end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import queue
import re
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from corral.v1 import deploy_pb2, fleet_pb2, group_pb2

from service.reconcile.monitor import MARK_AFTER_CHANGE_SECONDS, MARK_STANDS_SECONDS
from tests.bench.api_bench import MIB, memory, quantile, watchers
from tests.support.builders import ENTRY, ZONE
from tests.support.process import CorralProcess

CLIENTS = 4
WATCHERS = 100
ROUNDS = 20
HOST_CPUS = 64
_SETTLED_SECONDS = MARK_AFTER_CHANGE_SECONDS + 2 * MARK_STANDS_SECONDS
_TICKS = os.sysconf("SC_CLK_TCK")
_WRITES = re.compile(r'corral_database_transaction_duration_seconds_count\{kind="write",outcome="ok"\} (\S+)')


@dataclass
class Size:
    """Figures with so many members. `rest`: of a core, and transactions a second, while nothing is asked."""

    members: int
    fill_members_per_second: float = 0.0
    fill_cpu_ms_per_member: float = 0.0
    memory_mib: float = 0.0
    rest_writes_per_second: float = 0.0
    rest_of_a_core: float = 0.0
    get_p50_ms: float = 0.0
    list_p50_ms: float = 0.0
    plan_p50_ms: float = 0.0
    plan_p99_ms: float = 0.0
    event_to_all_p50_ms: float = 0.0
    event_to_all_p99_ms: float = 0.0
    drain_seconds: float = 0.0
    drain_members: int = 0
    restart_seconds: float = 0.0
    restart_cpu_seconds: float = 0.0


@dataclass
class Report:
    """All figures."""

    load_average: float
    processors: int
    hosts: int
    start_seconds: float = 0.0
    sizes: list[Size] = field(default_factory=list)


def configuration(hosts: int, directory: Path) -> str:
    """The tables of a fleet of alike hosts."""
    kernel = directory / "kernel"
    kernel.touch()
    head = f"""
[[zones]]
uuid = "{ZONE}"
name = "zone-1"
[[images]]
name = "guest"
kernel = "{kernel}"
[[model_services]]
uuid = "{ENTRY}"
name = "default"
image = "guest"
"""
    one = """
[[hosts]]
name = "host-{n}"
zone = "zone-1"
rack = "rack-{rack}"
driver = "simulated"
options = {{ cpu = "{cpus}", memory = "256GiB", boot_ms = "10", live_migration = "yes" }}
"""
    return head + "".join(one.format(n=n, rack=n // 40, cpus=HOST_CPUS) for n in range(hosts))


def nodes(count: int) -> list[group_pb2.NodeSpec]:
    """A gang of small members."""
    one = group_pb2.NodeSpec(uuid=ENTRY, zone_uuid=ZONE, cpu_num=4, memory_size=1 << 30)
    return [one] * count


def processes(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time so far of the process and all below it."""
    ticks = 0
    for one in processes(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def writes(service: CorralProcess) -> float:
    """Write transactions so far."""
    with urllib.request.urlopen(f"{service.http}/metrics", timeout=60) as answer:
        found = _WRITES.search(answer.read().decode())
    return float(found[1]) if found else 0.0


def timed(call: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Milliseconds of each call."""
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        call()
        taken.append((time.perf_counter() - begun) * 1000)
    return taken


def fill(service: CorralProcess, first: int, gangs: int, gang: int) -> None:
    """Deploy so many gangs, CLIENTS at a time. Raises where one does not run."""
    numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(first, first + gangs):
        numbers.put(number)
    failures: list[BaseException] = []

    def client() -> None:
        while not failures:
            try:
                number = numbers.get_nowait()
            except queue.Empty:
                return
            try:
                made = service.follow(service.deploy(f"gang-{number}", nodes(gang)))
                assert made.status == "Running", made.reason
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def read_and_plan(service: CorralProcess, size: Size, gang: int) -> None:
    """Reads, plans and events."""
    some = service.groups.ListInstanceGroups(deploy_pb2.ListInstanceGroupsRequest(page_size=1)).inventories[0]
    get = deploy_pb2.GetInstanceGroupRequest(uuid=some.uuid)
    size.get_p50_ms = quantile(timed(lambda: service.groups.GetInstanceGroup(get)), 0.5)
    page = deploy_pb2.ListInstanceGroupsRequest(page_size=20)
    size.list_p50_ms = quantile(timed(lambda: service.groups.ListInstanceGroups(page)), 0.5)
    ask = deploy_pb2.PlanDistributedModelServiceRequest(
        name="planned", model_services=nodes(gang), service_creation_strategy="parallel"
    )
    plans = timed(lambda: service.groups.PlanDistributedModelService(ask))
    size.plan_p50_ms, size.plan_p99_ms = quantile(plans, 0.5), quantile(plans, 0.99)
    _, events = asyncio.run(watchers(service.port, service.pid, WATCHERS, ROUNDS))
    size.event_to_all_p50_ms, size.event_to_all_p99_ms = quantile(events, 0.5), quantile(events, 0.99)


def rest(service: CorralProcess, size: Size, seconds: float) -> None:
    """What is done while nothing is asked, and what the fill left to do is done: each host gets a new mark after it."""
    time.sleep(_SETTLED_SECONDS)
    began, cpu, written = time.perf_counter(), cpu_seconds(service.pid), writes(service)
    time.sleep(seconds)
    taken = time.perf_counter() - began
    size.rest_of_a_core = (cpu_seconds(service.pid) - cpu) / taken
    size.rest_writes_per_second = (writes(service) - written) / taken


def drain(service: CorralProcess, size: Size) -> None:
    """Empty one host by live moves, and give it back."""
    members = service.groups.ListInstances(deploy_pb2.ListInstancesRequest(page_size=1)).inventories
    host = members[0].host_uuid
    held = deploy_pb2.ListInstancesRequest(host_uuid=host, page_size=1000)
    size.drain_members = len(service.groups.ListInstances(held).inventories)
    began = time.perf_counter()
    for _ in service.fleet.DrainHost(fleet_pb2.DrainHostRequest(uuid=host)):
        pass
    size.drain_seconds = time.perf_counter() - began
    assert not service.groups.ListInstances(held).inventories
    service.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=host))


def restart(service: CorralProcess, size: Size) -> None:
    """End in order, and start: until it serves."""
    service.stop()
    began = time.perf_counter()
    service.start()
    size.restart_seconds = time.perf_counter() - began
    size.restart_cpu_seconds = cpu_seconds(service.pid)


def measure(directory: Path, hosts: int, members: int, gang: int, rest_seconds: float) -> Report:
    """Start a service, measure it at half and at full size, stop it."""
    report = Report(os.getloadavg()[0], os.cpu_count() or 1, hosts)
    service = CorralProcess(directory, configuration(hosts, directory))
    began = time.perf_counter()
    service.start()
    report.start_seconds = time.perf_counter() - began
    try:
        gangs = members // gang // 2
        for half in range(2):
            size = Size((half + 1) * gangs * gang)
            report.sizes.append(size)
            began, cpu = time.perf_counter(), cpu_seconds(service.pid)
            fill(service, half * gangs, gangs, gang)
            size.fill_members_per_second = gangs * gang / (time.perf_counter() - began)
            size.fill_cpu_ms_per_member = (cpu_seconds(service.pid) - cpu) / (gangs * gang) * 1000
            size.memory_mib = memory(service.pid) / MIB
            rest(service, size, rest_seconds)
            read_and_plan(service, size, gang)
            drain(service, size)
            restart(service, size)
    finally:
        service.stop()
    return report


def show(report: Report) -> None:
    """A line a figure: with half, with all, and what all is of half."""
    print(f"{report.hosts} simulated hosts, started in {report.start_seconds:.1f} s; "
          f"{report.processors} processors, load {report.load_average:.1f}")  # fmt: skip
    half, whole = (asdict(size) for size in report.sizes)
    for name, value in whole.items():
        ratio = f"{value / half[name]:6.2f}" if half[name] else ""
        print(f"{name:26} {half[name]:12,.2f} {value:12,.2f} {ratio}")


def plot(report: Report, path: Path) -> None:
    """Draw what each figure grows by when the members are doubled, beside growth in proportion (the line)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    half, whole = (asdict(size) for size in report.sizes)
    names = [name for name in whole if half[name] and name != "members"]
    figure, axes = plt.subplots(figsize=(8, 5))
    axes.barh(names, [whole[name] / half[name] for name in names])
    for at, name in enumerate(names):
        axes.annotate(f" {half[name]:,.2f} to {whole[name]:,.2f}", (0, at), va="center", fontsize=8, color="white")
    axes.axvline(whole["members"] / half["members"], color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel(f"times as much with {whole['members']:,} members as with {half['members']:,}")
    axes.set_title(f"{report.hosts:,} simulated hosts, {report.processors} processors, load {report.load_average:.1f}")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale_bench", description=__doc__)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--members", type=int, default=10000)
    parser.add_argument("--gang", type=int, default=25)
    parser.add_argument("--rest-seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="also draw there how the figures grow")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="corral-scale-") as directory:
        report = measure(Path(directory), options.hosts, options.members, options.gang, options.rest_seconds)
    show(report)
    if options.plot:
        plot(report, options.plot)
        print(options.plot)
    if options.json:
        options.json.write_text(json.dumps(asdict(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
