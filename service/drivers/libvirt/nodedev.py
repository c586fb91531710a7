"""A host's PCI functions, as libvirt's node devices tell them, and which of them a machine really has."""

from __future__ import annotations

import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import libvirt

from service.domain.devices import HeldDevice, PciFunction
from service.drivers.base import HostRejected
from service.drivers.libvirt import pci_address
from service.drivers.libvirt.errors import GONE
from service.drivers.libvirt.inventory import Seen

REREAD_SECONDS = 30.0
"""How old what is read of a function may be that no machine has; of others it is read at each look."""
_VFIO = "vfio"
_PCI = "pci_"
_UNTOLD = frozenset({libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_NO_CONNECT})


class NodeDevices:
    """The functions of one host, each read when it is new, old, or had by a machine. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, PciFunction] = {}
        self._read_at = 0.0

    def changed(self, name: str) -> bool:
        """Whether the node device that libvirt told of is a PCI function; it is read anew at the next look."""
        with self._lock:
            self._known.pop(name, None)
        return name.startswith(_PCI)

    def read(self, connection: Any, domains: Sequence[Seen], foreign: Iterable[str]) -> tuple[PciFunction, ...] | None:
        """All PCI functions by address; None where this libvirt tells none. `domains`: all of the host; `foreign`: the
        addresses that those have which are not ours.

        One that was pulled from under a machine is left out, though libvirt lists it until that machine has ended.
        """
        try:
            listed = connection.listAllDevices(libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_PCI_DEV)
        except libvirt.libvirtError as error:
            if error.get_error_code() in _UNTOLD:
                return None
            raise
        now = time.monotonic()
        with self._lock:
            if now - self._read_at >= REREAD_SECONDS:
                self._known, self._read_at = {}, now
            known = dict(self._known)
        had = {name_of(address): one for one in domains if one.active for address in one.record.devices}
        found: dict[str, PciFunction] = {}
        for device in listed:
            name = device.name()
            function = known.get(name) if name not in had else None
            function = function or _read(device)
            if function is not None and not (name in had and _pulled(connection, function, had[name])):
                found[name] = function
        with self._lock:
            self._known = found
        taken = frozenset(foreign)
        functions = (replace(f, foreign=f.address in taken) for f in found.values())
        return tuple(sorted(functions, key=lambda f: f.address))


def _pulled(connection: Any, function: PciFunction, of: Seen) -> bool:
    """Whether the function, as it was read after its machine, is that machine's no more. While that starts it has it
    not yet; once it has ended its driver is another one again."""
    if _VFIO in function.driver or of.starting or not _binds(connection):
        return False
    try:
        return bool(of.domain.isActive())
    except libvirt.libvirtError as error:
        if error.get_error_code() not in GONE:
            raise
        return False


def _binds(connection: Any) -> bool:
    """Whether VFIO's driver has what a machine has: libvirt's test driver gives nothing away, and binds no driver."""
    return bool(connection.getType().lower() != "test")


def _read(device: Any) -> PciFunction | None:
    """One function; None where it is gone meanwhile."""
    try:
        return function_of(device.XMLDesc(0))
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_NODE_DEVICE:
            raise
        return None


def name_of(address: str) -> str:
    """What libvirt calls the function at this address."""
    return _PCI + address.replace(":", "_").replace(".", "_")


def function_of(xml: str) -> PciFunction | None:
    """From a node device's XML; None for what is no PCI function."""
    root = ElementTree.fromstring(xml)
    pci = root.find("capability[@type='pci']")
    if pci is None:
        return None
    group, numa, physical = (
        pci.find("iommuGroup"),
        pci.find("numa"),
        pci.find("capability[@type='phys_function']/address"),
    )
    numbers = [int(pci.findtext(part, "0"), 0) for part in ("domain", "bus", "slot", "function")]
    return PciFunction(
        address=pci_address.text(*numbers),
        vendor=_digits(pci.find("vendor"), 4),
        product=_digits(pci.find("product"), 4),
        device_class=pci.findtext("class", "").removeprefix("0x").rjust(6, "0"),
        group=None if group is None else int(group.get("number", "0")),
        cell=None if numa is None else int(numa.get("node", "0")),
        driver=root.findtext("driver/name", ""),
        virtual_of="" if physical is None else pci_address.address_of(physical),
    )


def _digits(element: ElementTree.Element | None, length: int) -> str:
    return "" if element is None else element.get("id", "").removeprefix("0x").rjust(length, "0")


def really_had(connection: Any, addresses: Iterable[str]) -> tuple[str, ...]:
    """Those of an executing machine's functions that it has indeed. One that is pulled out stays in its XML for as long
    as it runs; the only sign is that VFIO's driver has it no more."""
    had = []
    for address in addresses:
        function = _look_up(connection, address)
        if function is not None and _VFIO in function.driver:
            had.append(address)
    return tuple(had)


def had_by(connection: Any, seen: Seen) -> tuple[str, ...]:
    """The host's functions that the domain has."""
    told = seen.record.devices
    if not told or not seen.active or seen.starting or not _binds(connection):
        return told
    return really_had(connection, told)


def check(connection: Any, devices: Iterable[HeldDevice]) -> None:
    """See that the functions are there and are what was claimed. Raises HostRejected `device_gone`."""
    for wanted in (function for device in devices for function in device.functions):
        found = _look_up(connection, wanted.address)
        if found is None:
            raise HostRejected("device_gone", "the host has a claimed device no more", wanted.address)
        if f"{found.vendor}:{found.product}" != wanted.ids:
            detail = f"{wanted.address} is {found.vendor}:{found.product}, and was {wanted.ids}"
            raise HostRejected("device_gone", "the host has another device in place of a claimed one", detail)


def _look_up(connection: Any, address: str) -> PciFunction | None:
    try:
        device = connection.nodeDeviceLookupByName(name_of(address))
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_NODE_DEVICE:
            raise
        return None
    return _read(device)
