"""What the machines of a host stand on: the files behind their disks, whoever made them. Blocks; changes nothing."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import libvirt

from service.drivers.base import HostRejected
from service.drivers.libvirt.errors import GONE

_BOOTED = ("os/kernel", "os/initrd", "os/loader")


def stood_on(connection: Any) -> frozenset[str]:
    """Paths of all files that some machine boots from or has a disk on, or that a volume of a pool stands on.

    A machine that executes shows its whole chain; of one that does not, libvirt shows the first file, and the chain is
    that of volumes. Raises HostRejected `undecided` where such a file is in no pool: what it stands on nobody can tell.
    """
    behind = _behind_volumes(connection)
    found = {path for paths in behind.values() for path in paths}
    for domain in connection.listAllDomains():
        told = set(behind)
        try:
            # As it runs first: what that shows of a disk is known of its definition's too.
            for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE) if domain.isActive() else (0,):
                root = ElementTree.fromstring(domain.XMLDesc(flags))
                found.update(text for tag in _BOOTED if (text := root.findtext(tag)))
                for disk in root.findall("devices/disk"):
                    found.update(_chain(disk))
                    if disk.find("backingStore") is not None:
                        told.update(_chain(disk))
                    _check_told(root.findtext("name", ""), disk, told)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in GONE:
                raise
    return frozenset(found)


def _behind_volumes(connection: Any) -> dict[str, set[str]]:
    """Path of each volume of each active pool -> what it stands on."""
    found: dict[str, set[str]] = {}
    for pool in connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE):
        for volume in pool.listAllVolumes(0):
            try:
                root = ElementTree.fromstring(volume.XMLDesc(0))
            except libvirt.libvirtError as error:
                if error.get_error_code() in GONE:
                    continue
                raise
            path = root.findtext("target/path", "")
            found[path] = {text for element in root.iter("backingStore") if (text := element.findtext("path"))}
    return found


def _chain(disk: ElementTree.Element) -> set[str]:
    """The files that the definition names for the disk and for what is behind it."""
    return {path for source in disk.iter("source") if (path := source.get("file") or source.get("dev"))}


def _check_told(domain: str, disk: ElementTree.Element, told: set[str]) -> None:
    """Raises HostRejected where the disk may stand on something that nobody shows: it has a format for that, no chain,
    and is no volume of a pool."""
    driver, source = disk.find("driver"), disk.find("source")
    path = source.get("file") if source is not None else None
    if path is None or path in told or driver is None or driver.get("type", "raw") in ("raw", "iso", "luks"):
        return
    text = f"domain {domain}: the disk {path} is in no pool of the host"
    raise HostRejected("undecided", "what a machine of the host stands on cannot be told", text)
