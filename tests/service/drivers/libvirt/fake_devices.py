"""PCI functions of a host in memory, with libvirt's own words when one cannot be given to a domain."""

from __future__ import annotations

import errno
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import libvirt

from tests.service.drivers.libvirt.fake_errors import error

if TYPE_CHECKING:
    from tests.service.drivers.libvirt.fake import FakeHost


@dataclass
class Function:
    """A PCI function's truth. `driver`: which has it now; `home`: which gets it back."""

    address: str
    ids: str = "10de:2330"
    device_class: str = "030200"
    group: int | None = 11
    cell: int | None = 0
    home: str = "nvidia"
    driver: str = "nvidia"
    physical: str = ""
    resets: bool = True

    def xml(self) -> str:
        """As `virsh nodedev-dumpxml` shows it."""
        vendor, product = self.ids.split(":")
        domain, bus, slot, function = (int(part, 16) for part in self.address.replace(".", ":").split(":"))
        parts = [f"<class>0x{self.device_class}</class>"]
        parts += [f"<domain>{domain}</domain><bus>{bus}</bus><slot>{slot}</slot><function>{function}</function>"]
        parts += [f"<product id='0x{product}'>H100</product><vendor id='0x{vendor}'>NVIDIA</vendor>"]
        if self.physical:
            parts.append(f"<capability type='phys_function'>{address_xml(self.physical)}</capability>")
        if self.group is not None:
            parts.append(f"<iommuGroup number='{self.group}'>{address_xml(self.address)}</iommuGroup>")
        if self.cell is not None:
            parts.append(f"<numa node='{self.cell}'/>")
        driver = f"<driver><name>{self.driver}</name></driver>" if self.driver else ""
        return f"<device><name>{self.name}</name>{driver}<capability type='pci'>{''.join(parts)}</capability></device>"

    @property
    def name(self) -> str:
        return "pci_" + self.address.replace(":", "_").replace(".", "_")


def address_xml(address: str) -> str:
    domain, bus, slot, function = address.replace(".", ":").split(":")
    return f"<address domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'/>"


class FakeNodeDevice:
    """A virNodeDevice: a handle, which may point at a device that is gone."""

    def __init__(self, host: FakeHost, name: str) -> None:
        self._host, self._name = host, name

    def name(self) -> str:
        return self._name

    def XMLDesc(self, _flags: int = 0) -> str:  # noqa: N802
        def read() -> str:
            return found(self._host, self._name).xml()

        return self._host.step("deviceXML", read)  # type: ignore[no-any-return]


class Devices:
    """What a connection tells of its host's functions."""

    host: FakeHost
    _on_device: Callable[..., None] | None = None

    def listAllDevices(self, flags: int) -> list[FakeNodeDevice]:  # noqa: N802
        assert flags == libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_PCI_DEV
        names = [function.name for function in self.host.functions.values()]
        return self.host.step("devices", lambda: [FakeNodeDevice(self.host, name) for name in names])  # type: ignore[no-any-return]

    def nodeDeviceLookupByName(self, name: str) -> FakeNodeDevice:  # noqa: N802
        def look() -> FakeNodeDevice:
            return FakeNodeDevice(self.host, found(self.host, name).name)

        return self.host.step("deviceLookup", look)  # type: ignore[no-any-return]

    def nodeDeviceEventRegisterAny(self, _device: Any, event: int, callback: Callable[..., None], _opaque: Any) -> int:  # noqa: N802
        assert event == libvirt.VIR_NODE_DEVICE_EVENT_ID_LIFECYCLE

        def register() -> int:
            self._on_device = callback
            return event

        return self.host.step("listenDevices", register)  # type: ignore[no-any-return]

    def nodeDeviceEventDeregisterAny(self, _event: int) -> int:  # noqa: N802
        self._on_device = None
        return 0

    def tell_of(self, name: str) -> None:
        """libvirt tells that a node device came or went."""
        assert self._on_device is not None
        self._on_device(self, FakeNodeDevice(self.host, name), libvirt.VIR_NODE_DEVICE_EVENT_CREATED, 0, None)


def found(host: FakeHost, name: str) -> Function:
    for function in host.functions.values():
        if function.name == name:
            return function
    raise error(libvirt.VIR_ERR_NO_NODE_DEVICE, libvirt.VIR_FROM_NODEDEV, f"no node device with matching name '{name}'")


def addresses_of(xml: str) -> list[str]:
    """Of the functions that a domain is given."""
    given = []
    for element in ElementTree.fromstring(xml).findall("devices/hostdev[@type='pci']/source/address"):
        domain, bus, slot, function = (int(element.attrib[k], 0) for k in ("domain", "bus", "slot", "function"))
        given.append(f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}")
    return given


def give(host: FakeHost, machine_uuid: str, xml: str) -> None:
    """Bind a starting domain's functions to VFIO, or refuse as libvirt 9.0 does."""
    given = addresses_of(xml)
    owners = _owners(host, machine_uuid)
    for address in given:
        function = host.functions.get(address)
        if function is None:
            path = f"/sys/bus/pci/devices/{address}/config"
            text = f"Device {address} not found: could not access {path}: No such file or directory"
            raise error(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_NONE, text, errno.ENOENT)
        group = [f for f in host.functions.values() if f.group == function.group]
        for fellow in group:
            if fellow.address in owners:
                text = (
                    f"Requested operation is not valid: PCI device {fellow.address} is in use by driver QEMU, "
                    f"domain {owners[fellow.address]}"
                )
                raise error(libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_FROM_NONE, text)
            if fellow.address not in given and fellow.driver not in ("", "pcieport", "vfio-pci"):
                text = f"internal error: qemu unexpectedly closed the monitor: group {function.group} is not viable"
                raise error(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_QEMU, text)
        if not function.resets:
            text = f"internal error: Unable to reset PCI device {address}: no FLR, PM reset or bus reset available"
            raise error(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_NONE, text)
    for address in given:
        host.functions[address].driver = "vfio-pci"


def take_back(host: FakeHost, xml: str) -> None:
    """Give a domain's functions back to their drivers."""
    for address in addresses_of(xml):
        if address in host.functions:
            host.functions[address].driver = host.functions[address].home


def _owners(host: FakeHost, but: str) -> Mapping[str, str]:
    running = [d for d in host.domains.values() if d.active and d.uuid != but]
    return {address: domain.name for domain in running for address in addresses_of(domain.xml)}
