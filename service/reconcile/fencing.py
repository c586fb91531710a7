"""Silent hypervisors are judged, and those that are to be fenced are switched off by their BMCs and seen off.

One process at a time does so, under a lease. Nothing is concluded from a BMC that does not answer, and nothing is ever
switched on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid as uuids
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from service.domain.fencing import Circumstances, Fence, FenceCause, FenceState, Rule, Sight, Verdict, judge
from service.domain.fleet import Bmc, Fencing, Host, HostState, HostStatus
from service.drivers import knocking
from service.drivers.base import DriverError, OutcomeUnknown
from service.drivers.knocking import Knock
from service.drivers.power import OFF, PowerSwitch, WrongMachine
from service.errors import CorralError, NotFound
from service.failpoints import failpoint
from service.reconcile.custody import Custody
from service.reconcile.leading import EVERY_SECONDS, Leading
from service.reconcile.monitor import FRESH_SECONDS, HostMonitor
from service.reconcile.vital_signs import VitalSigns
from service.store import clock, fencing, fleet
from service.store.clock import StoreClock
from service.store.connection import Connection
from service.store.engine import Store
from service.store.loads import HostLoad, of_hosts
from service.store.waits import Wait
from service.telemetry.metrics import Metrics
from service.transactions import fencing as steps
from service.transactions.fencing import LEASE_MS, NotLeading, Step

logger = logging.getLogger(__name__)

LOOK_SECONDS = 20.0
ORDER_SECONDS = 30.0
PROVE_SECONDS = 30.0
AGAIN_FIRST_SECONDS, AGAIN_MOST_SECONDS = 2.0, 20.0
WAITS = (Wait("fencing lease", "fencing_lease", "lease_until", LEASE_MS),)
_LOOKED_AT = frozenset({Rule.FENCE, Rule.WAITING, Rule.ALIVE})
BY_ITSELF = frozenset({Fencing.DRY, Fencing.AUTO})

MakeSwitch = Callable[[Bmc], PowerSwitch]
"""By what a host's power is switched. Raises DriverError where its fields are not right."""


@dataclass(frozen=True, slots=True)
class _Picture:
    """What the database says: all hosts, what the silent ones carry, the last fence of each, and those under way."""

    hosts: Mapping[str, Host]
    loads: Mapping[str, HostLoad]
    newest: Mapping[str, Fence]
    open: tuple[Fence, ...]
    told: Mapping[str, Verdict]
    by_itself: int
    rehearsed: int
    answers: Mapping[str, int]
    now: int


class Fencer(Leading):
    """Judges silent hosts, and carries out fences."""

    not_done = "silent hosts were not judged"
    broke = "a fence broke"

    def __init__(
        self,
        store: Store,
        monitors: Mapping[str, HostMonitor],
        custody: Custody,
        metrics: Metrics,
        clock: StoreClock,
        owner: str,
        make_switch: MakeSwitch,
        *,
        knock: Knock = knocking.knock,
        group_due: Callable[[str], None] = lambda _group: None,
        new_uuid: Callable[[], str] = lambda: uuids.uuid4().hex,
    ) -> None:
        """`owner`: this process's name. `knock`: how a host's kernel is asked.
        `group_due(uuid)`: members of this group are to be placed anew."""
        super().__init__(store, clock, owner)
        self._monitors = monitors
        self._custody = custody
        self._metrics = metrics
        self._make_switch = make_switch
        self._group_due = group_due
        self._new_uuid = new_uuid
        self._signs = VitalSigns(knock)
        self._disconnected: dict[str, float] = {}
        self._looked_at = -FRESH_SECONDS

    async def once(self) -> None:
        """One look at the silent hosts and at the fences under way. Raises Unavailable, NotLeading."""
        silent = {u for u, m in self._monitors.items() if m.silent_seconds and m.host.fencing in BY_ITSELF}
        picture = await self._store.read(lambda c: _read(c, silent))
        self._follow_status(picture)
        if not silent and not picture.open and not picture.told:
            return
        if not await self._leads():
            return
        if not self._custody.held and self._custody.judged:
            await self._look_for_life(picture, silent)
            await self._judge(picture, silent)
        for one in await self._store.read(fencing.open_fences):
            if one.uuid not in self._tasks:
                self._carry(one.uuid, self._carry_out(one.uuid, self._epoch), f"fence {one.host}")

    def _follow_status(self, picture: _Picture) -> None:
        """Since when the database says that nobody reaches a host: another replica that does reach it says so there
        within seconds. What was not looked at for a while, since this process stood still, begins anew."""
        now = asyncio.get_running_loop().time()
        if now > self._looked_at + FRESH_SECONDS:
            self._disconnected.clear()
        self._looked_at = now
        gone = {uuid for uuid, host in picture.hosts.items() if host.status is HostStatus.DISCONNECTED}
        self._disconnected = {uuid: self._disconnected.get(uuid, now) for uuid in gone}

    def _disconnected_for(self, uuid: str) -> float:
        since = self._disconnected.get(uuid)
        return 0.0 if since is None else asyncio.get_running_loop().time() - since + 1e-3

    async def _look_for_life(self, picture: _Picture, silent: set[str]) -> None:
        """Ask the kernels of the hosts whose power may be cut by what else is known of them."""
        hosts = [h for uuid, h in picture.hosts.items() if uuid in silent and not h.bare_metal]
        self._signs.forget_all_but(one.uuid for one in hosts)
        await self._signs.look(one for one in hosts if self._verdict(picture, one.uuid).rule in _LOOKED_AT)

    # --- judging -----------------------------------------------------------------------------------------------------

    def _sights(self, hosts: Mapping[str, Host]) -> list[Sight]:
        found = []
        for uuid, host in hosts.items():
            if not host.bare_metal:
                monitor = self._monitors.get(uuid)
                seen = (0.0, None) if monitor is None else (monitor.silent_seconds, monitor.answered_seconds)
                found.append(Sight(uuid, host.zone_uuid, *seen, host.state is HostState.MAINTENANCE))
        return found

    def _verdict(self, picture: _Picture, uuid: str) -> Verdict:
        host, last = picture.hosts[uuid], picture.newest.get(uuid)
        sights = self._sights(picture.hosts)
        subject = next(one for one in sights if one.host == uuid)
        signs = self._signs.of(uuid, subject.silent_seconds, picture.answers, picture.now)
        known = Circumstances(
            disconnected_seconds=self._disconnected_for(uuid),
            maintenance=host.state is HostState.MAINTENANCE,
            members=picture.loads[uuid].members if uuid in picture.loads else 0,
            machine=host.hypervisor,
            old_database=self._custody.held,
            open_fences=sum(one.host != uuid for one in picture.open),
            lately=picture.by_itself + (picture.rehearsed if host.fencing is Fencing.DRY else 0),
            failed_ago_ms=picture.now - last.ended_at if last and last.state is FenceState.FAILED else None,
            alive=signs.alive,
            knocks=signs.knocks,
        )
        return judge(subject, sights, known)

    async def _judge(self, picture: _Picture, silent: set[str]) -> None:
        told: dict[str, Verdict | None] = dict.fromkeys(picture.told)
        fit: list[tuple[Host, Verdict]] = []
        under_way = {one.host for one in picture.open}
        for uuid in sorted(silent & set(picture.hosts)):
            host = picture.hosts[uuid]
            if host.fencing not in BY_ITSELF or host.bare_metal:
                continue
            told[uuid] = verdict = self._verdict(picture, uuid)
            if verdict.rule is Rule.FENCE and uuid not in under_way:
                fit.append((host, verdict))
        changed = {uuid: one for uuid, one in told.items() if one != picture.told.get(uuid) and uuid in picture.hosts}
        if changed:
            await self._store.write(lambda c: self._tell(c, picture, changed))
        for uuid, verdict_now in changed.items():
            if verdict_now is not None:
                logger.warning(
                    "host %s is silent: %s: %s", picture.hosts[uuid].name, verdict_now.rule, verdict_now.reason
                )
        if fit:  # one at a time: the next look judges the others with this one under way
            await self._act(picture, *fit[0])

    def _tell(self, connection: Connection, picture: _Picture, changed: Mapping[str, Verdict | None]) -> None:
        def write(now: int) -> None:
            for uuid, verdict in changed.items():
                fencing.set_verdict(connection, uuid, picture.hosts[uuid].zone_uuid, verdict, now)

        steps.under_lease(connection, self._epoch, write)

    async def _act(self, picture: _Picture, host: Host, verdict: Verdict) -> None:
        if host.fencing is Fencing.DRY:
            await self._rehearse(picture, host, verdict)
            return
        epoch, uuid = self._epoch, self._new_uuid()
        loop = asyncio.get_running_loop()
        by = loop.time() + EVERY_SECONDS  # what a process judged before it stood still holds no more
        failpoint("fence.asking")
        with contextlib.suppress(NotFound):
            asked = await self._store.write(
                lambda c: (
                    steps.ask_for_silence(c, epoch, host.uuid, uuid, verdict.reason) if loop.time() <= by else None
                )
            )
            if asked is not None:
                failpoint("fence.asked")
                logger.warning("host %s is switched off by its BMC: %s", host.name, verdict.reason)

    async def _rehearse(self, picture: _Picture, host: Host, verdict: Verdict) -> None:
        """Once a silence: what would be done, and whether the BMC would let it be done."""
        last, monitor = picture.newest.get(host.uuid), self._monitors[host.uuid]
        silent_since = picture.now - int(monitor.silent_seconds * 1000)
        if last is not None and last.cause is FenceCause.DRY and last.asked_at >= silent_since:
            return
        assert host.bmc is not None
        try:
            switch = self._make_switch(host.bmc)
            try:
                power = await switch.power(host.hypervisor, budget_seconds=LOOK_SECONDS)
                would = f"it would be switched off now: {verdict.reason}; its BMC answers, and says that it is {power}"
            finally:
                await switch.close()
        except DriverError as error:
            would = f"it could not be switched off now: {error.public}; otherwise it would be: {verdict.reason}"
        uuid, epoch = self._new_uuid(), self._epoch
        await self._store.write(lambda c: steps.rehearse(c, epoch, host, uuid, would))
        self._metrics.fences.labels(FenceCause.DRY.value, FenceState.REHEARSED.value).inc()
        logger.warning("host %s: fencing is dry: %s", host.name, would)

    # --- carrying out ------------------------------------------------------------------------------------------------

    async def _carry_out(self, uuid: str, epoch: int) -> None:
        """Until the fence is over, or another process leads."""
        pause, switches = AGAIN_FIRST_SECONDS, _Switches(self._make_switch)
        try:
            while True:
                try:
                    if await self._tried(uuid, epoch, switches):
                        return
                except DriverError as error:
                    logger.warning("fence %s is not done yet: %s %s", uuid, error.public, error.detail)
                    if await self._told(uuid, epoch, error.public):
                        return
                except CorralError as error:
                    logger.warning("fence %s is not done yet: %s", uuid, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, AGAIN_MOST_SECONDS)
        except NotLeading:
            logger.info("fence %s is another process's now", uuid)
        finally:
            await switches.close()

    async def _tried(self, uuid: str, epoch: int, switches: _Switches) -> bool:
        """One try; whether the fence is over: it is where the BMC is another machine's. Raises as `_once_more`."""
        try:
            return await self._once_more(uuid, epoch, switches)
        except WrongMachine as error:
            why = error.public
        return _over(await self._write(lambda c: steps.fail(c, epoch, uuid, FenceState.FAILED, why)))

    async def _once_more(self, uuid: str, epoch: int, switches: _Switches) -> bool:
        """As `_tried`. Before each call to the BMC the database is asked, under the lease.

        Raises DriverError, CorralError, NotLeading.
        """
        step = await self._write(lambda c: steps.look(c, epoch, uuid))
        if step is None or step.over:
            return True
        if self._custody.held:
            return False
        switch, machine = await switches.of(step.host), step.fence.machine
        if await switch.power(machine, budget_seconds=LOOK_SECONDS) != OFF:
            if step.fence.cause is FenceCause.SILENCE and (why := await self._unfit(step)) is not None:
                if step.fence.orders == 0:
                    return _over(await self._write(lambda c: steps.fail(c, epoch, uuid, FenceState.WITHDRAWN, why)))
                raise OutcomeUnknown(f"it is still on, and is not told again for now: {why}")
            failpoint("fence.ordering")
            if _over(await self._write(lambda c: steps.order(c, epoch, uuid))):
                return True
            failpoint("fence.ordered")
            await switch.force_off(machine, budget_seconds=ORDER_SECONDS)
            failpoint("fence.sent")
            if _over(await self._write(lambda c: steps.look(c, epoch, uuid))):
                return True
        if not await switch.stays_off(machine, budget_seconds=PROVE_SECONDS):
            raise OutcomeUnknown("its BMC does not show it off twice")
        failpoint("fence.proven")
        done = await self._write(lambda c: steps.proven(c, epoch, uuid))
        failpoint("fence.done")
        return _over(done)

    async def _unfit(self, step: Step) -> str | None:
        """Why the host is not to be switched off after all; None: it is."""
        uuid = step.host.uuid
        await self._signs.settle(step.host)
        hosts, answers, now = await self._store.read(lambda c: _read_again(c, uuid))
        sights = self._sights(hosts)
        subject = next((one for one in sights if one.host == uuid), None)
        if subject is None or not subject.silent_seconds:
            return "the host answers again"
        signs = self._signs.of(uuid, subject.silent_seconds, answers, now)
        known = Circumstances(
            disconnected_seconds=self._disconnected_for(uuid),
            maintenance=step.host.state is HostState.MAINTENANCE,
            members=1,
            machine=step.fence.machine,
            old_database=self._custody.held,
            alive=signs.alive,
            knocks=signs.knocks,
        )
        verdict = judge(subject, sights, known)
        return None if verdict.rule is Rule.FENCE else verdict.reason

    async def _told(self, uuid: str, epoch: int, reason: str) -> bool:
        """Tell what the fence waits for; whether it is over by now."""
        try:
            return _over(await self._write(lambda c: steps.trouble(c, epoch, uuid, reason)))
        except CorralError as error:
            logger.warning("fence %s: not recorded: %s", uuid, error)
            return False

    async def _write(self, work: Callable[[Connection], Step | None]) -> Step | None:
        step = await self._store.write(work)
        if step is not None and step.over:
            fence, host = step.fence, step.host
            self._metrics.fences.labels(fence.cause.value, fence.state.value).inc()
            logger.warning("host %s: fence %s: %s", host.name, fence.state.value, fence.reason)
            for group in step.touched:
                self._group_due(group)
        return step


class _Switches:
    """The connection to one BMC, made anew where its host names another."""

    def __init__(self, make: MakeSwitch) -> None:
        self._make = make
        self._bmc: Bmc | None = None
        self._switch: PowerSwitch | None = None

    async def of(self, host: Host) -> PowerSwitch:
        """Raises DriverError."""
        assert host.bmc is not None  # a fence ends where its host has none
        if self._switch is None or self._bmc != host.bmc:
            await self.close()
            self._bmc, self._switch = host.bmc, self._make(host.bmc)
        return self._switch

    async def close(self) -> None:
        """End the session."""
        switch, self._switch = self._switch, None
        if switch is not None:
            await switch.close()


def _over(step: Step | None) -> bool:
    return step is None or step.over


def _read(connection: Connection, silent: set[str]) -> _Picture:
    under_way, told = fencing.open_fences(connection), fencing.verdicts(connection)
    now = clock.now(connection)
    if not silent and not under_way and not told:
        return _Picture({}, {}, {}, (), {}, 0, 0, {}, now)
    uuids = sorted(silent)
    return _Picture(
        hosts=fleet.hosts(connection),
        loads=of_hosts(connection, uuids),
        newest=fencing.newest(connection, uuids),
        open=under_way,
        told=told,
        by_itself=fencing.lately(connection, [FenceCause.SILENCE], now),
        rehearsed=fencing.lately(connection, [FenceCause.DRY], now),
        answers=fencing.answers(connection, uuids),
        now=now,
    )


def _read_again(connection: Connection, uuid: str) -> tuple[Mapping[str, Host], Mapping[str, int], int]:
    return fleet.hosts(connection), fencing.answers(connection, [uuid]), clock.now(connection)
