"""What devices become when the service, libvirtd or QEMU is killed while they are being given to a machine."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
import pytest
from corral.v1 import deploy_pb2, group_pb2

from tests.devices.machine import Machine
from tests.devices.service import EDU, Guest, configuration, devices_of, member, running, started, wait_until
from tests.support.process import CorralProcess

KILLS = int(os.environ.get("DEVICE_KILLS", "6"))
# After each the service, or libvirtd, starts again, and the group comes to rest: that may take some minutes.
pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.timeout(1800 + 150 * KILLS)]
VICTIMS = ("service", "libvirtd", "QEMU")
AT_REST = ("Running", "Failed", "Degraded")


def test_each_device_is_free_or_a_machines_that_exists_whatever_is_killed(
    machine: Machine, probe: Path, tmp_path: Path
) -> None:
    became: Counter[str] = Counter()
    with started(tmp_path, configuration(machine, probe, EDU.format(clean="reset"))) as corral:
        keys = sorted(devices_of(corral))
        for number in range(KILLS):
            victim = VICTIMS[number % len(VICTIMS)]
            asking = threading.Thread(target=_ask, args=(corral, f"killed{number}"))
            asking.start()
            # From here on one of them is the kernel's VFIO driver's, and no guest runs yet.
            machine.bound(keys)
            _kill(machine, corral, victim)
            asking.join()
            (groups,) = wait_until("it is at rest", lambda: _at_rest(corral), 600)
            became[f"{victim}: {groups[0].status if groups else 'gone'}"] += 1
            _nothing_is_lost(machine, corral)
            for group in groups:
                corral.delete(group.uuid)
            wait_until("all are free", lambda: all(d.state == "available" for d in devices_of(corral).values()))
            wait_until("no machine has one", lambda: machine.owners() == {})
        last = corral.follow(corral.deploy("last", [member(), member()]))
        for instance in running(last):
            with Guest(machine, instance) as guest:
                assert guest.factorial(9) == [math.factorial(9)]
        corral.delete(last.uuid)
    told = ", ".join(f"{what} {times}" for what, times in sorted(became.items()))
    print(f"\nkills between bind and start: {KILLS}, devices lost 0; groups then: {told}")


def _ask(corral: CorralProcess, name: str) -> None:
    """Deploy; what comes of it is looked for afterwards, by whoever serves then."""
    with contextlib.suppress(grpc.RpcError, AssertionError, ValueError):
        corral.follow(corral.deploy(name, [member()]))


def _kill(machine: Machine, corral: CorralProcess, victim: str) -> None:
    if victim == "service":
        corral.kill()
        corral.start()
    elif victim == "libvirtd":
        machine.kill_daemon()
    else:
        machine.kill_guests()


def _at_rest(corral: CorralProcess) -> tuple[list[group_pb2.InstanceGroup]] | None:
    """(all groups), once nothing is done about them for a moment; None until then."""
    found: list[group_pb2.InstanceGroup] = []
    for _ in range(3):
        request = deploy_pb2.ListInstanceGroupsRequest()
        found = list(corral.groups.ListInstanceGroups(request, timeout=60).inventories)
        if any(group.status not in AT_REST for group in found):
            return None
        time.sleep(0.5)
    return (found,)


def _nothing_is_lost(machine: Machine, corral: CorralProcess) -> None:
    """Each device is free, or of a member whose machine has it; no machine has one that is nobody's."""

    def agree() -> bool:
        owners = machine.owners()
        told = {
            key: _machine_of(corral, device.instance_uuid)
            for key, device in devices_of(corral).items()
            if device.state == "claimed"
        }
        assert all(len(of) == 1 for of in owners.values()), owners
        states = {device.state for device in devices_of(corral).values()}
        return states <= {"available", "claimed"} and {k: of[0] for k, of in owners.items()}.items() <= told.items()

    wait_until("who has a device is who has claimed it", agree)


def _machine_of(corral: CorralProcess, instance: str) -> str:
    """The machine of a member."""
    for group in corral.groups.ListInstanceGroups(deploy_pb2.ListInstanceGroupsRequest(), timeout=60).inventories:
        for one in group.instances:
            if one.uuid == instance:
                return one.vm_instance_uuid
    return ""
