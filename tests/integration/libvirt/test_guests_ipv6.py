"""Real guests without an engine command, whose addresses are IPv6."""

from __future__ import annotations

import asyncio

import pytest

from service.domain.catalog import Image
from service.drivers.libvirt.driver import LibvirtDriver
from tests.integration.libvirt.test_guests import BUDGET, at_stage, launch, member, until

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio, pytest.mark.timeout(900)]


async def test_a_group_comes_up_by_addresses_of_ipv6(drivers: list[LibvirtDriver], guest: Image) -> None:
    """A guest without an engine asks itself and its leader by URL, in which such an address stands in brackets."""
    leader, worker = "fd77::2:1", "fd77::2:2"
    machines = [member(guest, 1, leader, rank=0, leader=leader), member(guest, 2, worker, rank=1, leader=leader)]
    await asyncio.gather(*map(launch, drivers, machines))
    ready = await asyncio.gather(
        *(until(driver, spec, at_stage("ready"), "ready") for driver, spec in zip(drivers, machines, strict=True))
    )
    assert [seen.report.address for seen in ready if seen.report is not None] == [leader, worker]
    for driver, spec in zip(drivers, machines, strict=True):
        await driver.remove(spec.identity, budget_seconds=BUDGET)
