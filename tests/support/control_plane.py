"""A whole control plane without faces: in-memory database, simulated hosts, real clock, for tests of use cases."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from service.app.feed import Feed
from service.app.groups import GroupLimits, Groups, Started
from service.domain.catalog import ModelService
from service.domain.events import Event
from service.domain.fleet import Host, Overcommit, Zone
from service.domain.groups import Group
from service.domain.preemption import Policies
from service.domain.specs import DeployRequest
from service.domain.tenants import Caller
from service.drivers.base import MachineState
from service.drivers.simulated import SimulatedDriver, SimulatedHost, SimulationOptions
from service.drivers.simulated.host import SimulatedMachine
from service.planning.planner import InlinePlanner
from service.reconcile.calls import MemberCalls
from service.reconcile.context import WorkerContext
from service.reconcile.custody import Custody
from service.reconcile.directory import Directory
from service.reconcile.logs import MachineLogs
from service.reconcile.manager import Reconciler
from service.reconcile.monitor import HostMonitor
from service.reconcile.staging import Stagings
from service.reconcile.sweep import Sweep
from service.reconcile.worker import LEASE_MS
from service.signals import Signals
from service.store import fleet
from service.store.clock import StoreClock
from service.store.connection import Connection
from service.store.engine import Store
from service.store.ownership import establish
from service.telemetry.metrics import Metrics
from tests.support.builders import entry, host, zone
from tests.support.schema import migrated

CLUSTER = "test"
CALLER = Caller()


@dataclass
class ControlPlane:
    """The parts, by name, for tests to reach into."""

    store: Store
    feed: Feed
    groups: Groups
    reconciler: Reconciler
    sweep: Sweep
    metrics: Metrics
    custody: Custody
    logs: MachineLogs
    drivers: dict[str, SimulatedDriver] = field(default_factory=dict)

    async def deploy(self, request: DeployRequest) -> list[Event]:
        """Deploy and follow to the end; raises what the stream ends with."""
        started = await self.groups.deploy(CALLER, request)
        return await self.follow(started.group, started.after_revision)

    async def follow(self, group: Group, after: int) -> list[Event]:
        return [event async for event in self.groups.follow(group.uuid, after)]

    async def delete(self, uuid: str) -> list[Event]:
        started = await self.groups.delete(CALLER, uuid)
        return await self.follow(started.group, started.after_revision)

    async def operation(self, starting: Awaitable[Started]) -> list[Event]:
        """Begin an operation and follow it to its end."""
        started = await starting
        return await self.follow(started.group, started.after_revision)

    def machines(self) -> list[SimulatedMachine]:
        """Every real machine on all hosts."""
        found = itertools.chain.from_iterable(d.host.machines.values() for d in self.drivers.values())
        return [machine for machine in found if machine.state is not MachineState.TOMBSTONE]

    async def used(self) -> dict[str, int]:
        """Claimed vCPUs by host name."""
        hosts = await self.store.read(fleet.hosts)
        return {h.name: h.used.get("vcpu", 0) for h in hosts.values()}


@asynccontextmanager
async def control_plane(
    *,
    hosts: Sequence[Host] = (),
    size: dict[str, str] | None = None,
    zones: Sequence[Zone] = (),
    catalogue: Sequence[ModelService] = (),
    overcommit: Overcommit | None = None,
    url: str = "sqlite://",
    there: Mapping[str, SimulatedHost] | None = None,
    store: Store | None = None,
    clock: StoreClock | None = None,
    monotonic: Callable[[], float] = time.monotonic,
    sweeps: bool = False,
    priorities: Policies | None = None,
) -> AsyncIterator[ControlPlane]:
    """Start everything, and end it. `size`: the simulated hosts' options; `there`: hosts that exist, by uuid; `store`:
    instead of one at `url`; `monotonic`: the hosts' clock, seconds; `sweeps`: hosts are swept."""
    store = store or Store(url)
    migrated(store.engine)
    hosts, zones, catalogue = hosts or (host(1), host(2)), zones or (zone(),), catalogue or (entry(),)
    options = SimulationOptions.read({"boot_ms": "10", "call_ms": "0", **(size or {})})

    def rows(connection: Connection) -> None:
        fleet.set_overcommit(connection, overcommit or Overcommit(), 0)
        for z in zones:
            fleet.put_zone(connection, z)
        for h in hosts:
            fleet.put_host(connection, h)
        for e in catalogue:
            fleet.put_model_service(connection, e)

    await store.write(rows)
    feed = Feed(store)
    await feed.start()
    custody = Custody(store, establish(store.engine, CLUSTER, 0))
    metrics = Metrics()
    planner = InlinePlanner()
    monitors: dict[str, HostMonitor] = {}
    directory = Directory({h.uuid: h for h in hosts}, {z.uuid: z for z in zones}, {e.uuid: e for e in catalogue})
    calls = MemberCalls(custody, monitors, directory, metrics, stagings=Stagings(store, metrics, "test"))
    context = WorkerContext(
        store=store,
        planner=planner,
        calls=calls,
        monitors=monitors,
        metrics=metrics,
        owner="test",
        custody=custody,
        clock=clock or StoreClock(LEASE_MS),
        priorities=priorities or {},
    )
    sweep = Sweep(store, monitors, custody, metrics)
    reconciler = Reconciler(context, sweep if sweeps else None)
    signals = Signals()
    signals.group_due.listen(reconciler.poke)
    limits = GroupLimits(priorities=priorities or {})
    groups = Groups(store, feed, planner, cluster=CLUSTER, signals=signals, limits=limits, holder=reconciler)
    plane = ControlPlane(store, feed, groups, reconciler, sweep, metrics, custody, calls.logs)
    for h in hosts:
        known = (there or {}).get(h.uuid)
        driver = SimulatedDriver(h.uuid, known or SimulatedHost(h.name, options, monotonic))
        plane.drivers[h.uuid] = driver
        monitors[h.uuid] = HostMonitor(h, driver, store, reconciler.host_changed, custody)
    reading = asyncio.create_task(feed.run())
    await reconciler.start()
    try:
        yield plane
    finally:
        feed.close()
        await reconciler.stop(5.0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        store.close()
