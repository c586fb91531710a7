"""Hypervisors whose network is cut while their guests live on: fenced by their BMCs, and nobody runs twice.

The service runs in the network of the lab and reaches libvirtd over TCP, BMCs over a network of their own.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import libvirt
import pytest
from corral.v1 import deploy_pb2, fleet_pb2, group_pb2

from tests.integration.test_service_on_hypervisors import ENTRY, SMALL, ZONE, sweep
from tests.lab.fixtures import GuestImage, capability_cache
from tests.lab.fleet import Lab
from tests.lab.hypervisor import Hypervisor
from tests.lab.namespaces import wait_until
from tests.lab.requirements import program, why_not
from tests.support.bmc import ACCOUNT, Bmc
from tests.support.process import CorralProcess

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.timeout(1500)]

MANY_SECONDS = 600
SILENT_SECONDS = 60.0
LIE_SECONDS = 3.0
NETWORK = "10.79"


class Board(Bmc):
    """The BMC of a hypervisor. `lies`: so often it says Off for a moment when it is told, and does nothing."""

    def __init__(self, directory: Path, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._shows_off_until = 0.0
        self.lies = 0
        self._on = "Off"
        super().__init__(directory, hypervisor.uuid)
        self._on = "On"

    @property
    def power(self) -> str | None:
        """What it shows."""
        return "Off" if time.monotonic() < self._shows_off_until else self._on

    @power.setter
    def power(self, shown: str | None) -> None:
        self._on = shown or "Off"

    def reset(self, how: str) -> int:
        """See Bmc; Off is the end of the hypervisor."""
        if how == "ForceOff" and self.lies:
            self.posts.append(how)
            self.lies -= 1
            self._shows_off_until = time.monotonic() + LIE_SECONDS
            return 204
        if how == "ForceOff" and self._on == "On":
            self._hypervisor.power_off()
        return super().reset(how)


@dataclass
class Site:
    """Three hypervisors, their BMCs, and the service."""

    lab: Lab
    corral: CorralProcess
    boards: dict[str, Board]

    def host(self, name: str) -> fleet_pb2.Host:
        """One host by its name."""
        answer = self.corral.fleet.ListHosts(fleet_pb2.ListHostsRequest())
        return next(host for host in answer.inventories if host.name == name)

    def on(self, name: str) -> Hypervisor:
        """The hypervisor of this host."""
        return self.lab[int(name.removeprefix("hv")) - 1]

    def group(self, uuid: str) -> group_pb2.InstanceGroup:
        """As it is now."""
        return self.corral.groups.GetInstanceGroup(deploy_pb2.GetInstanceGroupRequest(uuid=uuid)).inventory

    def executing(self, name: str, instance: str) -> bool:
        """Whether libvirt of this host says that a machine of the instance runs. It is asked past the cable."""
        with closing(libvirt.open(self.on(name).uri)) as connection:
            running = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            return any(d.name().startswith(f"corral-{instance}-") and d.state()[0] == 1 for d in running)


@pytest.fixture
def site(pytestconfig: pytest.Config, guest_image: GuestImage, tmp_path: Path) -> Iterator[Site]:
    if reason := why_not():
        pytest.skip(reason)
    with Lab(3, capability_cache(pytestconfig), network=NETWORK) as lab:
        boards = {h.name: lab.switch.call(partial(Board, _own(tmp_path, h.name), h)) for h in lab}
        inside = [program("nsenter"), f"--net=/proc/{lab.switch.pid}/ns/net", "--"]
        corral = CorralProcess(tmp_path, configuration(lab, boards, guest_image), inside=inside)
        corral.start()
        try:
            found = Site(lab, corral, boards)
            wait_until(lambda: all(found.host(h.name).status == "Connected" for h in lab), 120, "all hosts")
            yield found
        finally:
            corral.kill()
            for hypervisor in lab:
                if hypervisor.namespace.processes():
                    sweep(hypervisor.uri)
            for board in boards.values():
                board.close()


def _own(directory: Path, name: str) -> Path:
    place = directory / name
    place.mkdir()
    return place


def configuration(lab: Lab, boards: dict[str, Board], image: GuestImage) -> str:
    hosts = "".join(
        f'[[hosts]]\nname = "{h.name}"\nzone = "zone-1"\ndriver = "libvirt"\ntransport = "tcp"\n'
        f'address = "{h.address}"\n[hosts.capacity]\nvcpu = 4\nmemory = "20GiB"\n'
        f'[hosts.bmc]\naddress = "localhost"\nport = {boards[h.name].port}\nusername = "{ACCOUNT}"\n'
        f'password_file = "{boards[h.name].password_file}"\nca_file = "{boards[h.name].ca_file}"\nfencing = "auto"\n'
        for h in lab
    )
    return f"""
[[zones]]
uuid = "{ZONE}"
name = "zone-1"
[zones.network]
kind = "bridge"
source = "br0"
subnet = "{NETWORK}.0.0/16"
gateway = "{NETWORK}.0.1"
pool = "{NETWORK}.1.10-{NETWORK}.1.99"
{hosts}
[[images]]
name = "default-guest"
manifest = "{image.manifest}"
[[model_services]]
uuid = "{ENTRY}"
name = "default"
image = "default-guest"
stop_grace_ms = 3000
"""


class Watch(threading.Thread):
    """Looks all the time whether a member executes on another hypervisor while its old QEMU is there."""

    def __init__(self, site: Site, old: str, instance: str) -> None:
        super().__init__(name="watch")
        self._site, self._old, self._instance = site, old, instance
        self._others = [h.name for h in site.lab if h.name != old]
        self._over = threading.Event()
        self.looks = 0
        self.twice: list[str] = []

    def run(self) -> None:
        """Until `end`."""
        while not self._over.wait(0.05):
            running = [name for name in self._others if self._executes(name)]
            # Read after the others: what is still there now was there when they were seen to run.
            if running and self._site.on(self._old).guests():
                self.twice += running
            self.looks += 1

    def _executes(self, name: str) -> bool:
        try:
            return self._site.executing(name, self._instance)
        except libvirt.libvirtError:
            return False  # it was switched off

    def end(self) -> None:
        """No look after this."""
        self._over.set()
        self.join()


def test_one_that_is_cut_off_is_switched_off_before_its_member_runs_elsewhere_and_two_of_three_are_not(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [group_pb2.NodeSpec(uuid=ENTRY, zone_uuid=ZONE, cpu_num=1, memory_size=SMALL)]
    group = site.corral.follow(site.corral.deploy("cut", nodes))
    (member,) = group.instances
    old = member.host_name
    other = next(h.name for h in site.lab if h.name != old)
    watch = Watch(site, old, member.uuid)
    watch.start()
    try:
        figures = _cut_two_then_one(site, group.uuid, old, other)
    finally:
        watch.end()
    assert watch.twice == []
    (moved,) = site.group(group.uuid).instances
    _, wrong = old, moved.host_name
    site.boards[wrong].uuid = "44454c4c-0000-1000-8000-00000000dead"
    site.on(wrong).cut_off()
    wait_until(lambda: site.host(wrong).status == "Disconnected", 120, f"{wrong} to be missed")
    site.corral.fleet.FenceHost(fleet_pb2.FenceHostRequest(uuid=site.host(wrong).uuid))
    wait_until(lambda: site.host(wrong).fencing.last_fence.state == "Failed", 120, "another machine to be refused")
    assert "another machine" in site.host(wrong).fencing.last_fence.reason
    assert site.boards[wrong].posts == []
    assert site.on(wrong).guests(), "its guests live"
    site.on(wrong).plug_in()
    wait_until(lambda: site.host(wrong).status == "Connected", 120, f"{wrong} to answer")
    assert site.corral.delete(group.uuid).status == "Deleted"
    figures |= {"fences done": 1, "fences refused": 3, "machines doubled": len(watch.twice), "looks at it": watch.looks}
    with capsys.disabled():
        print(f"\n{json.dumps(figures)}")


def _cut_two_then_one(site: Site, group: str, old: str, other: str) -> dict[str, float]:
    """Two of three are cut off, which is no reason to fence; then one answers again, and the other one is fenced."""
    qemu = set(site.on(old).guests().values())
    for name in (old, other):
        site.on(name).cut_off()
    cut = time.monotonic()
    site.boards[old].lies = 1
    wait_until(
        lambda: {site.host(n).fencing.verdict for n in (old, other)} == {"NetworkFault"}, 180, "a fault of the network"
    )
    wait_until(lambda: time.monotonic() > cut + SILENT_SECONDS + 30, 120, "so long that one alone would be fenced")
    assert {site.host(n).fencing.verdict for n in (old, other)} == {"NetworkFault"}
    assert [board.posts for board in site.boards.values()] == [[], [], []]
    assert set(site.on(old).guests().values()) == qemu, "its guest lives"
    site.on(other).plug_in()
    healed = time.monotonic()

    def told() -> bool:
        return bool(site.boards[old].posts)

    wait_until(told, 240, "the host to be told")
    ordered = time.monotonic()
    wait_until(lambda: site.host(old).fencing.last_fence.state == "Fenced", 240, "the fence")
    fenced = time.monotonic()
    assert site.boards[old].posts == ["ForceOff", "ForceOff"], "that it was off for a moment was not believed"
    assert not any(os.path.exists(f"/proc/{pid}") for pid in qemu)
    wait_until(lambda: _runs_elsewhere(site.group(group), old), MANY_SECONDS, "the member to run elsewhere")
    assert site.boards[other].posts == []
    assert site.host(old).state == "Maintenance"
    return {
        "from one alone silent to the order, s": round(ordered - healed, 1),
        "from the order (its BMC lied once) to Fenced, s": round(fenced - ordered, 1),
        "from Fenced to Running, s": round(time.monotonic() - fenced, 1),
    }


def _runs_elsewhere(group: group_pb2.InstanceGroup, old: str) -> bool:
    (member,) = group.instances
    return bool(group.status == "Running" and member.host_name != old)
