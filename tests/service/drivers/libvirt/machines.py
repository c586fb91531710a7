"""Specifications that the driver's tests share."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

from service.domain.catalog import Image
from service.domain.fleet import HostAddress
from service.drivers.base import (
    MachineIdentity,
    MachineSpec,
    MachineState,
    NetworkInterface,
    ObservedMachine,
)
from service.drivers.copies import Copied, ImageFile, copy_name
from service.drivers.libvirt.driver import LibvirtDriver
from service.drivers.staging import NotStaged
from tests.service.drivers.libvirt.fake import FakeHost

CLUSTER = "test-cluster"
LOGS = ("log-console", "log-engine")
"""Roles of the volumes that every machine has."""
BUDGET = 60.0


def identity(number: int = 1, attempt: int = 1, cluster: str = CLUSTER) -> MachineIdentity:
    """A machine's identity."""
    return MachineIdentity(cluster, "a" * 32, f"{number:032x}", attempt)


def specification(number: int = 1, **changes: Any) -> MachineSpec:
    """A small machine without image, disk or network."""
    spec = MachineSpec(
        identity=identity(number),
        display_name=f"node {number}",
        vcpus=1,
        memory_bytes=64 << 20,
        root_disk_bytes=0,
        image=Image("none"),
        interfaces=(),
        documents={"env": "CORRAL_NODE_RANK=0\n"},
        spec_hash="hash",
    )
    return replace(spec, **changes)


def bridged(number: int, address: str = "") -> NetworkInterface:
    """An interface on the lab's bridge."""
    return NetworkInterface("bridge", "br0", f"52:54:00:00:00:{number:02x}", address, 16 if address else 0)


def driver_of(host: FakeHost, cluster: str = CLUSTER) -> LibvirtDriver:
    """The real driver over a fake host."""
    return LibvirtDriver("host-1", cluster, HostAddress("libvirt", "unix"), opener=host.open)


async def made(driver: LibvirtDriver, spec: MachineSpec, *, budget_seconds: float = BUDGET) -> ObservedMachine:
    """The machine, created once the files of its image are on the host, as the control plane does it."""
    while True:
        try:
            return await driver.create_paused(spec, budget_seconds=budget_seconds)
        except NotStaged as missing:
            for file in missing.files:
                await staged(driver, file, budget_seconds=budget_seconds)


async def staged(
    driver: LibvirtDriver, file: ImageFile, copied: Copied | None = None, *, budget_seconds: float = BUDGET
) -> Copied:
    """The file on the host, whole."""
    copied = copied or Copied(file.volume or copy_name(file.sha256, secrets.token_hex(4)))
    while not copied.whole:
        copied = await driver.stage(file, copied, budget_seconds=budget_seconds)
    return copied


async def states(host: FakeHost) -> list[MachineState]:
    """The states of all machines that the driver lists there."""
    listing = await driver_of(host).list_machines(budget_seconds=BUDGET)
    return [machine.state for machine in listing.machines]
