"""From the call to all Running: Corral beside raw libvirt threads, on real hypervisors, in turns in the same run.

    python -m tests.bench.launch_bench [--guests 1,4,8] [--halted 8,16] [--rounds 5] [--hypervisors 2] [--json FILE]

As root. Every round deploys a group by gRPC, keeps the definitions of its domains, deletes the group, and creates
the very same domains by libvirt-python, one thread a guest. The clock stops when the last guest has said `ready`.
Then the same with guests that halt at once: the CPU that a launch costs the service itself (`launch_halted`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import libvirt
from corral.v1 import deploy_pb2, deploy_pb2_grpc, group_pb2, placement_pb2

from tests.bench import launch_halted, raw_launch
from tests.bench.scale_bench import cpu_seconds
from tests.lab.fleet import Lab
from tests.support import ROOT
from tests.support.process import ENVIRONMENT

ZONE = "7a007a391d483c9f843bf1df4b7e5d8f"
MODEL_SERVICE = "f1e135835fee363c9f57ed8232023886"
GUEST_MEMORY = 128 << 20  # bytes
DEADLINE_SECONDS = 600.0
_BOOTS = ROOT / ".cache/guest/guest.json"


@dataclass(frozen=True)
class Sample:
    """One launch: seconds until all guests existed (paused), and until all were ready."""

    guests: int
    created: float
    ready: float


@contextmanager
def corral(
    lab: Lab, directory: Path, manifest: Path = _BOOTS
) -> Iterator[tuple[deploy_pb2_grpc.DistributedModelServiceStub, float, int]]:
    """A service over the lab's hypervisors: its stub, the seconds that it took to start, and its process id."""
    directory.mkdir(exist_ok=True)
    config = directory / "corral.toml"
    config.write_text(_configuration(lab, manifest))
    log = directory / "service.log"
    started = time.monotonic()
    with log.open("wb") as output:
        service = subprocess.Popen(
            [sys.executable, "-m", "service", "serve", "--config", str(config)],
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        address = _wait_serving(service, log)
        seconds = time.monotonic() - started
        with grpc.insecure_channel(address) as channel:
            yield deploy_pb2_grpc.DistributedModelServiceStub(channel), seconds, service.pid
    finally:
        service.terminate()
        service.wait(60)


def _configuration(lab: Lab, manifest: Path) -> str:
    hosts = "".join(
        f'[[hosts]]\nname = "{each.name}"\nzone = "zone-1"\ndriver = "libvirt"\nsocket = "{each.socket}"\n'
        'capacity = { vcpu = 64, memory = "64GiB" }\n'
        for each in lab
    )
    return f"""
[server]
grpc = "127.0.0.1:0"
http = "127.0.0.1:0"
[identity]
anonymous = "loopback"
[[zones]]
uuid = "{ZONE}"
name = "zone-1"
[zones.network]
kind = "bridge"
source = "br0"
subnet = "{lab.network}.0.0/16"
pool = "{lab.network}.100.1-{lab.network}.100.250"
[[images]]
name = "default-guest"
manifest = "{manifest}"
[[model_services]]
uuid = "{MODEL_SERVICE}"
name = "default"
image = "default-guest"
boot_timeout_ms = {round(DEADLINE_SECONDS * 1000)}
{hosts}"""


def _wait_serving(service: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + 180
    while time.monotonic() < end and service.poll() is None:
        for line in log.read_text().splitlines():
            told = json.loads(line) if line.startswith("{") else {}
            if told.get("event") == "serving":
                return str(told["grpc"])
        time.sleep(0.02)
    raise RuntimeError(f"the service did not start:\n{log.read_text()}")


def deploy(stub: deploy_pb2_grpc.DistributedModelServiceStub, guests: int) -> tuple[Sample, str, list[str]]:
    """One group of `guests` members, spread over the hypervisors: its sample, uuid and machine names."""
    request = _request(guests)
    started = time.monotonic()
    created: dict[str, float] = {}
    for answer in stub.DeployDistributedModelService(request, timeout=DEADLINE_SECONDS):
        member = answer.event.instance
        if member.status == "Created":
            created[member.uuid] = time.monotonic() - started
    ready = time.monotonic() - started
    final = answer.event.final
    if final.status != "Running" or len(created) != guests:
        raise RuntimeError(f"the group became {final.status}: {final.reason}")
    return Sample(guests, max(created.values()), ready), final.uuid, _names(final)


def cost(
    stub: deploy_pb2_grpc.DistributedModelServiceStub, pid: int, uris: Sequence[str], guests: int
) -> launch_halted.Cost:
    """CPU of one launch of guests that halt at once: the service's, and that of plain threads after it."""
    before = cpu_seconds(pid)
    created: set[str] = set()
    call = stub.DeployDistributedModelService(_request(guests), timeout=DEADLINE_SECONDS)
    for answer in call:
        if answer.event.instance.status == "Created":
            created.add(answer.event.instance.uuid)
        if answer.event.HasField("final"):
            raise RuntimeError(f"the group became {answer.event.final.status}: {answer.event.final.reason}")
        if len(created) == guests:
            break
    spent = cpu_seconds(pid) - before
    call.cancel()
    found = stub.GetInstanceGroup(deploy_pb2.GetInstanceGroupRequest(uuid=answer.event.group_uuid))
    domains = raw_launch.capture(uris, _names(found.inventory))
    delete(stub, found.inventory.uuid)
    return launch_halted.Cost(guests, spent, raw_launch.create_paused(domains))


def _request(guests: int) -> deploy_pb2.DeployDistributedModelServiceRequest:
    request = deploy_pb2.DeployDistributedModelServiceRequest(name="bench", service_creation_strategy="parallel")
    request.placement_policy.strategy = placement_pb2.PLACEMENT_STRATEGY_SPREAD
    for rank in range(guests):
        node = request.model_services.add(uuid=MODEL_SERVICE, zone_uuid=ZONE, is_initial_node=rank == 0)
        node.cpu_num, node.memory_size = 1, GUEST_MEMORY
    return request


def _names(group: group_pb2.InstanceGroup) -> list[str]:
    return [f"corral-{member.uuid}-{member.attempt}" for member in group.instances]


def delete(stub: deploy_pb2_grpc.DistributedModelServiceStub, uuid: str) -> None:
    """Delete the group and wait until it is gone."""
    for _ in stub.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=uuid), timeout=DEADLINE_SECONDS):
        pass


def measure(lab: Lab, directory: Path, sizes: Sequence[int], rounds: int) -> tuple[list[Sample], list[Sample], float]:
    """(Corral's samples, raw samples, seconds of the service's start). A first launch of each kind is not counted."""
    ours: list[Sample] = []
    raw: list[Sample] = []
    uris = [each.uri for each in lab]
    with corral(lab, directory) as (stub, start_seconds, _):
        for number in range(-1, rounds):
            for guests in sizes if number >= 0 else sizes[:1]:
                sample, uuid, names = deploy(stub, guests)
                domains = raw_launch.capture(uris, names)
                delete(stub, uuid)
                created, ready = raw_launch.launch(domains, DEADLINE_SECONDS)
                if number >= 0:
                    ours.append(sample)
                    raw.append(Sample(guests, created, ready))
                    print(
                        f"  round {number + 1}, {guests} guest(s): {sample.ready:.2f} s, raw {ready:.2f} s", flush=True
                    )
    return ours, raw, start_seconds


def measure_halted(lab: Lab, directory: Path, sizes: Sequence[int], rounds: int) -> list[launch_halted.Cost]:
    """Every launch of guests that halt. A first one is not counted."""
    costs: list[launch_halted.Cost] = []
    uris = [each.uri for each in lab]
    manifest = launch_halted.manifest(directory / "halted")
    with corral(lab, directory, manifest) as (stub, _, pid):
        cost(stub, pid, uris, sizes[0])
        costs += [cost(stub, pid, uris, guests) for _ in range(rounds) for guests in sizes]
    return costs


def table(ours: Sequence[Sample], raw: Sequence[Sample], sizes: Sequence[int]) -> str:
    """Medians and their ratios, as Markdown."""
    lines = [
        "| guests | Corral: created, Running (s) | raw: created, ready (s) | ratio of the whole |",
        "|---|---|---|---|",
    ]
    for guests in sizes:
        own, other = ([each for each in samples if each.guests == guests] for samples in (ours, raw))
        ready, raw_ready = (statistics.median(each.ready for each in samples) for samples in (own, other))
        created, raw_created = (statistics.median(each.created for each in samples) for samples in (own, other))
        lines.append(
            f"| {guests} | {created:.2f}, {ready:.2f} | {raw_created:.2f}, {raw_ready:.2f} | {ready / raw_ready:.2f} |"
        )
    return "\n".join(lines)


def machine(lab: Lab) -> dict[str, Any]:
    """What this was measured on."""
    connection = libvirt.open(lab[0].uri)
    try:
        libvirt_version, qemu_version = connection.getLibVersion(), connection.getVersion()
    finally:
        connection.close()
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libvirt": _version(libvirt_version),
        "qemu": _version(qemu_version),
        "hypervisors": len(lab.hypervisors),
    }


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit code is 0 when every launch came up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--guests", default="1,4,8", help="group sizes (default %(default)s)")
    parser.add_argument("--halted", default="8,16", help="group sizes of guests that halt (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="launches of each size and kind (default %(default)s)")
    parser.add_argument("--hypervisors", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all samples there")
    options = parser.parse_args(arguments)
    sizes, halted = ([int(size) for size in text.split(",") if size] for text in (options.guests, options.halted))
    libvirt.registerErrorHandler(lambda context, error: None, None)
    raw_launch.start_event_loop()
    cache = ROOT / ".cache/lab-capabilities"
    ours: list[Sample] = []
    raw: list[Sample] = []
    costs: list[launch_halted.Cost] = []
    start_seconds = 0.0
    with tempfile.TemporaryDirectory(prefix="corral-bench-") as directory, Lab(options.hypervisors, cache) as lab:
        described = machine(lab)
        print(", ".join(f"{key} {value}" for key, value in described.items()), flush=True)
        if sizes:
            ours, raw, start_seconds = measure(lab, Path(directory), sizes, options.rounds)
            print(f"\n{table(ours, raw, sizes)}\n\nservice start until it serves: {start_seconds:.2f} s", flush=True)
    if halted:  # on hypervisors that no other control plane has marked as its own
        with tempfile.TemporaryDirectory(prefix="corral-bench-") as directory, Lab(options.hypervisors, cache) as lab:
            costs = measure_halted(lab, Path(directory), halted, options.rounds)
            print(f"\n{launch_halted.table(costs)}")
    if options.json:
        samples: dict[str, Sequence[Sample | launch_halted.Cost]] = {"corral": ours, "raw": raw, "halted": costs}
        told = {name: [asdict(each) for each in found] for name, found in samples.items()}
        result = {"machine": described, "start_seconds": start_seconds, **told}
        options.json.write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
