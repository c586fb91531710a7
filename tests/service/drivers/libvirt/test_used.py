"""What guests take of what they claim, by libvirt's figures of all of them in one call."""

from __future__ import annotations

import pytest

from service.drivers.libvirt.driver import LibvirtDriver
from service.drivers.libvirt.overhead import Overhead
from tests.service.drivers.libvirt.fake import FakeHost
from tests.service.drivers.libvirt.machines import BUDGET, driver_of, identity, specification

pytestmark = pytest.mark.asyncio

MIB = 1 << 20
FIRST, SECOND = identity(1).machine_uuid, identity(2).machine_uuid


@pytest.fixture
def clock() -> list[float]:
    return [100.0]


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


async def two_guests(host: FakeHost, clock: list[float]) -> LibvirtDriver:
    """The driver of a host with two guests of 64 MiB, and one of somebody else."""
    made = driver_of(host)
    made._overhead = Overhead(0, lambda: clock[0])
    host.add_foreign("runs", vcpus=1, memory_kib=1024, running=True)
    for number in (1, 2):
        await made.create_paused(specification(number, documents={}), budget_seconds=BUDGET)
    return made


async def test_what_is_resident_of_the_guests_own_memory_is_told(host: FakeHost, clock: list[float]) -> None:
    driver = await two_guests(host, clock)
    # QEMU's own memory beside that of the guest is none that a member claims.
    host.resident_kib = {FIRST: 194 << 10, SECOND: 10 << 10}
    assert (await driver.probe(budget_seconds=BUDGET)).used == {"memory": (64 + 10) * MIB}


async def test_processor_time_is_told_by_what_was_spent_since_the_look_before(
    host: FakeHost, clock: list[float]
) -> None:
    driver = await two_guests(host, clock)
    host.cpu_ns = {FIRST: 7_000_000_000, SECOND: 0}
    first = await driver.probe(budget_seconds=BUDGET)
    assert first.used == {}, "one look tells no rate"
    clock[0] += 5
    host.cpu_ns = {FIRST: 12_000_000_000, SECOND: 2_500_000_000}
    second = await driver.probe(budget_seconds=BUDGET)
    assert second.used == {"vcpu": 1.5}
    assert second == first, "what is used is another at each look, and nothing is written for it"
    # A guest that came since has no rate yet, and one that began anew has not run backwards.
    clock[0] += 5
    host.cpu_ns = {FIRST: 0, SECOND: 5_000_000_000}
    assert (await driver.probe(budget_seconds=BUDGET)).used == {"vcpu": 0.5}


async def test_a_host_without_guests_uses_nothing_and_one_that_does_not_measure_tells_nothing(
    host: FakeHost, clock: list[float]
) -> None:
    driver = await two_guests(host, clock)
    assert (await driver.probe(budget_seconds=BUDGET)).used == {}
    assert (await driver_of(FakeHost()).probe(budget_seconds=BUDGET)).used == {"memory": 0.0, "vcpu": 0.0}
