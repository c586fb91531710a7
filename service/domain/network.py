"""Networks of zones, and the mac address that belongs to an IP address. Pure data.

Stored as JSON under these very field names: a field is renamed or removed only with a migration (ARCHITECTURE, "Stored
JSON"); classes may move.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address


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


def mac_address(address: str, instance_uuid: str) -> str:
    """Locally administered; made of the address where there is one, because a reused address with a new mac costs
    neighbours 25 to 35 s of stale ARP (measured)."""
    low = int(ip_address(address)) & 0xFFFFFFFF if address else int(instance_uuid[:8], 16)
    first = 0x52 if address else 0x56
    octets = (first, 0x54, *low.to_bytes(4, "big"))
    return ":".join(f"{octet:02x}" for octet in octets)
