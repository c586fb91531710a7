"""A QEMU that hangs, on a real hypervisor: its host answers about all others, and about itself."""

from __future__ import annotations

import signal

import pytest

from service.drivers.base import HostRejected, MachineState
from service.drivers.libvirt.driver import LibvirtDriver
from tests.lab.hypervisor import Hypervisor
from tests.service.drivers.libvirt.machines import identity, specification

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio, pytest.mark.timeout(300)]

BUDGET = 60.0


async def states(driver: LibvirtDriver) -> dict[int, MachineState]:
    listing = await driver.list_machines(budget_seconds=BUDGET)
    return {int(machine.identity.instance, 16): machine.state for machine in listing.machines}


@pytest.mark.slow
async def test_a_frozen_guest_that_is_told_something_holds_up_nobody(
    hosts: list[Hypervisor], drivers: list[LibvirtDriver]
) -> None:
    for number in (1, 2):
        await drivers[0].create_paused(specification(number), budget_seconds=BUDGET)
    await drivers[0].resume(identity(1), budget_seconds=BUDGET)
    hosts[0].signal_guest(identity(1).machine_name, signal.SIGSTOP)
    # libvirt sees nothing wrong with it, and answers for it and for all others.
    assert await states(drivers[0]) == {1: MachineState.RUNNING, 2: MachineState.PAUSED}
    await drivers[0].probe(budget_seconds=BUDGET)
    await drivers[0].probe(budget_seconds=BUDGET)
    # What it is told it takes until its end of the channel is full, and then the call gives up on it.
    await drivers[0].tell(identity(1), "a line\n", budget_seconds=BUDGET)
    for _ in range(3):
        with pytest.raises(HostRejected, match="does not take"):
            await drivers[0].tell(identity(1), "x" * (16 << 20), budget_seconds=BUDGET)
    assert drivers[0]._channels.listening(identity(1).machine_uuid), "its host is asked as before"
    await drivers[0].remove(identity(2), budget_seconds=BUDGET)
    assert await states(drivers[0]) == {1: MachineState.RUNNING}
    await drivers[0].remove(identity(1), budget_seconds=BUDGET)
    assert await states(drivers[0]) == {}
    assert hosts[0].guests() == {}
