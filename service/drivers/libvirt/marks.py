"""The owner's mark on a hypervisor: an inert domain, whose name alone can stand there once.

Not a volume: two installations may keep their volumes in different pools of one hypervisor, and would not see each
other's. libvirt refuses a second domain of the same name with another uuid, so of two owners that mark at the same
moment one is told (libvirt 9.0, code 9); a definition with the same uuid replaces the older one.
"""

from __future__ import annotations

import uuid
import xml.etree.ElementTree as ElementTree
from typing import Any
from xml.etree.ElementTree import Element, SubElement

import libvirt

from service.domain.ownership import OwnerMark
from service.drivers.base import HostRejected
from service.drivers.libvirt.connection import Work
from service.drivers.libvirt.errors import GONE, TAKEN, connection_lost
from service.drivers.libvirt.tags import NAMESPACE

NAME = "corral-owner"
_NAMESPACE = uuid.UUID("3d7c3c1e-40d5-5a56-8f27-7a0f3f0f6b11")
_ELEMENT = f"{{{NAMESPACE}}}owner"
_TRIES = 4


def hypervisor_uuid(connection: Any) -> str:
    """The host's own uuid as libvirt knows it (of its firmware, or of libvirtd.conf); empty where it has none."""
    return ElementTree.fromstring(connection.getCapabilities()).findtext("host/uuid", "")


def read(connection: Any) -> OwnerMark | None:
    """The mark that stands. Raises HostRejected where a domain of its name is none."""
    try:
        xml = connection.lookupByName(NAME).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    except libvirt.libvirtError as error:
        if error.get_error_code() in GONE:
            return None
        raise
    element = ElementTree.fromstring(xml).find(f"metadata/{_ELEMENT}")
    try:
        if element is None:
            raise ValueError(NAME)
        return OwnerMark(element.attrib["database"], element.attrib["host"], int(element.attrib["generation"]))
    except (KeyError, ValueError) as error:
        raise HostRejected("denied", f"the host has a domain {NAME} that is no owner's mark", xml) from error


def leave(connection: Any, work: Work, mark: OwnerMark, virt_type: str, *, take_over: bool) -> OwnerMark:
    """See HostDriver.leave_mark. A mark never goes back to a lower generation."""
    for _ in range(_TRIES):
        there = read(connection)
        if there is not None and there.database != mark.database:
            if not take_over:
                return there
            work.check()
            _take_away(connection)
        elif there is not None and there.host == mark.host and there.generation >= mark.generation:
            return there
        work.check()
        try:
            connection.defineXML(_xml(mark, virt_type))
        except libvirt.libvirtError as error:
            if error.get_error_code() not in TAKEN or connection_lost(error):
                raise
            continue  # another owner came in this moment: look again
        return mark
    raise HostRejected("denied", "another installation marks the host at the same time")


def clear(connection: Any, work: Work, mark: OwnerMark) -> None:
    """See HostDriver.clear_mark."""
    there = read(connection)
    if there is not None and (there.database, there.host) == (mark.database, mark.host):
        work.check()
        _take_away(connection)


def _take_away(connection: Any) -> None:
    try:
        connection.lookupByName(NAME).undefine()
    except libvirt.libvirtError as error:
        if error.get_error_code() not in GONE:
            raise


def _xml(mark: OwnerMark, virt_type: str) -> str:
    domain = Element("domain", type=virt_type)
    SubElement(domain, "name").text = NAME
    SubElement(domain, "uuid").text = str(uuid.uuid5(_NAMESPACE, mark.database))
    SubElement(domain, "description").text = "Whose this hypervisor is. Never runs. Do not remove it by hand."
    attributes = {"database": mark.database, "host": mark.host, "generation": str(mark.generation)}
    SubElement(SubElement(domain, "metadata"), _ELEMENT, attributes)
    SubElement(domain, "memory", unit="MiB").text = "1"
    SubElement(domain, "vcpu").text = "1"
    SubElement(SubElement(domain, "os"), "type").text = "hvm"
    return ElementTree.tostring(domain, encoding="unicode")
