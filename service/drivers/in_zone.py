"""What a zone says of how its hosts are reached, where they say nothing themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from service.domain.fleet import Host, HostAddress, Zone
from service.domain.network import Network
from service.errors import FieldViolation, InvalidArgument

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


def bridge_problem(bridge: str, network: Network) -> str:
    """What is wrong with a host's own bridge in a zone with this network; empty where machines are attached to one."""
    attached = network.kind in ("bridge", "network")
    return f"must be empty in a zone whose network is of kind {network.kind}" if bridge and not attached else ""


def require_bridge(bridge: str, network: Network) -> None:
    """Raises InvalidArgument (bridge) as `bridge_problem` says."""
    if wrong := bridge_problem(bridge, network):
        raise InvalidArgument.of("bridge", wrong)


def violations(address: HostAddress, seed_url: str) -> Iterator[FieldViolation]:
    """What is missing where the zone says `seed_url`."""
    if needs_url(address) and not seed_url:
        yield FieldViolation("options", "must name seed_url, unless the zone does")
