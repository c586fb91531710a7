"""What a group's network filter lets through on a real bridge, and what not.

The port that the filter holds is a veth's, as a guest's tap is a bridge's port; its other end says what a guest says.
"""

from __future__ import annotations

import os
import socket
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address

import libvirt
import pytest

from service.domain.isolation import EVERYBODY, EVERYBODY_6, LINK_LOCAL, Isolation
from service.drivers.libvirt.filter_rules import filter_xml
from tests.lab.fleet import Lab
from tests.lab.namespaces import Namespace
from tests.lab.requirements import program

pytestmark = pytest.mark.timeout(900)

GROUP = "a" * 32
NAME, UUID = "corral-rules", str(uuid.UUID(int=77))
OURS, OTHERS, FAKE = "52:54:0a:4d:03:01", "52:54:0a:4d:03:02", "52:54:66:66:66:66"
BROADCAST, BARRIER = "ff:ff:ff:ff:ff:ff", "52:54:00:00:00:ff"
MARK = b"\xa5" * 10
"""In each frame: by what stands there later it is known again. Within the packet, since what follows it is cut off."""
ARP, IPV4, IPV6, VLAN, EXPERIMENT = 0x0806, 0x0800, 0x86DD, 0x8100, 0x88B5
_PORTS = """
ip link add brx type bridge forward_delay 0 mcast_snooping 0
ip link set brx up
for name in ours else free; do
    ip link add "$name-p" type veth peer name "$name-m"
    for end in p m; do
        echo 1 > "/proc/sys/net/ipv6/conf/$name-$end/disable_ipv6"
        ip link set "$name-$end" up
    done
    ip link set "$name-p" master brx
done
"""


@dataclass(frozen=True)
class Family:
    """Addresses of one family: the guest's, those of its group, and others."""

    own: str
    fellow: str
    gateway: str
    lent: str
    stranger: str
    outside: str
    subnet: str
    everybody: tuple[str, ...]

    def isolation(self, *, routed: bool) -> Isolation:
        host = 128 if ":" in self.own else 32
        peers = (f"{a}/{host}" for a in (self.gateway, self.own, self.fellow, self.lent))
        closed = (self.subnet, *([LINK_LOCAL] if host == 128 else []))
        lent = ((OURS, self.lent, 8000),)
        return Isolation(GROUP, tuple(peers), closed, ((self.own, 8000),), routed, lent)


FOUR = Family("10.77.3.1", "10.77.3.2", "10.77.0.1", "10.77.3.5", "10.77.3.9", "192.0.2.7", "10.77.0.0/16", EVERYBODY)
SIX = Family(
    "fd77::3:1", "fd77::3:2", "fd77::1", "fd77::3:5", "fd77::3:9", "2001:db8::7", "fd77::/64", EVERYBODY_6
)  # fmt: skip
ROUTER, ALL, ASKED = "fe80::1", "ff02::1", "ff02::1:ff03:1"


@dataclass(frozen=True)
class Attempt:
    """A frame that the guest sends, or is sent. `passes`: where no way leads beyond the gateway; `routed`: where one
    does, None: the same."""

    what: str
    out: bool
    frame: bytes
    passes: bool
    routed: bool | None = None

    def expected(self, *, routed: bool) -> bool:
        return self.passes if self.routed is None or not routed else self.routed


def ethernet(kind: int, body: bytes, *, source: str, target: str) -> bytes:
    raw = (bytes.fromhex(mac.replace(":", "")) for mac in (target, source))
    return b"".join(raw) + struct.pack("!H", kind) + body


def arp(address: str, *, hardware: str = OURS) -> bytes:
    who = bytes.fromhex(hardware.replace(":", "")) + ip_address(address).packed
    return bytes.fromhex("0001080006040001") + who + bytes(6) + ip_address(FOUR.fellow).packed + bytes(18) + MARK


def tcp(port: int, to: int) -> bytes:
    return struct.pack("!HH", port, to) + bytes(16)


def icmp6(kind: int) -> bytes:
    return bytes([kind, 0, 0, 0]) + bytes(20)


def packet(source: str, target: str, body: bytes, protocol: int) -> tuple[int, bytes]:
    one, two = ip_address(source).packed, ip_address(target).packed
    body += MARK
    if len(one) == 16:
        return IPV6, struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + one + two + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0) + one + two
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return IPV4, head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:] + body


def sends(
    source: str, target: str, body: bytes, protocol: int = 6, *, out: bool = True, mac: str = "", to: str = ""
) -> bytes:
    kind, whole = packet(source, target, body, protocol)
    return ethernet(kind, whole, source=mac or (OURS if out else OTHERS), target=to or (OTHERS if out else OURS))


def both(f: Family) -> Iterator[Attempt]:
    """What is alike in both families."""
    own, any_port, served = f.own, tcp(9000, 9000), tcp(8000, 9000)
    yield Attempt("another hardware address", True, sends(own, f.fellow, any_port, mac=FAKE), False)
    yield Attempt("a fellow's address", True, sends(f.fellow, f.gateway, any_port), False)
    yield Attempt("an address of nobody", True, sends(f.outside, f.fellow, any_port), False)
    for name in ("fellow", "gateway", "lent", "own"):
        yield Attempt(f"to {name}", True, sends(own, getattr(f, name), any_port), True)
        yield Attempt(f"from {name}", False, sends(getattr(f, name), own, any_port, out=False), True)
    yield Attempt("to a stranger", True, sends(own, f.stranger, any_port), False)
    yield Attempt("from a stranger", False, sends(f.stranger, own, any_port, out=False), False)
    yield Attempt("an answer to a stranger", True, sends(own, f.stranger, served), True)
    yield Attempt("a stranger asks", False, sends(f.stranger, own, tcp(9000, 8000), out=False), True)
    yield Attempt("a stranger asks by UDP", False, sends(f.stranger, own, tcp(9000, 8000), 17, out=False), False)
    yield Attempt("to outside", True, sends(own, f.outside, any_port), False, routed=True)
    yield Attempt("from outside", False, sends(f.outside, own, any_port, out=False), False, routed=True)
    yield Attempt("for a fellow", False, sends(f.gateway, f.fellow, any_port, out=False), False)
    yield Attempt("an answer as the group", True, sends(f.lent, f.stranger, served), True)
    yield Attempt("as the group", True, sends(f.lent, f.fellow, any_port), False)
    yield Attempt("the group is asked", False, sends(f.stranger, f.lent, tcp(9000, 8000), out=False), True)
    yield Attempt("the group is asked at another port", False, sends(f.fellow, f.lent, any_port, out=False), False)
    for out, (one, two) in ((True, (OURS, OTHERS)), (False, (OTHERS, OURS))):
        yield Attempt("another protocol", out, ethernet(EXPERIMENT, bytes(46) + MARK, source=one, target=two), False)
        kind, whole = packet(*((own, f.fellow) if out else (f.fellow, own)), any_port, 6)
        tagged = struct.pack("!HH", 7, kind) + whole
        yield Attempt("a VLAN", out, ethernet(VLAN, tagged, source=one, target=two), False)


def attempts(f: Family) -> list[Attempt]:
    found = list(both(f))
    if f is FOUR:
        for what, body, passes in (
            ("as itself", arp(f.own), True),
            ("as nobody", arp("0.0.0.0"), True),
            ("as the group", arp(f.lent), True),
            ("as a stranger", arp(f.stranger), False),
            ("of another hardware address", arp(f.own, hardware=FAKE), False),
            ("as the group, of another hardware address", arp(f.lent, hardware=FAKE), False),
        ):
            found.append(Attempt(f"ARP {what}", True, ethernet(ARP, body, source=OURS, target=BROADCAST), passes))
        heard = ethernet(ARP, arp(f.stranger, hardware=OTHERS), source=OTHERS, target=BROADCAST)
        found.append(Attempt("a stranger's ARP", False, heard, True))
        found.append(Attempt("IPv6", True, sends(SIX.own, SIX.fellow, tcp(1, 2)), False))
        return found
    found.append(Attempt("IPv4", True, sends(FOUR.own, FOUR.fellow, tcp(1, 2)), False))
    found.append(Attempt("ARP", True, ethernet(ARP, arp(FOUR.own), source=OURS, target=BROADCAST), False))
    for what, source, target, kind, passes in (
        ("asks as itself", f.own, ASKED, 135, True),
        ("asks as nobody", "::", ASKED, 135, True),
        ("asks from the link's address", "fe80::7", ASKED, 135, True),
        ("asks as a fellow", f.fellow, ASKED, 135, False),
        ("says where it is", f.own, ROUTER, 136, True),
        ("says where the group is", f.lent, ALL, 136, True),
        ("says where a fellow is", f.fellow, ALL, 136, False),
        ("is a router", f.own, f.fellow, 134, False),
        ("is a router, from the link's address", "fe80::7", ALL, 134, False),
        ("redirects", f.own, f.fellow, 137, False),
        ("joins, as nobody", "::", "ff02::16", 143, True),
        ("joins, from the link's address", "fe80::7", "ff02::16", 143, True),
        ("joined of old, as nobody", "::", ASKED, 131, True),
        ("leaves, from the link's address", "fe80::7", "ff02::2", 132, True),
        ("pings another on the link", f.own, "fe80::9", 128, False),
        ("pings from the link's address", "fe80::7", ROUTER, 128, False),
    ):
        found.append(Attempt(f"it {what}", True, sends(source, target, icmp6(kind), 58), passes))
    for what, source, target, kind, passes in (
        ("asks", f.stranger, ASKED, 135, True),
        ("fellow says where it is", f.fellow, ALL, 136, True),
        ("gateway says where it is", f.gateway, ALL, 136, True),
        ("group's address is said to be there", f.lent, ALL, 136, True),
        ("own address is said to be there", f.own, ALL, 136, True),
        ("stranger says where it is", f.stranger, f.own, 136, False),
        ("one beyond the gateway says where it is", f.outside, f.own, 136, False),
        ("one on the link says where it is", "fe80::9", f.own, 136, False),
        ("gateway is a router", f.gateway, f.own, 134, False),
        ("gateway redirects", f.gateway, f.own, 137, False),
        ("switch asks who listens", ROUTER, ALL, 130, True),
        ("one on the link pings", ROUTER, f.own, 128, False),
    ):
        found.append(Attempt(f"another: {what}", False, sends(source, target, icmp6(kind), 58, out=False), passes))
    return found


class Bench:
    """The port, and both sides of it."""

    def __init__(self, namespace: Namespace, connection: libvirt.virConnect) -> None:
        self.connection = connection
        self._ours, self._else, self._free = (
            namespace.call(partial(self._open, name)) for name in ("ours", "else", "free")
        )

    @staticmethod
    def _open(name: str) -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        made.bind((f"{name}-m", 0))
        made.settimeout(60)
        return made

    def close(self) -> None:
        for one in (self._ours, self._else, self._free):
            one.close()

    def passed(self, tried: list[Attempt]) -> set[str]:
        """Which of them arrive. From one processor, so that what is sent last arrives last."""
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(allowed)})
        try:
            return self._passed(tried, out=True) | self._passed(tried, out=False)
        finally:
            os.sched_setaffinity(0, allowed)

    def _passed(self, tried: list[Attempt], *, out: bool) -> set[str]:
        sender, receiver = (self._ours, self._else) if out else (self._else, self._ours)
        token = os.urandom(8)
        for number, attempt in enumerate(tried):
            if attempt.out is out:
                sender.send(attempt.frame.replace(MARK, token + struct.pack("!H", number)))
        self._else.send(ethernet(EXPERIMENT, token, source=OTHERS, target=BARRIER).ljust(60, b"\0"))
        while self._free.recv(2048)[14:22] != token:
            pass
        found = set()
        receiver.setblocking(False)
        try:
            while True:
                frame, address = receiver.recvfrom(2048)
                at = frame.find(token)
                if at >= 0 and address[2] != socket.PACKET_OUTGOING:
                    found.add(tried[struct.unpack("!H", frame[at + 8 : at + 10])[0]].what)
        except BlockingIOError:
            return found
        finally:
            receiver.settimeout(60)


@pytest.fixture
def bench(lab: Lab) -> Iterator[Bench]:
    hypervisor = lab[0]
    hypervisor.namespace.run("sh", "-ec", _PORTS)
    connection = libvirt.open(hypervisor.uri)
    made = Bench(hypervisor.namespace, connection)
    yield made
    for binding in connection.listAllNWFilterBindings(0):
        if binding.portDev() == "ours-p":
            binding.delete()
    for one in connection.listAllNWFilters(0):
        if one.name() == NAME:
            one.undefine()
    connection.close()
    made.close()
    for name in ("ours-p", "else-p", "free-p", "brx"):
        hypervisor.namespace.run(program("ip"), "link", "del", name)


def hold(bench: Bench, family: Family, isolation: Isolation) -> None:
    """Puts the filter on the port."""
    bench.connection.nwfilterDefineXML(filter_xml(NAME, UUID, isolation))
    owner = f"<owner><name>rules</name><uuid>{UUID}</uuid></owner>"
    told = f"<filterref filter='{NAME}'><parameter name='IP' value='{family.own}'/></filterref>"
    xml = f"<filterbinding>{owner}<portdev name='ours-p'/><mac address='{OURS}'/>{told}</filterbinding>"
    bench.connection.nwfilterBindingCreateXML(xml, 0)


def wanted(tried: list[Attempt], *, routed: bool) -> set[str]:
    return {one.what for one in tried if one.expected(routed=routed)}


@pytest.mark.parametrize("family", [FOUR, SIX], ids=["ipv4", "ipv6"])
def test_a_guest_reaches_and_hears_its_group_and_speaks_as_itself(bench: Bench, family: Family) -> None:
    tried = attempts(family)
    assert len({one.what for one in tried}) == len([one for one in tried if one.what not in _TWICE]) + len(_TWICE)
    assert bench.passed(tried) == {one.what for one in tried}, "without a filter all of it is real"
    hold(bench, family, family.isolation(routed=False))
    assert bench.passed(tried) == wanted(tried, routed=False)
    bench.connection.nwfilterDefineXML(filter_xml(NAME, UUID, family.isolation(routed=True)))
    assert bench.passed(tried) == wanted(tried, routed=True)
    loose = replace(family.isolation(routed=False), peers=family.everybody, closed=())
    bench.connection.nwfilterDefineXML(filter_xml(NAME, UUID, loose))
    assert {"to a stranger", "from a stranger", "from outside"} <= bench.passed(tried)


_TWICE = {"another protocol", "a VLAN"}
