"""Domain types of what groups are placed on: zones, clusters, hosts, and how much of a host is given out. Pure.

Resources are named integer vectors: `vcpu` (count), `memory` (bytes), `gpu.<model>` (devices).

Stored as JSON under these very field names: a field is renamed or removed only with a migration (ARCHITECTURE, "Stored
JSON"); classes may move.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from fractions import Fraction

from service.domain import cells
from service.domain.cells import Cell
from service.domain.cleaning import Cleaning, CleaningState, Wipe
from service.domain.network import Network
from service.errors import FieldViolation

VCPU = "vcpu"
MEMORY = "memory"
GPU = "gpu."
"""What the name of a device's resource begins with; its model follows."""

VIRTUAL_MACHINE, BARE_METAL = "VirtualMachine", "BareMetal"
"""What a host is for: members that share it, or one that gets all of it. The values are those of `NodeSpec.type`."""

MAX_RATIO = 1000
"""The highest overcommit ratio that is accepted; a higher one is taken for a mistake."""

_GPU_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
_ALMOST = {"cpu": VCPU, "cpus": VCPU, "vcpus": VCPU, "mem": MEMORY, "ram": MEMORY, "gpu": f"{GPU}<model>"}

Size = tuple[tuple[str, int], ...]
"""A named integer vector as sorted pairs, without zeros."""


def resource_violations(names: Iterable[str], field: str) -> Iterator[FieldViolation]:
    """Names of resources that no member can claim, so that their amounts would change nothing.

    `field`: path of the map that has the names as its keys.
    """
    for name in sorted(names):
        if name in (VCPU, MEMORY) or (name.startswith(GPU) and _GPU_MODEL.fullmatch(name.removeprefix(GPU))):
            continue
        close = _ALMOST.get(name.lower()) or next(iter(get_close_matches(name, (VCPU, MEMORY), 1)), "")
        hint = f"; did you mean {close}?" if close else ""
        yield FieldViolation(f"{field}[{name}]", f"must be one of {VCPU}, {MEMORY}, {GPU}<model>{hint}")


def gpu_model_violation(model: str, field: str) -> Iterator[FieldViolation]:
    """What is wrong with the model of a device, which is as hosts name it."""
    if not _GPU_MODEL.fullmatch(model):
        yield FieldViolation(field, "must be letters, digits and ._-, a letter or digit first, at most 60 long")


class HostState(StrEnum):
    """What the operator wants of a host."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"  # keeps what it has, gets nothing new
    MAINTENANCE = "Maintenance"  # drained, gets nothing new


class HostStatus(StrEnum):
    """What was last seen of a host."""

    CONNECTING = "Connecting"
    CONNECTED = "Connected"
    DISCONNECTED = "Disconnected"
    DEGRADED = "Degraded"  # answers, but holds a machine that it can neither run nor destroy
    FOREIGN = "Foreign"  # answers, and bears the mark of another database
    AHEAD = "Ahead"  # answers, and has seen things that this database does not know: an older copy was restored
    MISMATCHED = "Mismatched"  # answers, and is another hypervisor than it was, or one that has another name here


ANSWERING = frozenset({HostStatus.CONNECTED, HostStatus.DEGRADED})
"""What a host has that answers and is worked with."""


@dataclass(frozen=True, slots=True)
class Overcommit:
    """How a host's real amounts become allocatable ones: floor((total - reserved) * ratio), for each resource.

    A resource that is not named has ratio 1 and nothing reserved.
    """

    ratios: Mapping[str, Fraction] = field(default_factory=dict)
    reserved: Mapping[str, int] = field(default_factory=dict)

    def allocatable(self, total: Mapping[str, int]) -> dict[str, int]:
        """Usable amount of each resource of a host that really has `total`, those of its NUMA cells among them."""
        return cells.allocatable(total, self.ratios, self.reserved)

    def overridden_by(self, other: Overcommit) -> Overcommit:
        """This, with what `other` names put over it (fleet, then zone, then host)."""
        return Overcommit({**self.ratios, **other.ratios}, {**self.reserved, **other.reserved})


FIRMWARE_LABEL, SECURE_BOOT_LABEL = "corral.firmware", "corral.secure_boot"
"""Keys of labels that bare metal has by its BMC's word."""
OF_MACHINES = frozenset({FIRMWARE_LABEL, SECURE_BOOT_LABEL})


@dataclass(frozen=True, slots=True)
class Zone:
    """A failure and network domain that holds hosts. `version`, `created_at`, `updated_at`: of the stored row.

    `image_copies_budget`: bytes that copies of images may take on each of its hosts, 0: any number; None: it says
    nothing. `seed_url`, `report_url`: the listener for machines as BMCs, and as machines of the zone reach it, where a
    host does not say another one; empty: it says none.
    """

    uuid: str
    name: str
    description: str = ""
    network: Network = field(default_factory=Network)
    overcommit: Overcommit = field(default_factory=Overcommit)
    image_copies_budget: int | None = None
    seed_url: str = ""
    report_url: str = ""
    version: int = 0
    created_at: int = 0
    updated_at: int = 0


@dataclass(frozen=True, slots=True)
class Cluster:
    """Hosts of one zone that nodes can ask for together. `version`, `created_at`, `updated_at`: of the stored row."""

    uuid: str
    name: str
    zone_uuid: str
    description: str = ""
    version: int = 0
    created_at: int = 0
    updated_at: int = 0


@dataclass(frozen=True, slots=True)
class HostAddress:
    """How a driver reaches a host: fields of the operator, never a caller's URI.

    `driver`: libvirt | simulated. `transport`: unix | tcp | tls | ssh | test. `socket`: path for unix.
    `options`: what a driver documents for itself (storage pool, virt_type, a simulated host's size).
    """

    driver: str
    transport: str = "unix"
    address: str = ""
    port: int = 0
    socket: str = ""
    username: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


class Fencing(StrEnum):
    """Who may have a hypervisor switched off by its BMC, so that its members are placed anew."""

    OFF = "off"  # nobody; an operator's word that it is off counts
    MANUAL = "manual"  # an operator, by FenceHost
    DRY = "dry"  # as manual; and it is told what would be done by itself, and why not
    AUTO = "auto"  # the service by itself, within its rules


@dataclass(frozen=True, slots=True)
class Bmc:
    """The board by which a hypervisor's power is switched. `address`: as that of a machine of driver redfish, without
    what its drive needs."""

    address: HostAddress
    fencing: Fencing = Fencing.MANUAL


@dataclass(frozen=True, slots=True)
class Host:
    """A hypervisor or bare-metal machine. All amounts are named integer vectors.

    `total`: real amounts, from the probe or overridden by the operator; `foreign`: held by machines that are not ours,
    and by the hypervisor for its guests, `beside` for each of ours; `used`: the sum of committed claims; `booked`: kept
    for groups for which room is made.
    `allocatable` = floor((total - reserved) * ratio). `cells`: its NUMA cells as last seen, each with its part of the
    same amounts; none where its kind does not tell them.
    `hypervisor`: the machine's own uuid as it was first seen; empty until then. `claim_ordered`: its operator has said
    that it is this database's, which is carried out when it is next looked at.
    `machine_type`: whether it is a hypervisor, or one machine that a member of type BareMetal gets as a whole.
    `isolation`: `nwfilter` where it keeps groups to themselves on the network, otherwise why it does not; empty until
    that was seen.
    `firmware`: of bare metal, `UEFI` or `Legacy`; `secure_boot`: `on` or `off`; both empty where its BMC does not say.
    `cleaning`: of bare metal, whose data it may hold, and how far its cleaning is.
    `images`: sums of the large files of images that it has a copy of.
    `bmc`: by what its power is switched; None where its operator names nothing.
    `version` (rises with what the operator says, not with what is observed), `created_at`, `updated_at`: of the row.
    """

    uuid: str
    name: str
    zone_uuid: str
    address: HostAddress
    machine_type: str = VIRTUAL_MACHINE
    rack: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    overcommit: Overcommit = field(default_factory=Overcommit)
    capacity_override: Mapping[str, int] = field(default_factory=dict)
    bridge: str = ""
    state: HostState = HostState.ENABLED
    status: HostStatus = HostStatus.CONNECTING
    status_reason: str = ""
    status_cause: str = ""
    boot_id: str = ""
    total: Mapping[str, int] = field(default_factory=dict)
    allocatable: Mapping[str, int] = field(default_factory=dict)
    foreign: Mapping[str, int] = field(default_factory=dict)
    used: Mapping[str, int] = field(default_factory=dict)
    booked: Mapping[str, int] = field(default_factory=dict)
    beside: Mapping[str, int] = field(default_factory=dict)
    cells: tuple[Cell, ...] = ()
    virt_type: str = ""
    isolation: str = ""
    firmware: str = ""
    secure_boot: str = ""
    cleaning: Cleaning = field(default_factory=Cleaning)
    images: tuple[str, ...] = ()
    description: str = ""
    cluster_uuid: str = ""
    hypervisor: str = ""
    claim_ordered: bool = False
    bmc: Bmc | None = None
    version: int = 0
    created_at: int = 0
    updated_at: int = 0

    @property
    def fencing(self) -> Fencing:
        """Who may have it switched off by its BMC; OFF where it has none."""
        return self.bmc.fencing if self.bmc is not None else Fencing.OFF

    @property
    def bare_metal(self) -> bool:
        """Whether it is given out as a whole."""
        return self.machine_type == BARE_METAL

    @property
    def machine_labels(self) -> Mapping[str, str]:
        """What its BMC tells of bare metal, under keys that a group's required labels may name: nothing of hypervisors,
        and nothing that it does not tell, which its operator's labels may say then."""
        told = {FIRMWARE_LABEL: self.firmware, SECURE_BOOT_LABEL: self.secure_boot}
        return {key: value for key, value in told.items() if value} if self.bare_metal else {}

    def has_label(self, key: str, values: Collection[str]) -> bool:
        """Whether it has what a group requires of its members' hosts. What is required of bare metal is not required of
        the hypervisors of a mixed group."""
        if key in OF_MACHINES:
            return not self.bare_metal or {**self.labels, **self.machine_labels}.get(key) in values
        return self.labels.get(key) in values

    @property
    def schedulable(self) -> bool:
        """Whether new claims may be made on it."""
        ready = self.state is HostState.ENABLED and self.status is HostStatus.CONNECTED
        return ready and self.cleaning.state is CleaningState.OPEN

    @property
    def wipe(self) -> Wipe:
        """How it is cleaned between two projects: its option `clean`. Nothing stays on a simulated machine."""
        if not self.bare_metal:
            return Wipe.NONE
        return Wipe(
            self.address.options.get("clean", Wipe.NONE if self.address.driver == "simulated" else Wipe.METADATA)
        )

    def open_to(self, project: str) -> bool:
        """Whether what is left there may be seen by a member of this project."""
        return self.cleaning.served in ("", project) or self.wipe is Wipe.NONE


def policy(of_fleet: Overcommit, zones: Mapping[str, Zone], host: Host) -> Overcommit:
    """What holds for a host: the fleet's policy, the zone's over it, the host's own over both. Of bare metal nothing is
    kept back and nothing is promised twice."""
    if host.bare_metal:
        return Overcommit()
    zone = zones.get(host.zone_uuid)
    inherited = of_fleet.overridden_by(zone.overcommit) if zone else of_fleet
    return _for_itself(host, inherited).overridden_by(host.overcommit)


def given_once(address: HostAddress) -> tuple[str, ...]:
    """The resources of a host of which no part is promised to two machines, because each has its own: memory of huge
    pages, processors that are dedicated."""
    pages, cpus = address.options.get("huge_pages"), address.options.get("dedicated_cpus") == "true"
    return (*((MEMORY,) if pages else ()), *((VCPU,) if cpus else ()))


def _for_itself(host: Host, inherited: Overcommit) -> Overcommit:
    """What of the fleet's and the zone's policy is about such a host: no ratio of what is given once, and nothing kept
    of a pool of pages, beside which the host has memory of its own."""
    once = given_once(host.address)
    ratios = {name: ratio for name, ratio in inherited.ratios.items() if name not in once}
    reserved = {n: amount for n, amount in inherited.reserved.items() if n != MEMORY or MEMORY not in once}
    return Overcommit(ratios, reserved)


IMAGE_BUDGET_OPTION = "image_budget_gib"
"""The option of a host that names its own budget of copies of images."""


def image_budget(host: Host, zone: Zone | None, otherwise: int) -> int:
    """Bytes that copies of images may take on the host, 0: any number: its own, its zone's, or `otherwise`."""
    own = host.address.options.get(IMAGE_BUDGET_OPTION, "")
    if own:
        return int(own) << 30
    return otherwise if zone is None or zone.image_copies_budget is None else zone.image_copies_budget
