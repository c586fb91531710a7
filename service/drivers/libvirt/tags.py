"""How this cluster's machines and volumes are told from everybody else's: a metadata element and a volume name."""

from __future__ import annotations

import hashlib
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from service.domain.cells import with_cells
from service.drivers.base import HostRejected, MachineIdentity
from service.drivers.libvirt import numa, pci_address

NAMESPACE = "urn:corral:machine:1"
ElementTree.register_namespace("corral", NAMESPACE)

_ELEMENT = f"{{{NAMESPACE}}}machine"
_WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")
_VOLUME = re.compile(r"corral\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([0-9]{1,9})\.([a-z-]+)(?:\.[0-9]{1,3})?")


class Kind(StrEnum):
    """What a tagged domain is there for."""

    MACHINE = "machine"
    TOMBSTONE = "tombstone"
    PROBE = "probe"  # the guest that shows whether KVM works; no member's machine


@dataclass(frozen=True, slots=True)
class Tag:
    """The metadata in a domain's XML."""

    identity: MachineIdentity
    spec_hash: str
    kind: Kind
    progress_channel: str = ""
    generation: int = 0
    record: str = ""
    console_from: int = 0


@dataclass(frozen=True, slots=True)
class DomainRecord:
    """What is read of a domain's XML once: whose it is, and what it holds (bytes, vCPUs).

    What it could be given as it runs (slots for memory, processors that are off) does not count: that is a change of
    its definition, which is read again. `huge_pages`: its memory is of what the host has set aside. `processors`:
    those of the host that processors of its own are bound to one by one. `cells`: the NUMA cells that its memory must
    be of; none where it may be of any. `devices`: the addresses of the host's functions that it is given; `seats`:
    those by their addresses in the guest, where it has begun to run. `filters`: names of the network filters that it
    refers to. `hardware_addresses`: of its interfaces, in lower case. `addresses`: that its definition says they have.
    `tag` is None for a domain without ours of any cluster, and for one whose tag does not make sense.
    """

    name: str
    tag: Tag | None
    memory: int
    vcpus: int
    huge_pages: bool = False
    processors: tuple[int, ...] = ()
    cells: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()
    seats: Mapping[str, str] = field(default_factory=dict)
    filters: tuple[str, ...] = ()
    hardware_addresses: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()

    @property
    def held(self) -> dict[str, int]:
        """What it holds, of its host and of its cells."""
        return with_cells({"vcpu": self.vcpus, "memory": self.memory}, self.cells)

    def machine_of(self, cluster: str) -> Tag | None:
        """The tag if it is this cluster's machine or tombstone."""
        if self.tag is None or self.tag.kind is Kind.PROBE or self.tag.identity.cluster != cluster:
            return None
        return self.tag


def check_identity(identity: MachineIdentity) -> None:
    """Raises HostRejected `bad_request` for parts that could not stand in names on a host."""
    for part, value in (("group", identity.group), ("instance", identity.instance)):
        if not _WORD.fullmatch(value):
            raise HostRejected("bad_request", f"the {part}'s id is malformed")
    if not identity.cluster or not 0 <= identity.attempt < 10**9:
        raise HostRejected("bad_request", "the machine's identity is malformed")


def tag_element(tag: Tag) -> ElementTree.Element:
    """The element to put under <metadata>."""
    identity = tag.identity
    element = ElementTree.Element(
        _ELEMENT,
        {
            "kind": str(tag.kind),
            "cluster": identity.cluster,
            "group": identity.group,
            "instance": identity.instance,
            "attempt": str(identity.attempt),
            "spec-hash": tag.spec_hash,
            "progress-channel": tag.progress_channel,
            "generation": str(tag.generation),
            **({"console-from": str(tag.console_from)} if tag.console_from else {}),
        },
    )
    element.text = tag.record or None
    return element


def read_domain(xml: str) -> DomainRecord:
    """Reads a domain's XML as libvirt gives it, foreign ones included."""
    root = ElementTree.fromstring(xml)
    memory, vcpus = root.find("memory"), root.find("vcpu")
    return DomainRecord(
        name=root.findtext("name", ""),
        tag=_read_tag(root.find(f"metadata/{_ELEMENT}"), root.findtext("uuid", "")),
        memory=0 if memory is None else _bytes(memory),
        vcpus=0 if vcpus is None else int(vcpus.get("current") or vcpus.text or 0),
        huge_pages=root.find("memoryBacking/hugepages") is not None,
        processors=_processors(root),
        cells=_cells(root.find("numatune/memory")),
        devices=tuple(
            sorted(pci_address.address_of(a) for a in root.findall("devices/hostdev[@type='pci']/source/address"))
        ),
        seats=_seats(root),
        filters=tuple(sorted({f.get("filter", "") for f in root.findall("devices/interface/filterref")})),
        addresses=_addresses(root),
        hardware_addresses=tuple(m.get("address", "").lower() for m in root.findall("devices/interface/mac")),
    )


def _addresses(root: ElementTree.Element) -> tuple[str, ...]:
    """What a network filter is to believe, and what is set for an interface."""
    believed = root.findall("devices/interface/filterref/parameter[@name='IP']")
    told = root.findall("devices/interface/ip")
    return tuple([p.get("value", "") for p in believed] + [ip.get("address", "") for ip in told])


def _seats(root: ElementTree.Element) -> dict[str, str]:
    """The address in the guest -> the host's, of each function that it is given."""
    found = {}
    for given in root.findall("devices/hostdev[@type='pci']"):
        source, seat = given.find("source/address"), given.find("address[@type='pci']")
        if source is not None and seat is not None:
            found[pci_address.address_of(seat)] = pci_address.address_of(source)
    return found


def _processors(root: ElementTree.Element) -> tuple[int, ...]:
    found: set[int] = set()
    for bound in root.findall("cputune/vcpupin"):
        found.update(numa.numbers(bound.get("cpuset", "")))
    return tuple(sorted(found))


def _cells(memory: ElementTree.Element | None) -> tuple[int, ...]:
    """The cells that a domain's memory must be of. `strict` is what libvirt takes where no mode is given."""
    if memory is None or memory.get("mode", "strict") not in ("strict", "restrictive"):
        return ()
    try:
        return numa.numbers(memory.get("nodeset", ""))
    except ValueError:
        return ()  # libvirt is to choose (placement='auto'): which ones is not told


def _read_tag(element: ElementTree.Element | None, domain_uuid: str) -> Tag | None:
    if element is None:
        return None
    try:
        identity = MachineIdentity(
            cluster=element.attrib["cluster"],
            group=element.attrib["group"],
            instance=element.attrib["instance"],
            attempt=int(element.attrib["attempt"]),
        )
        tag = Tag(
            identity,
            element.attrib["spec-hash"],
            Kind(element.attrib["kind"]),
            element.get("progress-channel", ""),
            int(element.get("generation", "0")),
            (element.text or "").strip(),
            int(element.get("console-from", "0")),
        )
    except (KeyError, ValueError):
        return None  # somebody wrote it by hand: not ours to touch
    if domain_uuid != identity.machine_uuid:
        return None  # a copy that somebody made of a machine of ours, metadata and all: theirs
    return tag


# libvirt always writes KiB; other units are only ever read by it.
_UNITS = {"b": 1, "bytes": 1, "KiB": 1 << 10, "k": 1 << 10, "MiB": 1 << 20, "M": 1 << 20, "GiB": 1 << 30, "G": 1 << 30}


def _bytes(element: ElementTree.Element) -> int:
    return int(element.text or 0) * _UNITS[element.get("unit", "KiB")]


def cluster_word(cluster: str) -> str:
    """The cluster's id as it stands in volume names: itself if it is one plain word, else a hash of it."""
    if _WORD.fullmatch(cluster):
        return cluster
    return "h" + hashlib.sha256(cluster.encode()).hexdigest()[:24]


def volume_prefix(identity: MachineIdentity) -> str:
    """What the names of a machine's volumes begin with."""
    return f"corral.{cluster_word(identity.cluster)}.{identity.instance}.{identity.attempt}."


def volume_name(identity: MachineIdentity, role: str) -> str:
    """The name of one of a machine's volumes. `role`: lower-case letters and hyphens, such as `root` or `seed`."""
    return volume_prefix(identity) + role


def document_role(name: str) -> str:
    """The role of the volume that holds a document, unlike those of disks."""
    return f"document-{name}"


def data_role(number: int) -> str:
    """The role of the volume that is a machine's data disk of this number, from 0."""
    return f"data-{'abcdefghijklmnop'[number]}"


def log_role(source: str) -> str:
    """The role of the volume that keeps what a machine says."""
    return f"log-{source}"


def is_machine_volume(name: str, cluster: str) -> bool:
    """Whether a volume of this name belongs to one of the cluster's machines."""
    match = _VOLUME.fullmatch(name)
    return match is not None and match[1] == cluster_word(cluster)
