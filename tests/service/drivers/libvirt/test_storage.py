"""Images, disks and pools of the driver over a host in memory."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import libvirt
import pytest

from service.domain.catalog import Image, disk_image
from service.domain.specs import DataDisk
from service.drivers.base import HostRejected, MachineState, OutcomeUnknown
from service.drivers.volume_names import volume_owner
from tests.service.drivers.libvirt.fake import FakeHost, error, lost
from tests.service.drivers.libvirt.machines import BUDGET, CLUSTER, LOGS, driver_of, made, specification

pytestmark = pytest.mark.asyncio


def registered(path: Path, content: bytes, digest: str = "") -> Image:
    path.write_bytes(content)
    return Image("guest", kernel_path=str(path), sha256={"kernel": digest or hashlib.sha256(content).hexdigest()})


def bases(host: FakeHost) -> set[str]:
    return {name for name in host.volumes if name.startswith("corral-base.")}


async def test_a_disk_that_another_control_plane_is_making_is_waited_for() -> None:
    host, spec = FakeHost(), specification(root_disk_bytes=1 << 20)
    host.plant("createVolume", lost, after=True)
    with pytest.raises(OutcomeUnknown):
        await driver_of(host).create_paused(spec, budget_seconds=BUDGET)
    host.plant("downloadVolume", lambda: error(libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_FROM_STORAGE), times=3)
    assert (await driver_of(host).create_paused(spec, budget_seconds=BUDGET)).state is MachineState.PAUSED
    assert host.calls.count("downloadVolume") == 4 + 1  # and what was written is read back
    assert {name.rpartition(".")[2] for name in host.volumes} == {"root", "document-env", *LOGS}


async def test_a_volume_that_another_control_plane_writes_in_this_moment_is_waited_for() -> None:
    def held() -> libvirt.libvirtError:
        return error(libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_FROM_STORAGE, "volume 'x' is still in use.")

    host, spec = FakeHost(), specification()
    host.plant("openUpload", held, times=3)
    host.plant("deleteVolume", held, times=3)
    made = await driver_of(host).create_paused(spec, budget_seconds=BUDGET)
    assert made.state is MachineState.PAUSED
    assert host.calls.count("openUpload") == 3 + 1
    await driver_of(host).remove(spec.identity, budget_seconds=BUDGET)
    assert host.volumes == {}


async def test_a_pool_that_is_stopped_under_a_write_is_no_volume_to_wait_for() -> None:
    host = FakeHost()

    def stopped() -> libvirt.libvirtError:
        host.pool_active = False
        return error(libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_FROM_STORAGE, "storage pool is not active")

    host.plant("openUpload", stopped)
    with pytest.raises(HostRejected, match="storage failed"):
        await driver_of(host).create_paused(specification(), budget_seconds=BUDGET)
    assert host.calls.count("openUpload") == 1


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
        *(made(driver, specification(n, image=image, documents={}), budget_seconds=BUDGET) for n in range(1, 5))
    )
    assert host.effects().count("upload") == 1
    await made(driver_of(host), specification(9, image=image, documents={}), budget_seconds=BUDGET)
    assert host.effects().count("upload") == 1
    assert b"kernel" * 50_000 in host.contents.values()
    assert {n.rpartition(".")[2] for n in await driver.list_volumes(budget_seconds=BUDGET)} == set(LOGS)


def data(path: Path, content: bytes) -> Image:
    path.write_bytes(content)
    return disk_image(path.name, str(path), "raw", hashlib.sha256(content).hexdigest())


async def test_data_disks_are_the_machines_own_behind_its_others_in_their_order(tmp_path: Path) -> None:
    host, weights = FakeHost(), data(tmp_path / "weights", b"w" * 1500)
    root = data(tmp_path / "root", b"r" * 512)
    disks = (DataDisk(1 << 20), DataDisk(0, "a" * 32, weights), DataDisk(4096, "a" * 32, weights))
    spec, driver = specification(image=root, data_disks=disks), driver_of(host)
    await made(driver, spec)
    assert host.effects().count("upload") == 3, "root, weights and the seed"
    (domain,) = (ElementTree.fromstring(domain.xml) for domain in host.domains.values())
    shown = [
        (
            disk.find("source").get("file", "").rpartition(".")[2],  # type: ignore[union-attr]
            disk.find("target").get("dev"),  # type: ignore[union-attr]
            disk.findtext("serial", ""),
        )
        for disk in domain.findall("devices/disk")
    ]
    serials = [f"corral-data-{number}" for number in range(3)]
    assert shown == [
        ("root", "vda", ""),
        ("seed", "vdb", ""),
        *zip(("data-a", "data-b", "data-c"), ("vdc", "vdd", "vde"), serials, strict=True),
    ]
    sizes = {}
    for name, xml in host.volumes.items():
        volume = ElementTree.fromstring(xml)
        sizes[name.rpartition(".")[2]] = (int(volume.findtext("capacity", "")), volume.findtext("backingStore/path"))
    base = sizes["data-b"][1]
    assert base is not None
    assert [sizes[f"data-{letter}"] for letter in "abc"] == [(1 << 20, None), (1536, base), (4096, base)]
    await driver.power_off(spec.identity, budget_seconds=BUDGET)
    own = [name for name in host.volumes if ".data-" in name]
    for name in own:
        host.volumes[name] += "<!-- written -->"
    await driver.create_paused(spec, budget_seconds=BUDGET)
    assert [host.volumes[name].endswith("<!-- written -->") for name in own] == [True] * 3, "what is there is kept"
    await driver.remove(spec.identity, budget_seconds=BUDGET)
    assert set(host.volumes) == bases(host)


async def test_an_image_that_is_not_what_was_registered_is_refused(tmp_path: Path) -> None:
    host = FakeHost()
    image = registered(tmp_path / "kernel", b"tampered", hashlib.sha256(b"registered").hexdigest())
    with pytest.raises(HostRejected) as refusal:
        await made(driver_of(host), specification(image=image), budget_seconds=BUDGET)
    assert refusal.value.code == "missing_image"
    assert str(tmp_path) not in refusal.value.public
    assert (host.domains, host.volumes) == ({}, {})


async def test_an_upload_that_broke_off_is_never_used_and_goes_at_the_next_that_knows_nothing_of_it(
    tmp_path: Path,
) -> None:
    host = FakeHost()
    image = registered(tmp_path / "kernel", b"kernel")
    driver = driver_of(host)
    host.plant("upload", lost)
    with pytest.raises(OutcomeUnknown):
        await made(driver, specification(image=image))
    (broken,) = bases(host)
    await made(driver, specification(image=image))
    assert broken not in host.volumes
    assert len(bases(host)) == 2  # the image and the mark that it is whole


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
    names = await driver.list_volumes(budget_seconds=BUDGET)
    assert set(names) == {
        f"corral.{CLUSTER}.{spec.identity.instance}.1.{role}" for role in ("root", "document-env", *LOGS)
    }
    assert {volume_owner(name) for name in names} == {(spec.identity.instance, 1)}
    for name in (*names, *names):
        await driver.delete_volume(name, budget_seconds=BUDGET)
    assert host.volumes == {}


async def test_documents_are_volumes_that_nobody_else_reads_and_go_with_the_machine() -> None:
    host, spec = (
        FakeHost(),
        specification(documents={"env": "TOKEN=canary\n" * 20_000, "hosts": "", "rendezvous": "{}"}),
    )
    driver = driver_of(host)
    await driver.create_paused(spec, budget_seconds=BUDGET)
    made = {name.rpartition(".")[2]: name for name in host.volumes}
    assert set(made) == {"document-env", "document-rendezvous", *LOGS}, "an empty one is none"
    assert all("<mode>0600</mode>" in xml for xml in host.volumes.values())
    assert base64.b64decode(host.contents[made["document-env"]]).decode() == spec.documents["env"]
    domain = ElementTree.fromstring(host.domains[spec.identity.machine_uuid].xml)
    entries = {entry.get("name"): (entry.get("file"), entry.text) for entry in domain.findall("sysinfo/entry")}
    assert entries["opt/org.corral/env.base64"] == (f"/pool/{made['document-env']}", None)
    await driver.remove(spec.identity, budget_seconds=BUDGET)
    assert host.volumes == {}


async def test_the_document_that_a_machine_was_made_with_is_read_back() -> None:
    text = json.dumps({"engine": {"env": {"NAME": "é" * 100_000}}})
    host, spec = FakeHost(), specification(documents={"env": "A=b\n", "rendezvous": text})
    driver = driver_of(host)
    assert await driver.told(spec.identity, budget_seconds=BUDGET) == "", "there is none yet"
    await driver.create_paused(spec, budget_seconds=BUDGET)
    assert await driver.told(spec.identity, budget_seconds=BUDGET) == text
    (name,) = [n for n in host.volumes if n.endswith("rendezvous")]
    host.contents[name] = b"not base64"
    assert await driver.told(spec.identity, budget_seconds=BUDGET) == ""
    host.lost_files.add(name)
    assert await driver.told(spec.identity, budget_seconds=BUDGET) == ""


async def test_a_document_whose_upload_broke_off_is_written_again_in_its_place() -> None:
    host, spec = FakeHost(), specification()
    driver = driver_of(host)
    host.plant("upload", lost)
    with pytest.raises(OutcomeUnknown):
        await driver.create_paused(spec, budget_seconds=BUDGET)
    await driver.create_paused(spec, budget_seconds=BUDGET)
    assert "deleteVolume" not in host.calls, "what another control plane may be reading stays in its place"
    (name,) = [n for n in host.volumes if n.endswith("document-env")]
    assert base64.b64decode(host.contents[name]).decode() == spec.documents["env"]


async def test_a_document_that_the_pool_had_no_room_for_is_a_rejection_and_nothing_of_the_machine_stays() -> None:
    host, spec = FakeHost(), specification()
    driver = driver_of(host)
    host.pool_full = True
    with pytest.raises(HostRejected, match="storage pool is full") as refusal:
        await driver.create_paused(spec, budget_seconds=BUDGET)
    assert refusal.value.code == "no_space"
    assert (host.domains, host.volumes) == ({}, {})
    host.pool_full = False
    assert (await driver.create_paused(spec, budget_seconds=BUDGET)).state is MachineState.PAUSED
    await driver.close()


async def test_a_document_of_another_length_replaces_the_one_before() -> None:
    host, spec = FakeHost(), specification()
    driver = driver_of(host)
    await driver.create_paused(spec, budget_seconds=BUDGET)
    await driver.power_off(spec.identity, budget_seconds=BUDGET)
    longer = replace(spec, documents={"env": "CORRAL_GROUP_EPOCH=22\n"})
    await driver.create_paused(longer, budget_seconds=BUDGET)
    (name,) = [n for n in host.volumes if n.endswith("document-env")]
    assert base64.b64decode(host.contents[name]).decode() == longer.documents["env"]
    assert "deleteVolume" in host.calls


@pytest.mark.parametrize("remembered", [True, False])
async def test_a_base_image_whose_file_is_gone_is_uploaded_again_under_its_name(
    tmp_path: Path, remembered: bool
) -> None:
    """`remembered`: whether libvirt still lists it; it reads its pool again after each upload."""
    host = FakeHost()
    disk = tmp_path / "disk"
    disk.write_bytes(b"disk" * 1000)
    image = Image("guest", disk_path=str(disk), disk_format="raw", delivery="nocloud")
    driver = driver_of(host)
    spec = specification(1, image=image)
    await made(driver, spec, budget_seconds=BUDGET)
    await driver.power_off(spec.identity, budget_seconds=BUDGET)
    before = bases(host)
    if remembered:
        host.lost_files = set(before)
    else:
        host.volumes = {name: xml for name, xml in host.volumes.items() if name not in before}
        await made(driver, specification(2, image=image), budget_seconds=BUDGET)
        assert len(bases(host)) == 2
    await made(driver, spec, budget_seconds=BUDGET)
    assert bases(host) >= before, "the machine's disk stands on that very name"
    assert host.lost_files == set()
    (name,) = [name for name in before if not name.endswith(".ready")]
    assert host.contents[name] == b"disk" * 1000


async def test_a_base_image_that_is_shorter_than_it_was_is_uploaded_again(tmp_path: Path) -> None:
    host = FakeHost()
    image = registered(tmp_path / "kernel", b"kernel" * 10)
    driver = driver_of(host)
    await made(driver, specification(1, image=image), budget_seconds=BUDGET)
    (name,) = [name for name in bases(host) if not name.endswith(".ready")]
    host.volumes[name] = host.volumes[name].replace('<capacity unit="bytes">60<', '<capacity unit="bytes">20<')
    host.contents[name] = b"kernel"
    await made(driver, specification(2, image=image), budget_seconds=BUDGET)
    (again,) = [name for name in bases(host) if not name.endswith(".ready")]
    assert host.contents[again] == b"kernel" * 10


async def test_a_disk_whose_file_is_gone_is_made_anew() -> None:
    host, spec = FakeHost(), specification(root_disk_bytes=1 << 20, documents={})
    driver = driver_of(host)
    await driver.create_paused(spec, budget_seconds=BUDGET)
    await driver.power_off(spec.identity, budget_seconds=BUDGET)
    host.lost_files = set(host.volumes)
    assert (await driver.create_paused(spec, budget_seconds=BUDGET)).state is MachineState.PAUSED
    assert host.lost_files == set()


async def test_a_machine_without_an_images_disk_has_an_empty_one_of_the_size_that_was_asked_for() -> None:
    host, spec = FakeHost(), specification(root_disk_bytes=3 << 20, documents={})
    await driver_of(host).create_paused(spec, budget_seconds=BUDGET)
    (root,) = [ElementTree.fromstring(xml) for name, xml in host.volumes.items() if name.endswith(".root")]
    assert root.findtext("capacity") == str(3 << 20)


async def test_an_image_that_bare_metal_boots_is_refused_by_name(tmp_path: Path) -> None:
    host = FakeHost()
    image = Image("metal", disk_path=str(tmp_path / "metal.iso"), delivery="seed")
    with pytest.raises(HostRejected, match="image 'metal' is for bare metal"):
        await driver_of(host).create_paused(specification(1, image=image), budget_seconds=BUDGET)
    assert not host.volumes
