"""Networks of zones, what is wrong with them, and the mac address that belongs to an IP address. Pure.

The configuration file and the API hold a zone's network to the same rules: `network_of` and `clashes`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from service.errors import FieldViolation

KINDS = ("bridge", "network", "user", "none")
ISOLATIONS = ("auto", "off")
"""Whether groups are kept to themselves: where a host can, or nowhere."""
MOST_POOLS = 64
MOST_REACHABLE = 64

_Address = IPv4Address | IPv6Address
_Subnet = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Network:
    """Where a zone's guests are attached. `kind`: bridge | network | user | none; `source`: bridge or network name.

    With `subnet` (CIDR) every instance gets a static address of one of the pools, planned before boot; without it
    guests ask DHCP and report what they got. The first pool is `first_address`..`last_address`; `more_pools`: others.
    `isolation`: see ISOLATIONS; `reachable`: networks (CIDR) that members may reach beside their group and the gateway.
    """

    kind: str = "none"
    source: str = ""
    subnet: str = ""
    gateway: str = ""
    first_address: str = ""
    last_address: str = ""
    more_pools: tuple[tuple[str, str], ...] = ()
    isolation: str = "auto"
    reachable: tuple[str, ...] = ()

    @property
    def pools(self) -> tuple[tuple[str, str], ...]:
        """First and last address of each pool, in the order in which they are given out."""
        return ((self.first_address, self.last_address), *self.more_pools) if self.first_address else ()

    @property
    def plans_addresses(self) -> bool:
        """Whether members get static addresses of the pool, known before they boot."""
        return bool(self.subnet and self.first_address)


@dataclass(frozen=True, slots=True)
class NetworkWish:
    """A zone's network as its operator writes it. `pool`: "first-last", empty for all of the subnet but the gateway, or
    for `pools`, where there are several. `isolation`: empty for the default."""

    kind: str = "none"
    source: str = ""
    subnet: str = ""
    gateway: str = ""
    pool: str = ""
    pools: tuple[str, ...] = ()
    isolation: str = ""
    reachable: tuple[str, ...] = ()


def network_of(wish: NetworkWish) -> tuple[Network, tuple[FieldViolation, ...]]:
    """The network that is wished for, and what is wrong with it; with anything wrong it is an empty one."""
    wrong = tuple(_attachment_violations(wish))
    if wrong or not wish.subnet:
        return Network() if wrong else Network(wish.kind, wish.source, isolation=wish.isolation or "auto"), wrong
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
    bounds: list[tuple[_Address, _Address]] = []
    for field, text in [(f"pools[{i}]", text) for i, text in enumerate(wish.pools)] or [("pool", wish.pool)]:
        found = _pool(text, subnet, gateway) if text or field == "pool" else None
        if found is None:
            return Network(), (FieldViolation(field, f'must be "first-last" inside {subnet}, not {text!r}'),)
        wrong = (*_subnet_violations(field, subnet, gateway, *found), *_overlaps(field, found, bounds))
        if wrong:
            return Network(), wrong
        bounds.append(found)
    first, *more = [(str(low), str(high)) for low, high in bounds]
    for index, text in enumerate(wish.reachable):
        if ip_network(text, strict=False).version != subnet.version:
            told = f"must be of IPv{subnet.version}, as subnet is, not {text}"
            return Network(), (FieldViolation(f"reachable[{index}]", told),)
    wishes = wish.isolation or "auto", tuple(str(ip_network(text, strict=False)) for text in wish.reachable)
    return Network(wish.kind, wish.source, wish.subnet, wish.gateway, *first, tuple(more), *wishes), ()


def _overlaps(
    field: str, pool: tuple[_Address, _Address], others: list[tuple[_Address, _Address]]
) -> Iterator[FieldViolation]:
    for low, high in others:
        if int(pool[0]) <= int(high) and int(low) <= int(pool[1]):
            yield FieldViolation(field, f"overlaps {low}-{high}, which is another pool of the zone")


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
    for name in ("gateway", "pool", "pools", "isolation", "reachable"):
        if getattr(wish, name) and not wish.subnet:
            yield FieldViolation(name, "must be empty where there is no subnet")
    if wish.pool and wish.pools:
        yield FieldViolation("pool", "must be empty where `pools` names them")
    yield from _wish_violations(wish)


def _wish_violations(wish: NetworkWish) -> Iterator[FieldViolation]:
    if wish.isolation and wish.isolation not in ISOLATIONS:
        yield FieldViolation("isolation", f"must be one of {', '.join(ISOLATIONS)}")
    for name, most in (("pools", MOST_POOLS), ("reachable", MOST_REACHABLE)):
        if len(getattr(wish, name)) > most:
            yield FieldViolation(name, f"must be at most {most}")
    for index, text in enumerate(wish.reachable):
        if not _is_network(text):
            yield FieldViolation(f"reachable[{index}]", "must be an IP address or network, such as 10.0.0.5/32")


def _is_network(text: str) -> bool:
    try:
        return bool(ip_network(text, strict=False))
    except ValueError:
        return False


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
    field: str, subnet: _Subnet, gateway: _Address | None, first: _Address, last: _Address
) -> Iterator[FieldViolation]:
    if gateway is not None and gateway not in subnet:
        yield FieldViolation("gateway", f"must be in {subnet}, not {gateway}")
    if gateway is not None and int(first) <= int(gateway) <= int(last):
        yield FieldViolation(field, f"must not hold the gateway {gateway}")
    if subnet.version == 4 and (first == subnet[0] or last == subnet[-1]):
        yield FieldViolation(field, f"must leave out {subnet[0]} and {subnet[-1]}, which no machine can have")


def clashes(one: Network, other: Network, name: str) -> Iterator[FieldViolation]:
    """What a network gives out that the network of zone `name` gives out or is reached by: no address is in two zones.

    Two members with one address would have one mac address too.
    """
    if not one.subnet or not other.subnet:
        return
    for low, high in other.pools:
        if any(in_pool(first, low, high) or in_pool(low, first, last) for first, last in one.pools):
            yield FieldViolation("pool", f"overlaps {low}-{high} of zone {name}")
            return
    if other.gateway and any(in_pool(other.gateway, *pool) for pool in one.pools):
        yield FieldViolation("pool", f"holds {other.gateway}, the gateway of zone {name}")
    for low, high in other.pools:
        if one.gateway and in_pool(one.gateway, low, high):
            yield FieldViolation("gateway", f"is in {low}-{high} of zone {name}")


@dataclass(frozen=True, slots=True)
class PoolUse:
    """A pool's addresses: how many members have, how many somebody else has, how many can be given out."""

    first: str
    last: str
    size: int
    held: int
    foreign: int

    @property
    def free(self) -> int:
        """What is left."""
        return self.size - self.held - self.foreign


LEASE, DOMAIN, ANSWER = "lease", "domain", "answer"
"""How an address is known to be somebody else's: a hypervisor's DHCP, a machine of its that is not ours, or what a
member's guest heard."""


@dataclass(frozen=True, slots=True)
class ForeignAddress:
    """An address that somebody has who is no member. `hardware_address`: empty where it is not known; `how`: LEASE,
    DOMAIN or ANSWER; `seen_by`: the host that told it, or the member whose guest heard it; `since`: ms."""

    address: str
    hardware_address: str
    how: str
    seen_by: str = ""
    since: int = 0


def pool_use(pool: tuple[str, str], held: Collection[str], foreign: Collection[str]) -> PoolUse:
    """Of a pool (first, last), where these addresses are taken in its zone."""
    low, high = pool
    size = number_of(high) - number_of(low) + 1
    return PoolUse(
        low, high, size, sum(in_pool(a, low, high) for a in held), sum(in_pool(a, low, high) for a in foreign)
    )


def size_of(network: Network) -> int:
    """How many addresses the network gives out."""
    return sum(number_of(high) - number_of(low) + 1 for low, high in network.pools)


def in_subnet(address: str, network: Network) -> bool:
    """Whether the address is one of the network's."""
    return bool(network.subnet) and ip_address(address) in ip_network(network.subnet)


def in_pools(address: str, network: Network) -> bool:
    """Whether the network gives the address out."""
    return any(in_pool(address, *pool) for pool in network.pools)


def in_pool(address: str, low: str, high: str) -> bool:
    """Whether the address is one of these, first and last with them."""
    return (":" in address) is (":" in low) and number_of(low) <= number_of(address) <= number_of(high)


@lru_cache(maxsize=1 << 17)
def number_of(address: str) -> int:
    """The address as a number, of whichever family. Kept, since to read one takes 3 us, and each deploy compares all
    that its zone has given out. Raises ValueError."""
    return int(ip_address(address))


@lru_cache(maxsize=1 << 15)
def mac_address(address: str, instance_uuid: str) -> str:
    """A locally administered mac address: the same for the same address, or where there is none for the same instance.

    An address that is used again with another mac is unreachable for its neighbours for 25 to 35 s (measured: their ARP
    entries are stale). Kept, since for each machine that is made those of its whole group are compared.
    """
    low = number_of(address) & 0xFFFFFFFF if address else int(instance_uuid[:8], 16)
    first = 0x52 if address else 0x56
    octets = (first, 0x54, *low.to_bytes(4, "big"))
    return ":".join(f"{octet:02x}" for octet in octets)


def is_planned(address: str, mac: str, instance_uuid: str) -> bool:
    """Whether the address was planned and is the member's own; otherwise its guest got it from somebody and told it."""
    return bool(address) and mac == mac_address(address, instance_uuid)
