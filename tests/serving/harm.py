"""Faults of engines, machines, links and daemons, done by a process that the service knows nothing of."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import libvirt
from corral.v1 import group_pb2

from tests.lab.hypervisor import Hypervisor
from tests.serving.site import HARM_PORT, Site, get

WORKER, HEAD = 1, 0
_KILL, _STOP = signal.SIGKILL, signal.SIGSTOP


@dataclass(frozen=True)
class Harm:
    """What can be done to a group as it stood when this was made."""

    place: Site
    group: group_pb2.InstanceGroup

    def hypervisor(self, rank: int) -> Hypervisor:
        """Where the member is."""
        return self.place.lab[int(self.group.instances[rank].host_name.removeprefix("hv")) - 1]

    def name(self, rank: int) -> str:
        """Its domain's."""
        member = self.group.instances[rank]
        return f"corral-{member.uuid}-{member.attempt}"

    def machine(self, rank: int, number: signal.Signals) -> None:
        """A signal to its QEMU."""
        self.hypervisor(rank).signal_guest(self.name(rank), number)

    def engine(self, rank: int, word: str) -> None:
        """A signal to its engine in the guest, by the image's own door for that."""
        get(self.place.lab, self.group.instances[rank].addresses[0], HARM_PORT, f"/cgi-bin/harm?{word}", 60)

    def link(self, rank: int, seconds: float) -> None:
        """Its cable is out for so long."""
        connection = libvirt.open(self.hypervisor(rank).uri)
        try:
            domain = connection.lookupByName(self.name(rank))
            target = ElementTree.fromstring(domain.XMLDesc(0)).find("devices/interface/target")
            assert target is not None
            device = target.get("dev") or ""
        finally:
            connection.close()
        self.hypervisor(rank).namespace.run("ip", "link", "set", device, "down")
        time.sleep(seconds)
        self.hypervisor(rank).namespace.run("ip", "link", "set", device, "up")

    def daemon_and_machine(self, rank: int) -> None:
        """libvirtd dies with the machine, and comes back."""
        self.hypervisor(rank).kill_daemon()
        self.machine(rank, _KILL)
        self.hypervisor(rank).start_daemon()

    def service_and_machine(self, rank: int) -> None:
        """The service is killed, a machine dies meanwhile, and the service is started again."""
        self.place.corral.kill()
        self.machine(rank, _KILL)
        self.place.corral.start()

    def power(self, rank: int, seconds: float) -> None:
        """Its hypervisor has no power for so long."""
        self.hypervisor(rank).power_off()
        time.sleep(seconds)
        self.hypervisor(rank).power_on()

    def both_workers(self) -> None:
        """Another worker dies while the group is being made whole."""
        self.machine(1, _KILL)
        time.sleep(5)
        self.machine(2, _KILL)


@dataclass(frozen=True)
class Fault:
    """One row of the table."""

    name: str
    strike: Callable[[Harm], None]


FAULTS: Sequence[Fault] = (
    Fault("worker-engine-killed", lambda h: h.engine(WORKER, "KILL")),
    Fault("head-engine-killed", lambda h: h.engine(HEAD, "KILL")),
    Fault("worker-engine-frozen", lambda h: h.engine(WORKER, "STOP")),
    Fault("head-engine-frozen", lambda h: h.engine(HEAD, "STOP")),
    Fault("worker-machine-killed", lambda h: h.machine(WORKER, _KILL)),
    Fault("head-machine-killed", lambda h: h.machine(HEAD, _KILL)),
    Fault("worker-machine-frozen", lambda h: h.machine(WORKER, _STOP)),
    Fault("head-machine-frozen", lambda h: h.machine(HEAD, _STOP)),
    Fault("worker-link-down-10s", lambda h: h.link(WORKER, 10)),
    Fault("worker-link-down-60s", lambda h: h.link(WORKER, 60)),
    Fault("head-link-down-10s", lambda h: h.link(HEAD, 10)),
    Fault("head-link-down-60s", lambda h: h.link(HEAD, 60)),
    Fault("libvirtd-and-worker-killed", lambda h: h.daemon_and_machine(WORKER)),
    Fault("service-and-worker-killed", lambda h: h.service_and_machine(WORKER)),
    Fault("hypervisor-off-20s", lambda h: h.power(WORKER, 20)),
    Fault("two-workers-5s-apart", lambda h: h.both_workers()),
)
