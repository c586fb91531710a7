"""Finds what nobody wants: machines and volumes of ours that no member wants, claims whose attempt is over, tombstones.

Never acts on a first sight: a machine must be unwanted in two sweeps and again right before it is removed. A machine
without our tag is never even listed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from service.drivers.base import (
    DriverError,
    MachineConflict,
    MachineGhost,
    MachineIdentity,
    MachineState,
    ObservedMachine,
    volume_owner,
)
from service.errors import CorralError
from service.failpoints import failpoint
from service.reconcile.monitor import HostMonitor
from service.store import claims, groups
from service.store.connection import Connection
from service.store.engine import Store
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

EVERY_SECONDS = 10.0
REMOVE_SECONDS = 25.0
TOMBSTONE_SECONDS = 120.0
"""Longer than libvirtd keeps a silent client (about 30 s) and than any call's budget, together."""


@dataclass(frozen=True, slots=True)
class Seats:
    """What the store says of one host: attempts that want a machine there, and claims whose attempt is over."""

    wanted: frozenset[tuple[str, int]]
    stale_claims: frozenset[tuple[str, int, str]]


def seats(connection: Connection, host_uuid: str) -> Seats:
    """Read both in one transaction."""
    seated = groups.on_host(connection, host_uuid)
    arriving = groups.arriving(connection, host_uuid)
    current = frozenset(
        {(instance, attempt) for instance, _, attempt, _ in seated}
        | {(instance, attempt) for instance, _, attempt in arriving}
    )
    stale = frozenset(c for c in claims.on_host(connection, host_uuid) if (c[0], c[1]) not in current)
    return Seats(current, stale)


class Sweep:
    """One pass a host every EVERY_SECONDS; hosts are swept concurrently, and a silent one is left out."""

    def __init__(
        self,
        store: Store,
        monitors: Mapping[str, HostMonitor],
        cluster: str,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._monitors = monitors
        self._cluster = cluster
        self._metrics = metrics
        self._suspects: dict[str, set[str]] = {}
        self._suspect_volumes: dict[str, set[str]] = {}
        self._tombstones: dict[tuple[str, str], float] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Sweep until cancelled. Each host has its own passes: a slow one delays nobody else's (ARCHITECTURE I12)."""
        try:
            while True:
                await asyncio.sleep(EVERY_SECONDS)
                for host_uuid, monitor in self._monitors.items():
                    last = self._running.get(host_uuid)
                    if not monitor.silent and (last is None or last.done()):
                        self._running[host_uuid] = asyncio.create_task(self._guarded(monitor))
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def forget(self, host_uuid: str) -> None:
        """A host is no longer this process's: end the pass over it, and what was noted of its machines."""
        running = self._running.pop(host_uuid, None)
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        self._suspects.pop(host_uuid, None)
        self._suspect_volumes.pop(host_uuid, None)
        for key in [key for key in self._tombstones if key[0] == host_uuid]:
            del self._tombstones[key]

    async def once(self) -> None:
        """One pass over all hosts that answer."""
        await asyncio.gather(*(self._guarded(m) for m in self._monitors.values() if not m.silent))

    async def _guarded(self, monitor: HostMonitor) -> None:
        try:
            await self._host(monitor)
        except (DriverError, CorralError) as error:
            logger.info("sweep of host %s ended early: %s", monitor.host.name, error)
        except Exception:
            logger.exception("sweep of host %s broke", monitor.host.name)  # a bug; the next pass begins anew

    async def _host(self, monitor: HostMonitor) -> None:
        host_uuid = monitor.host.uuid
        # The listing comes first: a machine made after it is not in it, and its seat is in the later read.
        look = await monitor.look()
        failpoint("sweep.listed")
        here = await self._store.read(lambda c: seats(c, host_uuid))
        unwanted = {
            m.machine_uuid: m
            for m in look.listing.machines
            if m.state is not MachineState.TOMBSTONE and _key(m) not in here.wanted
        }
        failpoint("sweep.compared")
        before = self._suspects.get(host_uuid, set())
        self._suspects[host_uuid] = set(unwanted) - before
        for machine_uuid in sorted(set(unwanted) & before):
            await self._remove(monitor, unwanted[machine_uuid])
        for instance, attempt, group in sorted(here.stale_claims):
            await self._release(monitor, MachineIdentity(self._cluster, group, instance, attempt))
        await self._clear_tombstones(monitor, look.listing.machines)
        await self._clear_volumes(monitor)

    async def _remove(self, monitor: HostMonitor, machine: ObservedMachine) -> None:
        again = await self._store.read(lambda c: seats(c, monitor.host.uuid))
        if _key(machine) in again.wanted:
            return
        logger.warning("host %s: removing %s, which no member wants", monitor.host.name, machine.machine_uuid)
        failpoint("sweep.removing")
        try:
            await monitor.driver.remove(machine.identity, budget_seconds=REMOVE_SECONDS)
        except MachineGhost:
            monitor.ghost(machine.machine_uuid)  # it stays until an operator restarts the host; others can be removed
            return
        failpoint("sweep.removed")
        self._metrics.orphans_removed.labels("machine").inc()

    async def _release(self, monitor: HostMonitor, identity: MachineIdentity) -> None:
        """A claim of an attempt that is over ends once its machine is absent and cannot appear any more."""
        try:
            await monitor.driver.entomb(identity, budget_seconds=REMOVE_SECONDS)
        except (MachineConflict, MachineGhost):
            return  # the machine is still there: the sweep removes it first
        failpoint("sweep.entombed")
        if not await monitor.confirm_absent(identity.machine_uuid):
            return

        def release(connection: Connection) -> None:
            if (identity.instance, identity.attempt) not in seats(connection, monitor.host.uuid).wanted:
                claims.leave(connection, [(identity.instance, identity.attempt, monitor.host.uuid)])

        failpoint("sweep.releasing")
        await self._store.write(release)
        failpoint("sweep.released")
        self._metrics.orphans_removed.labels("claim").inc()

    async def _clear_tombstones(self, monitor: HostMonitor, machines: tuple[ObservedMachine, ...]) -> None:
        now = asyncio.get_running_loop().time()
        here = {m.machine_uuid: m for m in machines if m.state is MachineState.TOMBSTONE}
        for machine_uuid, machine in here.items():
            first = self._tombstones.setdefault((monitor.host.uuid, machine_uuid), now)
            if now - first >= TOMBSTONE_SECONDS:
                failpoint("sweep.clearing")
                await monitor.driver.clear_tombstone(machine.identity, budget_seconds=REMOVE_SECONDS)
                self._metrics.orphans_removed.labels("tombstone").inc()
        gone = [key for key in self._tombstones if key[0] == monitor.host.uuid and key[1] not in here]
        for key in gone:
            del self._tombstones[key]

    async def _clear_volumes(self, monitor: HostMonitor) -> None:
        """Volumes of an attempt that nobody wants and that has no machine: a create broke off, or came too late.

        Those of a machine that is there go with it.
        """
        names = await monitor.driver.list_volumes(budget_seconds=REMOVE_SECONDS)
        before = self._suspect_volumes.get(monitor.host.uuid, set())
        unwanted = await self._unwanted(monitor, names)
        self._suspect_volumes[monitor.host.uuid] = unwanted - before
        for name in sorted(unwanted & before):
            failpoint("sweep.deleting_volume")
            await monitor.driver.delete_volume(name, budget_seconds=REMOVE_SECONDS)
            self._metrics.orphans_removed.labels("volume").inc()

    async def _unwanted(self, monitor: HostMonitor, names: Iterable[str]) -> set[str]:
        owners = {name: owner for name in names if (owner := volume_owner(name)) is not None}
        if not owners:
            return set()
        look = await monitor.look()
        here = await self._store.read(lambda c: seats(c, monitor.host.uuid))
        kept = here.wanted | {_key(m) for m in look.listing.machines if m.state is not MachineState.TOMBSTONE}
        return {name for name, owner in owners.items() if owner not in kept}


def _key(machine: ObservedMachine) -> tuple[str, int]:
    return machine.identity.instance, machine.identity.attempt
