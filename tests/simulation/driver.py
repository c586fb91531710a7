"""`HostDriver` over a simulated host, through a network of faults; what it lists is at times not quite true."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from service.domain.isolation import GroupFilter, Isolation
from service.domain.ownership import OwnerMark
from service.drivers.base import (
    HostDriver,
    HostFacts,
    HostRejected,
    Listing,
    LogPiece,
    LogSource,
    MachineGhost,
    MachineHint,
    MachineIdentity,
    MachineSpec,
    MachineState,
    ObservedMachine,
    OutcomeUnknown,
)
from service.drivers.reports import GuestReport
from tests.simulation import card_faults, hosts, moves
from tests.simulation.copies import THEME as COPIES
from tests.simulation.copies import CopyCalls
from tests.simulation.hosts import CLUSTER, Machine, SimulatedMachineHost
from tests.simulation.loop import Process
from tests.simulation.metal import CLEANING
from tests.simulation.network import Network

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")
ASK_SECONDS = 0.7
"""A replica asks this often whether a live move has ended."""


class FaultyDriver(CopyCalls):
    """One replica's way to one host."""

    def __init__(self, world: World, process: Process, host: SimulatedMachineHost) -> None:
        self._world = world
        self._process = process
        self._host = host
        self._network = Network(world, process, host)
        self._hints: list[MachineHint] = []
        self._lied = False
        self.host_id = host.uuid

    # --- HostDriver -------------------------------------------------------------------------------------------------

    async def probe(self, *, budget_seconds: float) -> HostFacts:
        """See HostDriver."""
        return await self._network.call("probe", budget_seconds, lambda _late: self.facts())

    async def leave_mark(self, mark: OwnerMark, *, take_over: bool = False, budget_seconds: float) -> OwnerMark:
        """See HostDriver."""
        told = (mark.database, mark.host, mark.generation)
        stands = await self._network.call(
            "leave_mark", budget_seconds, lambda _late: self._host.leave_mark(told, take_over=take_over)
        )
        return OwnerMark(*stands)

    async def clear_mark(self, mark: OwnerMark, *, budget_seconds: float) -> None:
        """See HostDriver."""

        def clear(_late: bool) -> None:
            if self._host.mark is not None and self._host.mark[:2] == (mark.database, mark.host):
                self._host.bear(None)

        await self._network.call("clear_mark", budget_seconds, clear)

    async def list_machines(self, *, budget_seconds: float) -> Listing:
        """See HostDriver."""
        return await self._network.call("list", budget_seconds, lambda _late: self.listing())

    async def survey(self, *, budget_seconds: float) -> Listing:
        """See HostDriver."""
        return await self._network.call("survey", budget_seconds, lambda _late: self.listing())

    async def told(self, identity: MachineIdentity, *, budget_seconds: float) -> str:
        """See HostDriver. These hosts keep no documents."""
        return await self._network.call("told", budget_seconds, lambda _late: "")

    async def observe(self, identity: MachineIdentity, *, budget_seconds: float) -> tuple[str, ObservedMachine | None]:
        """See HostDriver."""

        def look(_late: bool) -> tuple[str, ObservedMachine | None]:
            machine = self._host.machines.get(identity.machine_uuid)
            return self._host.boot_id, self._seen(machine) if machine else None

        return await self._network.call("observe", budget_seconds, look)

    async def create_paused(self, spec: MachineSpec, *, budget_seconds: float) -> ObservedMachine:
        """See HostDriver."""
        document = json.loads(spec.documents.get("rendezvous", '{"group": {"epoch": 0}, "node": {}}'))
        identity = spec.identity
        address = spec.interfaces[0].address if spec.interfaces else ""

        def create(late: bool) -> ObservedMachine:
            if self._world.fault("no_memory"):
                raise HostRejected("no_memory", "the host has no memory for it")
            self._world.metal.require_off(self._host)
            self._world.copies.stand(self._host, spec)
            devices, mistaken = card_faults.given(self._world, self._host, identity.machine_uuid, spec.devices)
            machine = replace(
                _machine(identity, hosts.PAUSED),
                spec_hash=spec.spec_hash,
                epoch=int(document["group"]["epoch"]),
                address=address,
                endpoint=document["node"].get("endpoint", ""),
                amounts=_amounts(spec),
                generation=spec.generation,
                record=spec.record,
                late=late,
                devices=devices,
                mistaken=mistaken,
            )
            if self._world.fault("half_create"):
                self._host.make_volume(machine)
                self._world.more_trouble(self._host, machine.uuid)
                raise OutcomeUnknown("the connection was lost while the machine was made")
            seen = self._host.create(machine, self._cause("create"))
            if self._world.fault("ghost"):
                self._host.put(seen.uuid, replace(seen, state=hosts.GHOST), "ghost")
                raise MachineGhost("the host cannot run it")
            return self._seen(seen)

        return await self._network.call("create", budget_seconds, create, identity)

    async def resume(self, identity: MachineIdentity, *, budget_seconds: float) -> ObservedMachine:
        """See HostDriver."""

        def resume(late: bool) -> ObservedMachine:
            seconds = self._world.boot_seconds()
            if identity.group == CLEANING:
                seconds = self._world.metal.cleaning_seconds(self._host.uuid, identity.attempt, seconds)
            uuid = identity.machine_uuid
            machine = self._host.resume(uuid, seconds, self._cause("resume"), late=late)
            if identity.group == CLEANING and seconds > self._world.metal.NEVER / 2 and identity.attempt % 2:
                self._world.loop.outside(1.0, self._gives_up, uuid)
            self._world.loop.outside(seconds + 0.01, self._world.hint, self._host, uuid)
            return self._seen(machine)

        return await self._network.call("resume", budget_seconds, resume, identity)

    def _gives_up(self, uuid: str) -> None:
        """A guest switches its machine off, and says nothing."""
        machine = self._host.machines.get(uuid)
        if machine is not None and machine.state == hosts.RUNNING:
            self._host.set_state(uuid, hosts.STOPPED, "guest")

    async def shutdown(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver. Some guests obey, after a while; some do not."""

        def ask(late: bool) -> None:
            uuid = identity.machine_uuid
            machine = self._host.machines.get(uuid)
            if machine is None or machine.state != hosts.RUNNING:
                return
            self._host.set_state(uuid, hosts.STOPPING, self._cause("shutdown", late))
            if self._world.random.random() < 0.8:
                delay = self._world.random.uniform(0.1, 3.0)
                self._world.loop.outside(delay, self._world.guest_stops, self._host, uuid)

        await self._network.call("shutdown", budget_seconds, ask, identity)

    async def power_off(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        act = self._host.set_state
        uuid = identity.machine_uuid
        await self._network.call(
            "power_off", budget_seconds, lambda late: act(uuid, hosts.STOPPED, self._cause("power_off", late)), identity
        )

    async def remove(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        uuid = identity.machine_uuid
        await self._network.call(
            "remove", budget_seconds, lambda late: self._host.remove(uuid, self._cause("remove", late)), identity
        )

    async def entomb(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        machine = _machine(identity, hosts.TOMBSTONE)
        await self._network.call(
            "entomb", budget_seconds, lambda _late: self._host.entomb(machine, self._cause("entomb"))
        )

    async def tell(self, identity: MachineIdentity, text: str, *, budget_seconds: float) -> None:
        """See HostDriver. A guest takes over a newer start in no time."""
        order, uuid = json.loads(text), identity.machine_uuid

        def tell(_late: bool) -> None:
            if order["do"] == "quiesce":
                self._host.quiesce(uuid)
            elif order["do"] == "take":
                self._host.take(uuid, base64.b64decode(order["address"]).decode())
            else:
                self._host.tell(uuid, int(order["epoch"]))

        await self._network.call("tell", budget_seconds, tell, identity)

    async def hear(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver: every replica hears these guests."""
        await self._network.call("hear", budget_seconds, lambda _late: None)

    async def read_log(
        self, identity: MachineIdentity, source: LogSource, *, start: int, most: int, budget_seconds: float
    ) -> LogPiece:
        """See HostDriver. These hosts keep nothing of what machines say."""
        raise HostRejected("absent", "these hosts keep no logs")

    async def agent_answers(self, identity: MachineIdentity, *, budget_seconds: float) -> bool:
        """See HostDriver. None of these guests has an agent."""
        raise HostRejected("unsupported", "these machines have no guest agent")

    async def define_again(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver. Its machines have no definition beside themselves."""
        await self._network.call("define", budget_seconds, lambda _late: None)

    async def clear_tombstone(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        cause = self._cause("clear")
        await self._network.call(
            "clear", budget_seconds, lambda _late: self._host.clear_tombstone(identity.machine_uuid, cause)
        )

    def can_migrate(self, spec: MachineSpec, target: HostDriver) -> bool:
        """See HostDriver. In some runs nothing moves live."""
        if self._world.theme == COPIES:
            return False
        moves_live = self._world.theme in ("moves", "room", "balance") or self._world.seed % 4 != 0
        return isinstance(target, FaultyDriver) and target is not self and moves_live

    async def migrate(self, spec: MachineSpec, target: HostDriver, *, budget_seconds: float) -> bool:
        """See HostDriver. Asks again and again; what has begun goes on between the hosts."""
        if not self.can_migrate(spec, target) or not isinstance(target, FaultyDriver):
            raise HostRejected("unsupported", "the hosts do not move machines live")
        world, there, uuid = self._world, target._host, spec.identity.machine_uuid
        end = world.loop.time() + budget_seconds
        while True:
            left = max(0.1, end - world.loop.time())
            ended = await self._network.call(
                "migrate", left, lambda _late: moves.ask(world, self._host, there, uuid, _amounts(spec)), spec.identity
            )
            if ended or world.loop.time() + ASK_SECONDS >= end:
                return ended
            await asyncio.sleep(ASK_SECONDS)

    async def abort_migration(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        uuid = identity.machine_uuid
        call = self._network.call(
            "abort_migration", budget_seconds, lambda _late: moves.abort(self._host, uuid), identity
        )
        if not await call:
            raise OutcomeUnknown("the live move does not end")

    async def list_volumes(self, *, budget_seconds: float) -> tuple[str, ...]:
        """See HostDriver."""
        return await self._network.call("volumes", budget_seconds, lambda _late: tuple(self._host.volumes))

    async def delete_volume(self, name: str, *, budget_seconds: float) -> None:
        """See HostDriver."""

        def delete(late: bool) -> None:
            if self._host.volumes.pop(name, None) is not None and not late:
                self._world.custodian.volume_deleted(self._host.uuid, name, self._process.name)

        await self._network.call("delete_volume", budget_seconds, delete)

    async def list_filters(self, *, budget_seconds: float) -> tuple[GroupFilter, ...]:
        """See HostDriver. Simulated machines have no network."""
        return ()

    async def set_filter(self, isolation: Isolation, *, budget_seconds: float) -> None:
        """See HostDriver."""

    async def remove_filter(self, group: str, *, budget_seconds: float) -> None:
        """See HostDriver."""

    def subscribe(self, hint: MachineHint) -> None:
        """See HostDriver."""
        self._hints.append(hint)

    async def close(self) -> None:
        """See HostDriver."""

    def hint(self, machine: Machine) -> None:
        """Tell the replica that something changed, in its own time."""
        for hint in self._hints:
            self._world.loop.call_soon(hint, self.host_id, _identity(machine), context=self._process.context.copy())

    # --- what the host says -----------------------------------------------------------------------------------------

    def facts(self) -> HostFacts:
        """What a probe that arrives is answered."""
        host = self._host
        return HostFacts(
            host_uuid=host.uuid,
            hostname=host.name,
            boot_id=host.boot_id,
            architecture="x86_64",
            total=dict(host.total),
            foreign={
                "vcpu": sum(cpu for cpu, _ in host.foreign.values()),
                "memory": sum(memory for _, memory in host.foreign.values()),
            },
            virt_type="kvm" if self._world.cards.drawn else "simulated",
            virt_note="",
            hypervisor_version="1",
            hypervisor=host.hypervisor,
            mark=OwnerMark(*host.mark) if host.mark is not None else None,
            functions=card_faults.functions(host) if self._world.cards.drawn else None,
        )

    def listing(self) -> Listing:
        """At times what stood a moment ago, or one machine short; never twice running, because hosts heal."""
        machines = tuple(m for m in self._host.machines.values() if m.ours)
        if self._lied:
            self._lied = False
        elif self._world.fault("stale_list"):
            then = self._host.as_of(self._world.random.uniform(0.0, 3.0))
            machines, self._lied = tuple(m for m in then if m.ours), True
        elif machines and self._world.fault("partial_list"):
            missing = self._world.random.choice(machines)
            machines, self._lied = tuple(m for m in machines if m is not missing), True
        return Listing(self._host.boot_id, tuple(self._seen(m) for m in machines))

    def _seen(self, machine: Machine) -> ObservedMachine:
        report = None
        if machine.state == hosts.RUNNING:
            age = self._world.loop.time() - machine.resumed_at
            stage = "ready" if age >= machine.boot_seconds else "booting"
            stage, holds = "stopping" if machine.quiet else stage, machine.endpoint
            now, boot_id = self._world.loop.time(), f"boot-{machine.resumed_at:f}"
            report = GuestReport(stage, "", machine.epoch, machine.address, now, boot_id=boot_id, endpoint=holds)
            if machine.ailment == hosts.SILENT:
                report = replace(report, received_at=machine.ails_since, count=1)
            elif machine.ailment:
                report = replace(report, stage="failed" if machine.ailment == hosts.GIVEN_UP else "degraded")
        return ObservedMachine(
            _identity(machine),
            machine.uuid,
            MachineState(machine.state),
            machine.spec_hash,
            report,
            machine.generation,
            dict(machine.amounts),
            record=machine.record,
            devices=self._devices(machine) if self._world.cards.drawn else None,
            ailing=dict(machine.ailing) if machine.state == hosts.RUNNING else {},
        )

    def _devices(self, machine: Machine) -> tuple[str, ...]:
        if machine.state in hosts.HOLDING:
            return self._host.really_had(machine)
        return tuple(address for address, _ in machine.devices)

    def _cause(self, name: str, late: bool = False) -> str:
        return f"{self._process.name} {name}{' late' if late else ''}"


def _amounts(spec: MachineSpec) -> tuple[tuple[str, int], ...]:
    """What the machine takes of its host, and of the one cell that it may be confined to."""
    cells = {f"cell.{cell}.{name}": spec.resources[name] for cell in spec.cells for name in ("vcpu", "memory")}
    return tuple(sorted({**spec.resources, **cells}.items()))


def _machine(identity: MachineIdentity, state: str) -> Machine:
    return Machine(identity.machine_uuid, identity.group, identity.instance, identity.attempt, state)


def _identity(machine: Machine) -> MachineIdentity:
    return MachineIdentity(CLUSTER, machine.group, machine.instance, machine.attempt)
