"""What a monitor holds against a host, and when it lets that go."""

from __future__ import annotations

import asyncio

import pytest

from service.domain.fleet import HostStatus
from service.domain.specs import DeployRequest
from service.drivers.base import HostFacts, HostUnreachable, MachineState
from service.errors import Unavailable
from service.reconcile import monitor as monitors
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


async def no_answer(*, budget_seconds: float) -> HostFacts:
    raise HostUnreachable("the host cannot be reached")


async def test_a_silent_host_is_told_as_one_again_after_a_replica_that_started_and_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(monitors, "COMPARE_SECONDS", 0.0)
    async with control_plane() as plane:
        uuid, driver = next(iter(plane.drivers.items()))
        monkeypatch.setattr(driver, "probe", no_answer)
        plane.reconciler.monitors[uuid].suspect()
        await status(plane, uuid, HostStatus.DISCONNECTED)
        await plane.store.write(lambda c: fleet.set_status(c, uuid, HostStatus.CONNECTING, ""))
        await status(plane, uuid, HostStatus.DISCONNECTED)


async def test_a_host_that_falls_silent_while_nothing_can_be_written_is_told_as_silent_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with control_plane() as plane:
        uuid, driver = next(iter(plane.drivers.items()))
        monitor = plane.reconciler.monitors[uuid]
        await status(plane, uuid, HostStatus.CONNECTED)
        with monkeypatch.context() as broken:

            async def refused(work: object) -> None:
                raise Unavailable("the database cannot be reached")

            broken.setattr(plane.store, "write", refused)
            monkeypatch.setattr(driver, "probe", no_answer)
            monitor.suspect()
            async with asyncio.timeout(60):
                while not monitor.silent:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        await status(plane, uuid, HostStatus.DISCONNECTED)
