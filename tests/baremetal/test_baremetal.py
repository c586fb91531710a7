"""A group of a virtual machine and two machines of bare metal, one BIOS, one UEFI: Running and gone, with figures."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest
from corral.v1 import deploy_pb2, fleet_pb2, group_pb2

from tests.baremetal.emulator import OVMF
from tests.baremetal.machines import DISK_BYTES, Machine, Relay, machines, tidy
from tests.integration.test_service_on_hypervisors import ZONE
from tests.lab.fixtures import GuestImage
from tests.lab.fleet import Lab
from tests.lab.namespaces import wait_until
from tests.service.rpc.test_machines import free_port
from tests.support import ROOT
from tests.support.process import CorralProcess

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.timeout(1800)]

VIRTUAL, METAL = "f1e135835fee363c9f57ed8232023886", "f1e135835fee363c9f57ed8232023887"
MANY_SECONDS = 900
MEMBER = re.compile(r"corral-[0-9a-f]{32}-\d+")
FIRMWARES = {"metal-bios": "bios", "metal-uefi": "uefi"}


@pytest.fixture(scope="module")
def metal_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of the guest for bare metal. Skips where its packages are missing."""
    if not Path(OVMF).is_file():
        pytest.skip("OVMF is missing: apt-get install --no-install-recommends ovmf")
    out = tmp_path_factory.mktemp("metal")
    kernel = ROOT / ".cache/metal/root"
    for built in (kernel.parent / "metal.json", kernel.parent / "metal.iso"):
        if built.is_file():
            shutil.copy(built, out)
    command = [sys.executable, str(ROOT / "deploy/guest/metal.py"), str(out)]
    root = ["--root", str(kernel)] if kernel.is_dir() else []
    done = subprocess.run([*command, *root], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{done.stderr.strip()}; `make baremetal` prepares it")
    return out / "metal.json"


@dataclass
class Site:
    """A service, a hypervisor and two machines."""

    lab: Lab
    corral: CorralProcess
    machines: list[Machine]

    def statuses(self) -> dict[str, str]:
        """Host name -> its status."""
        answer = self.corral.fleet.ListHosts(fleet_pb2.ListHostsRequest())
        return {host.name: host.status for host in answer.inventories}

    def cleaned(self) -> set[str]:
        """Machines that are being cleaned."""
        answer = self.corral.fleet.ListHosts(fleet_pb2.ListHostsRequest())
        return {host.name for host in answer.inventories if host.cleaning.state == "Cleaning"}

    def requests(self) -> int:
        """How many requests the BMCs had."""
        return sum(len(machine.requests()) for machine in self.machines)


@pytest.fixture
def site(lab: Lab, guest_image: GuestImage, metal_image: Path, tmp_path: Path) -> Iterator[Site]:
    port = free_port()
    relay = Relay(lab, port)
    try:
        with machines(lab, tmp_path, FIRMWARES) as made:
            own = "".join(machine.entry(f"http://127.0.0.1:{port}", relay.url) for machine in made)
            corral = CorralProcess(
                tmp_path, configuration(lab, guest_image, metal_image) + own, server=f'machines = "127.0.0.1:{port}"'
            )
            corral.start()
            try:
                found = Site(lab, corral, made)
                wait_until(lambda: set(found.statuses().values()) == {"Connected"}, 120, "all hosts")
                yield found
            finally:
                corral.kill()
                tidy(lab[0])
    finally:
        relay.close()


def configuration(lab: Lab, guest: GuestImage, metal: Path) -> str:
    return f"""
[[zones]]
uuid = "{ZONE}"
name = "zone-1"
[zones.network]
kind = "bridge"
source = "br0"
subnet = "10.77.0.0/16"
gateway = "10.77.0.1"
pool = "10.77.1.10-10.77.1.99"
[[hosts]]
name = "hv1"
zone = "zone-1"
driver = "libvirt"
socket = "{lab[0].socket}"
[hosts.capacity]
vcpu = 4
memory = "20GiB"
[[images]]
name = "default-guest"
manifest = "{guest.manifest}"
[[images]]
name = "metal"
manifest = "{metal}"
[[model_services]]
uuid = "{VIRTUAL}"
name = "virtual"
image = "default-guest"
stop_grace_ms = 3000
[[model_services]]
uuid = "{METAL}"
name = "metal"
image = "metal"
stop_grace_ms = 3000
"""


def nodes() -> list[group_pb2.NodeSpec]:
    common: dict[str, Any] = {"zone_uuid": ZONE, "cpu_num": 1, "timeout": MANY_SECONDS * 1000}
    head = group_pb2.NodeSpec(uuid=VIRTUAL, memory_size=96 << 20, is_initial_node=True, **common)
    worker = {**common, "uuid": METAL, "memory_size": 512 << 20, "type": "BareMetal"}
    return [head, group_pb2.NodeSpec(**worker), group_pb2.NodeSpec(**worker)]


class Early(threading.Thread):
    """Looks all the time whether a machine runs while not all are prepared, by processes and libvirt alone."""

    def __init__(self, site: Site) -> None:
        super().__init__(name="early")
        self._site = site
        self._over = threading.Event()
        self.found: list[str] = []
        self.looks = 0

    def run(self) -> None:
        """Until `end`."""
        while not self._over.wait(0.05):
            on = [machine.name for machine in self._site.machines if machine.on()]
            # Read after that: what is prepared stays so, and was not before it ran where it is not now.
            if on and not self._prepared():
                self.found += on
            self.looks += 1

    def _prepared(self) -> bool:
        with closing(libvirt.open(self._site.lab[0].uri)) as connection:
            made = [name for d in connection.listAllDomains() if MEMBER.fullmatch(name := d.name())]
        return bool(made) and all(machine.drive() for machine in self._site.machines)

    def end(self) -> None:
        """No look after this."""
        self._over.set()
        self.join()


def test_a_mixed_group_runs_and_is_gone(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    before, began = site.requests(), time.monotonic()
    stages: dict[str, str] = {}
    running = None
    wanted = nodes()
    nonces = {secrets.token_hex(8) for _ in wanted}
    for node, nonce in zip(wanted, sorted(nonces), strict=True):
        node.name = f"node-{nonce}"
    request = deploy_pb2.DeployDistributedModelServiceRequest(
        name="mixed", model_services=wanted, service_creation_strategy="parallel"
    )
    early = Early(site)
    early.start()
    try:
        for message in site.corral.groups.DeployDistributedModelService(request, timeout=MANY_SECONDS):
            event = message.event
            if event.WhichOneof("change") == "instance":
                stages[event.instance.host_name] = event.instance.status
            running = event
    finally:
        early.end()
    assert running is not None
    consoles = "\n".join(machine.console() for machine in site.machines)
    assert running.WhichOneof("change") == "final", f"{stages}\n{consoles}"
    group = running.final
    seconds, asked = time.monotonic() - began, site.requests() - before
    assert (group.status, early.found) == ("Running", []), consoles
    assert early.looks
    assert {i.host_name for i in group.instances} == {"hv1", *FIRMWARES}
    assert [machine.resets() for machine in site.machines] == [["On"], ["On"]]
    health = {i.host_name: site.lab.get_json(i.addresses[0]) for i in group.instances}
    (leader,) = [i for i in group.instances if i.host_name == "hv1"]
    wait_until(lambda: site.lab.get_json(leader.addresses[0])["joined"] == 2, 120, "the leader to publish both workers")
    for machine in site.machines:
        assert health[machine.name]["machine_uuid"].lower() == machine.uuid
        assert machine.drive()
    # Each guest has read what this very deploy told its own member.
    assert {told["name"].removeprefix("node-") for told in health.values()} == nonces
    for member in group.instances:
        assert (health[member.host_name]["instance"], health[member.host_name]["name"]) == (member.uuid, member.name)
    rest, rested = site.requests(), time.monotonic()
    wait_until(lambda: time.monotonic() > rested + 20, 60, "rest to be measured")
    at_rest = (site.requests() - rest) / (time.monotonic() - rested) / len(site.machines)
    deleted = time.monotonic()
    assert site.corral.delete(group.uuid).status == "Deleted"
    gone = time.monotonic() - deleted
    assert [(machine.on(), machine.drive()) for machine in site.machines] == [(False, [])] * 2
    for machine in site.machines:  # asked to stop first, which this guest does not hear on every firmware
        assert [how for how in machine.resets() if how != "GracefulShutdown"] in (["On", "ForceOff"], ["On"])
    figures = {
        "call to Running, s": round(seconds, 1),
        "BMC calls per machine and deploy": asked / len(site.machines),
        "BMC calls per machine and second at rest": round(at_rest, 2),
        "deletion, s": round(gone, 1),
    }
    with capsys.disabled():
        print(f"\n{json.dumps(figures)}")


def test_what_bmcs_and_power_do_is_got_over(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """The answers to an insert and to the order On are lost; then the machine loses its power: its member runs
    again, here or on the other."""
    for machine in site.machines:
        machine.faults(lose={"InsertMedia": 1, "Reset": 1})
    request = deploy_pb2.DeployDistributedModelServiceRequest(
        name="faulty", model_services=nodes()[1:2], service_creation_strategy="parallel"
    )
    began = time.monotonic()
    group = site.corral.follow(site.corral.groups.DeployDistributedModelService(request, timeout=MANY_SECONDS))
    (machine,) = [one for one in site.machines if one.name == group.instances[0].host_name]
    assert group.status == "Running", machine.console()
    assert machine.resets() == ["On"], "sent once, though nobody answered"
    deployed = time.monotonic() - began
    machine.faults()
    machine.hypervisor.signal_guest(machine.name, signal.SIGKILL)
    began = time.monotonic()
    wait_until(
        lambda: sum(one.resets().count("On") for one in site.machines) == 2, MANY_SECONDS, "a machine to be switched on"
    )
    switched = time.monotonic() - began

    def ons() -> list[str]:
        """Those that a member may run on: one that it has left is cleaned, by a boot of its own."""
        before = site.cleaned()
        on = [one.name for one in site.machines if one.on()]
        return [name for name in on if name not in before | site.cleaned()]

    def running() -> bool:
        assert len(ons()) < 2, "one member on two machines"
        get = deploy_pb2.GetInstanceGroupRequest(uuid=group.uuid)
        return site.corral.groups.GetInstanceGroup(get).inventory.status == "Running" and len(ons()) == 1

    wait_until(running, MANY_SECONDS, "the group to run again")
    figures = {
        "call to Running with two answers lost, s": round(deployed, 1),
        "from the loss of power to On, s": round(switched, 1),
        "from the loss of power to Running, s": round(time.monotonic() - began, 1),
    }
    assert site.corral.delete(group.uuid).status == "Deleted"
    wait_until(lambda: not site.cleaned(), MANY_SECONDS, "machines that were left to be clean")
    assert [(one.on(), one.drive()) for one in site.machines] == [(False, [])] * 2
    with capsys.disabled():
        print(f"\n{json.dumps(figures)}")


LEFT = b"what a member has left on its disk "


def test_a_machine_is_cleaned_once_its_member_is_gone(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """What was on its disk at both ends, where tables and signatures are, is there no more; then it is open again."""
    marked = LEFT * (4096 // len(LEFT))
    for machine in site.machines:
        with machine.disk.open("r+b") as file:
            for place in (0, DISK_BYTES - len(marked)):
                file.seek(place)
                file.write(marked)
    request = deploy_pb2.DeployDistributedModelServiceRequest(
        name="leaving", model_services=nodes()[1:2], service_creation_strategy="parallel"
    )
    group = site.corral.follow(site.corral.groups.DeployDistributedModelService(request, timeout=MANY_SECONDS))
    (machine,) = [one for one in site.machines if one.name == group.instances[0].host_name]
    assert group.status == "Running", machine.console()
    assert site.corral.delete(group.uuid).status == "Deleted"

    def cleaning() -> fleet_pb2.HostCleaning:
        answer = site.corral.fleet.ListHosts(fleet_pb2.ListHostsRequest())
        return next(host.cleaning for host in answer.inventories if host.name == machine.name)

    def over() -> bool:
        assert cleaning().state != "Unclean", f"{cleaning().reason}\n{machine.console()}"
        return not cleaning().state

    assert cleaning().served_project
    assert LEFT in machine.disk.read_bytes()
    wait_until(lambda: cleaning().state == "Cleaning", 120, "the machine to be closed")
    began, calls = time.monotonic(), len(machine.requests())
    wait_until(over, MANY_SECONDS, "the machine to be clean")
    assert not cleaning().served_project
    assert LEFT not in machine.disk.read_bytes()
    assert (machine.on(), machine.drive()) == (False, [])
    figures = {
        "cleaning, s": round(time.monotonic() - began, 1),
        "BMC calls of it": len(machine.requests()) - calls,
    }
    with capsys.disabled():
        print(f"\n{json.dumps(figures)}")
