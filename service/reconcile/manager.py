"""Owns the process's reconciliation: host monitors, group workers, the sweep, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from service.drivers.base import MachineIdentity
from service.errors import CorralError
from service.reconcile.context import WorkerContext
from service.reconcile.monitor import HostMonitor
from service.reconcile.sweep import Sweep
from service.reconcile.worker import LEASE_MS, DatabaseTime, GroupWorker
from service.store import clock, groups, ownership
from service.store.connection import Connection

logger = logging.getLogger(__name__)

MOST_WORKERS = 256
POLL_SECONDS = 1.0
FIRST_PROBE_SECONDS = 3.0

_Taken = tuple[int, tuple[tuple[str, int], ...], frozenset[str], Mapping[str, str]]
"""The database's time, (uuid, epoch) of the groups, uuids of groups left behind, hosts that are ahead -> why."""


class Reconciler:
    """`start`, then `stop`. Between them every due group of the store finds its worker."""

    def __init__(self, context: WorkerContext, sweep: Sweep | None = None) -> None:
        self._context = context
        self._sweep = sweep
        self._workers: dict[str, GroupWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._background: list[asyncio.Task[None]] = []
        self._monitor_tasks: dict[str, asyncio.Task[None]] = {}
        self._started = False
        self._wake = asyncio.Event()
        self._hinted: set[str] = set()
        self._stopping = False

    @property
    def monitors(self) -> Mapping[str, HostMonitor]:
        """The host monitors by host uuid."""
        return self._context.monitors

    @property
    def working(self) -> int:
        """How many groups are being worked on."""
        return len(self._workers)

    async def start(self) -> None:
        """Start monitors, workers and the sweep. Hosts get FIRST_PROBE_SECONDS before groups are looked at."""
        self._started = True
        for monitor in self._context.monitors.values():
            self._watch_host(monitor)
        deadline = asyncio.get_running_loop().time() + FIRST_PROBE_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            if all(m.settled for m in self._context.monitors.values()):
                break
            await asyncio.sleep(0.01)
        self._spawn(self._take_due(), "take due groups")
        if self._sweep is not None:
            self._spawn(self._sweep.run(), "sweep")

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
        await asyncio.gather(*(m.driver.close() for m in self._context.monitors.values()), return_exceptions=True)

    def add_host(self, monitor: HostMonitor) -> None:
        """Take a host in, at any time; nothing must be known under its uuid."""
        if self._stopping:
            return
        self._context.monitors[monitor.host.uuid] = monitor
        if self._started:
            self._watch_host(monitor)

    async def remove_host(self, host_uuid: str) -> None:
        """Forget a host and let its connection go; its machines, if any, are left alone."""
        monitor = self._context.monitors.pop(host_uuid, None)
        self._context.custody.forget(host_uuid)
        task = self._monitor_tasks.pop(host_uuid, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._sweep is not None:
            await self._sweep.forget(host_uuid)
        if monitor is not None:
            await monitor.driver.close()

    def poke(self, group_uuid: str) -> None:
        """A caller's intent was committed for this group."""
        worker = self._workers.get(group_uuid)
        if worker is not None:
            worker.poke()
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
            free = MOST_WORKERS - len(self._workers)
            if free > 0 and not self._stopping:  # what the workers have just given back is for others
                await self._take(free)
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _take(self, limit: int) -> None:
        asked_at = asyncio.get_running_loop().time()
        hinted = sorted(self._hinted)

        def take(connection: Connection) -> _Taken:
            now = clock.now(connection)
            groups.hasten(connection, hinted, now)
            left, ahead = groups.left_behind(connection, now), ownership.said_ahead(connection)
            return now, groups.take_due(connection, self._context.owner, now, LEASE_MS, limit), left, ahead

        try:
            now, taken, left, ahead = await self._context.store.write(take)
        except CorralError as error:
            logger.warning("no groups were taken: %s", error)
            return
        self._context.custody.tell(ahead)
        self._hinted.difference_update(hinted)
        self._context.metrics.lease_takeovers.inc(sum(uuid in left for uuid, _ in taken))
        for uuid, epoch in taken:
            self._work(uuid, epoch, DatabaseTime(now, asked_at), hinted=uuid in hinted)

    def _work(self, uuid: str, epoch: int, taken: DatabaseTime, *, hinted: bool) -> None:
        worker = GroupWorker(self._context, uuid, epoch, taken.read + LEASE_MS, taken, all_hinted=hinted)
        task = asyncio.create_task(worker.run(), name=f"group {uuid}")
        self._workers[uuid] = worker
        self._tasks[uuid] = task
        task.add_done_callback(lambda done: self._ended(uuid, worker, done))

    def _ended(self, uuid: str, worker: GroupWorker, task: asyncio.Task[None]) -> None:
        if self._workers.get(uuid) is worker:
            del self._workers[uuid]
            del self._tasks[uuid]
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
