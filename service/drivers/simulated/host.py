"""What a simulated host is: a size, delays, and the machines that it holds. Pure state; time is asked of a clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from service.domain.cells import PAGES, PINNED, by_cell, resource_of, with_cells
from service.domain.devices import PciFunction
from service.domain.fleet import GPU
from service.domain.ownership import OwnerMark
from service.drivers.base import (
    HostRejected,
    Listing,
    LogSource,
    MachineConflict,
    MachineIdentity,
    MachineSpec,
    MachineState,
    ObservedMachine,
)
from service.drivers.reports import GuestReport

MOST_CELLS = 64
MOST_DEVICES = 256
_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


@dataclass(frozen=True, slots=True)
class SimulationOptions:
    """A simulated host's `options` in the configuration; all amounts are what the host really has.

    `cpu` (vCPUs), `memory` (bytes, or with a unit: `256GiB`), `boot_ms` (from resume to ready), `call_ms` (every call),
    `migrate_ms` (a live move), `live_migration` (`yes` | `no`: whether machines leave and come as they run),
    `bare_metal` (`yes` | `no`: whether it is one machine, given out as a whole, and no hypervisor), `clean` (`none` |
    `metadata` | `erase`: whether such a machine boots once between two projects, and is out of service meanwhile),
    `gpu.<model>` (how many devices of the model it has, evenly over its cells), `numa` (into how many NUMA cells `cpu`
    and `memory` are divided evenly; 0: it tells none),
    `foreign_cpu`, `foreign_memory` (held by machines of others), `busy` (the percentage of what they claim that running
    machines take; without it that is not told), `dedicated_cpus` (`true` | `false`), `huge_pages` (`2MiB` | `1GiB`; as
    of hypervisors: members may ask for it, and what it is of is promised to one alone), `state_file` (the file that the
    machines stand in, for several control planes on one machine; without it they are in memory).
    """

    total: Mapping[str, int]
    foreign: Mapping[str, int]
    boot_ms: int = 200
    call_ms: int = 2
    state_file: str = ""
    migrate_ms: int = 100
    live_migration: bool = True
    bare_metal: bool = False
    busy: int | None = None

    @classmethod
    def read(cls, options: Mapping[str, str]) -> SimulationOptions:
        """From the configuration. Raises HostRejected `bad_request` that names the wrong option."""
        left = dict(options)
        state_file = left.pop("state_file", "")
        total = {"vcpu": _amount(left, "cpu", 64), "memory": _amount(left, "memory", 256 << 30)}
        foreign = {"vcpu": _amount(left, "foreign_cpu", 0), "memory": _amount(left, "foreign_memory", 0)}
        boot_ms, call_ms = _amount(left, "boot_ms", 200), _amount(left, "call_ms", 2)
        migrate_ms, live = _amount(left, "migrate_ms", 100), left.pop("live_migration", "yes")
        if live not in ("yes", "no"):
            raise HostRejected("bad_request", "option 'live_migration' is not yes or no")
        busy = _amount(left, "busy", 0) if "busy" in left else None
        if busy is not None and busy > 100:
            raise HostRejected("bad_request", "option 'busy' is more than 100 percent")
        bare_metal = left.pop("bare_metal", "no")
        if bare_metal not in ("yes", "no"):
            raise HostRejected("bad_request", "option 'bare_metal' is not yes or no")
        clean = left.pop("clean", "none")
        if clean not in ("none", "metadata", "erase") or (clean != "none" and bare_metal == "no"):
            raise HostRejected("bad_request", "option 'clean' is none, or of bare metal metadata or erase")
        for name, allowed in (("dedicated_cpus", ("true", "false")), ("huge_pages", ("", *PAGES))):
            if left.pop(name, allowed[0]) not in allowed:
                raise HostRejected("bad_request", f"option {name!r} is not {' or '.join(filter(None, allowed))}")
        for name in [n for n in left if n.startswith("gpu.")]:
            total[name] = _amount(left, name, 0)
        if sum(amount for name, amount in total.items() if name.startswith(GPU)) > MOST_DEVICES:
            raise HostRejected("bad_request", f"the options 'gpu.<model>' are more than {MOST_DEVICES} devices")
        if (numa := _amount(left, "numa", 0)) > MOST_CELLS:
            raise HostRejected("bad_request", f"option 'numa' is more than {MOST_CELLS} cells")
        of_cells = {
            resource_of(cell, name): total[name] // numa + (cell < total[name] % numa)
            for cell in range(numa)
            for name in PINNED
        }
        if left:
            raise HostRejected("bad_request", f"option {min(left)!r} is not one of simulated hosts")
        held = {k: v for k, v in foreign.items() if v}
        return cls(
            total | of_cells, held, boot_ms, call_ms, state_file, migrate_ms, live == "yes", bare_metal == "yes", busy
        )

    @property
    def functions(self) -> tuple[PciFunction, ...] | None:
        """Its devices; None of a machine that is given out as a whole, with all that it has. They need no rule, since
        what they are is said here, and no IOMMU."""
        if self.bare_metal:
            return None
        models = [name for name in sorted(self.total) if name.startswith(GPU) for _ in range(self.total[name])]
        cells = sorted(by_cell(self.total))
        return tuple(
            PciFunction(
                address=f"0000:{index + 1:02x}:00.0" if index < 255 else f"0001:{index - 254:02x}:00.0",
                vendor="1b36",
                product="5ed0",
                device_class="030200",
                cell=cells[index * len(cells) // len(models)] if cells else None,
                model=name.removeprefix(GPU),
            )
            for index, name in enumerate(models)
        )


def _amount(options: dict[str, str], name: str, default: int) -> int:
    text = options.pop(name, "").strip()
    if not text:
        return default
    for unit, factor in _UNITS.items():
        if text.endswith(unit):
            text, scale = text[: -len(unit)], factor
            break
    else:
        scale = 1
    try:
        amount = Fraction(text) * scale
    except ValueError as error:
        raise HostRejected("bad_request", f"option {name!r} is not an amount") from error
    if amount < 0 or amount.denominator != 1:
        raise HostRejected("bad_request", f"option {name!r} is not a whole amount of 0 or more")
    return int(amount)


@dataclass(slots=True)
class SimulatedMachine:
    """One machine and when its guest will be, or was, ready (the clock's seconds)."""

    identity: MachineIdentity
    state: MachineState
    spec_hash: str = ""
    epoch: int = 0
    address: str = ""
    resumed_at: float = 0.0
    generation: int = 0
    resources: Mapping[str, int] = field(default_factory=dict)
    record: str = ""
    devices: tuple[str, ...] = ()
    endpoint: str = ""
    quiet: bool = False
    ailing: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class SimulatedHost:
    """The machines of one host. Methods are atomic and instant; the driver adds delays.

    `hypervisor`: its own uuid; empty: the driver's host id stands for it.
    """

    name: str
    options: SimulationOptions
    clock: Callable[[], float]
    boot_id: str = "simulated-1"
    machines: dict[str, SimulatedMachine] = field(default_factory=dict)
    hypervisor: str = ""
    mark: OwnerMark | None = None

    def look(self) -> None:
        """Take in what others have done to it; in one process's memory there are no others."""

    def leave_mark(self, mark: OwnerMark, *, take_over: bool) -> OwnerMark:
        """Leave the owner's mark; answers the one that stands. See HostDriver."""
        there = self.mark
        if there is not None and not take_over and there.database != mark.database:
            return there
        if there is not None and there.database == mark.database and there.host == mark.host:
            mark = max(there, mark, key=lambda m: m.generation)
        self.mark = mark
        return mark

    def clear_mark(self, mark: OwnerMark) -> None:
        """Take this owner's mark of this host away. See HostDriver."""
        if self.mark is not None and (self.mark.database, self.mark.host) == (mark.database, mark.host):
            self.mark = None

    def create(self, spec: MachineSpec, epoch: int, endpoint: str = "") -> ObservedMachine:
        """Create paused, or find it there. Raises MachineConflict for a tombstone of the same uuid."""
        uuid = spec.identity.machine_uuid
        if spec.asked_for and self.options.bare_metal:
            raise HostRejected("unsupported", f"bare metal has no readiness by {spec.asked_for}")
        wanted = {function.address for device in spec.devices for function in device.functions}
        if lacking := wanted - {function.address for function in self.options.functions or ()}:
            raise HostRejected("device_gone", f"the host has no device {min(lacking)}")
        if missing := set(spec.cells) - set(by_cell(self.options.total)):
            raise HostRejected("unsupported", f"the host has no NUMA cell {min(missing)}")
        there = self.machines.get(uuid)
        if there is not None and there.state is MachineState.TOMBSTONE:
            raise MachineConflict("the machine's uuid is retired on this host")
        taken = any(m.state is not MachineState.TOMBSTONE and u != uuid for u, m in self.machines.items())
        if taken and self.options.bare_metal:
            raise MachineConflict("another member has the machine")
        holders = (m for u, m in self.machines.items() if u != uuid and m.state.has_process)
        if busy := wanted & {address for machine in holders for address in machine.devices}:
            raise HostRejected("device_busy", "a device of the machine is in use by another one", min(busy))
        if there is None or there.state in (MachineState.STOPPED, MachineState.CRASHED):
            address = spec.interfaces[0].address if spec.interfaces else ""
            self.machines[uuid] = SimulatedMachine(
                spec.identity,
                MachineState.PAUSED,
                spec.spec_hash,
                epoch,
                address,
                generation=spec.generation,
                resources=with_cells(spec.resources, spec.cells),
                record=spec.record,
                devices=tuple(sorted(wanted)),
                endpoint=endpoint,
            )
        return self.seen(self.machines[uuid])

    def resume(self, identity: MachineIdentity) -> ObservedMachine:
        """Let a paused machine run. Raises HostRejected where it is not there or not paused."""
        machine = self.machines.get(identity.machine_uuid)
        if machine is not None and machine.state is MachineState.MIGRATING:
            machine.state = MachineState.RUNNING  # left paused by a live move that is over: its guest goes on
        if machine is None or machine.state not in (MachineState.PAUSED, MachineState.RUNNING):
            raise HostRejected("bad_request", "there is no paused machine to resume")
        if machine.state is MachineState.PAUSED:
            machine.state = MachineState.RUNNING
            machine.resumed_at, machine.quiet = self.clock(), False
        return self.seen(machine)

    def tell(self, identity: MachineIdentity, epoch: int, endpoint: str | None = None) -> None:
        """The guest takes over a newer start, and an address (None: it keeps what it has). Raises HostRejected where
        it does not run."""
        machine = self.machines.get(identity.machine_uuid)
        if machine is None or machine.state is not MachineState.RUNNING:
            raise HostRejected("absent", "there is no running machine to tell anything")
        machine.epoch = max(machine.epoch, epoch)
        machine.endpoint = machine.endpoint if endpoint is None else endpoint

    def quiesce(self, identity: MachineIdentity) -> None:
        """The guest answers nobody any more. Raises HostRejected where it does not run."""
        machine = self.machines.get(identity.machine_uuid)
        if machine is None or machine.state is not MachineState.RUNNING:
            raise HostRejected("absent", "there is no running machine to tell anything")
        machine.quiet = True

    def agent_answers(self, identity: MachineIdentity) -> bool:
        """Whether the machine's guest has booted. Raises HostRejected `absent` where it does not run."""
        machine = self.machines.get(identity.machine_uuid)
        if machine is None or machine.state is not MachineState.RUNNING:
            raise HostRejected("absent", "there is no running machine to ask")
        report = self.seen(machine).report
        return report is not None and report.stage == "ready"

    def said(self, identity: MachineIdentity, source: LogSource) -> str:
        """What the machine's log holds. Raises HostRejected `absent` where there is no such machine."""
        machine = self.machines.get(identity.machine_uuid)
        if machine is None or machine.state is MachineState.TOMBSTONE:
            raise HostRejected("absent", f"its host keeps no {source} log of it")
        if source is LogSource.ENGINE:
            return ""
        lines = [f"corral: {self.name} is a simulated host: no guest runs here, and nothing is computed"]
        report = self.seen(machine).report
        if report is not None:
            lines.append(f"corral: simulated guest of start {report.epoch}: {report.stage}")
        return "".join(f"{line}\n" for line in lines)

    def stop(self, identity: MachineIdentity) -> None:
        """Power off; absent is fine."""
        machine = self.machines.get(identity.machine_uuid)
        if machine is not None and machine.state is not MachineState.TOMBSTONE:
            machine.state = MachineState.STOPPED

    def remove(self, identity: MachineIdentity) -> None:
        """Forget the machine; absent is fine, a tombstone stays."""
        machine = self.machines.get(identity.machine_uuid)
        if machine is not None and machine.state is not MachineState.TOMBSTONE:
            del self.machines[identity.machine_uuid]

    def entomb(self, identity: MachineIdentity) -> None:
        """Put a tombstone. Raises MachineConflict where a real machine is there."""
        there = self.machines.get(identity.machine_uuid)
        if there is not None and there.state is not MachineState.TOMBSTONE:
            raise MachineConflict("the machine is there")
        self.machines[identity.machine_uuid] = SimulatedMachine(identity, MachineState.TOMBSTONE)

    def clear_tombstone(self, identity: MachineIdentity) -> None:
        """Take the tombstone away. Raises MachineConflict where a real machine is there."""
        there = self.machines.get(identity.machine_uuid)
        if there is not None and there.state is not MachineState.TOMBSTONE:
            raise MachineConflict("the machine is there")
        self.machines.pop(identity.machine_uuid, None)

    def receive(self, machine: SimulatedMachine) -> None:
        """Take in a machine that arrives live; it does not execute yet. Raises MachineConflict for a tombstone."""
        there = self.machines.get(machine.identity.machine_uuid)
        if there is not None and there.state is not MachineState.MIGRATING:
            raise MachineConflict("the machine's uuid is taken on this host")
        self.machines[machine.identity.machine_uuid] = replace(machine, state=MachineState.MIGRATING)

    def depart(self, identity: MachineIdentity) -> SimulatedMachine:
        """Stop executing a machine that leaves live, and give it. Raises HostRejected where it does not execute."""
        machine = self.machines.get(identity.machine_uuid)
        if machine is None or machine.state not in (MachineState.RUNNING, MachineState.MIGRATING):
            raise HostRejected("bad_request", "there is no running machine to move")
        machine.state = MachineState.MIGRATING
        return machine

    def go_on(self, identity: MachineIdentity) -> None:
        """Let a machine in the middle of a live move execute here. Raises HostRejected where it is not there."""
        machine = self.machines.get(identity.machine_uuid)
        if machine is None or machine.state is not MachineState.MIGRATING:
            raise HostRejected("bad_request", "the machine did not arrive")
        machine.state = MachineState.RUNNING

    def listing(self) -> Listing:
        """Everything on the host."""
        return Listing(self.boot_id, tuple(self.seen(m) for m in self.machines.values()))

    def find(self, identity: MachineIdentity) -> ObservedMachine | None:
        """The one machine, as `listing` has it: a host with many looks at no other."""
        machine = self.machines.get(identity.machine_uuid)
        return None if machine is None else self.seen(machine)

    @property
    def used(self) -> dict[str, float]:
        """What its running machines take of what they claim."""
        if self.options.busy is None:
            return {}
        running = [machine for machine in self.machines.values() if machine.state is MachineState.RUNNING]
        share = self.options.busy / 100
        return {name: share * sum(one.resources.get(name, 0) for one in running) for name in PINNED}

    def reboot(self) -> None:
        """The host restarts: machines are defined still, and stopped."""
        number = int(self.boot_id.rsplit("-", 1)[1]) + 1
        self.boot_id = f"simulated-{number}"
        for machine in self.machines.values():
            if machine.state is not MachineState.TOMBSTONE:
                machine.state = MachineState.STOPPED

    def seen(self, machine: SimulatedMachine) -> ObservedMachine:
        """The machine as an observer sees it at this moment."""
        report = None
        if machine.state is MachineState.RUNNING:
            age = self.clock() - machine.resumed_at
            ready = age * 1000 >= self.options.boot_ms
            stage, boot_id = "ready" if ready else "booting", f"boot-{machine.resumed_at:f}"
            stage, holds = "stopping" if machine.quiet else stage, machine.endpoint
            report = GuestReport(
                stage, "", machine.epoch, machine.address, self.clock(), boot_id=boot_id, endpoint=holds
            )
        return ObservedMachine(
            machine.identity,
            machine.identity.machine_uuid,
            machine.state,
            machine.spec_hash,
            report,
            machine.generation,
            machine.resources,
            machine.identity.machine_name,
            machine.record,
            devices=tuple(machine.devices),
            ailing=dict(machine.ailing),
        )
