"""What a host is believed to have is looked at before it is used: real libvirtd's, and hands that work behind them."""

from __future__ import annotations

from pathlib import Path

import libvirt
import pytest

from service.domain.catalog import Image
from service.drivers.base import MachineState
from service.drivers.libvirt.driver import LibvirtDriver
from tests.lab.hypervisor import Hypervisor
from tests.service.drivers.libvirt.machines import identity, specification

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio, pytest.mark.timeout(300)]

BUDGET = 60.0


def volumes(hypervisor: Hypervisor) -> list[Path]:
    return sorted((hypervisor.directory / "var/lib/libvirt/corral").glob("corral.*"))


async def test_base_files_that_were_deleted_behind_the_pools_back_are_uploaded_again(
    hosts: list[Hypervisor], drivers: list[LibvirtDriver], guest: Image
) -> None:
    pool = hosts[0].directory / "var/lib/libvirt/corral"
    sizes = {path.stat().st_size for path in map(Path, (guest.kernel_path, guest.initrd_path))}
    await drivers[0].create_paused(specification(1, image=guest), budget_seconds=BUDGET)
    assert {path.stat().st_size for path in pool.glob("corral-base.*")} >= sizes
    for path in pool.glob("corral-base.*"):
        path.unlink()
    await drivers[0].create_paused(specification(2, image=guest), budget_seconds=BUDGET)
    assert {path.stat().st_size for path in pool.glob("corral-base.*")} >= sizes
    # A disk that somebody restored badly: the file is there, and shorter.
    for path in pool.glob("corral-base.*"):
        if path.stat().st_size:
            path.write_bytes(path.read_bytes()[:1000])
    await drivers[0].create_paused(specification(3, image=guest), budget_seconds=BUDGET)
    assert {path.stat().st_size for path in pool.glob("corral-base.*")} >= sizes
    for path in volumes(hosts[0]):
        path.unlink()
    for number in (1, 2, 3):
        await drivers[0].remove(identity(number), budget_seconds=BUDGET)
    assert await drivers[0].list_volumes(budget_seconds=BUDGET) == (), "what has no file goes all the same"


async def test_a_stopped_machine_starts_again_on_its_disk_when_what_that_stands_on_is_gone(
    hosts: list[Hypervisor], drivers: list[LibvirtDriver], tmp_path: Path
) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"image" * 200_000)
    image = Image("disk", disk_path=str(disk), disk_format="raw", delivery="nocloud")
    spec = specification(1, image=image)
    await drivers[0].create_paused(spec, budget_seconds=BUDGET)
    await drivers[0].power_off(spec.identity, budget_seconds=BUDGET)
    for path in (hosts[0].directory / "var/lib/libvirt/corral").glob("corral-base.*"):
        path.unlink()
    connection = libvirt.open(hosts[0].uri)
    connection.storagePoolLookupByName("corral").refresh(0)  # as libvirt does itself after each upload
    connection.close()
    assert (await drivers[0].create_paused(spec, budget_seconds=BUDGET)).state is MachineState.PAUSED
    await drivers[0].remove(spec.identity, budget_seconds=BUDGET)
