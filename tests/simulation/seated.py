"""A way to machines of bare metal that keeps seats for them, as the driver by BMCs does, and orders that come late.

What a look says of seats is decided by the service's own code (`service/drivers/redfish/states.py`).
"""

from __future__ import annotations

import random
from dataclasses import replace

from service.app.seats import StoredSeats
from service.domain.seats import Seating, SeatTaken, Seed, key_of
from service.drivers.base import (
    HostFacts,
    HostRejected,
    HostUnreachable,
    Listing,
    MachineConflict,
    MachineIdentity,
    MachineSpec,
    MachineState,
    ObservedMachine,
    OutcomeUnknown,
)
from service.drivers.redfish.states import free, observed, seat_of, states
from tests.simulation.driver import FaultyDriver

LATE_SECONDS = (20.0, 240.0)


class SeatedDriver(FaultyDriver):
    """`FaultyDriver` to a machine of bare metal. `seats`: by the replica's own store."""

    seats: StoredSeats

    async def probe(self, *, budget_seconds: float) -> HostFacts:
        """See HostDriver."""
        facts = await super().probe(budget_seconds=budget_seconds)
        clear = free(await self.seats.on(self.host_id), self._power, "")
        return facts if clear else replace(facts, foreign=dict(self._host.total))

    async def list_machines(self, *, budget_seconds: float) -> Listing:
        """See HostDriver."""
        listing = await super().list_machines(budget_seconds=budget_seconds)
        return replace(listing, machines=(*listing.machines, *await self._late()))

    async def survey(self, *, budget_seconds: float) -> Listing:
        """See HostDriver."""
        return await self.list_machines(budget_seconds=budget_seconds)

    async def observe(self, identity: MachineIdentity, *, budget_seconds: float) -> tuple[str, ObservedMachine | None]:
        """See HostDriver."""
        boot_id, found = await super().observe(identity, budget_seconds=budget_seconds)
        late = (one for one in await self._late() if one.machine_uuid == identity.machine_uuid)
        return boot_id, found or next(late, None)

    async def create_paused(self, spec: MachineSpec, *, budget_seconds: float) -> ObservedMachine:
        """See HostDriver."""
        of = seat_of(spec.identity)
        if not any(one.live and one.of == of for one in await self.seats.on(self.host_id)):
            token = f"{spec.identity.machine_uuid} {self._world.loop.time()}"
            try:
                await self.seats.take(self.host_id, Seating(of, key_of(token)), token, Seed(b""))
            except SeatTaken as error:
                raise MachineConflict(str(error)) from error
        return await super().create_paused(spec, budget_seconds=budget_seconds)

    async def resume(self, identity: MachineIdentity, *, budget_seconds: float) -> ObservedMachine:
        """See HostDriver. An order that nobody saw answered may come once more, when nobody thinks of it any more."""
        of = seat_of(identity)
        await self._start(identity, True)
        try:
            found = await super().resume(identity, budget_seconds=budget_seconds)
        except (HostUnreachable, HostRejected):
            await self._start(identity, False)
            raise
        except OutcomeUnknown:
            dice = random.Random(f"late {self._world.seed} {identity.machine_uuid}")
            metal, uuid = self._world.metal, identity.machine_uuid
            metal.unanswered.add(uuid)
            self._world.loop.outside(dice.uniform(*LATE_SECONDS), metal.goes_on, self._host, identity.group, uuid)
            raise
        self._world.metal.unanswered.discard(identity.machine_uuid)
        await self.seats.answered(self.host_id, of)
        return found

    async def power_off(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        if not await self._ended(identity, budget_seconds):
            await super().power_off(identity, budget_seconds=budget_seconds)

    async def remove(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        if not await self._ended(identity, budget_seconds):
            await super().remove(identity, budget_seconds=budget_seconds)
            await self.seats.leave(self.host_id, seat_of(identity), revoked=False)

    async def entomb(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        await super().entomb(identity, budget_seconds=budget_seconds)
        await self.seats.revoke(self.host_id, seat_of(identity))

    async def clear_tombstone(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        await super().clear_tombstone(identity, budget_seconds=budget_seconds)
        await self.seats.leave(self.host_id, seat_of(identity), revoked=True)

    @property
    def _power(self) -> str:
        """What a BMC would show but for the machines that are listed."""
        return "On" if self.host_id in self._world.metal.late else "Off"

    async def _late(self) -> tuple[ObservedMachine, ...]:
        found = states(await self.seats.on(self.host_id), self._power, "")
        return tuple(observed(one, state) for one, state in found if state is MachineState.RUNNING and not one.live)

    async def _ended(self, identity: MachineIdentity, budget_seconds: float) -> bool:
        """Whether it was on by an order that came late, and is off by now."""
        if all(one.machine_uuid != identity.machine_uuid for one in await self._late()):
            return False
        world, host = self._world, self._host
        await self._network.call("power_off", budget_seconds, lambda _late: world.metal.goes_off(host), identity)
        await self.seats.came_late(self.host_id, seat_of(identity))
        return True

    async def _start(self, identity: MachineIdentity, started: bool) -> None:
        try:
            await self.seats.start(self.host_id, seat_of(identity), started=started)
        except SeatTaken as error:
            raise MachineConflict(str(error)) from error
