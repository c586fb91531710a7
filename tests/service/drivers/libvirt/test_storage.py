"""Images, disks and pools of the driver over a host of memory."""

from __future__ import annotations

import asyncio
import errno
import hashlib
from pathlib import Path

import libvirt
import pytest

from service.domain.catalog import Image
from service.drivers.base import HostRejected, MachineState, OutcomeUnknown
from tests.service.drivers.libvirt.fake import FakeHost, error, lost
from tests.service.drivers.libvirt.machines import BUDGET, CLUSTER, driver_of, specification

pytestmark = pytest.mark.asyncio


def registered(path: Path, content: bytes, digest: str = "") -> Image:
    path.write_bytes(content)
    return Image("guest", kernel_path=str(path), sha256={"kernel": digest or hashlib.sha256(content).hexdigest()})


async def test_a_disk_that_another_control_plane_is_making_is_waited_for() -> None:
    host, spec = FakeHost(), specification(root_disk_bytes=1 << 20)
    host.plant("createVolume", lost, after=True)
    with pytest.raises(OutcomeUnknown):
        await driver_of(host).create_paused(spec, budget_seconds=BUDGET)
    host.plant("downloadVolume", lambda: error(libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_FROM_STORAGE), times=3)
    assert (await driver_of(host).create_paused(spec, budget_seconds=BUDGET)).state is MachineState.PAUSED
    assert host.calls.count("downloadVolume") == 4
    assert len(host.volumes) == 1


async def test_a_pool_whose_directory_another_control_plane_is_making_is_waited_for() -> None:
    def absent() -> libvirt.libvirtError:
        return error(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_STORAGE, number=errno.ENOENT)

    host, spec = FakeHost(pool_active=False), specification(root_disk_bytes=1 << 20)
    host.plant("startPool", absent, times=3)
    assert (await driver_of(host).create_paused(spec, budget_seconds=BUDGET)).state is MachineState.PAUSED
    assert host.pool_active


async def test_an_image_is_uploaded_once_for_all_machines(tmp_path: Path) -> None:
    host = FakeHost()
    image = registered(tmp_path / "kernel", b"kernel" * 50_000)
    driver = driver_of(host)
    await asyncio.gather(
        *(driver.create_paused(specification(n, image=image), budget_seconds=BUDGET) for n in range(1, 5))
    )
    assert host.effects().count("upload") == 1
    await driver_of(host).create_paused(specification(9, image=image), budget_seconds=BUDGET)
    assert host.effects().count("upload") == 1
    assert b"kernel" * 50_000 in host.contents.values()
    assert await driver.list_volumes(budget_seconds=BUDGET) == ()


async def test_an_image_that_is_not_what_was_registered_is_refused(tmp_path: Path) -> None:
    host = FakeHost()
    image = registered(tmp_path / "kernel", b"tampered", hashlib.sha256(b"registered").hexdigest())
    with pytest.raises(HostRejected) as refusal:
        await driver_of(host).create_paused(specification(image=image), budget_seconds=BUDGET)
    assert refusal.value.code == "missing_image"
    assert str(tmp_path) not in refusal.value.public
    assert (host.domains, host.volumes) == ({}, {})


async def test_an_upload_that_broke_off_is_never_used_and_goes_at_the_next(tmp_path: Path) -> None:
    host = FakeHost()
    image = registered(tmp_path / "kernel", b"kernel")
    driver = driver_of(host)
    host.plant("upload", lost)
    with pytest.raises(OutcomeUnknown):
        await driver.create_paused(specification(image=image), budget_seconds=BUDGET)
    (broken,) = host.volumes
    await driver.create_paused(specification(image=image), budget_seconds=BUDGET)
    assert broken not in host.volumes
    assert len(host.volumes) == 2  # the image and the mark that it is whole


async def test_a_missing_image_file_is_a_rejection(tmp_path: Path) -> None:
    image = Image("guest", kernel_path=str(tmp_path / "nothing"))
    with pytest.raises(HostRejected) as refusal:
        await driver_of(FakeHost()).create_paused(specification(image=image), budget_seconds=BUDGET)
    assert refusal.value.code == "missing_image"


async def test_volumes_of_others_can_not_be_deleted() -> None:
    host = FakeHost(pool=True)
    driver = driver_of(host)
    names = ["debian.qcow2", "corral-base." + "0" * 64 + ".00000000", f"corral.other.{'0' * 32}.1.root"]
    host.volumes = dict.fromkeys(names, "")
    assert await driver.list_volumes(budget_seconds=BUDGET) == ()
    for name in [*names, "../../etc/passwd", ""]:
        with pytest.raises(HostRejected):
            await driver.delete_volume(name, budget_seconds=BUDGET)
    assert list(host.volumes) == names


async def test_an_orphaned_volume_can_be_found_and_deleted() -> None:
    host, spec = FakeHost(), specification(root_disk_bytes=1 << 20)
    driver = driver_of(host)
    await driver.create_paused(spec, budget_seconds=BUDGET)
    host.domains.clear()
    (name,) = await driver.list_volumes(budget_seconds=BUDGET)
    assert name == f"corral.{CLUSTER}.{spec.identity.instance}.1.root"
    for _ in range(2):
        await driver.delete_volume(name, budget_seconds=BUDGET)
    assert host.volumes == {}
