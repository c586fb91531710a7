"""`HostDriver` over a `SimulatedHost`: adds the delays of calls and the hints of booting guests."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID, uuid5

from service.domain.cells import with_cells
from service.domain.fleet import GPU
from service.domain.isolation import GroupFilter, Isolation
from service.domain.ownership import OwnerMark
from service.drivers.base import (
    DriverError,
    HostDriver,
    HostFacts,
    HostRejected,
    Listing,
    LogPiece,
    LogSource,
    MachineHint,
    MachineIdentity,
    MachineSpec,
    MachineState,
    ObservedMachine,
    OutcomeUnknown,
)
from service.drivers.simulated.host import SimulatedHost
from service.drivers.staging import WithoutCopies

_NAMESPACE = UUID("b6a4a3f0-2f49-5d0c-9c39-0c9d1f3f7a55")


class SimulatedDriver(WithoutCopies):
    """One simulated host with the interface of a driver."""

    def __init__(self, host_id: str, host: SimulatedHost) -> None:
        self._host_id = host_id
        self.host = host
        self._hints: list[MachineHint] = []
        self._boots: set[asyncio.Task[None]] = set()
        self._moves: dict[str, asyncio.Task[None]] = {}

    @property
    def host_id(self) -> str:
        """See HostDriver."""
        return self._host_id

    async def probe(self, *, budget_seconds: float) -> HostFacts:
        """See HostDriver."""
        await self._call(budget_seconds)
        self.host.look()
        options = self.host.options
        return HostFacts(
            host_uuid=self._host_id,
            hostname=self.host.name,
            boot_id=self.host.boot_id,
            architecture="x86_64",
            total=options.total if options.bare_metal else _without_devices(options.total),
            foreign=options.foreign,
            virt_type="simulated",
            virt_note="a simulated host: no guest runs",
            hypervisor_version="simulated 1",
            hypervisor=self.host.hypervisor or str(uuid5(_NAMESPACE, self._host_id)),
            mark=self.host.mark,
            functions=options.functions,
            isolation="a simulated host has no network",
            used=self.host.used,
        )

    async def leave_mark(self, mark: OwnerMark, *, take_over: bool = False, budget_seconds: float) -> OwnerMark:
        """See HostDriver."""
        await self._call(budget_seconds)
        return self.host.leave_mark(mark, take_over=take_over)

    async def clear_mark(self, mark: OwnerMark, *, budget_seconds: float) -> None:
        """See HostDriver."""
        await self._call(budget_seconds)
        self.host.clear_mark(mark)

    async def list_machines(self, *, budget_seconds: float) -> Listing:
        """See HostDriver."""
        await self._call(budget_seconds)
        return self.host.listing()

    async def survey(self, *, budget_seconds: float) -> Listing:
        """See HostDriver."""
        await self._call(budget_seconds)
        return self.host.listing()

    async def told(self, identity: MachineIdentity, *, budget_seconds: float) -> str:
        """See HostDriver. A simulated host keeps no documents."""
        await self._call(budget_seconds)
        return ""

    async def observe(self, identity: MachineIdentity, *, budget_seconds: float) -> tuple[str, ObservedMachine | None]:
        """See HostDriver."""
        await self._call(budget_seconds)
        return self.host.boot_id, self.host.find(identity)

    async def create_paused(self, spec: MachineSpec, *, budget_seconds: float) -> ObservedMachine:
        """See HostDriver."""
        await self._call(budget_seconds)
        document = json.loads(spec.documents.get("rendezvous") or "{}")
        epoch, endpoint = document.get("group", {}).get("epoch", 0), document.get("node", {}).get("endpoint", "")
        return self.host.create(spec, int(epoch), str(endpoint))

    async def resume(self, identity: MachineIdentity, *, budget_seconds: float) -> ObservedMachine:
        """See HostDriver."""
        await self._call(budget_seconds)
        machine = self.host.resume(identity)
        boot = asyncio.create_task(self._boot(identity), name=f"simulated boot of {identity.machine_name}")
        self._boots.add(boot)
        boot.add_done_callback(self._boots.discard)
        return machine

    async def shutdown(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver. A simulated guest stops at once."""
        await self._call(budget_seconds)
        self.host.stop(identity)
        self._hint(identity)

    async def power_off(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        await self._call(budget_seconds)
        self.host.stop(identity)

    async def remove(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        await self._call(budget_seconds)
        self.host.remove(identity)

    async def entomb(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        await self._call(budget_seconds)
        self.host.entomb(identity)

    async def tell(self, identity: MachineIdentity, text: str, *, budget_seconds: float) -> None:
        """See HostDriver. A simulated guest starts its engine again in no time."""
        await self._call(budget_seconds)
        order = json.loads(text)
        address = base64.b64decode(order["address"]).decode() if order.get("do") == "take" else None
        if order.get("do") == "quiesce":
            self.host.quiesce(identity)
        else:
            self.host.tell(identity, int(order.get("epoch", 0)), address)
        self._hint(identity)

    async def hear(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver: a simulated guest is heard by everybody."""
        await self._call(budget_seconds)

    async def read_log(
        self, identity: MachineIdentity, source: LogSource, *, start: int, most: int, budget_seconds: float
    ) -> LogPiece:
        """See HostDriver. No guest runs: the console says so, and what was done with the machine."""
        await self._call(budget_seconds)
        self.host.look()
        data = self.host.said(identity, source).encode()
        start = max(0, len(data) + start) if start < 0 else min(start, len(data))
        return LogPiece(start, data[start : start + most], len(data))

    async def agent_answers(self, identity: MachineIdentity, *, budget_seconds: float) -> bool:
        """See HostDriver. A simulated guest has an agent, which answers once it has booted."""
        await self._call(budget_seconds)
        self.host.look()
        return self.host.agent_answers(identity)

    async def define_again(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver. Its machines have no definition beside themselves."""
        await self._call(budget_seconds)

    async def clear_tombstone(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        await self._call(budget_seconds)
        self.host.clear_tombstone(identity)

    def can_migrate(self, spec: MachineSpec, target: HostDriver) -> bool:
        """See HostDriver."""
        if not isinstance(target, SimulatedDriver) or target is self or spec.devices:
            return False  # what is given a device stays where that is
        both = (self.host.options, target.host.options)
        return all(one.live_migration and not one.bare_metal for one in both)

    async def migrate(self, spec: MachineSpec, target: HostDriver, *, budget_seconds: float) -> bool:
        """See HostDriver. A move ends with the process; machines in a file stay as the file has them."""
        if not self.can_migrate(spec, target) or not isinstance(target, SimulatedDriver):
            raise HostRejected("unsupported", "the hosts do not move machines live")
        await self._call(budget_seconds)
        uuid = spec.identity.machine_uuid
        move = self._moves.get(uuid)
        if move is None:
            work = self._move(spec, target)
            move = self._moves[uuid] = asyncio.create_task(work, name=f"simulated move of {spec.identity.machine_name}")
        done, _ = await asyncio.wait({move}, timeout=budget_seconds)
        if not done:
            return False
        self._moves.pop(uuid, None)
        if move.cancelled():
            raise HostRejected("aborted", "the move was broken off")
        move.result()
        return True

    async def abort_migration(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        await self._call(budget_seconds)
        move = self._moves.pop(identity.machine_uuid, None)
        if move is not None:
            move.cancel()
            await asyncio.gather(move, return_exceptions=True)

    async def _move(self, spec: MachineSpec, target: SimulatedDriver) -> None:
        """What the two hosts do between themselves. Where it ends early the target lets go of what it has got."""
        identity = spec.identity
        listed = self.host.find(identity)
        if listed is None or listed.state not in (MachineState.RUNNING, MachineState.MIGRATING):
            raise HostRejected("bad_request", "there is no running machine to move")
        await target.reached()
        there = with_cells(spec.resources, spec.cells)
        target.host.receive(replace(self.host.machines[identity.machine_uuid], resources=there))
        try:
            await asyncio.sleep(self.host.options.migrate_ms / 1000)
            await target.reached()
            self.host.depart(identity)
            target.host.go_on(identity)  # nothing is awaited in between
        except BaseException:
            self._stay(identity, target)
            raise
        self.host.remove(identity)
        self._hint(identity)
        target._hint(identity)

    def _stay(self, identity: MachineIdentity, target: SimulatedDriver) -> None:
        there = target.host.find(identity)
        if there is not None and there.state is MachineState.MIGRATING:
            target.host.remove(identity)
        here = self.host.find(identity)
        if here is not None and here.state is MachineState.MIGRATING:
            self.host.go_on(identity)

    async def reached(self) -> None:
        """Raises HostRejected where another host does not reach this one."""
        try:
            await self._call(1.0)
        except DriverError as error:
            raise HostRejected("no_route", "the other host does not answer", error.public) from error

    async def list_volumes(self, *, budget_seconds: float) -> tuple[str, ...]:
        """See HostDriver. Simulated machines have no volumes."""
        await self._call(budget_seconds)
        return ()

    async def delete_volume(self, name: str, *, budget_seconds: float) -> None:
        """See HostDriver."""
        await self._call(budget_seconds)

    async def list_filters(self, *, budget_seconds: float) -> tuple[GroupFilter, ...]:
        """See HostDriver. Simulated machines have no network."""
        await self._call(budget_seconds)
        return ()

    async def set_filter(self, isolation: Isolation, *, budget_seconds: float) -> None:
        """See HostDriver."""
        await self._call(budget_seconds)

    async def remove_filter(self, group: str, *, budget_seconds: float) -> None:
        """See HostDriver."""
        await self._call(budget_seconds)

    def subscribe(self, hint: MachineHint) -> None:
        """See HostDriver."""
        self._hints.append(hint)

    async def close(self) -> None:
        """See HostDriver. The machines stay in the host's memory."""
        running = (*self._boots, *self._moves.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _call(self, budget_seconds: float) -> None:
        delay = self.host.options.call_ms / 1000
        if delay > budget_seconds:
            await asyncio.sleep(budget_seconds)
            raise OutcomeUnknown("the host did not answer in time")
        await asyncio.sleep(delay)

    async def _boot(self, identity: MachineIdentity) -> None:
        await asyncio.sleep(self.host.options.boot_ms / 1000 + 0.001)
        self._hint(identity)

    def _hint(self, identity: MachineIdentity) -> None:
        for hint in self._hints:
            hint(self._host_id, identity)


def _without_devices(total: Mapping[str, int]) -> dict[str, int]:
    """The amounts of the host, whose devices are told one by one."""
    return {name: amount for name, amount in total.items() if not name.startswith(GPU)}
