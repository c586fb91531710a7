"""Builds domain XML from a machine's specification, element by element: text never becomes markup."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from xml.etree.ElementTree import Element, SubElement

from service.drivers.base import HostRejected, LogSource, MachineIdentity, MachineSpec, NetworkInterface
from service.drivers.libvirt import guest_cells
from service.drivers.libvirt.numa import Pinning
from service.drivers.libvirt.tags import Kind, Tag, tag_element

# XML 1.0, production Char: everything else makes the document ill-formed, escaped or not.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DOCUMENT_NAME = re.compile(r"[a-z]{1,32}")
MEMORY_LIMIT = 1 << 50
VCPU_LIMIT = 4096
MOST_DATA_DISKS = 8
FW_CFG_PREFIX = "opt/org.corral/"
LOG_PORT = "org.corral.log"
AGENT = "agent"
AGENT_PORT = "org.qemu.guest_agent.0"
"""By which the agents of all distributions listen."""
"""The port to which the supervisor writes what the engine says; the hypervisor keeps it, whoever reads or does not."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A volume as a virtio disk. `path` on the host; `format`: raw | qcow2; `serial`: by which its guest knows it."""

    path: str
    format: str
    read_only: bool = False
    serial: str = ""


@dataclass(frozen=True, slots=True)
class Boot:
    """What the machine starts from, as paths on the host. Without a kernel it boots from its first disk.

    `documents`: name -> path of the volume with its content, for the firmware to hand over. `logs`: what the machine
    says -> path of the volume that keeps it. `console_from`: how many bytes the console's holds.
    """

    kernel: str = ""
    initrd: str = ""
    arguments: str = ""
    disks: tuple[Disk, ...] = ()
    documents: Mapping[str, str] = field(default_factory=dict)
    logs: Mapping[LogSource, str] = field(default_factory=dict)
    console_from: int = 0


@dataclass(frozen=True, slots=True)
class Platform:
    """What the host offers. `virt_type`: kvm | qemu | test. `machine`: QEMU's machine type, empty for the default."""

    virt_type: str
    architecture: str
    machine: str = ""
    translation_cache_mib: int = 32


def check_text(value: str, what: str) -> str:
    """The value itself. Raises HostRejected `bad_request` where XML cannot hold it."""
    if _FORBIDDEN.search(value):
        raise HostRejected("bad_request", f"{what} holds a character that XML does not allow")
    return value


def check_spec(spec: MachineSpec) -> None:
    """Raises HostRejected `bad_request` for what no host could do."""
    if not 0 < spec.vcpus <= VCPU_LIMIT:
        raise HostRejected("bad_request", f"vcpus: 1 to {VCPU_LIMIT}")
    if spec.vcpus < len(spec.cells):
        raise HostRejected("bad_request", f"vcpus: {len(spec.cells)} or more, one for each NUMA cell")
    if not 0 < spec.memory_bytes <= MEMORY_LIMIT:
        raise HostRejected("bad_request", f"memory: 1 to {MEMORY_LIMIT} bytes")
    if not 0 <= spec.root_disk_bytes <= MEMORY_LIMIT:
        raise HostRejected("bad_request", f"root disk: 0 to {MEMORY_LIMIT} bytes")
    if any(not 0 <= disk.size <= MEMORY_LIMIT for disk in spec.data_disks) or len(spec.data_disks) > MOST_DATA_DISKS:
        raise HostRejected("bad_request", f"data disks: {MOST_DATA_DISKS} at most, of 0 to {MEMORY_LIMIT} bytes each")
    check_text(spec.display_name, "the name")
    check_text(spec.image.kernel_arguments, "the kernel command line")
    check_text(spec.image.progress_channel, "the progress channel's name")
    for name, text in spec.documents.items():
        if not _DOCUMENT_NAME.fullmatch(name):
            raise HostRejected("bad_request", "a document's name is malformed")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise HostRejected("bad_request", f"document {name} is no UTF-8 text") from error


def machine_xml(
    spec: MachineSpec, platform: Platform, boot: Boot, pinning: Pinning | None = None, network_filter: str = ""
) -> str:
    """The domain of a machine. Expects a specification that `check_spec` let pass. `network_filter`: the name of what
    its interfaces with a planned address are held by; empty for nothing."""
    has_channel = platform.virt_type != "test"
    channel = spec.image.progress_channel if has_channel else ""
    tag = Tag(
        spec.identity, spec.spec_hash, Kind.MACHINE, channel, spec.generation, spec.record, boot.console_from
    )  # fmt: skip
    domain = _domain(platform.virt_type, spec.identity.machine_name, spec.identity.machine_uuid, tag)
    domain.insert(2, _leaf("title", " ".join(spec.display_name.split())[:200]))
    _amounts(domain, spec.memory_bytes, spec.vcpus)
    if pinning is not None and pinning.huge_page:
        _huge_pages(domain, pinning.huge_page)
    _operating_system(domain, _for_devices(platform) if spec.devices else platform, boot)
    _firmware_documents(domain, boot.documents)
    _features(domain, platform)
    if pinning is not None and pinning.nodes and (cpu := domain.find("cpu")) is not None:
        guest_cells.declare(cpu, spec.memory_bytes, spec.vcpus, len(pinning.nodes))
    _pin(domain, pinning)
    SubElement(domain, "clock", offset="utc")
    for event, action in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        domain.append(_leaf(event, action))
    devices = SubElement(domain, "devices")
    for index, disk in enumerate(boot.disks):
        _disk(devices, index, disk)
    for interface in spec.interfaces:
        _interface(devices, interface, network_filter)
    places = guest_cells.buses(devices, spec.devices, pinning) if platform.virt_type != "test" else {}
    for address in [function.address for device in spec.devices for function in device.functions]:
        _host_device(devices, address, places.get(address))
    if platform.virt_type != "test":
        _consoles(devices, spec.image.progress_channel, boot.logs)
    elif spec.asked_for:
        raise HostRejected("unsupported", f"libvirt's test driver has no readiness by {spec.asked_for}")
    if spec.asked_for == AGENT:
        SubElement(SubElement(devices, "channel", type="unix"), "target", type="virtio", name=AGENT_PORT)
    return _text(domain)


def arriving_xml(
    xml: str,
    boot: Boot,
    interfaces: tuple[NetworkInterface, ...],
    pinning: Pinning | None = None,
    network_filter: str = "",
) -> str:
    """A running domain's own XML, with the names that files, documents and bridges have on the host that it goes to,
    confined to that host's cells as it is to be there, and held by the network filter that is to hold it there.

    Raises HostRejected where it was started with documents that the target has not: QEMU opens each at its start.
    """
    domain = ElementTree.fromstring(xml)
    for name, path in (("kernel", boot.kernel), ("initrd", boot.initrd)):
        element = domain.find(f"os/{name}")
        if element is not None:
            element.text = path
    there = {_firmware_entry(name): path for name, path in boot.documents.items()}
    for entry in domain.findall("sysinfo[@type='fwcfg']/entry"):
        path = there.get(entry.get("name", ""), "")
        if path:
            entry.text = None  # machines of earlier versions had the text itself here, in the target's arguments too
            entry.set("file", path)
        elif entry.get("file") is not None:
            raise HostRejected("unsupported", "the machine was started with documents that its specification lacks")
    _arriving_logs(domain, boot.logs)
    wired = [i for i in interfaces if i.kind != "none"]
    for element, interface in zip(domain.findall("devices/interface"), wired, strict=True):
        source = element.find("source")
        if source is not None:
            source.set(interface.kind, check_text(interface.source, "the network's source"))
        for held in element.findall("filterref"):
            element.remove(held)
        _hold(element, interface, network_filter)
    _pin(domain, pinning)
    return _text(domain)


def _pin(domain: Element, pinning: Pinning | None) -> None:
    """Confine processors and memory; what confined them before, by the numbers of another host, goes. The emulator's
    own threads follow the processors. Cells of its own are bound one by one."""
    vcpu, before = domain.find("vcpu"), domain.find("numatune")
    if before is not None:
        domain.remove(before)
        if vcpu is not None:
            vcpu.attrib.pop("cpuset", None)
    if (tuned := domain.find("cputune")) is not None:
        domain.remove(tuned)
    if pinning is None or vcpu is None:
        return
    own = bool(pinning.nodes) and len(domain.findall("cpu/numa/cell")) == len(pinning.nodes)
    if pinning.nodeset:
        tuning = Element("numatune")
        SubElement(tuning, "memory", mode="strict", nodeset=pinning.nodeset)
        if own:
            guest_cells.bind(tuning, pinning)
        domain.insert(list(domain).index(vcpu) + 1, tuning)
    if pinning.cpuset:
        vcpu.attrib |= {"placement": "static", "cpuset": pinning.cpuset}
    if pinning.each:
        tuning = Element("cputune")
        for number, processor in enumerate(pinning.each):
            SubElement(tuning, "vcpupin", vcpu=str(number), cpuset=str(processor))
        SubElement(tuning, "emulatorpin", cpuset=pinning.emulator)
        domain.insert(list(domain).index(vcpu) + 1, tuning)
    elif own:
        tuning = Element("cputune")
        guest_cells.run_on(tuning, int(vcpu.text or "0"), pinning)
        domain.insert(list(domain).index(vcpu) + 1, tuning)


def _huge_pages(domain: Element, page_bytes: int) -> None:
    """All of its memory of such pages, taken from those that the host has set aside as it is started."""
    pages = SubElement(SubElement(domain, "memoryBacking"), "hugepages")
    SubElement(pages, "page", size=str(page_bytes >> 10), unit="KiB")


def _arriving_logs(domain: Element, logs: Mapping[LogSource, str]) -> None:
    for log in (*domain.findall("devices/serial/log"), *domain.findall("devices/console/log")):
        log.set("file", check_text(logs.get(LogSource.CONSOLE, log.get("file", "")), "a volume's path"))
    for channel in domain.findall("devices/channel[@type='file']"):
        target, source = channel.find("target"), channel.find("source")
        if target is not None and source is not None and target.get("name") == LOG_PORT:
            source.set("path", check_text(logs.get(LogSource.ENGINE, source.get("path", "")), "a volume's path"))


def tombstone_name(identity: MachineIdentity) -> str:
    """Unlike the machine's, so that neither can be defined over the other."""
    return f"corral-tombstone-{identity.instance}-{identity.attempt}"


def tombstone_xml(identity: MachineIdentity, virt_type: str) -> str:
    """An inert domain that holds the uuid of a past attempt, so that a late definition of it is refused."""
    domain = _domain(virt_type, tombstone_name(identity), identity.machine_uuid, Tag(identity, "", Kind.TOMBSTONE))
    _amounts(domain, 1 << 20, 1)
    SubElement(SubElement(domain, "os"), "type").text = "hvm"
    return _text(domain)


def probe_xml(name: str, identity: MachineIdentity, platform: Platform, disk: str) -> str:
    """A domain whose boot sector asks for a reset, and which a reset ends: its end proves that it has run."""
    domain = _domain(platform.virt_type, name, identity.machine_uuid, Tag(identity, "", Kind.PROBE))
    _amounts(domain, 32 << 20, 1)
    _operating_system(domain, platform, Boot(disks=(Disk(disk, "raw"),)))
    for event in ("on_poweroff", "on_reboot", "on_crash"):
        domain.append(_leaf(event, "destroy"))
    devices = SubElement(domain, "devices")
    _disk(devices, 0, Disk(disk, "raw", read_only=True))
    _bare(devices)
    return _text(domain)


def _text(domain: Element) -> str:
    # A carriage return that stands in the text as such would be read back as a newline (XML 1.0, section 2.11).
    return ElementTree.tostring(domain, encoding="unicode").replace("\r", "&#13;")


def _leaf(name: str, text: str) -> Element:
    element = Element(name)
    element.text = text
    return element


def _domain(virt_type: str, name: str, uuid: str, tag: Tag) -> Element:
    domain = Element("domain", type=virt_type)
    domain.append(_leaf("name", check_text(name, "the name")))
    domain.append(_leaf("uuid", uuid))
    for value in (tag.identity.cluster, tag.spec_hash):
        check_text(value, "the machine's identity")
    SubElement(domain, "metadata").append(tag_element(tag))
    return domain


def _amounts(domain: Element, memory_bytes: int, vcpus: int) -> None:
    # libvirt counts in KiB and rounds up; a KiB is also the least that it takes.
    memory = SubElement(domain, "memory", unit="KiB")
    memory.text = str(-(-memory_bytes // 1024))
    domain.append(_leaf("vcpu", str(vcpus)))


def _operating_system(domain: Element, platform: Platform, boot: Boot) -> None:
    system = SubElement(domain, "os")
    kind = SubElement(system, "type")
    kind.text = "hvm"
    if platform.virt_type != "test":
        kind.set("arch", platform.architecture)
    if platform.machine:
        kind.set("machine", platform.machine)
    for name, value in (("kernel", boot.kernel), ("initrd", boot.initrd), ("cmdline", boot.arguments)):
        if value and boot.kernel:
            system.append(_leaf(name, check_text(value, "the boot source")))
    if not boot.kernel and boot.disks:
        SubElement(system, "boot", dev="hd")


def _firmware_documents(domain: Element, documents: Mapping[str, str]) -> None:
    """`documents`: name -> path. By path alone: an entry's text would stand in QEMU's arguments, which everybody on the
    host can read, in the domain's XML and in libvirt's log."""
    if not documents:
        return
    information = SubElement(domain, "sysinfo", type="fwcfg")
    for name in sorted(documents):
        path = check_text(documents[name], "a volume's path")
        SubElement(information, "entry", name=_firmware_entry(name), file=path)


def _firmware_entry(name: str) -> str:
    return f"{FW_CFG_PREFIX}{name}.base64"


def _features(domain: Element, platform: Platform) -> None:
    features = SubElement(domain, "features")
    SubElement(features, "acpi")  # without it Linux never looks for fw_cfg, and there is no power button
    if platform.architecture == "x86_64":
        SubElement(features, "apic")
    if platform.virt_type == "qemu":
        cache = SubElement(SubElement(features, "tcg"), "tb-cache", unit="MiB")
        cache.text = str(platform.translation_cache_mib)
        # The default, qemu64, lacks instructions that today's distributions are built for; this one boots as fast.
        SubElement(domain, "cpu", mode="maximum")
    if platform.virt_type == "kvm":
        SubElement(domain, "cpu", mode="host-passthrough")


def _for_devices(platform: Platform) -> Platform:
    """Of x86 only q35 has the PCI Express that today's accelerators expect; another one is the operator's own wish."""
    needs = platform.architecture == "x86_64" and platform.virt_type != "test" and not platform.machine
    return replace(platform, machine="q35") if needs else platform


def _host_device(devices: Element, address: str, place: Mapping[str, str] | None = None) -> None:
    """Managed: libvirt takes the function from its driver, resets it, and gives it back when the machine ends, however
    that comes about. `place`: where the guest sees it; None: where libvirt puts it."""
    element = SubElement(devices, "hostdev", mode="subsystem", type="pci", managed="yes")
    domain, bus, slot, function = re.split("[:.]", address)
    parts = {"domain": domain, "bus": bus, "slot": slot, "function": function}
    SubElement(SubElement(element, "source"), "address", {name: f"0x{part}" for name, part in parts.items()})
    if place is not None:
        SubElement(element, "address", dict(place))


def _disk(devices: Element, index: int, disk: Disk) -> None:
    element = SubElement(devices, "disk", type="file", device="disk")
    # The format is always given: probing it would let a guest choose what its disk is taken for.
    SubElement(element, "driver", name="qemu", type=disk.format)
    SubElement(element, "source", file=check_text(disk.path, "a volume's path"))
    SubElement(element, "target", dev=f"vd{'abcdefghijklmnop'[index]}", bus="virtio")
    if disk.read_only:
        SubElement(element, "readonly")
    if disk.serial:
        SubElement(element, "serial").text = check_text(disk.serial, "a disk's serial")


def _hold(element: Element, interface: NetworkInterface, network_filter: str) -> None:
    """By its planned address: without one libvirt would believe the first that the guest sends from."""
    if network_filter and interface.address and interface.kind != "user":
        held = SubElement(element, "filterref", filter=check_text(network_filter, "the network filter's name"))
        SubElement(held, "parameter", name="IP", value=interface.address)


def _interface(devices: Element, interface: NetworkInterface, network_filter: str) -> None:
    if interface.kind == "none":
        return
    if interface.kind not in ("bridge", "network", "user"):
        raise HostRejected("unsupported", "the network's kind is not one of bridge, network, user, none")
    element = SubElement(devices, "interface", type=interface.kind)
    if interface.mac:
        SubElement(element, "mac", address=check_text(interface.mac, "the mac address"))
    if interface.kind != "user":
        SubElement(element, "source", {interface.kind: check_text(interface.source, "the network's source")})
    SubElement(element, "model", type="virtio")
    # Nothing here boots from the network, and loading the ROM costs time at every start.
    SubElement(element, "rom", enabled="no")
    _hold(element, interface, network_filter)


def _consoles(devices: Element, progress_channel: str, logs: Mapping[LogSource, str]) -> None:
    serial = SubElement(devices, "serial", type="pty")
    SubElement(devices, "console", type="pty")
    if LogSource.CONSOLE in logs:
        # Beside the terminal, so that an operator's `virsh console` still has it.
        SubElement(serial, "log", file=check_text(logs[LogSource.CONSOLE], "a volume's path"), append="on")
    if progress_channel:
        channel = SubElement(devices, "channel", type="unix")
        SubElement(channel, "target", type="virtio", name=progress_channel)
    if LogSource.ENGINE in logs:
        channel = SubElement(devices, "channel", type="file")
        SubElement(channel, "source", path=check_text(logs[LogSource.ENGINE], "a volume's path"), append="on")
        SubElement(channel, "target", type="virtio", name=LOG_PORT)
    _bare(devices)


def _bare(devices: Element) -> None:
    """Leaves out what libvirt adds by itself and nothing here uses."""
    SubElement(devices, "controller", type="usb", model="none")
    SubElement(devices, "memballoon", model="none")
    SubElement(SubElement(devices, "video"), "model", type="none")
