"""What a zone says of how its hosts are reached, where they say nothing themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from service.domain.fleet import Host, HostAddress, Zone
from service.errors import FieldViolation

_OF_ZONE: Mapping[str, tuple[str, ...]] = {"redfish": ("seed_url", "report_url")}
"""Driver -> options of its hosts that are fields of a zone too."""


def reached(host: Host, zone: Zone | None) -> Host:
    """The host with its zone's word for what its options leave out."""
    said = {} if zone is None else {n: getattr(zone, n) for n in _OF_ZONE.get(host.address.driver, ())}
    told = {name: value for name, value in said.items() if value}
    if not told:
        return host
    return replace(host, address=replace(host.address, options={**told, **host.address.options}))


def needs_url(address: HostAddress) -> bool:
    """Whether the host relies on its zone to say where the listener for machines is."""
    return address.driver == "redfish" and not address.options.get("seed_url")


def violations(address: HostAddress, seed_url: str) -> Iterator[FieldViolation]:
    """What is missing where the zone says `seed_url`."""
    if needs_url(address) and not seed_url:
        yield FieldViolation("options", "must name seed_url, unless the zone does")
