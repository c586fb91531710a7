"""What one hypervisor that hangs costs the others: deploys on three hosts, while the fourth answers and while it hangs.

    python -m tests.bench.bulkhead_bench [--deploys 150] [--rounds 3] [--held 8]

One service on four simulated hosts in this process. The fourth carries groups that are looked at all the time and takes
no new ones; hanging, every call on it lasts until its deadline. Blocks of both kinds take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corral.v1 import deploy_pb2, fleet_pb2

from service.drivers.base import HostUnreachable
from service.drivers.simulated import SimulatedDriver
from service.telemetry import logs
from tests.bench.api_bench import quantile
from tests.support.whole import Whole, config_text, whole

HUNG = "host-4"


def hang(driver: SimulatedDriver) -> None:
    """From now on every call on the host lasts until its deadline."""

    async def call(budget_seconds: float) -> None:
        await asyncio.sleep(budget_seconds)
        raise HostUnreachable("no answer within the deadline")

    driver._call = call  # type: ignore[method-assign]


async def deploy_once(lab: Whole) -> float:
    """Milliseconds from the call of a group of one to its end, all Running; it is deleted afterwards."""
    started = time.perf_counter()
    group = await lab.up(1)
    took = (time.perf_counter() - started) * 1000
    if group.status != "Running":
        raise RuntimeError(f"the group became {group.status}: {group.reason}")
    request = deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid)
    async for _ in lab.deploy.DeleteInstanceGroup(request):
        continue
    return took


async def prepare(lab: Whole, held: int) -> None:
    """Groups on the fourth host alone, which then takes no more."""
    for number in range(1, 4):
        await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=lab.uuid_of(f"host-{number}")))
    for _ in range(held):
        await lab.up(1)
    for number in range(1, 4):
        await lab.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=lab.uuid_of(f"host-{number}")))
    await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=lab.uuid_of(HUNG)))


async def measure(deploys: int, rounds: int, held: int) -> tuple[list[float], list[float]]:
    """(ms while all hosts answer, ms while one hangs)."""
    answering: list[float] = []
    hanging: list[float] = []
    with tempfile.TemporaryDirectory(prefix="corral-bench-") as directory:
        path = Path(directory)
        async with whole(path, config_text(hosts=4, cpu=16, url=f"sqlite:///{path}/corral.db")) as lab:
            await prepare(lab, held)
            driver: Any = lab.driver(HUNG)
            for _ in range(10):
                await deploy_once(lab)
            for _ in range(rounds):
                answering += [await deploy_once(lab) for _ in range(deploys)]
                hang(driver)
                hanging += [await deploy_once(lab) for _ in range(deploys)]
                del driver._call
    return answering, hanging


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--deploys", type=int, default=150, help="deploys in a block (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="blocks of each kind (default %(default)s)")
    parser.add_argument("--held", type=int, default=8, help="groups on the host that hangs (default %(default)s)")
    options = parser.parse_args(arguments)
    logs.configure("json", "critical")
    answering, hanging = asyncio.run(measure(options.deploys, options.rounds, options.held))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; simulated hosts, SQLite; ms from call to Running")
    print("| hosts | deploys | p50 | p99 |\n|---|---|---|---|")
    for name, found in (("all answer", answering), ("one of four hangs", hanging)):
        print(f"| {name} | {len(found)} | {quantile(found, 0.5):.1f} | {quantile(found, 0.99):.1f} |")
    ratio = quantile(hanging, 0.99) / quantile(answering, 0.99)
    print(f"p99 of the others while one hangs, against all answering: {ratio:.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
