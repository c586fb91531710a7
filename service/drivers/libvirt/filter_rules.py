"""The rules of a group's network filter. `out`: what a guest sends. What no rule accepts is dropped, VLANs too, and the
other family of addresses. What gets through is tried in `tests/integration/libvirt/test_filter_rules.py`.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from ipaddress import ip_network
from xml.etree.ElementTree import Element, SubElement

from service.domain.isolation import Isolation

# Types of ICMPv6 messages (RFC 4861, 2710 and 3810).
_SOLICITATION, _ADVERTISEMENT, _ROUTER, _REDIRECT = "135", "136", "134", "137"
_QUERY, _REPORT, _DONE, _REPORT_2 = "130", "131", "132", "143"
_LINK_LOCAL = {"srcipaddr": "fe80::", "srcipmask": "10"}


def filter_xml(name: str, own: str, isolation: Isolation) -> str:
    """The filter's definition."""
    root = Element("filter", name=name, chain="root")
    SubElement(root, "uuid").text = own
    _rule(root, "drop", "out", 100, "mac", match="no", srcmacaddr="$MAC", comment=f"corral {isolation.digest}")
    kind = "ipv6" if isolation.is_ipv6 else "ip"
    (_neighbours if isolation.is_ipv6 else _arp)(root, isolation)
    for mac, address, port in isolation.lent:
        # Whoever leads the group answers at its address beside the own one, at that port and not otherwise.
        ours = {"protocol": "tcp", "srcipaddr": address, "srcportstart": str(port)}
        _rule(root, "accept", "out", 250, kind, srcmacaddr=mac, **ours)
        theirs = {"protocol": "tcp", "dstipaddr": address, "dstportstart": str(port)}
        _rule(root, "accept", "in", 250, kind, dstmacaddr=mac, **theirs)
    _rule(root, "drop", "out", 300, kind, match="no", srcipaddr="$IP")
    _rule(root, "drop", "in", 300, kind, match="no", dstipaddr="$IP")
    for address, port in isolation.served:
        # Without a connection's state: what the port answers goes to whoever asked.
        _rule(root, "accept", "out", 400, kind, srcipaddr=address, protocol="tcp", srcportstart=str(port))
        _rule(root, "accept", "in", 400, kind, dstipaddr=address, protocol="tcp", dstportstart=str(port))
    _networks(root, "accept", 500, kind, isolation.peers)
    _networks(root, "drop", 600, kind, isolation.closed)
    if isolation.routed:
        _rule(root, "accept", "inout", 700, kind)
    _rule(root, "drop", "inout", 1000, "mac")
    return ElementTree.tostring(root, encoding="unicode")


def _arp(root: Element, isolation: Isolation) -> None:
    """It is heard from everybody, so that a second owner of a member's address is noticed, and is sent as from the
    guest's own addresses alone (0.0.0.0: the question who else has its address)."""
    for address in ("$IP", "0.0.0.0"):
        _rule(root, "accept", "out", 200, "arp", arpsrcmacaddr="$MAC", arpsrcipaddr=address)
    _rule(root, "accept", "in", 200, "arp")
    for mac, address, _ in isolation.lent:
        _rule(root, "accept", "out", 200, "arp", arpsrcmacaddr=mac, arpsrcipaddr=address)


def _neighbours(root: Element, isolation: Isolation) -> None:
    """As ARP: who has an address is asked by everybody, and said as from the guest's own addresses alone.

    Which address an advertisement is about no rule can see, so that it is heard from the group and its gateway alone,
    and no other group is told a lie. A gateway that believes one sends a neighbour's packets here, where they are
    dropped. Kernels ask from a link's own address (fe80::) whether a neighbour is still there. Routes are not
    learned, but planned.
    """
    for kind in (_ROUTER, _REDIRECT):
        _rule(root, "drop", "inout", 150, "ipv6", protocol="icmpv6", type=kind)
    for source in ({"srcipaddr": "$IP"}, {"srcipaddr": "::"}, _LINK_LOCAL):
        _rule(root, "accept", "out", 200, "ipv6", **source, protocol="icmpv6", type=_SOLICITATION)
    _rule(root, "accept", "in", 200, "ipv6", protocol="icmpv6", type=_SOLICITATION)
    _rule(root, "accept", "out", 200, "ipv6", srcipaddr="$IP", protocol="icmpv6", type=_ADVERTISEMENT)
    for mac, address, _ in isolation.lent:
        _rule(
            root, "accept", "out", 200, "ipv6", srcmacaddr=mac, srcipaddr=address,
            protocol="icmpv6", type=_ADVERTISEMENT,
        )  # fmt: skip
    for address, mask in map(_split, isolation.peers):
        _rule(
            root, "accept", "in", 200, "ipv6", srcipaddr=address, srcipmask=mask,
            protocol="icmpv6", type=_ADVERTISEMENT,
        )  # fmt: skip
    _rule(root, "drop", "in", 210, "ipv6", protocol="icmpv6", type=_ADVERTISEMENT)
    # By these a switch that forwards groups to their members alone knows where solicitations have to go.
    _rule(root, "accept", "in", 200, "ipv6", protocol="icmpv6", type=_QUERY)
    for source in ({"srcipaddr": "::"}, _LINK_LOCAL):
        _rule(root, "accept", "out", 200, "ipv6", **source, protocol="icmpv6", type=_REPORT, typeend=_DONE)
        _rule(root, "accept", "out", 200, "ipv6", **source, protocol="icmpv6", type=_REPORT_2)


def _networks(root: Element, action: str, priority: int, kind: str, networks: Iterable[str]) -> None:
    for address, mask in map(_split, networks):
        _rule(root, action, "out", priority, kind, dstipaddr=address, dstipmask=mask)
        _rule(root, action, "in", priority, kind, srcipaddr=address, srcipmask=mask)


def _split(text: str) -> tuple[str, str]:
    network = ip_network(text)
    return str(network.network_address), str(network.prefixlen)


def _rule(root: Element, action: str, direction: str, priority: int, kind: str, **matches: str) -> None:
    rule = SubElement(root, "rule", action=action, direction=direction, priority=str(priority))
    SubElement(rule, kind, matches)
