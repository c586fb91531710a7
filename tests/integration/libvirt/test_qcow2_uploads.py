"""Images that libvirt takes for disks of another size than their files have, on their way to a real libvirtd."""

from __future__ import annotations

import hashlib
import random
import subprocess
from pathlib import Path

import libvirt
import pytest

from service.drivers.copies import Copied, ImageFile, copy_name
from service.drivers.libvirt import uploads
from service.drivers.libvirt.driver import LibvirtDriver
from tests.integration.libvirt.test_uploads import BUDGET, SIZE, content_of
from tests.lab.hypervisor import Hypervisor

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio, pytest.mark.timeout(300)]


def qcow2(path: Path) -> bytes:
    """An empty disk of 1 GiB."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1G"], check=True)
    return path.read_bytes()


async def test_a_qcow2_image_goes_on_as_any_other_and_is_there_when_it_is_whole(
    hosts: list[Hypervisor], drivers: list[LibvirtDriver], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # libvirt reads after each upload what it takes the volume for: a disk of the size that stands in the content.
    monkeypatch.setattr(uploads, "SLICE_SECONDS", 0.02)
    content = qcow2(tmp_path / "disk") + random.Random(5).randbytes(SIZE)
    (tmp_path / "image").write_bytes(content)
    file = ImageFile("model", "disk", str(tmp_path / "image"), len(content), hashlib.sha256(content).hexdigest())
    driver = drivers[0]

    def refreshed(copied: Copied) -> None:
        connection = libvirt.open(hosts[0].uri)
        pool = connection.storagePoolLookupByName("corral")
        pool.refresh(0)
        assert pool.storageVolLookupByName(copied.volume).info()[1] == 1 << 30
        connection.close()

    told = [Copied(copy_name(file.sha256, "00000005"))]
    while not told[-1].whole:
        told.append(await driver.stage(file, told[-1], budget_seconds=BUDGET))
        refreshed(told[-1])
    assert len(told) > 3, "it took more than one slice"
    assert [one.done for one in told] == sorted(one.done for one in told), "nothing is begun anew"
    assert content_of(hosts[0], told[-1]) == file.sha256
    again = await driver.stage(file, Copied(copy_name(file.sha256, "00000006")), budget_seconds=BUDGET)
    assert (again.volume, again.whole) == (told[-1].volume, True), "it is found as it is"
