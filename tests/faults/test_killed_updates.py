"""The service is killed by -9 at points on an update's way, by surge and in place, and started again: the update ends
or is taken back, and what is left is one gang, its machines, its claims and its address."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from corral.v1 import deploy_pb2, fleet_pb2, group_pb2

from service.failpoints import NAMES
from tests.support.builders import ENTRY, ZONE
from tests.support.process import CorralProcess

pytestmark = pytest.mark.timeout(3600)

SURGE, IN_PLACE = group_pb2.UPDATE_MODE_SURGE, group_pb2.UPDATE_MODE_IN_PLACE
GIB, MEMBERS, WAIT_SECONDS = 1 << 30, 2, 120
FEW = {
    SURGE: ("update.planned", "claim.taken", "resume.before", "change.released", "remove.after"),
    IN_PLACE: ("update.planned", "poweroff.after", "claim.resized", "create.before", "worker.applied"),
}
"""Of the update's way the decisions, each kind of call, and the commits between them."""
ELSEWHERE = ("migrate.", "abortmove.", "move.", "room.", "rebalance.", "eviction.", "clean.", "fence.", "staging.")
"""Points of what no update does."""


class Killed(CorralProcess):
    """The service on simulated hosts that outlive it, with a trap."""

    def __init__(self, directory: Path) -> None:
        hosts = "".join(
            f'[[hosts]]\nname = "host-{number}"\nzone = "zone-1"\ndriver = "simulated"\n'
            f'options = {{ cpu = "8", memory = "32GiB", boot_ms = "20", state_file = "host-{number}.json" }}\n'
            for number in range(3)
        )
        network = "\n".join(
            ['kind = "bridge"', 'source = "br0"', 'subnet = "10.7.0.0/24"', 'gateway = "10.7.0.1"',
             'pool = "10.7.0.10-10.7.0.60"']
        )  # fmt: skip
        super().__init__(
            directory,
            f'[[zones]]\nuuid = "{ZONE}"\nname = "zone-1"\n[zones.network]\n{network}\n{hosts}'
            '[[images]]\nname = "guest"\nkernel = "/boot/none"\n'
            f'[[model_services]]\nuuid = "{ENTRY}"\nname = "default"\nimage = "guest"\nstop_grace_ms = 0\n',
        )
        self._module = "tests.faults.armed"

    def arm(self, point: str) -> None:
        """It ends at this point from now on; empty: at none."""
        (self.directory / "trap").write_text(point)
        os.kill(self.pid, signal.SIGUSR1)

    def again(self) -> bool:
        """Starts it again where its trap has ended it, and says so."""
        if self._process is not None and self._process.poll() is None:
            return False
        self.kill()
        self.start()
        return True

    def machines(self) -> dict[str, dict[str, Any]]:
        """Instance -> its machine, of all that are on the hosts. Two of one instance are a fault."""
        found: dict[str, dict[str, Any]] = {}
        for number in range(3):
            for machine in json.loads((self.directory / f"host-{number}.json").read_text())["machines"]:
                if machine["state"] != "tombstone":
                    instance = machine["identity"]["instance"]
                    assert instance not in found, "it is there twice"
                    found[instance] = machine
        return found

    def group(self, uuid: str) -> group_pb2.InstanceGroup:
        """As it is now."""
        return self.groups.GetInstanceGroup(deploy_pb2.GetInstanceGroupRequest(uuid=uuid), timeout=30).inventory

    def claimed(self) -> int:
        """vCPUs, over all hosts."""
        listed = self.fleet.ListHosts(fleet_pb2.ListHostsRequest(), timeout=30).inventories
        return sum(r.claimed for host in listed for r in host.capacities if r.resource == "vcpu")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Killed]:
    made = Killed(tmp_path)
    made.start()
    try:
        yield made
    finally:
        made.kill()


def amiss(service: Killed, uuid: str, endpoint: str) -> str:
    """What is not as it must be for ever; empty once all is."""
    now, machines = service.group(uuid), service.machines()
    if now.status != "Running" or now.update.stage not in ("done", "taken_back"):
        return f"the group is {now.status}, its update {now.update.stage}"
    cpus = [member.cpu_num for member in now.instances]
    if len(cpus) != MEMBERS or len(set(cpus)) != 1 or cpus[0] not in (1, 2):
        return f"two gangs, or half of one: {cpus}"
    if set(machines) != {member.uuid for member in now.instances}:
        return f"machines of {sorted(machines)}"
    if any(machine["state"] != "running" for machine in machines.values()):
        return "a machine does not run"
    if service.claimed() != sum(cpus):
        return f"claims of {service.claimed()} vCPUs for {cpus}"
    called = urlsplit(endpoint).hostname
    answers = [i for i, m in machines.items() if called in (m["address"], m["endpoint"])]
    if now.endpoint != endpoint or answers != [now.instances[0].uuid]:
        return f"{answers} answer at {endpoint}, the group is called at {now.endpoint}"
    return ""


def killed_at(service: Killed, uuid: str, number: int, mode: group_pb2.UpdateMode.ValueType, point: str) -> bool:
    """One update with the trap at this point. Whether it was passed, and the service killed there."""
    endpoint = service.group(uuid).endpoint
    assert endpoint
    change = deploy_pb2.MemberChange(cpu_num=1 + number % 2, startup_parameters=f"--number {number}")
    request = deploy_pb2.RolloutInstanceGroupRequest(
        uuid=uuid, changes=[change], mode=mode, request_id=f"update-{number}"
    )
    service.arm(point)
    died = False
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            # The same request again: it goes on, or begins where it was not stored before the kill.
            for _ in service.groups.RolloutInstanceGroup(request, timeout=WAIT_SECONDS):
                pass
            break
        except grpc.RpcError as error:
            again = service.again()
            died = died or again
            if not again and error.code() is not grpc.StatusCode.UNAVAILABLE:
                break  # it was taken back
            if time.monotonic() > deadline:
                raise
    wrong = "not looked at"
    while wrong:
        assert time.monotonic() < deadline, f"killed at {point}: {wrong}"
        try:
            wrong = amiss(service, uuid, endpoint)
        except grpc.RpcError:
            died = service.again() or died
        time.sleep(0.05)
    died = service.again() or died
    if not died:
        service.arm("")
    return died


def updates(service: Killed, mode: group_pb2.UpdateMode.ValueType, points: tuple[str, ...]) -> list[str]:
    """One update after the other of one group; the points at which the service was killed."""
    node = group_pb2.NodeSpec(uuid=ENTRY, name="n", type="VirtualMachine", cpu_num=1, memory_size=GIB)
    uuid = service.follow(service.deploy("g", [node] * MEMBERS)).uuid
    return [point for number, point in enumerate(points, 1) if killed_at(service, uuid, number, mode, point)]


@pytest.mark.parametrize("mode", [SURGE, IN_PLACE], ids=["surge", "in place"])
def test_an_update_survives_kills_on_its_way(service: Killed, mode: group_pb2.UpdateMode.ValueType) -> None:
    assert updates(service, mode, FEW[mode]) == list(FEW[mode])


@pytest.mark.slow
@pytest.mark.parametrize("mode", [SURGE, IN_PLACE], ids=["surge", "in place"])
def test_an_update_survives_a_kill_at_every_point(service: Killed, mode: group_pb2.UpdateMode.ValueType) -> None:
    points = tuple(sorted(name for name in NAMES if not name.startswith(ELSEWHERE)))
    killed = updates(service, mode, points)
    print(f"{len(killed)} of {len(points)} points are on the way: {killed}")
    assert set(FEW[mode]) <= set(killed)
    assert len(killed) >= 20
