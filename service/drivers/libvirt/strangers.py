"""Addresses that somebody on a host has who is not ours: leases of its DHCP, and what its other domains have."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import Any

import libvirt

from service.domain.network import DOMAIN, LEASE, ForeignAddress
from service.drivers.libvirt.errors import GONE, connection_lost, describe
from service.drivers.libvirt.inventory import Seen

_log = logging.getLogger(__name__)

EVERY_SECONDS = 30.0
MOST = 10_000


class Strangers:
    """What was read last of one host. Safe to use from any thread."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._read: tuple[float, tuple[ForeignAddress, ...]] | None = None

    def read(self, connection: Any, seen: Iterable[Seen]) -> tuple[ForeignAddress, ...]:
        """Sorted, one for each address; read anew after EVERY_SECONDS."""
        with self._lock:
            if self._read is not None and time.monotonic() - self._read[0] < EVERY_SECONDS:
                return self._read[1]
        domains = list(seen)
        ours = {
            address
            for one in domains
            if one.record.machine_of(self._cluster) is not None
            for address in one.record.hardware_addresses
        }
        others = [one for one in domains if one.record.tag is None or one.record.tag.identity.cluster != self._cluster]
        found: dict[str, ForeignAddress] = {}
        for one in (*_leases(connection), *_of_domains(others)):
            if one.hardware_address not in ours and len(found) < MOST:
                found.setdefault(one.address, one)
        told = tuple(found[address] for address in sorted(found))
        with self._lock:
            self._read = (time.monotonic(), told)
        return told


def _leases(connection: Any) -> Iterator[ForeignAddress]:
    """Of every network of the host that gives some."""
    for network in _asked(lambda: connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE)):
        for lease in _asked(network.DHCPLeases):
            yield from _plain(lease.get("ipaddr"), lease.get("mac"), LEASE)


def _of_domains(others: Iterable[Seen]) -> Iterator[ForeignAddress]:
    for seen in others:
        if not seen.record.hardware_addresses:
            continue
        for address in seen.record.addresses:
            yield from _plain(address, seen.record.hardware_addresses[0], DOMAIN)
        if seen.active and not seen.starting:
            yield from _heard(seen.domain)


def _heard(domain: Any) -> Iterator[ForeignAddress]:
    """What the host has heard by ARP from a domain's interfaces; some kernels do not tell libvirt."""
    for interface in _asked(lambda: domain.interfaceAddresses(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP).values()):
        for one in interface.get("addrs") or ():
            yield from _plain(one.get("addr"), interface.get("hwaddr"), DOMAIN)


def _plain(address: Any, hardware_address: Any, how: str) -> Iterator[ForeignAddress]:
    try:
        plain = str(ip_address(str(address)))
    except ValueError:
        return
    yield ForeignAddress(plain, str(hardware_address or "").lower(), how)


def _asked(call: Any) -> Iterable[Any]:
    """What a call gives, which not every network, domain or hypervisor answers."""
    try:
        return list(call())
    except libvirt.libvirtError as error:
        if connection_lost(error):
            raise
        if error.get_error_code() not in GONE:
            _log.debug("addresses of others: %s", describe(error))
        return ()
