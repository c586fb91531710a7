"""The lab's two hypervisors as drivers, emptied after each test."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from service.domain.catalog import Image
from service.drivers.libvirt.driver import LibvirtDriver
from tests.integration.libvirt.support import driver_for
from tests.lab.fixtures import GuestImage, guest_image, lab
from tests.lab.fleet import Lab
from tests.lab.hypervisor import Hypervisor

__all__ = ["guest_image", "lab"]


@pytest.fixture
def hosts(lab: Lab) -> Iterator[list[Hypervisor]]:
    """The hypervisors; whatever runs on them afterwards is ended, however the test went."""
    yield list(lab)
    for hypervisor in lab:
        if hypervisor.guests() or any((hypervisor.directory / "etc/libvirt/qemu").glob("*.xml")):
            hypervisor.power_off()
            for definition in (hypervisor.directory / "etc/libvirt/qemu").glob("*.xml"):
                definition.unlink()
            for volume in (hypervisor.directory / "var/lib/libvirt/corral").glob("corral.*"):
                volume.unlink()
            hypervisor.reboot()


@pytest_asyncio.fixture
async def drivers(hosts: list[Hypervisor]) -> AsyncIterator[list[LibvirtDriver]]:
    """A driver for each hypervisor."""
    made = [driver_for(hypervisor) for hypervisor in hosts]
    yield made
    for driver in made:
        await driver.close()


@pytest.fixture
def guest(guest_image: GuestImage) -> Image:
    """The default guest as a registered image."""
    manifest = json.loads(guest_image.manifest.read_text())
    return Image(
        "default",
        kernel_path=str(guest_image.kernel),
        initrd_path=str(guest_image.initramfs),
        kernel_arguments=manifest["command_line"],
        sha256={"kernel": manifest["kernel"]["sha256"], "initrd": manifest["initramfs"]["sha256"]},
    )
