"""The simulation's own model of a host: what is really there, as nobody but the host and the observer sees it.

Operations are atomic and instant; the network between a replica and a host is in `network`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

PAUSED, RUNNING, STOPPING, STOPPED, CRASHED, MIGRATING, TOMBSTONE, GHOST = (
    "paused", "running", "stopping", "stopped", "crashed", "migrating", "tombstone", "ghost",
)  # fmt: skip
SILENT, UNWELL, GIVEN_UP = "silent", "unwell", "given up"
EXECUTING = frozenset({RUNNING, STOPPING})
HOLDING = frozenset({PAUSED, RUNNING, STOPPING, MIGRATING, GHOST})
CLUSTER = "simulation"
"""What the machines of the installation under test bear; others' bear something else."""


class Conflict(Exception):
    """The uuid is taken by something else."""


class Rejected(Exception):
    """The host cannot do it."""


class Undying(Exception):
    """A ghost: listed, and cannot be destroyed."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A PCI function that is there. `driver`: of its host's own, which keeps it from machines; `foreign`: another's
    machine has it; `resets`: it can be cleaned; `serial`: another piece in the same place has another one."""

    address: str
    ids: str
    device_class: str
    group: int
    driver: str = ""
    foreign: bool = False
    resets: bool = True
    serial: int = 0


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine, ours or by its `cluster` another installation's. `tampered`: somebody else had a hand in its state;
    `late`: a stray request made it; `arriving`: it comes by a live move and has never executed here. `devices`: the
    (address, serial) of what it was made with, `mistaken`: which is not what was asked for; `ailing`: what its guest
    says fails. `ailment`: what its guest ails since `ails_since`: it says nothing, that it does not serve, or that
    it has given its engine up. `quiet`: its guest was told to answer nobody any more."""

    uuid: str
    group: str
    instance: str
    attempt: int
    state: str
    spec_hash: str = ""
    epoch: int = 0
    address: str = ""
    endpoint: str = ""
    quiet: bool = False
    resumed_at: float = 0.0
    boot_seconds: float = 0.0
    amounts: tuple[tuple[str, int], ...] = ()
    tampered: bool = False
    late: bool = False
    arriving: bool = False
    generation: int = 0
    record: str = ""
    cluster: str = CLUSTER
    devices: tuple[tuple[str, int], ...] = ()
    mistaken: bool = False
    ailing: tuple[tuple[str, str], ...] = ()
    ailment: str = ""
    ails_since: float = 0.0

    @property
    def ours(self) -> bool:
        """Whether it bears the tag of the installation under test, rightly or not."""
        return self.cluster == CLUSTER


Mark = tuple[str, str, int]
"""Whose a host is: the owner's database, the host's uuid there, and how far that database had come."""

Changed = Callable[["SimulatedMachineHost", Machine | None, Machine | None, str], None]


@dataclass(slots=True)
class SimulatedMachineHost:
    """Machines, volumes and foreign machines of one host. `changed(host, before, after, cause)` hears every change.

    `uuid`: of its entry in the fleet; `deaf_to`: see `forget_requests`, virtual seconds.
    """

    uuid: str
    name: str
    zone: str
    total: dict[str, int]
    now: Callable[[], float]
    changed: Changed
    boot_number: int = 1
    up: bool = True
    kept_off: bool = False
    machines: dict[str, Machine] = field(default_factory=dict)
    volumes: dict[str, str] = field(default_factory=dict)
    foreign: dict[str, tuple[int, int]] = field(default_factory=dict)
    moves: dict[str, Any] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    slots: dict[str, Slot] = field(default_factory=dict)
    mark: Mark | None = None
    marked_at: float = 0.0
    deaf_to: float = 0.0
    history: deque[tuple[float, tuple[Machine, ...]]] = field(default_factory=lambda: deque(maxlen=16))

    @property
    def boot_id(self) -> str:
        """Changes with every reboot."""
        return f"{self.name}-boot-{self.boot_number}"

    @property
    def hypervisor(self) -> str:
        """Its own uuid, whatever happens to it."""
        return f"hypervisor-{self.name}"

    def leave_mark(self, mark: Mark, *, take_over: bool) -> Mark:
        """The owner's mark; another database's stands unless it is taken over, and none goes back."""
        there = self.mark
        if there is not None and there[0] != mark[0] and not take_over:
            return there
        if there is not None and there[0] == mark[0] and there[2] > mark[2]:
            return there
        self.bear(mark)
        return mark

    def bear(self, mark: Mark | None) -> None:
        """Bear this mark from now on, whoever wrote it."""
        if mark is None or self.mark is None or mark[:2] != self.mark[:2]:
            self.marked_at = self.now()
        self.mark = mark

    def really_had(self, machine: Machine) -> tuple[str, ...]:
        """Addresses of the machine's devices that were not pulled from under it."""
        return tuple(a for a, serial in machine.devices if a in self.slots and self.slots[a].serial == serial)

    def holder(self, address: str, *, but: str = "") -> Machine | None:
        """Which machine has the function now, other than the one with this uuid."""
        for uuid, machine in self.machines.items():
            if uuid != but and machine.state in HOLDING and address in self.really_had(machine):
                return machine
        return None

    def newest(self, database: str) -> int:
        """The latest generation of this database that the host has seen."""
        own = self.mark[2] if self.mark is not None and self.mark[0] == database else 0
        return max([own, *(m.generation for m in self.machines.values() if m.ours)])

    def put(self, uuid: str, after: Machine | None, cause: str) -> None:
        """Replace one machine by its next state; None removes it."""
        before = self.machines.get(uuid)
        if before == after:
            return
        self.history.append((self.now(), tuple(self.machines.values())))
        if after is None:
            del self.machines[uuid]
        else:
            self.machines[uuid] = after
        self.changed(self, before, after, cause)

    def create(self, wanted: Machine, cause: str) -> Machine:
        """Make volumes and the machine, paused; one that is there and not stopped stays as it is."""
        there = self.machines.get(wanted.uuid)
        if there is not None and there.state == TOMBSTONE:
            raise Conflict
        if there is not None and there.state == GHOST:
            raise Undying
        if there is None or there.state in (STOPPED, CRASHED):
            self.make_volume(wanted)
            self.put(wanted.uuid, wanted, cause)
        return self.machines[wanted.uuid]

    def make_volume(self, wanted: Machine) -> None:
        """The first half of a create."""
        there = self.machines.get(wanted.uuid)
        if there is None or there.state != TOMBSTONE:
            self.volumes[f"corral.simulation.{wanted.instance}.{wanted.attempt}.root"] = wanted.uuid

    def resume(self, uuid: str, boot_seconds: float, cause: str, *, late: bool) -> Machine:
        """Let a paused machine run; a running one runs on."""
        there = self.machines.get(uuid)
        going = self.moves.get(uuid)
        left = there is not None and there.state == MIGRATING and (going is None or going.over)
        if there is None or not (left or there.state in (PAUSED, RUNNING, STOPPING)):
            raise Rejected
        if left:  # its guest goes on where it was
            self.put(uuid, replace(there, state=RUNNING, late=there.late or late), cause)
        elif there.state == PAUSED:
            running = replace(
                there,
                state=RUNNING,
                resumed_at=self.now(),
                boot_seconds=boot_seconds,
                quiet=False,
                late=there.late or late,
            )
            self.put(uuid, running, cause)
        return self.machines[uuid]

    def tell(self, uuid: str, epoch: int) -> None:
        """The guest takes over a newer start; one that does not run hears nothing."""
        there = self.machines.get(uuid)
        if there is None or there.state != RUNNING:
            raise Rejected
        self.put(uuid, replace(there, epoch=max(there.epoch, epoch)), "tell")

    def take(self, uuid: str, address: str) -> None:
        """The guest has this address beside its own from now on; one that does not run hears nothing."""
        there = self.machines.get(uuid)
        if there is None or there.state != RUNNING:
            raise Rejected
        self.put(uuid, replace(there, endpoint=address), "take")

    def quiesce(self, uuid: str) -> None:
        """The guest answers nobody any more; one that does not run hears nothing."""
        there = self.machines.get(uuid)
        if there is None or there.state != RUNNING:
            raise Rejected
        self.put(uuid, replace(there, quiet=True), "quiesce")

    def set_state(self, uuid: str, state: str, cause: str, *, tampered: bool = False) -> None:
        """Another state for a machine that is there; a tombstone or ghost stays one."""
        there = self.machines.get(uuid)
        if there is not None and there.state not in (TOMBSTONE, GHOST):
            self.put(uuid, replace(there, state=state, tampered=there.tampered or tampered), cause)

    def remove(self, uuid: str, cause: str) -> None:
        """Destroy, undefine, delete volumes; absent is fine, a tombstone stays."""
        there = self.machines.get(uuid)
        if there is not None and there.state == GHOST:
            raise Undying
        for name in [n for n, owner in self.volumes.items() if owner == uuid]:
            del self.volumes[name]
        if there is not None and there.state != TOMBSTONE:
            self.put(uuid, None, cause)

    def remove_if_there(self, uuid: str, cause: str) -> None:
        """As `remove`, by somebody who does not mind a ghost."""
        there = self.machines.get(uuid)
        if there is not None and there.state not in (GHOST, TOMBSTONE):
            self.remove(uuid, cause)

    def entomb(self, wanted: Machine, cause: str) -> None:
        """Put a tombstone where nothing is."""
        there = self.machines.get(wanted.uuid)
        if there is not None and there.state != TOMBSTONE:
            raise Conflict
        self.put(wanted.uuid, wanted, cause)

    def clear_tombstone(self, uuid: str, cause: str) -> None:
        """Take a tombstone away; absent is fine."""
        there = self.machines.get(uuid)
        if there is not None and there.state != TOMBSTONE:
            raise Conflict
        if there is not None:
            self.put(uuid, None, cause)

    def power_off(self, cause: str) -> None:
        """From now on nothing executes and nothing is answered; definitions and volumes are kept, ghosts are gone."""
        self.up = False
        for uuid, machine in list(self.machines.items()):
            if machine.state == GHOST:
                self.machines[uuid] = replace(machine, state=STOPPED)
                self.remove(uuid, cause)
            elif machine.arriving:
                self.put(uuid, None, cause)  # it was defined nowhere
            else:
                self.set_state(uuid, STOPPED, cause)

    def forget_requests(self, until: float) -> None:
        """What was sent before this moment never arrives: the machine was off, and its connections with it."""
        self.deaf_to = until

    def boot(self, cause: str) -> None:
        """It comes up again, unless somebody keeps it off."""
        if not self.up and not self.kept_off:
            self.boot_number += 1
            self.up = True

    def as_of(self, age: float) -> tuple[Machine, ...]:
        """What a listing showed `age` seconds ago, as far as that is remembered."""
        moment = self.now() - age
        for changed_at, before in self.history:
            if changed_at > moment:
                return before
        return tuple(self.machines.values())
