"""What a caller gives a machine reaches the guest, and nobody else on the hypervisor: real libvirtd, real QEMU."""

from __future__ import annotations

import stat
from pathlib import Path

import libvirt
import pytest

from service.domain.catalog import Image
from service.drivers.libvirt.driver import LibvirtDriver
from tests.integration.libvirt.support import guest_documents
from tests.integration.libvirt.test_guests import at_stage, until
from tests.lab.hypervisor import Hypervisor
from tests.security.canary import command_lines, files_under, leaks, random_canary
from tests.service.drivers.libvirt.machines import bridged, identity, specification

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio, pytest.mark.timeout(900)]

BUDGET = 60.0


def told(hypervisor: Hypervisor) -> dict[str, bytes]:
    """All that stands on a hypervisor for others than root: arguments, definitions, states, logs."""
    found = command_lines(set(hypervisor.namespace.processes()))
    assert any(b"qemu-system" in text for text in found.values()), "there is a guest to look at"
    # The pool holds volumes, of mode 0600; all else is libvirt's own.
    found |= files_under(hypervisor.directory, but=("/var/lib/libvirt/corral/",))
    connection = libvirt.open(hypervisor.uri)
    for domain in connection.listAllDomains():
        for flags in (0, libvirt.VIR_DOMAIN_XML_SECURE, libvirt.VIR_DOMAIN_XML_INACTIVE):
            found[f"dumpxml {domain.name()} {flags}"] = domain.XMLDesc(flags).encode()
    connection.close()
    return found


def volumes(hypervisor: Hypervisor) -> list[Path]:
    return sorted((hypervisor.directory / "var/lib/libvirt/corral").glob("corral.*"))


@pytest.mark.parametrize("delivery", ["fw_cfg", "nocloud"])
async def test_a_secret_is_in_volumes_of_mode_0600_alone(
    hosts: list[Hypervisor], drivers: list[LibvirtDriver], delivery: str
) -> None:
    canary = random_canary()
    spec = specification(
        1,
        image=Image("x", delivery=delivery),
        documents={"env": f"HF_TOKEN={canary}\n", "rendezvous": f'{{"env": "{canary}"}}'},
    )
    await drivers[0].create_paused(spec, budget_seconds=BUDGET)
    assert leaks(canary, told(hosts[0])) == []
    holding = [path for path in volumes(hosts[0]) if leaks(canary, {"": path.read_bytes()})]
    assert holding, "it is on its way to the guest"
    assert {stat.S_IMODE(path.stat().st_mode) for path in volumes(hosts[0])} == {0o600}
    await drivers[0].remove(spec.identity, budget_seconds=BUDGET)
    assert volumes(hosts[0]) == []


async def test_a_guest_is_given_more_than_an_argument_of_a_program_can_hold(
    drivers: list[LibvirtDriver], guest: Image
) -> None:
    """Linux takes 128 KiB an argument; the lines that the guest reads come after them."""
    documents = guest_documents(identity(1), rank=0, address="10.77.2.9", epoch=7)
    bulk = "".join(f"FILLER_{number}={'x' * 32_000}\n" for number in range(12))
    spec = specification(
        1,
        image=guest,
        memory_bytes=96 << 20,
        interfaces=(bridged(1, "10.77.2.9"),),
        documents={**documents, "env": bulk + documents["env"]},
    )
    await drivers[0].create_paused(spec, budget_seconds=BUDGET)
    await drivers[0].resume(spec.identity, budget_seconds=BUDGET)
    ready = await until(drivers[0], spec, at_stage("ready"), "ready")
    assert ready.report is not None
    assert (ready.report.epoch, ready.report.address) == (7, "10.77.2.9")
    await drivers[0].remove(spec.identity, budget_seconds=BUDGET)
