"""Guests that try: nobody reaches another group's members, others reach urls alone, and nobody speaks as anybody else.

What was sent is judged on the wire between the hypervisors. A guest that nothing holds does the same, to show that the
attempts are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address

import libvirt
import pytest

from service.domain.catalog import Image
from service.domain.isolation import NWFILTER, Isolation
from service.domain.network import mac_address
from service.drivers.base import LogSource, MachineSpec, NetworkInterface
from service.drivers.libvirt.driver import LibvirtDriver
from service.drivers.libvirt.filters import filter_name
from tests.integration.libvirt.support import guest_documents
from tests.integration.libvirt.test_guests import BOOT_SECONDS, BUDGET, at_stage, launch, until
from tests.lab.fleet import Lab
from tests.lab.hypervisor import Hypervisor
from tests.service.drivers.libvirt.machines import CLUSTER, identity, specification

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio, pytest.mark.timeout(900)]

HEAD, FELLOW, STRANGER, UNHELD = (f"10.77.3.{n}" for n in (1, 2, 3, 4))
GATEWAY = "10.77.0.1"
GROUP, OTHER = "a" * 32, "b" * 32
MAC_OF_NOBODY = "52:54:66:66:66:"

SERVE = "httpd -p 9000 -h /www; httpd -f -p 8000 -h /www"
ASK = (
    "t() { if timeout 5 nc $2 $3 < /dev/null > /dev/null 2>&1; then echo $1 yes; else echo $1 no; fi; }; "
    "p() { if ping -c 1 -W 5 $2 > /dev/null 2>&1; then echo $1 yes; else echo $1 no; fi; }; "
    f"t url {HEAD} 8000; t private {HEAD} 9000; p ping {HEAD}; p gateway {GATEWAY}; "
)
SPOOF = (
    f"ip address add {FELLOW}/32 dev eth0; ping -c 1 -W 1 -I {FELLOW} {HEAD} > /dev/null 2>&1; "
    f"arping -c 1 -w 1 -I eth0 -s {FELLOW} {HEAD} > /dev/null 2>&1; ip address del {FELLOW}/32 dev eth0; "
    f"ip link set eth0 down; ip link set eth0 address {MAC_OF_NOBODY}$1; ip link set eth0 up; "
    f"arping -c 1 -w 1 -I eth0 {HEAD} > /dev/null 2>&1; ping -c 1 -W 1 {HEAD} > /dev/null 2>&1; "
)
END = "echo end; sleep 600"


def member(
    guest: Image, number: int, address: str, engine: str, group: str, isolation: Isolation | None
) -> MachineSpec:
    who = replace(identity(number), group=group)
    documents = guest_documents(who, rank=0, address=address, leader=address, size=1)
    env = f"{documents['env']}CORRAL_READINESS=process\nCORRAL_ENGINE_COMMAND={engine}\n"
    nic = NetworkInterface("bridge", "br0", mac_address(address, who.instance), address, 16, GATEWAY)
    return specification(
        number,
        identity=who,
        image=guest,
        memory_bytes=96 << 20,
        interfaces=(nic,),
        documents={**documents, "env": env},
        isolation=isolation,
    )


class Wire:
    """Every frame that passes the switch between the hypervisors, by who it says that it is from."""

    def __init__(self, lab: Lab) -> None:
        self.hardware: set[str] = set()
        self.senders: set[tuple[str, str]] = set()  # (hardware address, IP address) of IP and ARP
        self._socket: socket.socket = lab.switch.call(self._open)
        self._thread = threading.Thread(target=self._read, name="wire")
        self._thread.start()

    @staticmethod
    def _open() -> socket.socket:
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))

    def _read(self) -> None:
        while True:
            frame = self._socket.recv(2048)
            if len(frame) < 34:
                if not frame:
                    return
                continue
            source, kind = frame[6:12].hex(":"), struct.unpack("!H", frame[12:14])[0]
            if frame[12:14] == b"\x88\xb5":
                return  # our own, to end with
            self.hardware.add(source)
            if kind == 0x0800:
                self.senders.add((source, str(IPv4Address(frame[26:30]))))
            elif kind == 0x0806:
                self.senders.add((source, str(IPv4Address(frame[28:32]))))

    def close(self) -> None:
        self._socket.sendto(b"\xff" * 12 + b"\x88\xb5" + b"\0" * 46, ("lab0", 0))
        self._thread.join(30)
        self._socket.close()


@contextlib.contextmanager
def wire(lab: Lab) -> Iterator[Wire]:
    made = Wire(lab)
    try:
        yield made
    finally:
        made.close()


async def said(driver: LibvirtDriver, spec: MachineSpec) -> dict[str, str]:
    """What the guest's engine found, once it is at its end."""
    text = ""
    try:
        async with asyncio.timeout(BOOT_SECONDS):
            while "\nend" not in text:
                piece = await driver.read_log(
                    spec.identity, LogSource.ENGINE, start=0, most=65_536, budget_seconds=BUDGET
                )
                text = piece.data.decode(errors="replace")
                await asyncio.sleep(0.3)
    except TimeoutError:
        console = await driver.read_log(spec.identity, LogSource.CONSOLE, start=-4096, most=4096, budget_seconds=BUDGET)
        raise AssertionError(f"{spec.identity.instance} is not at its end: {text!r}, {console.data!r}") from None
    return dict(line.split(" ", 1) for line in text.split("\n") if " " in line)


async def test_guests_that_try_reach_only_their_group_and_speak_only_as_themselves(
    lab: Lab, hosts: list[Hypervisor], drivers: list[LibvirtDriver], guest: Image
) -> None:
    one, two = drivers
    assert [(await driver.probe(budget_seconds=BUDGET)).isolation for driver in drivers] == [NWFILTER] * 2
    subnet, gateway = ("10.77.0.0/16",), f"{GATEWAY}/32"
    ours = Isolation(GROUP, (gateway, f"{HEAD}/32", f"{FELLOW}/32"), subnet, ((HEAD, 8000),), routed=True)
    theirs = Isolation(OTHER, (gateway, f"{STRANGER}/32"), subnet, routed=True)
    head = member(guest, 1, HEAD, SERVE, GROUP, ours)
    fellow = member(guest, 2, FELLOW, ASK + END, GROUP, ours)
    stranger = member(guest, 3, STRANGER, f"set -- 03; {ASK}{SPOOF}{END}", OTHER, theirs)
    unheld = member(guest, 4, UNHELD, f"set -- 04; {ASK}{SPOOF}{END}", "c" * 32, None)
    with wire(lab) as seen:
        await launch(one, head)
        await until(one, head, at_stage("ready"), "ready")
        await asyncio.gather(*(launch(two, spec) for spec in (fellow, stranger, unheld)))
        found = await asyncio.gather(*(said(two, spec) for spec in (fellow, stranger, unheld)))
        assert found[0] == {"url": "yes", "private": "yes", "ping": "yes", "gateway": "yes"}
        assert found[1] == {"url": "no", "private": "no", "ping": "no", "gateway": "yes"}
        assert found[2] == {"url": "yes", "private": "no", "ping": "no", "gateway": "yes"}, "the other's filter holds"
    mac = {spec.identity.instance: spec.interfaces[0].mac for spec in (fellow, stranger, unheld)}
    assert (mac[unheld.identity.instance], FELLOW) in seen.senders, "the attempts were real"
    assert f"{MAC_OF_NOBODY}04" in seen.hardware
    assert {ip for source, ip in seen.senders if source == mac[stranger.identity.instance]} <= {STRANGER, "0.0.0.0"}
    assert f"{MAC_OF_NOBODY}03" not in seen.hardware
    for driver, spec in ((two, fellow), (two, stranger), (two, unheld), (one, head)):
        await driver.remove(spec.identity, budget_seconds=BUDGET)
    for hypervisor in hosts:
        connection = libvirt.open(hypervisor.uri)
        names = {f.name() for f in connection.listAllNWFilters(0)}
        assert not names & {filter_name(CLUSTER, GROUP), filter_name(CLUSTER, OTHER)}
        assert [b.portDev() for b in connection.listAllNWFilterBindings(0)] == []
        connection.close()
        assert "libvirt-" not in hypervisor.namespace.run("ebtables", "-t", "nat", "-L")
