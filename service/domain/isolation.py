"""Who may be talked with by a group's members: each other, the gateway, and who asks at their urls. Pure.

A host that can keeps its guests to that, whatever they try (`service/drivers/libvirt/filters.py`). A member sends from
its own planned address and hardware address alone. What is in no zone's subnet is beyond the gateway, whose matter it
is; what is in one, and no member of the group's, is nobody whom a member may reach or hear. A zone is of one family of
addresses, and its members speak no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

from service.domain.fleet import Zone
from service.domain.groups import Group, Instance, InstanceStatus
from service.domain.network import Network, is_planned

NWFILTER = "nwfilter"
"""What a host says that keeps groups to themselves: libvirt's network filters."""
EVERYBODY = ("0.0.0.0/1", "128.0.0.0/1")
"""All addresses, as peers; EVERYBODY_6: of IPv6."""
EVERYBODY_6 = ("::/1", "8000::/1")
LINK_LOCAL = "fe80::/10"
"""Addresses of a link's own, which are in no zone's subnet, and not beyond a gateway either."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """What holds for a group's members in one zone. Networks in CIDR notation, sorted, none within another.

    `peers`: of the group, its gateway and what the operator lets everybody reach; `closed`: of the zones, where nobody
    else may be reached or heard; `served`: (address, port) at which members answer whoever asks; `routed`: whether
    there is a gateway to what is in no zone; `lent`: (mac, address, port) of members that may answer at the group's own
    address beside theirs.
    """

    group: str
    peers: tuple[str, ...]
    closed: tuple[str, ...]
    served: tuple[tuple[str, int], ...] = ()
    routed: bool = False
    lent: tuple[tuple[str, str, int], ...] = ()

    @property
    def is_ipv6(self) -> bool:
        """Of which family the members' addresses are."""
        return any(":" in network for network in self.peers)

    @property
    def digest(self) -> str:
        """Another one for other contents, 32 hexadecimal digits."""
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class GroupFilter:
    """What a host has in place for a group of ours. `used`: a machine there is attached by it."""

    group: str
    digest: str
    used: bool


def isolates(network: Network) -> bool:
    """Whether members of a zone with this network are kept to their groups where their hosts can: by addresses that are
    planned."""
    return network.isolation != "off" and network.plans_addresses


def let_loose(group: str, network: Network) -> Isolation:
    """What holds nobody, for those who run with a filter where none is to hold them any more."""
    return Isolation(group, EVERYBODY_6 if ":" in network.subnet else EVERYBODY, ())


def isolation_of(group: Group, zone: Zone, zones: Mapping[str, Zone]) -> Isolation | None:
    """What holds for the group's members in the zone, those of both gangs where there are two: a host may have some of
    each. None where nothing is held to."""
    if not isolates(zone.network):
        return None
    six = ":" in zone.network.subnet
    fellows = (*group.instances, *group.others)
    members = [m for m in fellows if m.status is not InstanceStatus.REMOVED and _addressed(m, six)]
    own = group.endpoint
    lent = own is not None and own.zone_uuid == zone.uuid
    heads = [m for m in members if lent and m.rank == 0 and own is not None and m.address != own.address]
    reached = (
        [m.address for m in members]
        + [own.address for _ in heads if own is not None]
        + [zone.network.gateway, *zone.network.reachable]
    )
    subnets = [one.network.subnet for one in zones.values() if one.network.subnet]
    return Isolation(
        group.uuid,
        _networks(tuple(text for text in reached if text and (":" in text) is six)),
        _networks(tuple(text for text in (*subnets, LINK_LOCAL) if (":" in text) is six)),
        tuple(sorted((m.address, m.service_port) for m in members if m.service_port)),
        routed=bool(zone.network.gateway),
        lent=tuple(sorted((m.mac, own.address, m.service_port) for m in heads if own is not None and m.service_port)),
    )


def _addressed(member: Instance, six: bool) -> bool:
    return (":" in member.address) is six and is_planned(member.address, member.mac, member.uuid)


@lru_cache(maxsize=1024)
def _networks(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Kept, since each member of a group asks with the same ones."""
    found = [ip_network(text, strict=False) for text in texts]
    four = collapse_addresses(n for n in found if isinstance(n, IPv4Network))
    six = collapse_addresses(n for n in found if isinstance(n, IPv6Network))
    return tuple(str(network) for network in (*four, *six))
