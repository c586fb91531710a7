"""libvirt's network filters that keep a group to itself, one for each group and host.

A filter's uuid is made of the cluster and the group, and its name of the group and that uuid: what bears a group's name
and another uuid is not ours, and is never changed or removed. Machines refer to the filter by its name, and give it
their own address; a new definition of it holds at once for all that are attached by it.
"""

from __future__ import annotations

import re
import secrets
import uuid
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection
from typing import Any
from xml.etree.ElementTree import Element, SubElement

import libvirt

from service.domain.isolation import NWFILTER, GroupFilter, Isolation
from service.drivers.base import HostRejected, MachineSpec
from service.drivers.libvirt import probing
from service.drivers.libvirt.connection import Work
from service.drivers.libvirt.errors import TAKEN, connection_lost, describe
from service.drivers.libvirt.filter_rules import filter_xml
from service.drivers.libvirt.inventory import Inventory

PROBE = "corral-probe"
_NAMESPACE = uuid.UUID("6f0a1c52-8f7e-5a0b-9a53-5f5d0c6c3b1e")
_NAME = re.compile(r"corral-([A-Za-z0-9_-]{1,64})-([0-9a-f]{8})")
_DIGEST = re.compile(r"corral ([0-9a-f]{32})")
_IN_USE = libvirt.VIR_ERR_OPERATION_INVALID
_GONE = frozenset({libvirt.VIR_ERR_NO_NWFILTER})
# Its rules are those of a bridge's ports, which this device never is: nothing is held up by them.
_PROBE_PORT = "lo"


class Filters:
    """Those of one host. Safe to use from any thread."""

    def __init__(self, cluster: str, inventory: Inventory) -> None:
        self._cluster = cluster
        self._inventory = inventory
        self._found: tuple[str, str] | None = None

    def works(self, work: Work, connection: Any) -> str | None:
        """See `detect`. What was found out holds until the host starts again."""
        boot_id = probing.boot_id(connection, work)
        known = self._found
        if known is not None and known[0] == boot_id:
            return known[1]
        found = detect(connection, work)
        self._found = None if found is None else (boot_id, found)
        return found

    def hold(self, work: Work, connection: Any, spec: MachineSpec) -> str:
        """Have what holds the machine's group in place, and return its name; empty where nothing is to hold it, or
        nothing can."""
        # Where it was not found out whether one would, the attempt tells.
        if spec.isolation is None or self.works(work, connection) not in (NWFILTER, None):
            return ""
        set_filter(connection, work, self._cluster, spec.isolation)
        return filter_name(self._cluster, spec.isolation.group)

    def let_loose(self, work: Work, connection: Any, group: str) -> None:
        """Take away what holds the group's machines where there is none."""
        try:
            remove_filter(connection, work, self._cluster, group, self._used(connection))
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:  # it has none
                raise

    def list(self, connection: Any) -> tuple[GroupFilter, ...]:
        """Those of this cluster's groups."""
        return list_filters(connection, self._cluster, self._used(connection))

    def _used(self, connection: Any) -> frozenset[str]:
        """Names that domains of the host refer to, whoever made them."""
        return frozenset(name for seen in self._inventory.read_all(connection) for name in seen.record.filters)


def filter_uuid(cluster: str, group: str) -> str:
    """The uuid of a group's filter, the same on every host."""
    return str(uuid.uuid5(_NAMESPACE, f"{cluster}/{group}"))


def filter_name(cluster: str, group: str) -> str:
    """The name of a group's filter, the same on every host."""
    return f"corral-{group}-{filter_uuid(cluster, group)[:8]}"


def set_filter(connection: Any, work: Work, cluster: str, isolation: Isolation) -> None:
    """Have the group's filter say this. Raises HostRejected where its name or uuid is somebody else's."""
    name, wanted = filter_name(cluster, isolation.group), filter_uuid(cluster, isolation.group)
    there = _lookup(connection, wanted)
    if there is not None and _digest(there.XMLDesc(0)) == isolation.digest:
        return
    work.check()
    try:
        connection.nwfilterDefineXML(filter_xml(name, wanted, isolation))
    except libvirt.libvirtError as error:
        if error.get_error_code() in TAKEN and not connection_lost(error):
            said = f"the host has a network filter {name} that is not ours"
            raise HostRejected("denied", said, describe(error)) from error
        raise


def remove_filter(connection: Any, work: Work, cluster: str, group: str, used: Collection[str]) -> None:
    """Take the group's filter away, unless a domain has its name in its definition (`used`: all such names)."""
    if filter_name(cluster, group) in used:
        return
    there = _lookup(connection, filter_uuid(cluster, group))
    if there is None or there.name() != filter_name(cluster, group):
        return
    work.check()
    try:
        there.undefine()
    except libvirt.libvirtError as error:
        # In use: a machine has come meanwhile.
        if error.get_error_code() not in _GONE | {_IN_USE} or connection_lost(error):
            raise


def list_filters(connection: Any, cluster: str, used: Collection[str]) -> tuple[GroupFilter, ...]:
    """Those of this cluster's groups. `used`: names that domains have in their definitions."""
    found = []
    try:
        there = connection.listAllNWFilters(0)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            return ()
        raise
    for one in there:
        match = _NAME.fullmatch(one.name())
        if match is None or one.UUIDString() != filter_uuid(cluster, match[1]):
            continue
        try:
            digest = _digest(one.XMLDesc(0))
        except libvirt.libvirtError as error:
            if error.get_error_code() in _GONE:
                continue
            raise
        found.append(GroupFilter(match[1], digest, one.name() in used))
    return tuple(sorted(found, key=lambda f: f.group))


def detect(connection: Any, work: Work) -> str | None:
    """NWFILTER where filters hold on this host, else why they do not; None where that was not seen.

    A filter is set to a port and taken off again: that a libvirt knows filters does not say that its host has what they
    are made of.
    """
    if connection.getType().upper() == "TEST":
        return "libvirt's test driver has no network"
    name, own = f"{PROBE}-{secrets.token_hex(8)}", str(uuid.uuid4())
    try:
        _clear_probe(connection)
        work.check()
        made = connection.nwfilterDefineXML(filter_xml(name, own, Isolation(PROBE, ("192.0.2.1/32",), ())))
    except libvirt.libvirtError as error:
        if connection_lost(error):
            raise
        if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            return "its hypervisor has no network filters"
        return None
    try:
        connection.nwfilterBindingCreateXML(_binding_xml(name), 0).delete()
    except libvirt.libvirtError as error:
        if connection_lost(error):
            raise
        if error.get_error_code() in TAKEN:
            return None  # another process tries it in this moment
        return f"its network filters do not work: {_words(error)}"
    finally:
        _take_away(made)
    return NWFILTER


def _words(error: libvirt.libvirtError) -> str:
    return " ".join((error.get_error_message() or "").split())[:200]


def _clear_probe(connection: Any) -> None:
    """What a process that ended in the middle of its probe has left."""
    try:
        binding = connection.nwfilterBindingLookupByPortDev(_PROBE_PORT)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_NWFILTER_BINDING:
            raise
        return
    name = binding.filterName()
    if name.startswith(f"{PROBE}-"):
        binding.delete()
        there = next((f for f in connection.listAllNWFilters(0) if f.name() == name), None)
        if there is not None:
            _take_away(there)


def _take_away(there: Any) -> None:
    try:
        there.undefine()
    except libvirt.libvirtError as error:
        if error.get_error_code() not in _GONE | {_IN_USE} or connection_lost(error):
            raise


def _lookup(connection: Any, wanted: str) -> Any:
    try:
        return connection.nwfilterLookupByUUIDString(wanted)
    except libvirt.libvirtError as error:
        if error.get_error_code() in _GONE:
            return None
        raise


def _digest(xml: str) -> str:
    for element in ElementTree.fromstring(xml).iter():
        match = _DIGEST.fullmatch(element.get("comment", ""))
        if match is not None:
            return match[1]
    return ""


def _binding_xml(name: str) -> str:
    binding = Element("filterbinding")
    owner = SubElement(binding, "owner")
    SubElement(owner, "name").text = PROBE
    SubElement(owner, "uuid").text = str(uuid.uuid4())
    SubElement(binding, "portdev", name=_PROBE_PORT)
    SubElement(binding, "mac", address="52:54:c0:00:02:01")
    reference = SubElement(binding, "filterref", filter=name)
    SubElement(reference, "parameter", name="IP", value="192.0.2.1")
    return ElementTree.tostring(binding, encoding="unicode")
