"""Owns the process's reconciliation: host monitors, group workers, the sweep, and an orderly end."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Mapping, Sequence

from service.domain.fleet import ANSWERING
from service.domain.groups import Group
from service.drivers.base import MachineIdentity
from service.errors import CorralError, Unavailable
from service.reconcile.context import WorkerContext
from service.reconcile.database_time import DatabaseTime
from service.reconcile.finding import Found, Taken, find_taken
from service.reconcile.monitor import HostMonitor
from service.reconcile.patience import Patience
from service.reconcile.resting import Resting
from service.reconcile.sweep import Sweep
from service.reconcile.worker import LEASE_MS, REST_MS, GroupWorker
from service.store import clock, fleet, groups, ownership, unheard, waiting, waits
from service.store.connection import Connection
from service.store.groups import Lease
from service.store.resting import is_any_due, put_off
from service.store.waits import Wait
from service.telemetry import logs
from service.transactions.holding import Offer

logger = logging.getLogger(__name__)

MOST_WORKERS = 256
POLL_SECONDS = 1.0
FIRST_PROBE_SECONDS = 3.0
UNSURE_SECONDS = 20.0
"""Longer than a transaction takes that nobody waits for any more."""
MISSING_SECONDS = 120.0
"""For so long after a start a host that answered before it, and does not now, is waited for, which may tell that the
database is an older copy; no longer, so that one dead host holds nothing up for good."""

GROUP_WAITS = (
    Wait("group lease", "groups", "lease_until", LEASE_MS),
    Wait("group due", "groups", "due_at", REST_MS),
)
"""What is read before a group has a worker; its own times the worker holds to the present itself."""


class Reconciler:
    """`start`, then `stop`. Between them every due group of the store finds its worker."""

    def __init__(self, context: WorkerContext, sweep: Sweep | None = None) -> None:
        self._context = context
        context.poke = self.poke
        self._sweep = sweep
        self._workers: dict[str, GroupWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._background: list[asyncio.Task[None]] = []
        self._monitor_tasks: dict[str, asyncio.Task[None]] = {}
        self._started = False
        self._wake = asyncio.Event()
        self._hinted: set[str] = set()
        self._resting = Resting(context)
        self._stopping = False
        self._given_back = self._poked = False
        self._held_to_present = self._clock_differs = False
        self._looks_since: tuple[int, int] | None = None
        self._unsure: dict[str, float] = {}
        """Groups that a deploy may have leased for this process, which does not know it -> until when that is asked."""
        self._home = contextvars.Context()
        """Where workers run that begin with somebody's call: what is told of them is not told of the call."""

    @property
    def monitors(self) -> Mapping[str, HostMonitor]:
        """The host monitors by host uuid."""
        return self._context.monitors

    @property
    def working(self) -> int:
        """How many groups are being worked on."""
        return len(self._workers)

    async def start(self, answered: frozenset[str] | None = None) -> None:
        """Start monitors, workers and the sweep. Hosts get FIRST_PROBE_SECONDS before groups are looked at, and slow
        ones their whole time before anything is done about a group that has run before.

        `answered`: uuids of the hosts that answered before this start; None: those that do by the database.
        """
        self._started, self._home = True, contextvars.copy_context()
        answered = await self._answered_before() if answered is None else answered
        for monitor in self._context.monitors.values():
            self._watch_host(monitor)
        custody, slow = self._context.custody, list(self._context.monitors.values())
        custody.judged = False
        deadline = asyncio.get_running_loop().time() + FIRST_PROBE_SECONDS
        while slow and asyncio.get_running_loop().time() < deadline:
            slow = [m for m in slow if not m.settled]
            await asyncio.sleep(0.01)
        custody.judged = not slow
        missing = [m for m in self._context.monitors.values() if m.host.uuid in answered and not _heard(m)]
        if missing:
            custody.missing = frozenset(m.host.uuid for m in missing)
            self._spawn(self._wait_for_missing(missing), "wait for missing hosts")
        if slow:
            logger.warning("hosts that have not answered yet: %s; groups that have run before wait for them",
                           ", ".join(m.host.name for m in slow[:5]))  # fmt: skip
            self._spawn(self._wait_for(slow), "wait for slow hosts")
        self._spawn(self._take_due(), "take due groups")
        if self._sweep is not None:
            self._spawn(self._sweep.run(), "sweep")

    async def _wait_for(self, slow: list[HostMonitor]) -> None:
        """Each first probe ends in its time, either way; one that was taken out of the fleet meanwhile is waited for by
        nobody."""
        while slow := [m for m in slow if not m.settled and self.monitors.get(m.host.uuid) is m]:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        self._context.custody.judged = True
        self._wake.set()

    async def _answered_before(self) -> frozenset[str]:
        """The hosts that answer by the database's last word; all of them where it cannot be asked."""
        try:
            known = await self._context.store.read(fleet.hosts)
        except Unavailable as error:
            logger.warning("which hosts answered before this start is not known: %s", error)
            return frozenset(self._context.monitors)
        return frozenset(h.uuid for h in known.values() if h.status in ANSWERING)

    async def _wait_for_missing(self, missing: list[HostMonitor]) -> None:
        """Each answers, is taken out of the fleet, or has had its time."""
        logger.warning("hosts that answered before this start and do not now: %s; what was accepted and not sent "
                       "before it waits for them, for %.0f s at most",
                       ", ".join(m.host.name for m in missing[:5]), MISSING_SECONDS)  # fmt: skip
        deadline = asyncio.get_running_loop().time() + MISSING_SECONDS
        while missing and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.1)
            missing = [m for m in missing if not _heard(m) and self.monitors.get(m.host.uuid) is m]
            self._context.custody.missing = frozenset(m.host.uuid for m in missing)
        self._context.custody.missing = frozenset()
        self._wake.set()

    async def stop(self, grace_seconds: float) -> None:
        """Start nothing new, let running driver calls end within the grace, give all leases back."""
        self._stopping = True
        for worker in self._workers.values():
            worker.stop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks.values(), timeout=grace_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        background = [*self._background, *self._monitor_tasks.values()]
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await self._context.calls.stagings.close()
        await asyncio.gather(*(m.driver.close() for m in self._context.monitors.values()), return_exceptions=True)

    def add_host(self, monitor: HostMonitor) -> None:
        """Take a host in, at any time; nothing must be known under its uuid."""
        if self._stopping:
            return
        self._context.monitors[monitor.host.uuid] = monitor
        if self._started:
            self._watch_host(monitor)

    async def remove_host(self, host_uuid: str, *, left_fleet: bool = False) -> None:
        """Forget a host and let its connection go; its machines, if any, are left alone. `left_fleet`: it is not only
        reached in another way now, and its mark goes with it where it answers."""
        monitor = self._context.monitors.pop(host_uuid, None)
        self._context.custody.forget(host_uuid)
        task = self._monitor_tasks.pop(host_uuid, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._sweep is not None:
            await self._sweep.forget(host_uuid)
        if monitor is not None:
            if left_fleet:
                await self._context.custody.unmark(monitor.host, monitor.driver, silent=monitor.silent)
            await monitor.driver.close()

    def poke(self, group_uuid: str) -> None:
        """A caller's intent was committed for this group; of none: room may have been given back to those that wait."""
        worker = self._workers.get(group_uuid)
        if worker is not None:
            worker.poke()
        self._given_back = self._given_back or not group_uuid
        self._poked = True
        self._wake.set()

    def offer(self) -> Offer | None:
        """See `Holder.offer`: where this process takes groups."""
        takes = not self._stopping and self._held_to_present and len(self._workers) < MOST_WORKERS
        if not takes or self._looks_since is None:
            return None
        return Offer(self._context.owner, LEASE_MS, asyncio.get_running_loop().time())

    def hold(self, offer: Offer, group: Group, now: int, *, fresh: bool) -> None:
        """See `Holder.hold`. One that bears the uuid of an earlier group is read first: something of that one may be in
        quarantine."""
        assert self._looks_since is not None  # or nothing was offered
        self._look_at_clock(now, offer.asked_at)
        lease, taken, patience = Lease(group.uuid, group.epoch), DatabaseTime(now, offer.asked_at), self._looks_since
        found: Found | None = (group, {}) if fresh else None
        self._home.copy().run(self._work, lease, taken, Patience(*patience), found, hinted=False)
        if self._stopping:
            self._workers[group.uuid].stop()

    def unsure(self, uuids: Sequence[str]) -> None:
        """See `Holder.unsure`: those that turn out to be leased are set free for whoever takes them next."""
        self._unsure |= dict.fromkeys(uuids, asyncio.get_running_loop().time() + UNSURE_SECONDS)
        self._wake.set()

    def host_changed(self, host_uuid: str) -> None:
        """A host fell silent or answers again."""
        for worker in self._workers.values():
            worker.host_changed()

    def _hint(self, host_uuid: str, identity: MachineIdentity | None) -> None:
        if identity is None:
            monitor = self._context.monitors.get(host_uuid)
            if monitor is not None:
                monitor.suspect()
            return
        worker = self._workers.get(identity.group)
        if worker is not None:
            worker.hint(identity.instance)
        else:
            self._hinted.add(identity.group)
            self._wake.set()

    async def _take_due(self) -> None:
        while True:
            self._wake.clear()
            if not self._held_to_present:
                await self._hold_to_present()
            free = MOST_WORKERS - len(self._workers)
            if free > 0 and not self._stopping:  # what the workers have just given back is for others
                await self._take(free)
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                self._given_back = True  # by another process, maybe

    async def _take(self, limit: int) -> None:
        try:
            fine = await self._resting.most_put_off(self._hinted, self._leases)
        except CorralError as error:
            logger.warning("no groups were put off or taken: %s", error)
            return
        asked_at = asyncio.get_running_loop().time()
        hinted, given_back, poked = sorted(self._hinted), self._given_back, self._poked
        self._given_back = self._poked = False
        unsure = [uuid for uuid, until in self._unsure.items() if until > asked_at and uuid not in self._workers]
        self._unsure = {uuid: self._unsure[uuid] for uuid in unsure}
        fine = {uuid: version for uuid, version in fine.items() if uuid not in self._hinted}

        def look(connection: Connection) -> Taken | None:
            now = clock.now(connection)
            if given_back and waiting.to_wake(connection, now):
                return None
            if is_any_due(connection, now, leases_as_of=self._leases(now, asked_at)):
                return None
            return Taken(now, (), {}, *ownership.ahead_or_flagged(connection), {})

        def take(connection: Connection) -> Taken:
            now = clock.now(connection)
            waking = waiting.to_wake(connection, now) if given_back else ()
            groups.hasten(connection, sorted({*hinted, *waking}), now)
            free = unheard.set_free(connection, self._context.owner, unsure)
            leases = self._leases(now, asked_at)
            owner = self._context.owner
            later = put_off(connection, fine, lambda u: self._resting.until(u, now), now, leases_as_of=leases)
            taken = groups.take_due(connection, owner, now, LEASE_MS, limit, leases_as_of=leases)
            found, hosts = find_taken(connection, taken), ownership.ahead_or_flagged(connection)
            return Taken(now, taken, found, *hosts, later, free)

        try:
            # Where nothing says that there is something to write it is only looked.
            idle = None if poked or hinted or fine or unsure else await self._context.store.read(look)
            seen: Taken = await self._context.store.write(take) if idle is None else idle
        except CorralError as error:
            logger.warning("no groups were taken: %s", error)
            self._given_back, self._poked = given_back or self._given_back, poked or self._poked
            return
        now = seen.now
        self._poked = self._poked or len(seen.leases) == limit  # there may be more
        self._look_at_clock(now, asked_at)
        self._context.custody.tell(seen.ahead)
        self._flag(seen.flagged)
        self._hinted.difference_update(hinted)
        for uuid in seen.free:
            self._unsure.pop(uuid, None)
        self._resting.put_off(fine, seen.later)
        self._context.metrics.lease_takeovers.inc(sum(lease.left_behind for lease in seen.leases))
        steady = int(asked_at * 1000)
        if self._looks_since is None:
            self._looks_since = now, steady
            self._context.custody.since = now
        for lease in seen.leases:
            # Those whose owner left them behind have been looked at by nobody.
            patience = Patience(now, steady) if lease.left_behind else Patience(*self._looks_since)
            self._work(
                lease, DatabaseTime(now, asked_at), patience, seen.found.get(lease.uuid), hinted=lease.uuid in hinted
            )

    def _leases(self, now: int, asked_at: float) -> int:
        return self._context.clock.lease_time(now, asked_at)

    def _flag(self, hosts: frozenset[str]) -> None:
        """Hosts that were taken on for ours are judged anew where an operator's word has put them down as ahead."""
        custody = self._context.custody
        new, custody.flagged = hosts - custody.flagged, hosts
        for uuid in new & self.monitors.keys():
            self.monitors[uuid].suspect()

    def _look_at_clock(self, now: int, asked_at: float) -> None:
        """Notice that the database's clock was set, or that this process's own says something else."""
        watch, metrics = self._context.clock, self._context.metrics
        stood, jump = watch.has_not_looked(asked_at), watch.read(now, asked_at)
        if jump:
            metrics.clock_jumps.labels("back" if jump < 0 else "ahead").inc()
            logger.warning("the database's clock was set by %+.1f s", jump / 1000)
            for worker in self._workers.values():
                worker.clock_set()
        self._held_to_present = self._held_to_present and jump >= 0 and not stood
        differs = watch.differs_by()
        metrics.clock_difference.set(differs / 1000)
        if (abs(differs) > clock.JUMP_MS) is not self._clock_differs:
            self._clock_differs = not self._clock_differs
            word = "differs from" if self._clock_differs else "agrees again with"
            logger.warning("this machine's clock %s the database's, by which everything goes: %+.1f s",
                           word, differs / 1000)  # fmt: skip

    async def _hold_to_present(self) -> None:
        """At the start, and when the clock was set back: nothing stored is to be waited for longer than it ever is."""

        def hold(connection: Connection) -> Mapping[str, int]:
            return waits.hold_to_present(connection, clock.now(connection), (*GROUP_WAITS, *self._context.waits))

        try:
            held = await self._context.store.write(hold)
        except CorralError as error:
            logger.warning("stored times were not held to the present: %s", error)
            return
        self._held_to_present = True
        for kind, count in sorted(held.items()):
            self._context.metrics.times_held.labels(kind).inc(count)
            logger.warning("%d times (%s) lay further ahead than they are ever set: the clock was ahead", count, kind)

    def _work(
        self, lease: Lease, taken: DatabaseTime, patience: Patience, found: Found | None, *, hinted: bool
    ) -> None:
        uuid, until = lease.uuid, taken.read + LEASE_MS
        worker = GroupWorker(self._context, uuid, lease.epoch, until, taken, hinted, patience, found=found)
        with logs.about(group=uuid):  # in every line of its work
            task = asyncio.create_task(worker.run(), name=f"group {uuid}")
        self._resting.forget(uuid)
        self._workers[uuid] = worker
        self._tasks[uuid] = task
        task.add_done_callback(lambda done: self._ended(uuid, worker, done))

    def _ended(self, uuid: str, worker: GroupWorker, task: asyncio.Task[None]) -> None:
        if self._workers.get(uuid) is worker:
            del self._workers[uuid]
            del self._tasks[uuid]
        if worker.left is not None and uuid not in self._workers:
            self._resting.remember(worker.left, self._context.clock.now() + REST_MS)
        if worker.hinted:
            self._hinted.add(uuid)  # it came while the lease was being given back
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("group %s: its worker broke; the lease runs out by itself", uuid, exc_info=error)
        self._wake.set()

    def _watch_host(self, monitor: HostMonitor) -> None:
        monitor.driver.subscribe(self._hint)
        task = asyncio.create_task(monitor.run(), name=f"monitor {monitor.host.name}")
        task.add_done_callback(_report)
        self._monitor_tasks[monitor.host.uuid] = task

    def _spawn(self, work: object, name: str) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work, name=name)  # type: ignore[arg-type]
        task.add_done_callback(_report)
        self._background.append(task)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("background task %s broke", task.get_name(), exc_info=error)


def _heard(monitor: HostMonitor) -> bool:
    return monitor.answered_seconds is not None
