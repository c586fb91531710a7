"""What a host is believed to have is looked at before it is used: real libvirtds, and changes that they do not see."""

from __future__ import annotations

import os
from pathlib import Path

import libvirt
import pytest

from service.domain.catalog import Image
from service.drivers.base import HostRejected, MachineState, NetworkInterface
from service.drivers.libvirt.driver import LibvirtDriver
from tests.integration.libvirt.test_guests import at_stage, member, until
from tests.lab.hypervisor import Hypervisor
from tests.service.drivers.libvirt.machines import identity, made, specification

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio, pytest.mark.timeout(900)]

BUDGET = 60.0


def volumes(hypervisor: Hypervisor) -> list[Path]:
    return sorted((hypervisor.directory / "var/lib/libvirt/corral").glob("corral.*"))


async def test_base_files_that_were_deleted_behind_the_pools_back_are_uploaded_again(
    hosts: list[Hypervisor], drivers: list[LibvirtDriver], guest: Image
) -> None:
    pool = hosts[0].directory / "var/lib/libvirt/corral"
    sizes = {path.stat().st_size for path in map(Path, (guest.kernel_path, guest.initrd_path))}
    await made(drivers[0], specification(1, image=guest), budget_seconds=BUDGET)
    assert {path.stat().st_size for path in pool.glob("corral-base.*")} >= sizes
    for path in pool.glob("corral-base.*"):
        path.unlink()
    await made(drivers[0], specification(2, image=guest), budget_seconds=BUDGET)
    assert {path.stat().st_size for path in pool.glob("corral-base.*")} >= sizes
    # A disk that somebody restored badly: the file is there, and shorter.
    for path in pool.glob("corral-base.*"):
        if path.stat().st_size:
            path.write_bytes(path.read_bytes()[:1000])
    await made(drivers[0], specification(3, image=guest), budget_seconds=BUDGET)
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
    await made(drivers[0], spec, budget_seconds=BUDGET)
    await drivers[0].power_off(spec.identity, budget_seconds=BUDGET)
    for path in (hosts[0].directory / "var/lib/libvirt/corral").glob("corral-base.*"):
        path.unlink()
    connection = libvirt.open(hosts[0].uri)
    connection.storagePoolLookupByName("corral").refresh(0)  # as libvirt does itself after each upload
    connection.close()
    assert (await made(drivers[0], spec, budget_seconds=BUDGET)).state is MachineState.PAUSED
    await drivers[0].remove(spec.identity, budget_seconds=BUDGET)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


LAN = "<network><name>lan</name><forward mode='bridge'/><bridge name='br0'/></network>"


async def test_a_network_that_is_defined_and_not_started_is_named(
    hosts: list[Hypervisor], drivers: list[LibvirtDriver]
) -> None:
    connection = libvirt.open(hosts[0].uri)
    network = connection.networkDefineXML(LAN)
    spec = specification(1, interfaces=(NetworkInterface("network", "lan", "52:54:00:00:00:01"),))
    try:
        with pytest.raises(HostRejected, match="network lan is defined and not started") as refusal:
            await drivers[0].create_paused(spec, budget_seconds=BUDGET)
        assert refusal.value.code == "missing_network"
        assert hosts[0].guests() == {}
        assert volumes(hosts[0]) == []
        network.create()
        assert (await drivers[0].create_paused(spec, budget_seconds=BUDGET)).state is MachineState.PAUSED
        await drivers[0].remove(spec.identity, budget_seconds=BUDGET)
    finally:
        if network.isActive():
            network.destroy()
        network.undefine()
        connection.close()


HOTPLUG = """<domain type='qemu'><name>others-with-hotplug</name>
<maxMemory slots='16' unit='KiB'>268435456</maxMemory><memory unit='KiB'>131072</memory><vcpu current='1'>8</vcpu>
<cpu><numa><cell id='0' cpus='0-7' memory='131072' unit='KiB'/></numa></cpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices><controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"""


async def test_others_count_with_what_they_have(hosts: list[Hypervisor], drivers: list[LibvirtDriver]) -> None:
    before = (await drivers[0].probe(budget_seconds=BUDGET)).foreign
    connection = libvirt.open(hosts[0].uri)
    stranger = connection.createXML(HOTPLUG, libvirt.VIR_DOMAIN_START_PAUSED)
    try:
        held = (await drivers[0].probe(budget_seconds=BUDGET)).foreign
        assert held["vcpu"] - before["vcpu"] == 1
        assert 128 << 20 <= held["memory"] - before["memory"] < 512 << 20, "256 GiB is what it could be given"
    finally:
        stranger.destroy()
        connection.close()


async def test_a_file_that_stands_where_a_volume_is_to_be_is_found(
    hosts: list[Hypervisor], drivers: list[LibvirtDriver]
) -> None:
    """libvirt has the code of "already active" for it (55) and does not list it, as in a pool that was restored."""
    spec = specification(1)
    await drivers[0].create_paused(spec, budget_seconds=BUDGET)
    paths = volumes(hosts[0])
    assert len(paths) == 3
    (document,) = [path for path in paths if ".log-" not in path.name]  # logs go on where they ended
    await drivers[0].remove(spec.identity, budget_seconds=BUDGET)
    for path in paths:
        path.write_bytes(b"left behind")
    assert (await drivers[0].create_paused(spec, budget_seconds=BUDGET)).state is MachineState.PAUSED
    assert b"left behind" not in document.read_bytes()
    await drivers[0].remove(spec.identity, budget_seconds=BUDGET)
    assert volumes(hosts[0]) == []


async def test_what_a_guest_takes_beside_its_memory_is_seen(
    hosts: list[Hypervisor], drivers: list[LibvirtDriver], guest: Image
) -> None:
    """The figure that is assumed stands above what the process table says of a guest that has used its memory."""
    spec = member(guest, 1, "10.77.2.1", rank=0)
    await made(drivers[0], spec, budget_seconds=BUDGET)
    await drivers[0].resume(spec.identity, budget_seconds=BUDGET)
    await until(drivers[0], spec, at_stage("ready"), "ready")
    pid = hosts[0].guests()[spec.identity.machine_name]
    resident = resident_bytes(pid)
    held = (await drivers[0].probe(budget_seconds=BUDGET)).beside["memory"]
    assert held + spec.memory_bytes >= resident
    assert held < 2 * spec.memory_bytes
    await drivers[0].remove(spec.identity, budget_seconds=BUDGET)


async def test_what_a_guest_uses_of_its_claim_is_told_by_libvirt(
    hosts: list[Hypervisor], drivers: list[LibvirtDriver], guest: Image
) -> None:
    """One call tells of all guests how much is resident and how much time they had, here too, where nobody keeps
    account of groups of processes."""
    spec = member(guest, 1, "10.77.2.1", rank=0)
    await made(drivers[0], spec, budget_seconds=BUDGET)
    await drivers[0].probe(budget_seconds=BUDGET)
    await drivers[0].resume(spec.identity, budget_seconds=BUDGET)
    pid = hosts[0].guests()[spec.identity.machine_name]
    await drivers[0].probe(budget_seconds=BUDGET)
    await until(drivers[0], spec, at_stage("ready"), "ready")
    used = (await drivers[0].probe(budget_seconds=BUDGET)).used
    assert 0 < used["memory"] <= min(resident_bytes(pid), spec.memory_bytes)
    assert 0 < used["vcpu"] < 1 + (os.cpu_count() or 1)
    await drivers[0].remove(spec.identity, budget_seconds=BUDGET)
