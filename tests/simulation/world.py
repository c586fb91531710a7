"""Everything of one run: its seed, time, hosts, replicas, database, and the faults that may strike."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.simulation import hosts as machines
from tests.simulation.boards import Boards
from tests.simulation.cards import Cards
from tests.simulation.copies import Copies
from tests.simulation.custodian import Custodian
from tests.simulation.database import Database
from tests.simulation.guests import Starts
from tests.simulation.hosts import Machine, SimulatedMachineHost
from tests.simulation.loop import LEASE, PROCESS, Killed, Life, Process, SimulatedLoop
from tests.simulation.metal import CLEANING, BareMetal
from tests.simulation.observer import Observer
from tests.simulation.pinned import Pinned
from tests.simulation.repeats import Repeats
from tests.simulation.rest import AtRest

if TYPE_CHECKING:
    from tests.simulation.replica import Replica

EPOCH_MS = 1_800_000_000_000
CALL_FAULTS = ("refused", "lost_request", "lost_reply", "late_request", "slow", "vanish")
HOST_FAULTS = (
    "no_memory",
    "half_create",
    "ghost",
    "stale_list",
    "partial_list",
    "bad_boot",
    "lost_hint",
    "move_breaks",
)
DATABASE = "database"
"""In `World.cut`, in a host's place: the replica does not reach the database."""
DATABASE_FAULTS = ("unavailable", "lost_commit")


@dataclass(frozen=True, slots=True)
class PointFault:
    """What happens when a named point is passed for the `nth` time: crash | freeze | jump (of the clock)."""

    nth: int
    action: str
    seconds: float


@dataclass(slots=True)
class World:
    """One run. `faulty` says whether faults may strike now; `theme`, of what kind it is; `restored`, whether its
    database has gone back in time; `database_clock_ms`, by how much its server's clock is ahead."""

    seed: int
    faulty: bool = True
    theme: str = ""
    restored: bool = False
    database_clock_ms: int = 0
    timeline: list[tuple[object, ...]] = field(default_factory=list)
    stats: Counter[str] = field(default_factory=Counter)
    rates: dict[str, float] = field(default_factory=dict)
    planned: dict[str, PointFault] = field(default_factory=dict)
    passed: Counter[str] = field(default_factory=Counter)
    hosts: dict[str, SimulatedMachineHost] = field(default_factory=dict)
    replicas: list[Replica] = field(default_factory=list)
    cut: set[tuple[str, str]] = field(default_factory=set)
    unwitnessed: dict[str, Process] = field(default_factory=dict)
    unwanted: set[str] = field(default_factory=set)
    unrenewed: set[tuple[str, int]] = field(default_factory=set)
    random: random.Random = field(init=False)
    loop: SimulatedLoop = field(init=False)
    database: Database = field(init=False)
    observer: Observer = field(init=False)
    custodian: Custodian = field(init=False)
    at_rest: AtRest = field(init=False)
    copies: Copies = field(init=False)
    metal: BareMetal = field(init=False)
    pinned: Pinned = field(init=False)
    boards: Boards = field(init=False)
    cards: Cards = field(init=False)
    starts: Starts = field(init=False)
    repeats: Repeats = field(init=False)
    identifiers: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.loop = SimulatedLoop()
        self.database = Database(self.now_ms)
        self.observer = Observer(self.database.rows, lambda: self.loop.time(), self.machines)
        self.copies = Copies(self)
        self.metal = BareMetal(self.database.rows, self.machines, self.observer.violated, lambda: self.loop.time())
        self.observer.updates.endpoints.cleaners = self.metal.cleaners
        self.pinned = Pinned(self.database.rows, self.machines, self.observer.violated)
        self.pinned.adopted = self.observer.adopted
        self.cards = Cards(self.database.rows, lambda: self.loop.time(), self.hosts, self.observer.violated)
        self.at_rest = AtRest(self.database.rows, self.machines, self.observer)
        self.boards = Boards(
            self.database.rows,
            self.hosts,
            lambda: self.loop.time(),
            self.reached,
            self.kernel_answers,
            self.observer.violated,
        )
        self.repeats = Repeats(self.observer.violated)
        self.starts = Starts(self.database.rows, self.machines, self.observer.violated)
        self.custodian = Custodian(self.database.rows, lambda: self.loop.time(), self.hosts, self.observer.violated)

    def note(self, *what: object) -> None:
        """Add to the timeline."""
        self.timeline.append((self.loop.time(), *what))

    def now_ms(self) -> int:
        """The clock of the database's server, right or wrong."""
        return EPOCH_MS + int(self.loop.time() * 1000) + self.database_clock_ms

    def new_uuid(self) -> str:
        """The next uuid of this run."""
        self.identifiers += 1
        return f"{self.seed & 0xFFFFFFFF:08x}{self.identifiers:024x}"

    def latency(self) -> float:
        """Seconds that a message takes."""
        return self.random.expovariate(500.0) + 0.0005

    def boot_seconds(self) -> float:
        """From resume to ready; some guests never come up."""
        return 1e9 if self.fault("bad_boot") else self.random.uniform(0.5, 4.0)

    # --- faults -----------------------------------------------------------------------------------------------------

    def fault(self, kind: str) -> bool:
        """Whether a fault of this kind strikes here."""
        rate = self.rates.get(kind, 0.0)
        if not self.faulty or not rate or self.random.random() >= rate:
            return False
        self.stats[f"fault {kind}"] += 1
        return True

    def call_fault(self, process: Process, host: SimulatedMachineHost, name: str) -> str | None:
        """What happens to this call on its way."""
        if not self.reaches(process, host):
            return self.random.choice(("refused", "lost_request"))
        if name == "create" and self.fault("late_create"):
            return "late_request"
        if name == "resume" and self.fault("lost_resume"):
            return "vanish"
        return next((kind for kind in CALL_FAULTS if self.fault(kind)), None)

    def database_fault(self, process: Process, *, write: bool, deploys: bool = False) -> str | None:
        """What happens to this transaction on its way. `deploys`: it takes a group in, with its lease."""
        if (process.replica, DATABASE) in self.cut or self.fault("unavailable"):
            return "unavailable"
        if write and self.fault("lost_commit"):
            return "lost_reply"
        leased = write and self.theme == "leases" and LEASE.get() is not None
        late = self.fault("late_deploy") if deploys else leased and self.fault("late_commit")
        return "late_reply" if late else None

    def late_reply(self, lease: tuple[str, int] | None, *, deploys: bool = False) -> float:
        """Seconds for which a disk that stands still under a commit keeps its caller: a good part of the lease. Half of
        these leases are not renewed after that: what is left of them is all that they get. Of a lease that comes with a
        deploy it may be nearly all."""
        if lease is not None and (deploys or self.random.random() < 0.5):
            self.unrenewed.add(lease)
        return self.random.uniform(20.0, 42.0) if deploys else self.random.uniform(10.0, 32.0)

    def sever_before_renewal(self, process: Process, lease: tuple[str, int] | None) -> None:
        """A lease is about to be renewed: where that is not to be, its process has lost the database just now."""
        if lease in self.unrenewed:
            self.unrenewed.discard(lease)
            self.sever(process.name.split(".")[0], self.random.uniform(20.0, 60.0))

    def sever(self, replica: str, seconds: float) -> None:
        """The replica does not reach the database for that long."""
        self.note("severed", replica, seconds)
        self.cut.add((replica, DATABASE))
        self.loop.outside(seconds, self.cut.discard, (replica, DATABASE))

    def point(self, name: str) -> None:
        """A named point of the program was reached; perhaps the process ends, or stands still, here."""
        self.passed[name] += 1
        if not self.faulty:
            return
        fault = self.planned.get(name)
        if fault is None or fault.nth != self.passed[name]:
            return
        process = PROCESS.get()
        replica = next((r for r in self.replicas if r.process is process), None)
        if replica is None:
            return
        self.stats[f"point {fault.action}"] += 1
        self.note("point", name, fault.action, replica.name)
        if fault.action == "crash":
            replica.crash(fault.seconds)
            raise Killed
        if fault.action == "freeze":
            replica.freeze(fault.seconds)
        else:
            replica.jump_clock(fault.seconds)

    def vanish(self, host: SimulatedMachineHost) -> None:
        """Nobody reaches the host for a while, and what it has just done is not told."""
        seconds = self.random.choice((5.0, 25.0, 40.0, 65.0))
        self.note("vanish", host.name, seconds)
        self.cut.add(("*", host.uuid))
        self.loop.outside(seconds, self.cut.discard, ("*", host.uuid))

    def lose_witness(self, process: Process, host: SimulatedMachineHost) -> None:
        """The process that has just made a machine here ends before it was told."""
        replica = next((r for r in self.replicas if r.process is process), None)
        if replica is not None:
            replica.crash(self.random.choice((20.0, 50.0)))
            self.unwitnessed[host.uuid] = process

    def hide_unwitnessed(self, process: Process, host: SimulatedMachineHost, lease: tuple[str, int] | None) -> None:
        """Another process is about to make it too: it does not reach the host, for long nobody does, the caller
        wants it no more, and the process stands still right before it would say that it tries again."""
        if self.faulty and lease is not None and self.unwitnessed.get(host.uuid, process) is not process:
            del self.unwitnessed[host.uuid]
            self.unwanted.add(lease[0])
            self.planned["worker.dispatched"] = PointFault(self.passed["worker.dispatched"] + 1, "freeze", 8.0)
            self.note("vanish", host.name, 90.0)
            self.cut.add(("*", host.uuid))
            self.loop.outside(90.0, self.cut.discard, ("*", host.uuid))

    def more_trouble(self, host: SimulatedMachineHost, machine_uuid: str) -> None:
        """Trouble comes in company: while a create is held up somewhere, its machine is lost or the host vanishes.

        Only so does the stray create come into a world that has gone on without it.
        """
        kind = self.random.choice(("none", "lost", "vanish", "vanish"))
        if kind == "lost":
            self.loop.outside(self.random.uniform(2.0, 20.0), host.remove_if_there, machine_uuid, "tamper")
        elif kind == "vanish":
            self.cut.add(("*", host.uuid))
            self.loop.outside(self.random.uniform(17.0, 35.0), self.cut.discard, ("*", host.uuid))

    def reaches(self, process: Process, host: SimulatedMachineHost) -> bool:
        """Whether messages pass between this replica and this host now."""
        if not host.up:
            return False
        cut, uuid = self.cut, host.uuid
        return not cut or not ((process.replica, uuid) in cut or ("*", uuid) in cut or ("daemon", uuid) in cut)

    def kernel_answers(self, host: SimulatedMachineHost, replica: str = "") -> bool:
        """Whether the host is on, and its network leads to this replica; or, without one, to all of them."""
        cut = {who for who, uuid in self.cut if uuid == host.uuid} - {"daemon"}
        return host.up and not (cut & {replica, "*"} if replica else cut)

    def reached(self, host: SimulatedMachineHost) -> bool:
        """Whether any replica reaches the host now and can say so: it runs, and reaches the database."""
        able = [r for r in self.replicas if r.process.life is Life.RUNNING and (r.name, DATABASE) not in self.cut]
        return any(self.reaches(r.process, host) for r in able)

    def rename(self, host: SimulatedMachineHost, uuid: str) -> None:
        """The machine comes into the fleet as another host from now on."""
        del self.hosts[host.uuid]
        usable = self.observer.usable
        self.observer.usable = {**usable, **{(uuid, name): usable[host.uuid, name] for name in host.total}}
        host.uuid = uuid
        self.hosts[uuid] = host

    # --- what happens on hosts --------------------------------------------------------------------------------------

    def machines(self) -> list[tuple[str, Machine]]:
        """(host uuid, machine) of all that is really there, with our tag."""
        return [(h.uuid, m) for h in self.hosts.values() for m in h.machines.values() if m.ours]

    def changed(self, host: SimulatedMachineHost, before: Machine | None, after: Machine | None, cause: str) -> None:
        """A machine changed: the observer judges, replicas may get a hint."""
        machine = after or before
        assert machine is not None
        self.note("machine", host.name, f"{machine.instance[:8]}-{machine.attempt}",
                  before.state if before else "absent", after.state if after else "absent", cause)  # fmt: skip
        self.custodian.changed(host.uuid, before, after, cause)
        if not machine.ours:
            return
        if machine.group != CLEANING:  # what cleans is no member
            self.observer.machine_changed(host.uuid, before, after, cause)
        self.metal.changed(host.uuid, before, after)
        self.pinned.changed(host.uuid)
        self.cards.changed(host, before, after, cause)
        self.hint(host, machine.uuid, machine)

    def hint(self, host: SimulatedMachineHost, uuid: str, machine: Machine | None = None) -> None:
        """Tell every replica that can hear it."""
        subject = machine or host.machines.get(uuid)
        if subject is None:
            return
        for replica in self.replicas:
            driver = replica.drivers.get(host.uuid)
            hears = driver is not None and replica.process.alive and self.reaches(replica.process, host)
            if driver is not None and hears and not self.fault("lost_hint"):
                driver.hint(subject)

    def unsettled(self) -> list[str]:
        """What is not at rest yet, in words."""
        return self.at_rest.unsettled() or self.metal.unsettled()

    def guest_stops(self, host: SimulatedMachineHost, uuid: str) -> None:
        """A guest that was asked to stop has done so."""
        machine = host.machines.get(uuid)
        if machine is not None and machine.state == machines.STOPPING:
            host.set_state(uuid, machines.STOPPED, "guest")

    def committed(self) -> None:
        """A transaction has just changed the database."""
        process = PROCESS.get()
        self.observer.committed(LEASE.get(), process.name if process else "")
        self.custodian.committed()
        self.metal.committed()
        self.pinned.committed()
        self.cards.committed()
        self.starts.committed()
        self.boards.committed()
