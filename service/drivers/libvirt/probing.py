"""What a host is: its size, since when it is up, and whether hardware virtualisation really works there."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import Any
from xml.etree.ElementTree import Element, SubElement

import libvirt

from service.drivers.base import HostRejected, MachineIdentity, OutcomeUnknown
from service.drivers.libvirt.connection import Work
from service.drivers.libvirt.domain_xml import Platform, probe_xml
from service.drivers.libvirt.errors import ALREADY, GONE, describe, translate
from service.drivers.libvirt.numa import amounts, cells_of, for_machines, huge_page_bytes
from service.drivers.libvirt.storage import Storage
from service.drivers.libvirt.tags import volume_name
from service.drivers.libvirt.volumes import unless

_log = logging.getLogger(__name__)

MARKER = "corral-boot-id"
# Firmware takes a fraction of a second where KVM works, and for ever where it does not.
PROBE_SECONDS = 6.0
PROBE_TRIES = 2
_NOT_OF_KVM = frozenset({"no_memory", "no_space", "missing_image", "absent"})
"""Causes for which no guest could be created, whatever runs it: they say nothing of KVM."""

# mov al, 0xfe; out 0x64, al: the keyboard controller's reset line. Then halt, and the mark of a boot sector.
RESET_SECTOR = bytes([0xB0, 0xFE, 0xE6, 0x64, 0xF4, 0xEB, 0xFD]).ljust(510, b"\0") + b"\x55\xaa"
# Firmware does not boot from a disk that is smaller than a cylinder.
PROBE_DISK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Virtualisation:
    """How guests run on a host: `type` kvm | qemu | test, the architecture, and why that type."""

    type: str
    architecture: str
    note: str


def boot_id(connection: Any, work: Work) -> str:
    """An id that lives as long as the host is up: it outlives libvirtd, and is another one after a reboot.

    libvirt does not tell a host's boot id. A transient network is kept under /run alone, and one that only names a way
    of forwarding does nothing on the host; its uuid is the id.
    """
    for _ in range(3):
        try:
            return str(connection.networkLookupByName(MARKER).UUIDString())
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_NETWORK:
                raise
        network = Element("network")
        SubElement(network, "name").text = MARKER
        SubElement(network, "forward", mode="bridge")
        work.check()
        try:
            return str(connection.networkCreateXML(ElementTree.tostring(network, encoding="unicode")).UUIDString())
        except libvirt.libvirtError as error:
            # Another control plane made it in this moment: look again.
            if error.get_error_code() not in (libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_ERR_NETWORK_EXIST):
                raise
    return str(connection.networkLookupByName(MARKER).UUIDString())


def totals(connection: Any, huge_page: int = 0, kept: Collection[int] = ()) -> dict[str, int]:
    """`vcpu` (count of processors, without those whose numbers are `kept`) and `memory` (bytes), of the host and of
    each of its NUMA cells. `huge_page`: bytes of the pages that are counted as its memory; 0: what is not set aside as
    such pages of any size."""
    information = connection.getInfo()
    memory = int(information[1]) << 20
    try:
        # The memory that getInfo tells was seen to be a fraction of the truth; this is what the kernel says.
        memory = int(connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)["total"]) << 10
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
    capabilities = connection.getCapabilities()
    cells = cells_of(capabilities)
    usable = for_machines(cells, huge_page, kept)
    fewer = sum(len(cell.cpus) for cell in cells) - sum(len(cell.cpus) for cell in usable)
    memory = sum(c.memory for c in usable) if huge_page else max(0, memory - huge_page_bytes(capabilities))
    return {"vcpu": int(information[2]) - fewer, "memory": memory} | amounts(usable)


def version_text(connection: Any) -> str:
    """`QEMU 7.2.22, libvirt 9.0.0`"""

    def dotted(number: int) -> str:
        return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"

    return f"{connection.getType()} {dotted(connection.getVersion())}, libvirt {dotted(connection.getLibVersion())}"


def detect(connection: Any, work: Work, wanted: str, cluster: str, storage: Storage) -> Virtualisation:
    """How guests are to run. `wanted`: auto | kvm | qemu; `auto` believes in KVM only when a guest has run with it."""
    architecture = str(connection.getInfo()[0])
    if connection.getType().upper() == "TEST":
        return Virtualisation("test", architecture, "libvirt's test driver")
    if wanted != "auto":
        return Virtualisation(wanted, architecture, "configured")
    capabilities = ElementTree.fromstring(connection.getCapabilities())
    if capabilities.find(f"guest/arch[@name='{architecture}']/domain[@type='kvm']") is None:
        return Virtualisation("qemu", architecture, "the host offers no KVM")
    if architecture != "x86_64":
        return Virtualisation("kvm", architecture, "offered by the host; not proven on this architecture")
    if not _virtualisation_feature(connection, capabilities) and not _basic_model_usable(connection, architecture):
        return Virtualisation("qemu", architecture, "the host offers KVM, but its processor cannot run guests")
    platform = Platform("kvm", architecture)
    if runs_guests(connection, work, platform, cluster, storage):
        return Virtualisation("kvm", architecture, "a probe guest has run")
    return Virtualisation("qemu", architecture, "the host offers KVM, but a probe guest did not run")


def _virtualisation_feature(connection: Any, capabilities: Element) -> bool:
    """Whether the host's processor, its model spelt out, has vmx or svm."""
    cpu = capabilities.find("host/cpu")
    if cpu is None:
        return False
    try:
        expanded = connection.baselineCPU(
            [ElementTree.tostring(cpu, encoding="unicode")], libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES
        )
    except libvirt.libvirtError as error:
        _log.debug("host processor: %s", describe(error))
        return True  # not known: the probe guest decides
    return any(f.get("name") in ("vmx", "svm") for f in ElementTree.fromstring(expanded).iter("feature"))


def _basic_model_usable(connection: Any, architecture: str) -> bool:
    """Whether KVM could give a guest one of QEMU's two most modest 64-bit processors."""
    try:
        answer = connection.getDomainCapabilities(None, architecture, None, "kvm", 0)
    except libvirt.libvirtError as error:
        _log.debug("domain capabilities: %s", describe(error))
        return False
    models = ElementTree.fromstring(answer).iterfind("cpu/mode[@name='custom']/model[@usable='yes']")
    return any(model.text in ("qemu64", "kvm64") for model in models)


def runs_guests(connection: Any, work: Work, platform: Platform, cluster: str, storage: Storage) -> bool:
    """Boots a guest that ends by itself at its first instruction, and says whether it did.

    Raises OutcomeUnknown where that was not seen: somebody ended it, or what it needs could not be had.
    """
    for left in range(PROBE_TRIES - 1, -1, -1):
        identity = MachineIdentity(cluster, "probe", secrets.token_hex(16), 0)
        volume = storage.scratch(connection, work, volume_name(identity, "probe"), RESET_SECTOR, PROBE_DISK_BYTES)
        watch = _Watch(connection, identity.machine_uuid)
        try:
            work.check()
            how = _boot(connection, work, identity, platform, volume.path(), watch)
        finally:
            watch.close()
            unless(libvirt.VIR_ERR_NO_STORAGE_VOL, volume.delete, 0)
        if how in (_End.BY_ITSELF, _End.NEVER):
            return how is _End.BY_ITSELF
        _log.warning("the probe guest was ended from outside, or by its hypervisor (%s); %d more tries", how, left)
    if how is _End.FAILED:
        return False
    raise OutcomeUnknown("what became of the probe guest was not seen", "somebody ended it")


class _End(Enum):
    """How the probe guest ended. A domain that is gone may have been ended by anybody."""

    BY_ITSELF = "by itself"
    NEVER = "never"  # it hangs, or could not be started at all
    FAILED = "its process failed"
    FROM_OUTSIDE = "from outside"


_ENDS = {
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: _End.BY_ITSELF,
    libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: _End.FAILED,
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED: _End.FAILED,
}


class _Watch:
    """Hears how a domain ends. `how`: None as long as nothing was heard."""

    def __init__(self, connection: Any, machine_uuid: str) -> None:
        self.how: _End | None = None
        self._connection = connection
        self._machine_uuid = machine_uuid
        self._callback = connection.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._happened, None
        )

    def _happened(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_STOPPED and domain.UUIDString() == self._machine_uuid:
            self.how = _ENDS.get(detail, _End.FROM_OUTSIDE)

    def close(self) -> None:
        """Hear nothing more."""
        with contextlib.suppress(libvirt.libvirtError):
            self._connection.domainEventDeregisterAny(self._callback)


def _boot(connection: Any, work: Work, identity: MachineIdentity, platform: Platform, disk: str, watch: _Watch) -> _End:
    xml = probe_xml(f"corral-probe-{identity.instance}", identity, platform, disk)
    try:
        # The guest ends with this connection, so that none is left running.
        domain = connection.createXML(xml, libvirt.VIR_DOMAIN_START_AUTODESTROY)
    except libvirt.libvirtError as error:
        why = translate(error, has_effect=True)
        if not isinstance(why, HostRejected) or why.code in _NOT_OF_KVM:
            raise
        _log.info("the probe guest could not be created: %s", describe(error))
        return watch.how or _End.NEVER
    until = time.monotonic() + PROBE_SECONDS
    while time.monotonic() < until:
        if watch.how is not None:
            return watch.how
        work.pause(0.05)
    try:
        domain.destroy()
    except libvirt.libvirtError as error:
        if error.get_error_code() not in GONE | ALREADY:
            raise
        return watch.how or _End.FROM_OUTSIDE  # it is gone, and nothing tells why
    return _End.NEVER
