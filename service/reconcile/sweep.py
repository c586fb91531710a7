"""Finds what no member wants: machines and volumes of ours, claims whose attempt is over, tombstones.

What is on record as let go is ended, and never at first sight: it must be unwanted in two passes, and once more right
before it is ended. What the database knows nothing of is held in quarantine, as it is, until an operator decides
(ARCHITECTURE I15). A machine without our tag is never even listed.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import zlib
from collections.abc import Iterable, Mapping
from functools import partial

from service.domain.fleet import Host, HostState
from service.domain.ownership import Fate, Holding, Quarantined, Records, fate, held
from service.drivers.base import (
    DriverError,
    MachineConflict,
    MachineGhost,
    MachineIdentity,
    MachineState,
    ObservedMachine,
)
from service.drivers.volume_names import volume_owner
from service.errors import CorralError
from service.failpoints import failpoint
from service.reconcile import failing_devices
from service.reconcile.copy_sweep import CopySweep
from service.reconcile.custody import Custody
from service.reconcile.filter_sweep import FilterSweep
from service.reconcile.holding import Seats, quarantined, records, seat_of, seats
from service.reconcile.monitor import HostMonitor
from service.store import addresses, audit, claims, clock, ownership, retired, waiting
from service.store.connection import Connection
from service.store.engine import Store
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

EVERY_SECONDS = 10.0
REMOVE_SECONDS = 25.0
TOMBSTONE_SECONDS = 120.0
"""Longer than the 30 s for which libvirtd serves a client that fell silent and the longest call's budget together."""


GRACE_SECONDS = 15.0
"""Nothing is removed within this time after the start: what is seen first is the least certain."""
SHARE = 4
"""In one pass at most one in this many of a host's machines is removed (but always one, where there is one)."""


TURNS = 20
"""Into so many parts of the time hosts are spread: a thousand passes in one instant hold up whoever deploys then."""


class Sweep:
    """One pass a host every EVERY_SECONDS, each in its part of that time; a silent host is left out."""

    def __init__(
        self,
        store: Store,
        monitors: Mapping[str, HostMonitor],
        custody: Custody,
        metrics: Metrics,
        copies: CopySweep | None = None,
    ) -> None:
        """`copies`: None: copies of images are left alone."""
        self._store = store
        self._monitors = monitors
        self._custody = custody
        self._began = -GRACE_SECONDS
        self._held: dict[str, list[Quarantined]] = {}
        self._metrics = metrics
        self._suspects: dict[str, set[str]] = {}
        self._suspect_volumes: dict[str, set[str]] = {}
        self._tombstones: dict[tuple[str, str], float] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._filters = FilterSweep(store, metrics)
        self._copies = copies

    async def run(self) -> None:
        """Sweep until cancelled. Each host has its own passes: a slow one delays nobody else's (ARCHITECTURE I12)."""
        self._began = asyncio.get_running_loop().time()
        try:
            for turn in itertools.cycle(range(TURNS)):
                await asyncio.sleep(EVERY_SECONDS / TURNS)
                for host_uuid, monitor in self._monitors.items():
                    last = self._running.get(host_uuid)
                    if _turn_of(host_uuid) == turn and not monitor.silent and (last is None or last.done()):
                        self._running[host_uuid] = asyncio.create_task(self._guarded(monitor))
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def forget(self, host_uuid: str) -> None:
        """The host is no longer in the fleet: end the pass over it, and forget what was noted of its machines."""
        running = self._running.pop(host_uuid, None)
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        self._suspects.pop(host_uuid, None)
        self._suspect_volumes.pop(host_uuid, None)
        self._held.pop(host_uuid, None)
        self._filters.forget(host_uuid)
        if self._copies is not None:
            self._copies.forget(host_uuid)
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
        if not monitor.fresh:
            return  # this process stood still: the host is looked at first
        # The listing comes first: a machine made after it is not in it, and its seat is in the later read.
        look = await monitor.look()
        machines = [m for m in look.listing.machines if m.state is not MachineState.TOMBSTONE]
        failpoint("sweep.listed")
        instances = [m.identity.instance for m in machines]
        here, known, unseen = await self._store.read(
            lambda c: (*records(c, host_uuid, instances), retired.has_unseen(c, host_uuid))
        )
        fates = {m.machine_uuid: fate(known, *seat_of(m), m.machine_uuid) for m in machines}
        failpoint("sweep.compared")
        if self._custody.held:
            return
        unwanted = {m.machine_uuid: m for m in machines if fates[m.machine_uuid][0] is Fate.REMOVE}
        unwanted = {key: m for key, m in unwanted.items() if not _by_hand(monitor.host, here, known, m)}
        # What an operator has ordered to be ended stays held, with the order, until it is gone.
        unknown = [
            quarantined(m, fates[m.machine_uuid][1])
            for m in machines
            if fates[m.machine_uuid][0] is Fate.QUARANTINE or m.machine_uuid in known.ordered
        ]
        before = self._suspects.get(host_uuid, set())
        self._suspects[host_uuid] = set(unwanted) - before
        for machine_uuid in self._braked(monitor, sorted(set(unwanted) & before), len(machines)):
            await self._remove(monitor, unwanted[machine_uuid])
        wanted = [m for m in machines if fates[m.machine_uuid][0] is Fate.KEEP]
        for machine in wanted:
            if machine.ailing:
                reports = self._metrics.devices.reports
                await failing_devices.heed(self._store, reports, monitor.host.name, host_uuid, machine)
        await self._define_again(monitor, wanted)
        for instance, attempt, group in sorted(here.stale_claims):
            await self._release(monitor, MachineIdentity(self._custody.installation.cluster, group, instance, attempt))
        await self._clear_tombstones(monitor, look.listing.machines)
        unknown += await self._clear_volumes(monitor)
        await self._filters.sweep(monitor, early=self._early)
        await self._hold(monitor, unknown, known.held)
        if unseen:
            await self._store.write(partial(retired.seen_gone, host_uuid=host_uuid, there=set(map(seat_of, machines))))
        if self._copies is not None:
            await self._copies.sweep(monitor, early=self._early)

    def _braked(self, monitor: HostMonitor, machine_uuids: list[str], count: int) -> list[str]:
        """Those that may be removed in this pass. The rest is kept in mind for the next one."""
        allowed = 0 if self._early else max(1, count // SHARE)
        later = machine_uuids[allowed:]
        self._suspects[monitor.host.uuid] |= set(later)
        return machine_uuids[:allowed]

    @property
    def _early(self) -> bool:
        return asyncio.get_running_loop().time() < self._began + GRACE_SECONDS

    async def _remove(self, monitor: HostMonitor, machine: ObservedMachine) -> None:
        host_uuid = monitor.host.uuid
        _, known = await self._store.read(lambda c: records(c, host_uuid, [machine.identity.instance]))
        what, why = fate(known, *seat_of(machine), machine.machine_uuid)
        if what is not Fate.REMOVE:
            return
        logger.warning("host %s: removing %s, which no member wants: %s", monitor.host.name, machine.machine_uuid, why)
        failpoint("sweep.removing")
        now = await self._store.write(lambda c: _noted(c, monitor.host.uuid, machine, why))
        try:
            await monitor.driver.remove(machine.identity, budget_seconds=REMOVE_SECONDS)
        except MachineGhost:
            monitor.ghost(machine.machine_uuid)  # it stays until an operator restarts the host; others can be removed
            return
        failpoint("sweep.removed")
        logger.info("host %s: %s is gone (recorded at %d)", monitor.host.name, machine.machine_uuid, now)
        self._metrics.orphans_removed.labels("machine").inc()

    async def _define_again(self, monitor: HostMonitor, wanted: list[ObservedMachine]) -> None:
        """A machine whose definition was removed by hand runs on, and would be gone with its host's next start."""
        for machine in wanted:
            if machine.undefined and machine.state is MachineState.RUNNING:
                logger.warning(
                    "host %s: the definition of %s was removed by somebody: it is made again",
                    monitor.host.name, machine.machine_uuid,
                )  # fmt: skip
                await monitor.driver.define_again(machine.identity, budget_seconds=REMOVE_SECONDS)
                self._metrics.definitions_restored.labels(monitor.host.name).inc()

    async def _hold(self, monitor: HostMonitor, unknown: list[Quarantined], recorded: frozenset[str]) -> None:
        """Keep what nobody knows, count it as used, and let an operator see it. `recorded`: keys that are held so far,
        which a connect may have added to since the last pass."""
        host_uuid = monitor.host.uuid
        known = self._held.get(host_uuid)
        if known is None or known != unknown or recorded != {q.key for q in unknown}:
            if await self._store.write(lambda c: ownership.hold(c, host_uuid, unknown, clock.now(c))) and unknown:
                logger.error(
                    "host %s: %d machines or volumes are held in quarantine, which this database does not know: %s",
                    monitor.host.name, len(unknown), "; ".join(f"{q.key}: {q.reason}" for q in unknown),
                )  # fmt: skip
            self._held[host_uuid] = unknown
        monitor.hold(held(unknown))

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
                addresses.let_go(connection, [identity.instance])
                waiting.given_back(connection)

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

    async def _clear_volumes(self, monitor: HostMonitor) -> list[Quarantined]:
        """Delete volumes of attempts that were let go and have no machine: a create broke off, or came too late.

        Those of a machine that is there go with it. Returns those of which nothing is on record.
        """
        names = await monitor.driver.list_volumes(budget_seconds=REMOVE_SECONDS)
        before = self._suspect_volumes.get(monitor.host.uuid, set())
        unwanted, unknown = await self._unwanted(monitor, names)
        self._suspect_volumes[monitor.host.uuid] = unwanted - before
        for name in sorted(unwanted & before):
            failpoint("sweep.deleting_volume")
            await monitor.driver.delete_volume(name, budget_seconds=REMOVE_SECONDS)
            self._metrics.orphans_removed.labels("volume").inc()
        return unknown

    async def _unwanted(self, monitor: HostMonitor, names: Iterable[str]) -> tuple[set[str], list[Quarantined]]:
        owners = {name: owner for name in names if (owner := volume_owner(name)) is not None}
        if not owners:
            return set(), []
        look = await monitor.look()
        host_uuid = monitor.host.uuid
        instances = [instance for instance, _ in owners.values()]
        _, known = await self._store.read(lambda c: records(c, host_uuid, instances))
        kept = {seat_of(m) for m in look.listing.machines if m.state is not MachineState.TOMBSTONE}
        unwanted, unknown = set(), []
        for name, (instance, attempt) in sorted(owners.items()):
            what, why = fate(known, instance, attempt, name)
            if what is Fate.KEEP or (instance, attempt) in kept:
                continue
            if what is Fate.REMOVE:
                unwanted.add(name)
            if what is Fate.QUARANTINE or name in known.ordered:
                unknown.append(Quarantined(host_uuid, name, Holding.VOLUME, "", instance, attempt, name, reason=why))
        return unwanted, unknown


def _by_hand(host: Host, here: Seats, known: Records, machine: ObservedMachine) -> bool:
    """Whether it may be its operator who works on a machine of bare metal under maintenance: what is on there for a
    member that has left it waits, and nobody waits for it."""
    seat = seat_of(machine)
    claimed = any((instance, attempt) == seat for instance, attempt, _ in here.stale_claims)
    return host.bare_metal and host.state is HostState.MAINTENANCE and seat in known.left and not claimed


def _turn_of(host_uuid: str) -> int:
    return zlib.crc32(host_uuid.encode()) % TURNS


def _noted(connection: Connection, host_uuid: str, machine: ObservedMachine, why: str) -> int:
    """Leave an audit row of a removal that nobody asked for at this moment, with the record that allows it."""
    now = clock.now(connection)
    audit.record(
        connection,
        principal="corral",
        project="",
        method="RemoveUnwantedMachine",
        subject=f"{machine.machine_uuid} on host {host_uuid}: {why}",
        request_id="",
        now=now,
    )
    return now
