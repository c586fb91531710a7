"""Networks of zones, what is wrong with them, and the mac address that belongs to an IP address. Pure.

The configuration file and the API hold a zone's network to the same rules: `network_of` and `clashes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from service.errors import FieldViolation

KINDS = ("bridge", "network", "user", "none")

_Address = IPv4Address | IPv6Address
_Subnet = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Network:
    """Where a zone's guests are attached. `kind`: bridge | network | user | none; `source`: bridge or network name.

    With `subnet` (CIDR) every instance gets a static address from `first_address`..`last_address`, planned before
    boot; without it guests ask DHCP and report what they got.
    """

    kind: str = "none"
    source: str = ""
    subnet: str = ""
    gateway: str = ""
    first_address: str = ""
    last_address: str = ""

    @property
    def plans_addresses(self) -> bool:
        """Whether members get static addresses of the pool, known before they boot."""
        return bool(self.subnet and self.first_address)


@dataclass(frozen=True, slots=True)
class NetworkWish:
    """A zone's network as its operator writes it. `pool`: "first-last", empty for all of the subnet but the gateway."""

    kind: str = "none"
    source: str = ""
    subnet: str = ""
    gateway: str = ""
    pool: str = ""


def network_of(wish: NetworkWish) -> tuple[Network, tuple[FieldViolation, ...]]:
    """The network that is wished for, and what is wrong with it; with anything wrong it is an empty one."""
    wrong = tuple(_attachment_violations(wish))
    if wrong or not wish.subnet:
        return Network() if wrong else Network(wish.kind, wish.source), wrong
    try:
        subnet = ip_network(wish.subnet)
    except ValueError:
        return Network(), (FieldViolation("subnet", "must be a network in CIDR notation, such as 10.0.0.0/24"),)
    try:
        gateway = ip_address(wish.gateway) if wish.gateway else None
    except ValueError:
        return Network(), (FieldViolation("gateway", "must be an IP address"),)
    if subnet.num_addresses < 4:
        return Network(), (FieldViolation("subnet", f"must have room for instances: {subnet} has none"),)
    bounds = _pool(wish.pool, subnet, gateway)
    if bounds is None:
        return Network(), (FieldViolation("pool", f'must be "first-last" inside {subnet}, not {wish.pool!r}'),)
    wrong = tuple(_subnet_violations(subnet, gateway, *bounds))
    if wrong:
        return Network(), wrong
    return Network(wish.kind, wish.source, wish.subnet, wish.gateway, str(bounds[0]), str(bounds[1])), ()


def _attachment_violations(wish: NetworkWish) -> Iterator[FieldViolation]:
    if wish.kind not in KINDS:
        yield FieldViolation("kind", f"must be one of {', '.join(KINDS)}")
        return
    attached = wish.kind in ("bridge", "network")
    if attached and not wish.source:
        yield FieldViolation("source", f"must be the name of a {wish.kind}")
    for name in ("source", "subnet"):
        if getattr(wish, name) and not attached:
            yield FieldViolation(name, f"must be empty for kind {wish.kind}")
    for name in ("gateway", "pool"):
        if getattr(wish, name) and not wish.subnet:
            yield FieldViolation(name, "must be empty where there is no subnet")


def _pool(text: str, subnet: _Subnet, gateway: _Address | None) -> tuple[_Address, _Address] | None:
    """First and last address that instances may get, or None for a text that is no part of the subnet."""
    if not text:
        start = 2 if gateway == subnet[1] else 1
        return subnet[start], subnet[-2] if subnet.version == 4 else subnet[-1]
    first, _, last = text.partition("-")
    try:
        bounds = ip_address(first.strip()), ip_address(last.strip())
    except ValueError:
        return None
    inside = bounds[0] in subnet and bounds[1] in subnet
    return bounds if inside and int(bounds[0]) <= int(bounds[1]) else None


def _subnet_violations(
    subnet: _Subnet, gateway: _Address | None, first: _Address, last: _Address
) -> Iterator[FieldViolation]:
    if gateway is not None and gateway not in subnet:
        yield FieldViolation("gateway", f"must be in {subnet}, not {gateway}")
    if gateway is not None and int(first) <= int(gateway) <= int(last):
        yield FieldViolation("pool", f"must not hold the gateway {gateway}")
    if subnet.version == 4 and (first == subnet[0] or last == subnet[-1]):
        yield FieldViolation("pool", f"must leave out {subnet[0]} and {subnet[-1]}, which no machine can have")


def clashes(one: Network, other: Network, name: str) -> Iterator[FieldViolation]:
    """What a network gives out that the network of zone `name` gives out or is reached by: no address is in two zones.

    Two members with one address would have one mac address too.
    """
    if not one.subnet or not other.subnet:
        return
    if _in(one.first_address, other) or _in(other.first_address, one):
        yield FieldViolation("pool", f"overlaps {other.first_address}-{other.last_address} of zone {name}")
        return
    if other.gateway and _in(other.gateway, one):
        yield FieldViolation("pool", f"holds {other.gateway}, the gateway of zone {name}")
    if one.gateway and _in(one.gateway, other):
        yield FieldViolation("gateway", f"is in {other.first_address}-{other.last_address} of zone {name}")


def _in(address: str, network: Network) -> bool:
    wanted, first, last = (ip_address(text) for text in (address, network.first_address, network.last_address))
    return wanted.version == first.version and int(first) <= int(wanted) <= int(last)


def mac_address(address: str, instance_uuid: str) -> str:
    """A locally administered mac address: the same for the same address, or where there is none for the same instance.

    An address that is used again with another mac is unreachable for its neighbours for 25 to 35 s (measured: their ARP
    entries are stale).
    """
    low = int(ip_address(address)) & 0xFFFFFFFF if address else int(instance_uuid[:8], 16)
    first = 0x52 if address else 0x56
    octets = (first, 0x54, *low.to_bytes(4, "big"))
    return ":".join(f"{octet:02x}" for octet in octets)


def is_planned(address: str, mac: str, instance_uuid: str) -> bool:
    """Whether the address was planned and is the member's own; otherwise its guest got it from somebody and told it."""
    return bool(address) and mac == mac_address(address, instance_uuid)
