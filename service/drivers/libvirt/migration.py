"""Live moves between two libvirtds, peer to peer: the source's brings the move to its end whatever its client does.

Facts seen with libvirt 9.0 and QEMU 7.2: the arriving domain is paused (reason starting up, then migration) until the
source's is paused; a client that goes away changes nothing; a domain of that uuid and another name on the target is
refused (code 9) and a job that is aborted ends with code 78, both with the guest running on at its source.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import libvirt

from service.drivers.base import HostRejected, MachineIdentity, MachineSpec, NetworkInterface
from service.drivers.libvirt.addressing import Route
from service.drivers.libvirt.connection import Work
from service.drivers.libvirt.domain_xml import Boot, arriving_xml
from service.drivers.libvirt.errors import ALREADY, GONE, describe
from service.drivers.libvirt.inventory import Inventory, Seen
from service.drivers.libvirt.numa import Pinning
from service.drivers.libvirt.tags import Kind

# How long libvirt may take for a move; the caller gives it up earlier.
MOVE_SECONDS = 6 * 3600.0
POLL_SECONDS = 0.2

_FLAGS = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PEER2PEER
    | libvirt.VIR_MIGRATE_PERSIST_DEST
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    | libvirt.VIR_MIGRATE_AUTO_CONVERGE
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """What the target has ready for a machine."""

    route: Route
    boot: Boot
    interfaces: tuple[NetworkInterface, ...]
    pinning: Pinning | None = None
    network_filter: str = ""


def movable(spec: MachineSpec) -> bool:
    """Whether all that the machine needs can be made on another host: it has no disk of its own, no device of the
    host's, and a network that is the same there."""
    image = spec.image
    has_disk = bool(image.disk_path or spec.root_disk_bytes or spec.data_disks or image.delivery == "nocloud")
    has_device = any(name not in ("vcpu", "memory") for name in spec.resources)
    return (
        bool(image.kernel_path)
        and not has_disk
        and not has_device
        and all(interface.kind in ("bridge", "none") for interface in spec.interfaces)
    )


def migrate(
    work: Work,
    connection: Any,
    inventory: Inventory,
    cluster: str,
    identity: MachineIdentity,
    arrival: Arrival,
    given_up: threading.Event,
) -> None:
    """Move the machine; returns when it has left, or when a move that went on already has ended, either way.

    `given_up`: nothing may begin any more. Raises HostRejected where it was refused or broke off.
    """
    seen = _machine(connection, inventory, cluster, identity)
    if seen is None or not seen.active:
        raise HostRejected("absent", "the machine does not run on the host")
    if _moves(seen.domain):
        _wait(work, seen.domain)
        return
    if seen.state != libvirt.VIR_DOMAIN_RUNNING:
        raise HostRejected("bad_request", "the machine does not run")
    xml = seen.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE)
    there = arriving_xml(xml, arrival.boot, arrival.interfaces, arrival.pinning, arrival.network_filter)
    parameters = {libvirt.VIR_MIGRATE_PARAM_DEST_XML: there, libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: there}
    flags = _FLAGS
    if arrival.route.stream_uri:
        parameters[libvirt.VIR_MIGRATE_PARAM_URI] = arrival.route.stream_uri
    else:
        flags |= libvirt.VIR_MIGRATE_TUNNELLED
    work.check()
    if given_up.is_set():
        raise HostRejected("aborted", "the move was given up before it began")
    try:
        seen.domain.migrateToURI3(arrival.route.uri, parameters, flags)
    except libvirt.libvirtError as error:
        if not connection.isAlive():
            raise
        # Trouble between the two libvirtds comes with the same codes as trouble on our own connection.
        raise HostRejected("refused", "the hypervisors refused it or broke it off", describe(error)) from error


def abort(connection: Any, inventory: Inventory, cluster: str, identity: MachineIdentity) -> None:
    """End the move that goes on, if any."""
    seen = _machine(connection, inventory, cluster, identity)
    if seen is None or not seen.active or not _moves(seen.domain):
        return
    try:
        seen.domain.abortJob()
    except libvirt.libvirtError as error:
        if error.get_error_code() not in ALREADY | GONE:
            raise  # either way `ended` looks whether it has


def ended(connection: Any, inventory: Inventory, cluster: str, identity: MachineIdentity) -> bool:
    """Whether no move of the machine goes on."""
    seen = _machine(connection, inventory, cluster, identity)
    return seen is None or not seen.active or not _moves(seen.domain)


def _machine(connection: Any, inventory: Inventory, cluster: str, identity: MachineIdentity) -> Seen | None:
    seen = inventory.find(connection, identity)
    tag = None if seen is None else seen.record.machine_of(cluster)
    return seen if tag is not None and tag.kind is Kind.MACHINE and tag.identity == identity else None


def _moves(domain: Any) -> bool:
    try:
        statistics = domain.jobStats(0)
    except libvirt.libvirtError as error:
        if error.get_error_code() in GONE | ALREADY:
            return False
        raise
    if statistics.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE:
        return False
    return bool(statistics.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT)


def _wait(work: Work, domain: Any) -> None:
    while _moves(domain):
        work.pause(POLL_SECONDS)
