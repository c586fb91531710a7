"""`HostDriver` over a BMC: one machine, whose only member gets all of it.

The BMC keeps power and what is in the drive; all else that has to survive is in the machine's seats. Nothing is
switched off, and no drive is emptied, that no seat of this machine explains (ARCHITECTURE I15).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from service.domain.fleet import HostAddress
from service.domain.isolation import GroupFilter, Isolation
from service.domain.ownership import OwnerMark
from service.domain.seats import REPORT_PATH, Seating, SeatOf, SeatTaken, boots, key_of, seed_url, token_in
from service.drivers.base import (
    HostDriver,
    HostFacts,
    HostRejected,
    HostUnreachable,
    Listing,
    LogPiece,
    LogSource,
    MachineConflict,
    MachineHint,
    MachineIdentity,
    MachineSpec,
    MachineState,
    ObservedMachine,
)
from service.drivers.redfish.addressing import options_of
from service.drivers.redfish.bmc import Bmc, Look
from service.drivers.redfish.line import BmcLine
from service.drivers.redfish.seed import seed_for
from service.drivers.redfish.states import explained, free, observed, of_it, seat_of, states
from service.drivers.seats import Seats
from service.drivers.staging import WithoutCopies

Result = TypeVar("Result")
KNOWN_SECONDS = 10.0
"""So old may be what the BMC showed, where a listing finds by it that all runs as it did: every probe, each 5 s, looks
anew, and BMCs are slow."""


class RedfishDriver(WithoutCopies, HostDriver):
    """One machine by its BMC, which takes one call at a time."""

    def __init__(self, host_id: str, address: HostAddress, seats: Seats) -> None:
        """Connects to nothing yet. `address`: with what its zone says (`service/drivers/in_zone.py`).

        Raises HostRejected `bad_request` for options that are wrong.
        """
        self._host_id = host_id
        self._options = options_of(address)
        if not self._options.seed_url:
            raise HostRejected("bad_request", "seed_url is required, as an option of the host or of its zone")
        self._seats = seats
        self._bmc = Bmc(self._options.access)
        self._line = BmcLine(self._bmc)
        self._mark: OwnerMark | None = None
        self._hints: list[MachineHint] = []
        self._shown: tuple[float, Look] | None = None  # since nothing was done there, and when
        self._closed = False

    @property
    def host_id(self) -> str:
        """The host's uuid in Corral."""
        return self._host_id

    @property
    def requests(self) -> int:
        """How many requests the BMC was sent."""
        return self._bmc.requests

    # --- reading -----------------------------------------------------------------------------------------------------

    async def probe(self, *, budget_seconds: float) -> HostFacts:
        """See HostDriver. All of the machine counts as others' while what is on or in the drive is of nobody who sits
        there: of somebody else, or of an attempt that was given up."""
        inventory = await self._line.run(self._bmc.inventory, budget_seconds)
        before = self._shown
        look = await self._look(budget_seconds)
        seats = await self._seats.on(self._host_id)
        if before is not None and before[1].power != look.power:
            self._hint(seats)
        unclaimed = free(seats, look.power, look.image)
        return HostFacts(
            host_uuid=self._host_id,
            hostname=inventory.model or self._options.access.url,
            boot_id=look.boot_id,
            architecture=inventory.architecture,
            total=inventory.amounts,
            foreign={} if unclaimed else inventory.amounts,
            virt_type="none",
            virt_note="bare metal",
            hypervisor_version="redfish",
            hypervisor=inventory.uuid,
            mark=self._mark,
            isolation="machines of bare metal are on the network themselves",
            firmware=inventory.firmware,
            secure_boot=inventory.secure_boot,
        )

    async def leave_mark(self, mark: OwnerMark, *, take_over: bool = False, budget_seconds: float) -> OwnerMark:
        """See HostDriver. A BMC has no place for a mark: what is ours is told by its seats, and what is in its drive by
        the address, which no other installation has."""
        self._mark = mark
        return mark

    async def clear_mark(self, mark: OwnerMark, *, budget_seconds: float) -> None:
        """See HostDriver."""
        self._mark = None

    async def list_machines(self, *, budget_seconds: float) -> Listing:
        """See HostDriver: the one machine that may be there, and what was given up. That a machine runs on may be known
        by a look of up to KNOWN_SECONDS ago; all else is asked of the BMC now."""
        if self._shown is not None and time.monotonic() < self._shown[0] + KNOWN_SECONDS:
            look, seats = self._shown[1], await self._seats.on(self._host_id)
            if self._shown is not None and _runs_on(seats, look):
                return _listing(seats, look)
        return await self._list(budget_seconds)

    async def survey(self, *, budget_seconds: float) -> Listing:
        """See HostDriver."""
        return await self._list(budget_seconds)

    async def told(self, identity: MachineIdentity, *, budget_seconds: float) -> str:
        """See HostDriver. Only the machine itself reads its seed."""
        return ""

    async def observe(self, identity: MachineIdentity, *, budget_seconds: float) -> tuple[str, ObservedMachine | None]:
        """See HostDriver."""
        listing = await self._list(budget_seconds)
        return listing.boot_id, listing.find(identity.machine_uuid)

    # --- acting ------------------------------------------------------------------------------------------------------

    async def create_paused(self, spec: MachineSpec, *, budget_seconds: float) -> ObservedMachine:
        """See HostDriver: off, with its seed in the drive. Nothing of it has run then."""
        until = _End(budget_seconds)
        look = await self._look(until.left)
        seats = await self._seats.on(self._host_id)
        mine, state = _find(seats, spec.identity, look)
        if mine is not None and mine.live and (state is MachineState.PAUSED or state.executing):
            return observed(mine, state)
        self._require_free(seats, look)
        inventory = await self._line.run(self._bmc.inventory, until.left)
        token = secrets.token_urlsafe(32)
        report_url = self._options.report_url.rstrip("/") + REPORT_PATH
        seed = await asyncio.to_thread(seed_for, spec, inventory.macs, report_url, token)
        wanted = Seating(
            seat_of(spec.identity),
            key_of(token),
            spec_hash=spec.spec_hash,
            generation=spec.generation,
            resources=spec.resources,
            record=spec.record,
        )
        try:
            await self._seats.take(self._host_id, wanted, token, seed)
        except SeatTaken as error:
            raise MachineConflict(str(error)) from error
        url = seed_url(self._options.seed_url, token, boots=seed.over is not None)
        await self._run(lambda deadline: self._bmc.insert(deadline, url), until.left)
        if boots(url) and not look.from_drive:
            await self._run(self._bmc.boot_from_drive, until.left)
        return observed(wanted, MachineState.PAUSED)

    async def resume(self, identity: MachineIdentity, *, budget_seconds: float) -> ObservedMachine:
        """See HostDriver. That it may run is remembered before it is switched on, and what it boots from is looked at
        once more."""
        until = _End(budget_seconds)
        look, mine, state = await self._seen(identity, until)
        if mine is None or not mine.live or state not in (MachineState.PAUSED, MachineState.RUNNING):
            raise HostRejected("bad_request", "there is no machine that waits to be let run")
        if state is MachineState.PAUSED:
            await self._start(mine.of, True)
            try:
                if boots(look.image) and not look.from_drive:  # a BMC may have forgotten it
                    await self._run(self._bmc.boot_from_drive, until.left)
                await self._run(self._bmc.power_on, until.left)
            except (HostUnreachable, HostRejected):
                await self._start(mine.of, False)  # it certainly was not switched on
                raise
        elif not mine.started:
            await self._start(mine.of, True)  # somebody else has switched it on
        elif not mine.unanswered:
            return observed(mine, MachineState.RUNNING)
        await self._seats.answered(self._host_id, mine.of)
        return observed(mine, MachineState.RUNNING)

    async def shutdown(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        until = _End(budget_seconds)
        _, mine, state = await self._seen(identity, until)
        if mine is not None and state.executing:
            await self._run(self._bmc.ask_to_stop, until.left)

    async def power_off(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver. What runs there and is not this attempt's is left alone."""
        until = _End(budget_seconds)
        _, mine, state = await self._seen(identity, until)
        if mine is not None and state.executing:
            await self._run(self._bmc.power_off, until.left)
            await self._seen_on(mine)

    async def remove(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver: off, its seed out of the drive, and the seat is given up; one that was so already stays so.
        The drive of a machine in which somebody sits is that one's."""
        until = _End(budget_seconds)
        look, mine, state = await self._seen(identity, until)
        if mine is None or (state is MachineState.ABSENT and mine.left):
            return
        if state.executing:
            await self._run(self._bmc.power_off, until.left)
            await self._seen_on(mine)
            look = await self._look(until.left)
        if of_it(mine, look.image) and (mine.live or await self._is_nobodys()):
            if boots(look.image):
                await self._run(self._bmc.boot_as_set, until.left)
            await self._run(self._bmc.eject, until.left)
        if mine.live:
            await self._seats.leave(self._host_id, mine.of, revoked=False)

    async def entomb(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver: the seat is revoked for ever. A seed that comes late is not served then."""
        _, mine, state = await self._seen(identity, _End(budget_seconds))
        if mine is not None and mine.live and state is not MachineState.ABSENT:
            raise MachineConflict("the machine is there")
        await self._seats.revoke(self._host_id, seat_of(identity))

    async def clear_tombstone(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        of = seat_of(identity)
        if any(one.live and one.of == of for one in await self._seats.on(self._host_id)):
            raise MachineConflict("the machine is there")
        await self._seats.leave(self._host_id, of, revoked=True)

    async def tell(self, identity: MachineIdentity, text: str, *, budget_seconds: float) -> None:
        """See HostDriver. There is no way to a machine that runs but its own network."""
        raise HostRejected("unsupported", "a machine cannot be told anything while it runs")

    async def hear(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver: whoever asks reads what guests last reported, which the database has."""

    async def read_log(
        self, identity: MachineIdentity, source: LogSource, *, start: int, most: int, budget_seconds: float
    ) -> LogPiece:
        """See HostDriver. A machine's console is its own."""
        raise HostRejected("absent", "no log of a machine is kept")

    async def agent_answers(self, identity: MachineIdentity, *, budget_seconds: float) -> bool:
        """See HostDriver. A BMC has no way to programs of the machine's."""
        raise HostRejected("unsupported", "bare metal has no guest agent")

    async def define_again(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver. A machine has no definition beside itself."""

    def can_migrate(self, spec: MachineSpec, target: HostDriver) -> bool:
        """See HostDriver: never."""
        return False

    async def migrate(self, spec: MachineSpec, target: HostDriver, *, budget_seconds: float) -> bool:
        """See HostDriver."""
        raise HostRejected("unsupported", "a machine does not move")

    async def abort_migration(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver: there is none."""

    async def list_volumes(self, *, budget_seconds: float) -> tuple[str, ...]:
        """See HostDriver. A machine has its own disks."""
        return ()

    async def delete_volume(self, name: str, *, budget_seconds: float) -> None:
        """See HostDriver."""

    async def list_filters(self, *, budget_seconds: float) -> tuple[GroupFilter, ...]:
        """See HostDriver. No network is a host's own there."""
        return ()

    async def set_filter(self, isolation: Isolation, *, budget_seconds: float) -> None:
        """See HostDriver."""

    async def remove_filter(self, group: str, *, budget_seconds: float) -> None:
        """See HostDriver."""

    def subscribe(self, hint: MachineHint) -> None:
        """See HostDriver: the reports of guests are the hints, and that a machine's power is another than it was."""
        self._hints.append(hint)
        self._seats.listen(self._host_id, lambda of: hint(self._host_id, _identity(of)))

    async def close(self) -> None:
        """See HostDriver."""
        if self._closed:
            return
        self._closed = True
        await self._line.close()

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _seen(self, identity: MachineIdentity, until: _End) -> tuple[Look, Seating | None, MachineState]:
        look = await self._look(until.left)
        return look, *_find(await self._seats.on(self._host_id), identity, look)

    async def _seen_on(self, mine: Seating) -> None:
        """It is, or was, on: what it was told has taken effect."""
        if not mine.live:
            await self._seats.came_late(self._host_id, mine.of)
        elif mine.unanswered:
            await self._seats.answered(self._host_id, mine.of)

    async def _is_nobodys(self) -> bool:
        return not any(one.live for one in await self._seats.on(self._host_id))

    def _require_free(self, seats: Sequence[Seating], look: Look) -> None:
        """Raises MachineConflict where something is there that no seat of ours allows to be ended."""
        if not explained(seats, look.power, look.image):
            what = "has something else in its drive" if look.image and not token_in(look.image) else "is another's"
            raise MachineConflict(f"the machine {what}, and is left as it is")
        if not look.off:
            raise MachineConflict("the machine is still on")

    async def _start(self, of: SeatOf, started: bool) -> None:
        try:
            await self._seats.start(self._host_id, of, started=started)
        except SeatTaken as error:
            raise MachineConflict(str(error)) from error

    def _hint(self, seats: Sequence[Seating]) -> None:
        for one in seats:
            for hint in self._hints if one.live else ():
                hint(self._host_id, _identity(one.of))

    async def _list(self, budget_seconds: float) -> Listing:
        look = await self._look(budget_seconds)
        return _listing(await self._seats.on(self._host_id), look)

    async def _look(self, budget_seconds: float) -> Look:
        look = await self._line.run(self._bmc.look, budget_seconds)
        self._shown = time.monotonic(), look
        return look

    async def _run(self, work: Callable[[float], Result], budget_seconds: float) -> Result:
        """Do something there: what was seen before is known no more."""
        self._shown = None
        try:
            return await self._line.run(work, budget_seconds)
        finally:
            self._shown = None


class _End:
    """When a call of several steps must end."""

    def __init__(self, budget_seconds: float) -> None:
        self._at = time.monotonic() + budget_seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return max(0.0, self._at - time.monotonic())


def _find(seats: Sequence[Seating], identity: MachineIdentity, look: Look) -> tuple[Seating | None, MachineState]:
    of = seat_of(identity)
    found = states(seats, look.power, look.image)
    mine = (one for one in found if (one[0].of.instance, one[0].of.attempt) == (of.instance, of.attempt))
    return next(mine, (None, MachineState.ABSENT))


def _listing(seats: Sequence[Seating], look: Look) -> Listing:
    found = states(seats, look.power, look.image)
    there = tuple(observed(one, state) for one, state in found if state is not MachineState.ABSENT)
    return Listing(look.boot_id, there)


def _runs_on(seats: Sequence[Seating], look: Look) -> bool:
    """Whether the machine runs for who sits there, and nobody else has to do with it but who has left it."""
    sitting = [(one, state) for one, state in states(seats, look.power, look.image) if not one.left]
    runs = all(one.live and one.started and state is MachineState.RUNNING for one, state in sitting)
    return runs and len(sitting) == 1 and look.power == "On"


def _identity(of: SeatOf) -> MachineIdentity:
    return MachineIdentity(of.cluster, of.group, of.instance, of.attempt)
