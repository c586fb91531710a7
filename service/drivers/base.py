"""What the control plane asks of a host, and what it answers; every driver implements `HostDriver`.

Rules that all drivers keep:

* Every method is idempotent: it observes, compares and acts. "Already so" is success.
* Every method ends within its `budget_seconds` (plus scheduling noise), by a result or a `DriverError`.
* A call that ended in `OutcomeUnknown` may still take effect later: observe again, never assume.
* A machine without this cluster's tag is counted as used capacity and never touched.
* `MachineIdentity` fixes the machine's uuid, name and volume names, so that two attempts never share anything.
* Nothing in here knows groups' policies, leases or the store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from service.domain.catalog import Image
from service.domain.devices import HeldDevice, PciFunction
from service.domain.isolation import GroupFilter, Isolation
from service.domain.network import ForeignAddress
from service.domain.ownership import OwnerMark
from service.domain.specs import DataDisk
from service.drivers.copies import HostCopies
from service.drivers.machine_uuids import machine_uuid
from service.drivers.reports import GuestReport


class DriverError(Exception):
    """Base of the driver errors.

    `public` is safe to show to a tenant, and says which class of cause it is; `detail` may quote the hypervisor, and is
    for logs and, without secrets, for those who see hosts.
    """

    def __init__(self, public: str, detail: str = "") -> None:
        super().__init__(public)
        self.public = public
        self.detail = detail


class HostUnreachable(DriverError):
    """The request certainly did not reach the host (connection refused, lost before sending). Safe to retry."""


class OutcomeUnknown(DriverError):
    """The call was sent and no answer came (deadline, connection lost in mid-call). It may have taken effect."""


class HostRejected(DriverError):
    """The host answered that it cannot do it (missing bridge, image, pool, memory, space), or the service lacks what it
    would have to send (a secret). Trying again there at once is of no use.

    `code` is a short stable word: `missing_network`, `missing_image`, `no_memory`, `unsupported`, `bad_request`,
    `denied`, `no_space`, `no_processors` (others have those that it is to have for itself), `absent`, `missing_secret`,
    `internal`; of images `too_slow`, `in_use`, `undecided`;
    of devices `device_busy` (another machine has one), `device_gone` (it is not there, or is another), `device_group`
    (the host keeps a fellow of its IOMMU group), `device_reset` (it cannot be cleaned).
    """

    def __init__(self, code: str, public: str, detail: str = "") -> None:
        super().__init__(public, detail)
        self.code = code


class MachineConflict(DriverError):
    """The uuid or name exists on the host with another owner or attempt (a tombstone, or somebody else's machine)."""


class UuidTaken(MachineConflict):
    """Somebody else's machine has the uuid: nothing of ours is there, and nothing can be while that one is."""


class MachineGhost(DriverError):
    """The hypervisor lists a machine that it can neither run nor destroy; the uuid is burnt on that host."""


class MachineState(StrEnum):
    """What the hypervisor says of a machine. ABSENT is never listed: it means that there is none."""

    PAUSED = "paused"  # created, never let run by us
    RUNNING = "running"
    STOPPING = "stopping"  # asked to shut down, still executing
    STOPPED = "stopped"  # defined, not executing
    CRASHED = "crashed"
    MIGRATING = "migrating"  # in a live move, on either host of it, at a moment when it executes on neither
    TOMBSTONE = "tombstone"  # inert marker that forbids a late definition of an old attempt
    GHOST = "ghost"
    ABSENT = "absent"

    @property
    def executing(self) -> bool:
        """Whether guest code may be running at this moment."""
        return self in (MachineState.RUNNING, MachineState.STOPPING)

    @property
    def has_process(self) -> bool:
        """Whether the hypervisor has given it what it claims, executing or not."""
        return self.executing or self in (MachineState.PAUSED, MachineState.MIGRATING, MachineState.GHOST)


@dataclass(frozen=True, slots=True)
class MachineIdentity:
    """Who a machine is. `attempt` rises only when an instance is placed anew."""

    cluster: str
    group: str
    instance: str
    attempt: int

    @property
    def machine_uuid(self) -> str:
        """RFC 4122 version 5 uuid of (instance, attempt), with dashes."""
        return machine_uuid(self.cluster, self.instance, self.attempt)

    @property
    def machine_name(self) -> str:
        """Unique on every host: `corral-<instance>-<attempt>`."""
        return f"corral-{self.instance}-{self.attempt}"


@dataclass(frozen=True, slots=True)
class NetworkInterface:
    """One NIC. `kind`: `bridge` (host bridge `source`), `network` (libvirt network `source`), `user` (SLIRP), `none`.

    `address` is a planned IPv4/IPv6 address without prefix, empty for DHCP.
    """

    kind: str
    source: str
    mac: str
    address: str = ""
    prefix_length: int = 0
    gateway: str = ""


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """All that a host needs to create a machine. Sizes in bytes.

    `documents` go to the guest by the image's delivery: name -> text (`rendezvous` JSON, `env` file, `hosts` file).
    They may hold secrets: they reach the guest by volumes that only the hypervisor reads (mode 0600), and stand in no
    command line, definition, log or representation of this object.
    `spec_hash` stands in the machine's metadata, so that a changed spec is noticed. `host_name`: the guest's own.
    `resources`: the claimed vector (`vcpu`, `memory`, …). `cells`: NUMA cells of the host that its processors and its
    memory are to be of, by the host's own numbers; none: of any. `devices`: those of the host that it gets for itself
    alone; where one of them is not as it was claimed the machine is refused. `generation`: how far the database had
    come, for the machine's metadata: a database that is older than its machines is noticed by it.
    `record`: text of the metadata from which the machine's rows can be written again; each definition has the newest.
    `isolation`: whom its group may talk with, held to where the host can; None: nothing is held to.
    `asked_for`: what the host is to be asked of the guest's readiness, `agent` or `serial`; empty for nothing.
    `relies_on`: options that its host must have, and their values, empty for any. `data_disks`: beside the root disk.
    A host that cannot do one of these three refuses the machine (HostRejected `unsupported`).
    """

    identity: MachineIdentity
    display_name: str
    vcpus: int
    memory_bytes: int
    root_disk_bytes: int
    image: Image
    interfaces: tuple[NetworkInterface, ...]
    documents: Mapping[str, str] = field(repr=False)
    spec_hash: str
    resources: Mapping[str, int] = field(default_factory=dict)
    generation: int = 0
    record: str = ""
    host_name: str = "guest"
    cells: tuple[int, ...] = ()
    devices: tuple[HeldDevice, ...] = ()
    isolation: Isolation | None = None
    asked_for: str = ""
    relies_on: Mapping[str, str] = field(default_factory=dict)
    data_disks: tuple[DataDisk, ...] = ()


@dataclass(frozen=True, slots=True)
class ObservedMachine:
    """One machine with this cluster's tag, as the host showed it.

    `generation`: as it was created with. `resources`: the most that it holds (`vcpu` count, `memory` bytes, the same of
    the NUMA cells that it is pinned to), where the host tells it. `name`: as the host's own tools show it. `record`: as
    its newest definition has it; empty where a version made the machine that left none.
    `why`: the host's reason where it does not execute and nobody asked for that (an I/O error, no space, a panic), in
    words that a tenant may read; empty where there is none.
    `undefined`: it has no definition any more, and would not be there after its host's next start.
    `unheard_seconds`: for how long its progress channel has been refused here, as where another client reads it.
    `devices`: the addresses of the host's functions that it has; while it executes only those that it really has, since
    one may be pulled from under it; None where the host does not tell. `ailing`: of those functions the ones that its
    guest says fail, with what ails them.
    `reset_seconds`: how long ago its host told of a reset; None: it has not. What the guest said before is dropped.
    `console_from`: how much its console's log held when it was started last, in bytes: what comes after is of this run.
    """

    identity: MachineIdentity
    machine_uuid: str
    state: MachineState
    spec_hash: str
    report: GuestReport | None = None
    generation: int = 0
    resources: Mapping[str, int] = field(default_factory=dict)
    name: str = ""
    record: str = field(default="", repr=False)
    why: str = ""
    undefined: bool = False
    unheard_seconds: float = 0.0
    devices: tuple[str, ...] | None = None
    ailing: Mapping[str, str] = field(default_factory=dict)
    reset_seconds: float | None = None
    console_from: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """A complete list of this cluster's machines on one host, on a live connection. Absence is proven only when two
    listings with the same `boot_id` agree (ARCHITECTURE mechanism 7).
    """

    boot_id: str
    machines: tuple[ObservedMachine, ...]
    _by_uuid: dict[str, ObservedMachine] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_uuid", {m.machine_uuid: m for m in reversed(self.machines)})

    def find(self, machine_uuid: str) -> ObservedMachine | None:
        """The machine with this uuid (the first one, where several have it), or None."""
        return self._by_uuid.get(machine_uuid)


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a host is. `total` and `foreign` are named integer vectors: `vcpu` (count), `memory` (bytes), …, and of each
    NUMA cell `cell.<number>.vcpu` and `cell.<number>.memory`.

    `total` is what machines can be given: without memory that is set aside as huge pages.
    `foreign`: what machines without this cluster's tag hold (not what they could be given as they run), without stopped
    ones that do not autostart; and what the hypervisor takes for itself beside their memory.
    `beside`: what the hypervisor takes for each guest of ours beside what the guest is given; `guests`: how many run.
    `virt_type`: `kvm` | `qemu` | `test` | `simulated`; `virt_note`: why. `mark`: the owner's, None where it has none.
    `hypervisor`: the machine's own uuid, whatever address it is reached by; empty where its kind has none.
    `functions`: its PCI functions; None where its kind does not tell them, and devices are only counted in `total`.
    `isolation`: `nwfilter` where it keeps groups to themselves on the network, otherwise why it does not; empty where
    that was not found out yet. `addresses`: that others have there, as far as it tells; None where its kind does not.
    `firmware`, `secure_boot`: see `domain.fleet.Host`; empty where it does not say now. `used`: of what guests of ours
    claim, `vcpu` (processors' worth of time since the look before) and `memory` (bytes resident), as far as measured.
    """

    host_uuid: str
    hostname: str
    boot_id: str
    architecture: str
    total: Mapping[str, int]
    foreign: Mapping[str, int]
    virt_type: str
    virt_note: str
    hypervisor_version: str
    labels: Mapping[str, str] = field(default_factory=dict)
    hypervisor: str = ""
    mark: OwnerMark | None = None
    beside: Mapping[str, int] = field(default_factory=dict)
    guests: int = 0
    functions: tuple[PciFunction, ...] | None = None
    isolation: str = ""
    addresses: tuple[ForeignAddress, ...] | None = None
    firmware: str = ""
    secure_boot: str = ""
    used: Mapping[str, float] = field(default_factory=dict, compare=False)


class LogSource(StrEnum):
    """What a machine's host keeps of what the machine says."""

    CONSOLE = "console"  # its first serial port: firmware, kernel, and what the guest's programs write there
    ENGINE = "engine"  # what the supervisor passes on of the engine's output


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Bytes of a log. `start`: where in the log they begin; `size`: how many there are now, 0 again once it was cut."""

    start: int
    data: bytes
    size: int


MachineHint = Callable[[str, MachineIdentity | None], None]
"""`(host_id, identity)`: something changed there, observe soon. May be lost, repeated or wrong. On the event loop."""


class HostDriver(HostCopies, Protocol):
    """One host. All methods are coroutines on the control plane's event loop and never block it."""

    @property
    def host_id(self) -> str:
        """The host's uuid in Corral."""
        ...

    async def probe(self, *, budget_seconds: float) -> HostFacts:
        """Connect if needed and read what the host is. Raises HostUnreachable, OutcomeUnknown, HostRejected."""
        ...

    async def leave_mark(self, mark: OwnerMark, *, take_over: bool = False, budget_seconds: float) -> OwnerMark:
        """Leave the owner's mark on the host, in place of an older one of the same database; returns the mark that the
        host bears now.

        Another database's mark stays, and is returned, unless `take_over`. A host never bears marks of two owners.
        """
        ...

    async def clear_mark(self, mark: OwnerMark, *, budget_seconds: float) -> None:
        """Take the mark of this database and host away, whatever its generation; any other stands.

        Absent is success.
        """
        ...

    async def list_machines(self, *, budget_seconds: float) -> Listing:
        """All machines with this cluster's tag, tombstones included, each with its newest guest report."""
        ...

    async def survey(self, *, budget_seconds: float) -> Listing:
        """All machines that any cluster of Corral made there, tombstones included; nothing is opened or changed."""
        ...

    async def told(self, identity: MachineIdentity, *, budget_seconds: float) -> str:
        """The rendezvous document that the machine was made with, where its host keeps it and gives it; else empty."""
        ...

    async def observe(self, identity: MachineIdentity, *, budget_seconds: float) -> tuple[str, ObservedMachine | None]:
        """`(boot_id, machine or None)` for one machine: cheaper than a listing, weaker as evidence of absence."""
        ...

    async def create_paused(self, spec: MachineSpec, *, budget_seconds: float) -> ObservedMachine:
        """Make volumes, deliver documents, define and create the machine, paused. Answers the machine as it stands.

        A machine of the same identity that already runs or is paused is success; a stopped one keeps its volumes, is
        defined anew with these documents, and starts paused. Raises MachineConflict where the uuid
        is a tombstone or someone else's, HostRejected where the host cannot do it (what was made is removed again).
        """
        ...

    async def resume(self, identity: MachineIdentity, *, budget_seconds: float) -> ObservedMachine:
        """Let a machine run that is paused, or was left paused by a live move that is over; opens its progress channel
        first. Running already is success."""
        ...

    async def shutdown(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """Ask the guest to stop (ACPI); returns once asked. Absent or stopped is success."""
        ...

    async def power_off(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """Stop executing at once; keeps definition and volumes. Absent or stopped is success."""
        ...

    async def remove(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """Destroy, see it gone, undefine, delete all its volumes, in that order. Absent is success.

        Raises MachineGhost where the host lists it and cannot destroy it.
        """
        ...

    async def entomb(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """Define an inert TOMBSTONE machine with this identity's uuid, so that a late definition is refused.

        Raises MachineConflict where a real machine with that uuid is there.
        """
        ...

    async def tell(self, identity: MachineIdentity, text: str, *, budget_seconds: float) -> None:
        """Say this to the guest of a machine that executes, down its progress channel. Whether it hears it is seen in
        its reports; it may get it twice, or cut.

        Raises HostRejected `absent` where there is no such machine, or nothing to tell it by.
        """
        ...

    async def hear(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """Hear from now on what the guest of a machine that executes reports, in place of whoever else does.

        Nothing to be heard is success. Raises HostRejected `absent` where its progress channel cannot be had.
        """
        ...

    async def read_log(
        self, identity: MachineIdentity, source: LogSource, *, start: int, most: int, budget_seconds: float
    ) -> LogPiece:
        """At most `most` bytes of what the machine has said, from `start` on; a negative `start` counts from the end.
        A `start` beyond the end gives none.

        Raises HostRejected `absent` where the host keeps no such log of that machine.
        """
        ...

    async def agent_answers(self, identity: MachineIdentity, *, budget_seconds: float) -> bool:
        """Whether the QEMU guest agent of a machine that executes answers a ping, within half the budget.

        Raises HostRejected `unsupported` where the machine or its host has no way to it, `absent` where it does not
        run.
        """
        ...

    async def define_again(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """Give a machine that executes back the definition that somebody has taken from it, as it is.

        Absent, not executing, or defined is success.
        """
        ...

    async def clear_tombstone(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """Undefine the tombstone. Absent is success; a real machine with that uuid raises MachineConflict."""
        ...

    def can_migrate(self, spec: MachineSpec, target: HostDriver) -> bool:
        """Whether a machine like this may go from here to the target as it runs, as far as is known without asking.

        `spec`: as the target would be asked to create it.
        """
        ...

    async def migrate(self, spec: MachineSpec, target: HostDriver, *, budget_seconds: float) -> bool:
        """Move the running machine to the target: begin, or go on with what has begun; at its end it is there, its
        definition too, and here no more. At no instant does it execute on both.

        True: it has ended well. False: it goes on, however many callers leave; call again. Raises HostRejected where it
        was refused or broke off, which leaves the machine executing here, MachineConflict for a tombstone there.
        """
        ...

    async def abort_migration(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """End a move from here that has not ended yet: when this returns none goes on, and none that was asked for
        through this object begins. It may have ended well before. No move, no machine: success.
        """
        ...

    async def list_volumes(self, *, budget_seconds: float) -> tuple[str, ...]:
        """Names of all per-machine volumes that bear this cluster's tag (base images are not listed).

        See `volume_owner` for what the names tell.
        """
        ...

    async def delete_volume(self, name: str, *, budget_seconds: float) -> None:
        """Delete one of `list_volumes`' names. Absent is success."""
        ...

    async def list_filters(self, *, budget_seconds: float) -> tuple[GroupFilter, ...]:
        """What the host has in place to keep groups of this cluster to themselves; none where it cannot."""
        ...

    async def set_filter(self, isolation: Isolation, *, budget_seconds: float) -> None:
        """Hold the group's machines there to this from now on, those that run included.

        Raises HostRejected `denied` where what bears the filter's name is not ours.
        """
        ...

    async def remove_filter(self, group: str, *, budget_seconds: float) -> None:
        """Take away what holds the group's machines, unless there is one. Absent, or somebody else's, is success."""
        ...

    def subscribe(self, hint: MachineHint) -> None:
        """Call `hint` on machine lifecycle changes, new guest reports and connection changes."""
        ...

    async def close(self) -> None:
        """Let go of connections, threads and channels. Machines go on running."""
        ...
