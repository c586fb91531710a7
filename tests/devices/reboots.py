"""A hypervisor that was started anew with another device where one was that a member has."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from corral.v1 import fleet_pb2

from tests.devices.machine import DEVICES, Machine
from tests.devices.service import (
    Guest,
    configuration,
    devices_of,
    failure_of,
    host_of,
    member,
    running,
    started,
    wait_until,
)

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.timeout(1800)]
BOTH = '[[devices]]\nmodel = "edu"\naddresses = ["{0}", "{1}"]\nhosts = ["with-devices"]\n'
ANOTHER = tuple(one.replace("edu,id=edu0,", "pci-testdev,id=another,") for one in DEVICES)


def test_who_had_a_device_gets_no_other_in_its_place_after_its_host_was_started_anew(
    machine: Machine, probe: Path, tmp_path: Path
) -> None:
    placed = machine.placed()
    first, second = placed["edu0"].address, placed["edu1"].address
    with started(tmp_path, configuration(machine, probe, BOTH.format(first, second))) as corral:
        group = corral.follow(corral.deploy("two", [member(), member()]))
        had = {one.uuid: list(one.devices) for one in running(group)}
        assert sorted(had.values()) == [[first], [second]]
        try:
            machine.reboot(ANOTHER)
            assert machine.placed()["another"].address == first
            wait_until("another is in its place", lambda: devices_of(corral)[first].state == "gone", 600)
            assert "another device is in its place" in devices_of(corral)[first].reason
            wait_until("its member does not run", lambda: failure_of(corral, group.uuid))
            assert first not in machine.owners()
            corral.delete(group.uuid)
            wait_until("the other is free", lambda: devices_of(corral)[second].state == "available")
            why = fleet_pb2.QuarantineDeviceRequest(host_uuid=host_of(corral).uuid, key=first, reason="another model")
            wait_until("it is offered by its address", lambda: first in devices_of(corral))
            corral.fleet.QuarantineDevice(why, timeout=60)
            again = corral.follow(corral.deploy("one", [member()]))
            (instance,) = running(again)
            assert instance.devices == [second]
            with Guest(machine, instance) as guest:
                assert guest.factorial(7) == [math.factorial(7)]
            corral.delete(again.uuid)
        finally:
            machine.reboot()
