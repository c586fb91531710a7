"""What a monitor holds against a host, and when it lets that go."""

from __future__ import annotations

import asyncio

import pytest

from service.domain.fleet import HostStatus
from service.domain.groups import DeployRequest
from service.drivers.base import MachineState
from service.store import fleet
from tests.support.builders import spec
from tests.support.control_plane import ControlPlane, control_plane

pytestmark = pytest.mark.asyncio


async def status(plane: ControlPlane, uuid: str, wanted: HostStatus) -> None:
    async with asyncio.timeout(60):
        while (await plane.store.read(lambda c: fleet.status_of(c, uuid))) is not wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("state", [MachineState.RUNNING, MachineState.STOPPING, MachineState.STOPPED])
async def test_a_machine_made_anew_in_a_ghosts_place_ends_what_was_held_against_the_host(state: MachineState) -> None:
    async with control_plane() as plane:
        await plane.deploy(DeployRequest(spec(1)))
        (uuid, driver) = next((u, d) for u, d in plane.drivers.items() if d.host.machines)
        monitor = plane.reconciler.monitors[uuid]
        (machine,) = driver.host.machines.values()
        machine_uuid = machine.identity.machine_uuid
        machine.state = MachineState.GHOST
        monitor.ghost(machine_uuid)
        await status(plane, uuid, HostStatus.DEGRADED)
        machine.state = MachineState.PAUSED  # a driver that has just begun cannot tell yet
        await monitor.look()
        assert machine_uuid in monitor._ghosts
        machine.state = state
        await monitor.look()
        await status(plane, uuid, HostStatus.CONNECTED)
