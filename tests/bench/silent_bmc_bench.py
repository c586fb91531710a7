"""How long looks at machines take while one BMC is silent for ever, beside how long they take while it answers.

    python -m tests.bench.silent_bmc_bench [--machines 8] [--blocks 10] [--looks 20]

Blocks with and without the silent one take turns, so that what else the machine does falls on both. Prints a line of
JSON: p50 and p99 in ms of a look at one of the others, of both kinds, and how much longer the silent kind's are.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from pathlib import Path

from service.app.seats import StoredSeats
from service.domain.fleet import HostAddress
from service.drivers.base import DriverError
from service.drivers.redfish.driver import RedfishDriver
from service.store import fleet
from service.store.engine import Store
from tests.support import builders
from tests.support.bmc import ACCOUNT, Bmc
from tests.support.schema import migrated

FOR_EVER = 10**9
BUDGET_SECONDS = 30.0


async def measured(machines: int, blocks: int, looks: int) -> dict[str, float]:
    """Each look is `list_machines`, as monitors make it: at the others by turns, at the silent one meanwhile."""
    store = Store("sqlite://")
    migrated(store.engine)
    await store.write(lambda c: fleet.put_zone(c, builders.zone()))
    seats = StoredSeats(store)
    with tempfile.TemporaryDirectory() as directory:
        bmcs = [Bmc(Path(directory), f"44454c4c-0000-1000-8000-00000000000{number}") for number in range(machines)]
        drivers = [RedfishDriver(f"{number:032x}", _address(bmc), seats) for number, bmc in enumerate(bmcs)]
        took: dict[bool, list[float]] = {True: [], False: []}
        try:
            for driver in drivers:
                await driver.list_machines(budget_seconds=BUDGET_SECONDS)
            for number in range(2 * blocks):
                silent = bool(number % 2)
                bmcs[0].heard.clear()
                bmcs[0].faults["silent"] = FOR_EVER if silent else 0
                asking = asyncio.create_task(_asks(drivers[0]))
                for look in range(looks):
                    began = time.perf_counter()
                    await drivers[1 + look % (machines - 1)].list_machines(budget_seconds=BUDGET_SECONDS)
                    took[silent].append(1000 * (time.perf_counter() - began))
                bmcs[0].faults["silent"] = 0
                bmcs[0].heard.set()
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
        finally:
            for driver in drivers:
                await driver.close()
            for bmc in bmcs:
                bmc.close()
            store.close()
    found = {f"{name}, ms": round(_percentile(took[kind], share), 1)
             for kind, word in ((False, "answers"), (True, "is silent"))
             for share, name in ((50, f"p50 while it {word}"), (99, f"p99 while it {word}"))}  # fmt: skip
    longer = _percentile(took[True], 99) / _percentile(took[False], 99) - 1
    return {**found, "p99 is longer by, %": round(100 * longer, 1), "looks of each kind": blocks * looks}


async def _asks(driver: RedfishDriver) -> None:
    """As its monitor does: again and again."""
    while True:
        with contextlib.suppress(DriverError):
            await driver.list_machines(budget_seconds=BUDGET_SECONDS)
        await asyncio.sleep(0.05)


def _address(bmc: Bmc) -> HostAddress:
    files = {"ca_file": str(bmc.ca_file), "password_file": str(bmc.password_file), "seed_url": "http://127.0.0.1:1"}
    return HostAddress("redfish", "tls", "localhost", bmc.port, username=ACCOUNT, options=files)


def _percentile(values: list[float], share: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1]


def main() -> None:
    """Measure, and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--machines", type=int, default=8)
    options.add_argument("--blocks", type=int, default=10)
    options.add_argument("--looks", type=int, default=20)
    given = options.parse_args()
    print(json.dumps(asyncio.run(measured(given.machines, given.blocks, given.looks))))


if __name__ == "__main__":
    main()
