"""A real storage pool that is full under a real guest: the guest is paused by QEMU, and the driver says why."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.domain.catalog import Image
from service.domain.fleet import HostAddress
from service.drivers.base import HostRejected, MachineState, ObservedMachine
from service.drivers.libvirt.driver import LibvirtDriver
from service.drivers.libvirt.reasons import NO_SPACE
from tests.lab.hypervisor import Hypervisor
from tests.service.drivers.libvirt.machines import CLUSTER, identity, made, specification

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio, pytest.mark.timeout(900)]

BUDGET = 60.0
POOL = "/var/lib/libvirt/small"

# A boot sector that writes on and on, 64 sectors at a time, from sector 128 to the end of the first disk:
#   mov si, 0x7c20; again: mov ax, 0x4300; mov dl, 0x80; int 0x13; jc halt; add word [0x7c28], 64; adc word [0x7c2a], 0;
#   jmp again; halt: hlt; jmp halt          then, at 0x20, the packet of INT 13h AH=43h.
_CODE = bytes.fromhex("be207c b80043 b280 cd13 720c 8306287c40 83162a7c00 ebeb f4 ebfd")
_PACKET = bytes.fromhex("1000 4000 0080 0000 8000000000000000")
WRITER = (_CODE.ljust(0x20, b"\x90") + _PACKET).ljust(510, b"\0") + b"\x55\xaa"


@pytest.fixture
def small_pool(hosts: list[Hypervisor]) -> Iterator[Hypervisor]:
    """The first hypervisor with a file system of 12 MiB for a pool."""
    host = hosts[0]
    host.namespace.run("mkdir", "-p", POOL)
    host.namespace.run("mount", "-t", "tmpfs", "-o", "size=12m", "none", POOL)
    yield host
    for step in (("virsh", "-c", "qemu:///system", "pool-destroy", "small"), ("umount", "-l", POOL)):
        host.namespace.run(*step)
    host.namespace.run("virsh", "-c", "qemu:///system", "pool-undefine", "small")


def driver_of(host: Hypervisor) -> LibvirtDriver:
    options = {"pool": "small", "pool_path": POOL}
    return LibvirtDriver(host.name, CLUSTER, HostAddress("libvirt", "unix", socket=str(host.socket), options=options))


async def paused(driver: LibvirtDriver) -> ObservedMachine:
    """The machine as soon as it does not run."""
    async with asyncio.timeout(120):
        while True:
            _, seen = await driver.observe(identity(1), budget_seconds=BUDGET)
            assert seen is not None
            if seen.state is not MachineState.RUNNING:
                return seen
            await asyncio.sleep(0.1)


async def test_a_guest_whose_pool_is_full_is_paused_says_why_and_goes_on_once_there_is_room(
    small_pool: Hypervisor, tmp_path: Path
) -> None:
    disk = tmp_path / "writer.raw"
    disk.write_bytes(WRITER.ljust(1 << 20, b"\0"))
    image = Image("writer", disk_path=str(disk), disk_format="raw")
    spec = specification(1, image=image, root_disk_bytes=64 << 20)
    driver = driver_of(small_pool)
    try:
        await made(driver, spec, budget_seconds=BUDGET)
        await driver.resume(spec.identity, budget_seconds=BUDGET)
        stopped = await paused(driver)
        assert (stopped.state, stopped.why) == (MachineState.PAUSED, NO_SPACE)
        listed = await driver.list_machines(budget_seconds=BUDGET)
        assert [machine.why for machine in listed.machines] == [NO_SPACE]
        await driver.resume(spec.identity, budget_seconds=BUDGET)
        again = await paused(driver)
        assert (again.state, again.why) == (MachineState.PAUSED, NO_SPACE), "nothing has changed"
        other = specification(2, root_disk_bytes=64 << 20)
        with pytest.raises(HostRejected, match="storage pool is full") as refusal:
            await made(driver, other, budget_seconds=BUDGET)
        assert refusal.value.code == "no_space"
        small_pool.namespace.run("mount", "-o", "remount,size=128m", POOL)
        await driver.resume(spec.identity, budget_seconds=BUDGET)
        async with asyncio.timeout(120):
            while used(small_pool) < 60 << 20:  # noqa: ASYNC110 - a file system that fills tells nobody
                await asyncio.sleep(0.2)
        _, seen = await driver.observe(spec.identity, budget_seconds=BUDGET)
        assert seen is not None
        assert (seen.state, seen.why) == (MachineState.RUNNING, "")
        await driver.remove(spec.identity, budget_seconds=BUDGET)
    finally:
        await driver.close()


def used(host: Hypervisor) -> int:
    """Bytes that the pool's file system holds."""
    return int(host.namespace.run("df", "--output=used", "-B1", POOL).split()[-1])
