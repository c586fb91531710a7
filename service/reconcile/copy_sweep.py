"""Keeps what copies of images take on each host within its budget, and ends what was never finished.

Only what this installation has on record as its own is ever deleted (ARCHITECTURE I15), least recently used first, and
never what a machine stands on, whoever made it, or a member of ours is about to. A copy leaves in two steps: it is
withdrawn, so that no machine is made of it any more; and deleted once every create that may have found it before is
long over, if nothing stands on it then. What is needed meanwhile is taken into use again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial

from service.domain.catalog import version_key
from service.domain.fleet import image_budget
from service.drivers.base import HostRejected
from service.drivers.copies import Copied, ImageFile, SeenCopy
from service.failpoints import failpoint
from service.reconcile.monitor import HostMonitor
from service.store import catalog, clock, copies, fleet, groups
from service.store.connection import Connection
from service.store.copies import Copy
from service.store.engine import Store
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

EVERY_SECONDS = 60.0
CALL_SECONDS = 25.0
WITHDRAWN_MS = 180_000
"""For so long a copy is withdrawn before it is deleted: longer than the longest create, its late effect included."""
UNFINISHED_MS = 3_600_000
"""What was not finished, and nobody has gone on with for so long, is given up."""
HELD_MS = 90_000
USED_MS = 600_000
"""How old the record of a use may be before it is written anew."""


class CopySweep:
    """What this process knows of the copies on all hosts. `budget`: bytes on each that says nothing else, and whose
    zone says nothing; 0: none is removed for room."""

    def __init__(self, store: Store, metrics: Metrics, owner: str, budget: int = 0) -> None:
        self._store = store
        self._metrics = metrics
        self._owner = f"{owner}/sweep"
        self._budget = budget
        self._next: dict[str, float] = {}
        self._idle: dict[str, frozenset[str]] = {}

    def forget(self, host_uuid: str) -> None:
        """The host is no longer in the fleet."""
        self._next.pop(host_uuid, None)
        self._idle.pop(host_uuid, None)

    async def sweep(self, monitor: HostMonitor, *, early: bool) -> None:
        """One pass over a host, every EVERY_SECONDS at most. `early`: nothing is removed yet. Raises DriverError."""
        now = asyncio.get_running_loop().time()
        if early or now < self._next.get(monitor.host.uuid, 0.0):
            return
        self._next[monitor.host.uuid] = now + EVERY_SECONDS
        try:
            await self.once(monitor)
        except HostRejected as error:
            if error.code != "undecided":
                raise
            logger.warning("host %s: no copy of an image is removed: %s (%s)", monitor.host.name, error, error.detail)

    async def once(self, monitor: HostMonitor) -> None:
        """One pass. Raises DriverError."""
        host = monitor.host.uuid
        seen = {copy.volume: copy for copy in await monitor.driver.list_copies(budget_seconds=CALL_SECONDS)}
        rows, now, zones = await self._store.read(lambda c: (copies.on_host(c, host), clock.now(c), fleet.zones(c)))
        budget = image_budget(monitor.host, zones.get(monitor.host.zone_uuid), self._budget)
        self._metrics.images.copies_bytes.labels(monitor.host.name).set(sum(copy.size for copy in seen.values()))
        missing = [r for r in rows if r.volume not in seen and r.owned_until <= now]
        gone = [r.volume for r in missing if r.changed_at < now - HELD_MS]
        used = [r.volume for r in rows if r.volume in seen and seen[r.volume].used and r.used_at < now - USED_MS]
        if gone or used:
            await self._store.write(lambda c: copies.seen(c, host, gone=gone, used=used))
        there = [row for row in rows if row.volume in seen and row.owned_until <= now]
        over = sum(c.size for c in seen.values()) - budget
        waiting = [row for row in there if row.withdrawn_at or not row.whole]
        if not waiting and (over <= 0 or not budget):
            self._idle.pop(host, None)
            return
        needed = await self._store.read(lambda c: _needed(c, host))
        for row in waiting:
            await self._settle(monitor, row, seen[row.volume], now, needed=bool(needed & {row.sha256, row.image}))
        if budget:
            leaving = sum(row.size for row in there if row.withdrawn_at)
            await self._withdraw(monitor, there, seen, needed, over - leaving)

    async def _withdraw(
        self,
        monitor: HostMonitor,
        rows: Sequence[Copy],
        seen: Mapping[str, SeenCopy],
        needed: frozenset[str],
        over: int,
    ) -> None:
        """Begin with those that go, the least recently used first, and only what was idle a pass ago too."""
        host = monitor.host.uuid
        idle = [
            row
            for row in sorted(rows, key=lambda row: (row.used_at, row.volume))
            if row.whole and not row.withdrawn_at and not seen[row.volume].used and not needed & {row.sha256, row.image}
        ]
        before, self._idle[host] = self._idle.get(host, frozenset()), frozenset(row.volume for row in idle)
        for row in idle:
            if over <= 0:
                return
            if row.volume not in before:
                continue
            failpoint("copies.withdrawing")
            if await self._store.write(partial(copies.withdraw, host_uuid=host, volume=row.volume)):
                await monitor.driver.withdraw_copy(row.volume, budget_seconds=CALL_SECONDS)
                logger.info("host %s: copy %s of image %s (%d B) is withdrawn: copies take more than their budget",
                            monitor.host.name, row.volume, row.image, row.size)  # fmt: skip
                over -= row.size

    async def _settle(self, monitor: HostMonitor, row: Copy, seen: SeenCopy, now: int, *, needed: bool) -> None:
        """One that is withdrawn, or was never whole: back into use, deleted, or left for a while."""
        host = monitor.host.uuid
        if row.whole and (needed or seen.used):
            if await self._hold(row):
                await self._use_again(monitor, row)
            return
        if row.whole and seen.whole:
            # Machines may still be made of it: whoever recorded it died before the host was told, or the call was lost.
            if await self._store.write(partial(copies.withdraw, host_uuid=host, volume=row.volume)):
                await monitor.driver.withdraw_copy(row.volume, budget_seconds=CALL_SECONDS)
            return
        since, patience = (row.withdrawn_at, WITHDRAWN_MS) if row.whole else (row.changed_at, UNFINISHED_MS)
        if needed or seen.used or now < since + patience or not await self._hold(row):
            return
        why = "budget" if row.whole else "given_up"
        failpoint("copies.deleting")
        try:
            await monitor.driver.delete_copy(row.volume, budget_seconds=CALL_SECONDS)
        except HostRejected as error:
            logger.info("host %s: copy %s stays: %s", monitor.host.name, row.volume, error)
            await self._store.write(lambda c: copies.give_back(c, host, row.volume, self._owner))
            return
        failpoint("copies.deleted")
        await self._store.write(lambda c: copies.forget(c, host, [row.volume]))
        logger.info("host %s: copy %s of image %s is deleted: %s", monitor.host.name, row.volume, row.image, why)
        self._metrics.images.copies_removed.labels(monitor.host.name, why).inc()

    async def _hold(self, row: Copy) -> bool:
        """Whether nobody else does anything about it for a while; whoever needs it waits, and looks again."""
        return await self._store.write(lambda c: copies.hold(c, row, self._owner, HELD_MS))

    async def _use_again(self, monitor: HostMonitor, row: Copy) -> None:
        file = ImageFile(row.image, "", "", row.size, row.sha256, row.volume)
        copied = Copied(row.volume, row.done, row.digest, row.boot_id, whole=True)
        await monitor.driver.stage(file, copied, budget_seconds=CALL_SECONDS)
        await self._store.write(lambda c: copies.use_again(c, row, self._owner))
        logger.info("host %s: copy %s is needed again", monitor.host.name, row.volume)


def _needed(connection: Connection, host_uuid: str) -> frozenset[str]:
    """Sums and names of the images of all members that are on the host, or on their way there."""
    there = {group for _, group, *_ in groups.on_host(connection, host_uuid)}
    there |= {group for _, group, _ in groups.arriving(connection, host_uuid)}
    if not there:
        return frozenset()
    entries = catalog.every_version(connection)
    found: set[str] = set()
    for group in groups.load_many(connection, sorted(there)):
        for member in group.instances:
            if host_uuid in (member.host_uuid, member.target_host_uuid):
                spec = member.spec
                admitted = version_key(spec.model_service_uuid, spec.model_service_version)
                entry = entries.get(admitted) or entries.get(spec.model_service_uuid)
                images = [entry.image] if entry is not None else []
                for image in (*images, *(disk.image for disk in spec.data_disks if disk.image is not None)):
                    found |= {image.name, *(one.lower() for one in image.sha256.values())}
    return frozenset(found)
