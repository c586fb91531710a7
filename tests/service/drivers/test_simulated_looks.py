"""A simulated host measures what it is asked for: a look at one machine is none at the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.drivers.base import MachineIdentity, MachineState, ObservedMachine
from service.drivers.simulated.host import SimulatedHost, SimulatedMachine, SimulationOptions

ONE = MachineIdentity("cluster", "a" * 32, "b" * 32, 1)


def test_one_machine_is_looked_at_alone_and_seen_as_it_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    host = SimulatedHost("host", SimulationOptions.read({}), lambda: 0.0)
    for number in range(5):
        identity = replace(ONE, instance=f"{number:032x}")
        host.machines[identity.machine_uuid] = SimulatedMachine(identity, MachineState.PAUSED, "hash")
    asked = replace(ONE, instance=f"{3:032x}")
    listed = host.listing().find(asked.machine_uuid)
    looks: list[str] = []
    seen = SimulatedHost.seen

    def look(self: SimulatedHost, machine: SimulatedMachine) -> ObservedMachine:
        looks.append(machine.identity.instance)
        return seen(self, machine)

    monkeypatch.setattr(SimulatedHost, "seen", look)
    assert host.find(asked) == listed
    assert looks == [asked.instance]
    assert host.find(replace(ONE, attempt=2)) is None
