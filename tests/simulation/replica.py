"""One replica of the control plane: the real use cases, feed and reconciliation, wired as in production."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from functools import cache
from types import SimpleNamespace
from typing import Any, TypeVar

from prometheus_client.metrics import MetricWrapperBase
from sqlalchemy import Connection

from service.app import feed as feed_module
from service.app.devices import Devices
from service.app.evacuation import Evacuation
from service.app.feed import Feed
from service.app.fleet import Fleet as FleetCases
from service.app.groups import GroupLimits, Groups
from service.app.quarantine import Quarantine
from service.app.rebalancing import Rebalancing
from service.app.rolling import Rolls
from service.app.seats import StoredSeats
from service.domain.catalog import ModelService
from service.domain.cleaning import DEADLINE_MS, Wipe
from service.domain.devices import DeviceRules
from service.domain.fleet import Bmc, Host, HostAddress, Overcommit, Zone
from service.domain.ownership import Installation
from service.domain.tenants import Quota
from service.drivers.base import HostFacts
from service.drivers.knocking import Answer, Heard
from service.planning.fleet_reader import FleetReader
from service.reconcile import cleaning, manager, owners, sight
from service.reconcile.adoption import Adoption
from service.reconcile.calls import MemberCalls
from service.reconcile.cleaning import Cleaner
from service.reconcile.context import WorkerContext
from service.reconcile.custody import Custody
from service.reconcile.directory import Directory
from service.reconcile.fencing import Fencer
from service.reconcile.manager import Reconciler
from service.reconcile.monitor import HostMonitor
from service.reconcile.owners import LeaseReaper
from service.reconcile.rolling import Roller
from service.reconcile.roster import Roster
from service.reconcile.staging import Stagings
from service.reconcile.sweep import Sweep
from service.reconcile.worker import LEASE_MS, GroupWorker
from service.signals import Signals
from service.store import configured, quotas
from service.store.clock import StoreClock
from service.telemetry.metrics import Metrics
from tests.simulation import boards, priorities
from tests.simulation.database import SimulatedStore
from tests.simulation.driver import FaultyDriver
from tests.simulation.hosts import CLUSTER
from tests.simulation.loop import LEASE, PROCESS, Killed, Process
from tests.simulation.planner import FirstFitPlanner
from tests.simulation.seated import SeatedDriver
from tests.simulation.switch import SimulatedSwitch
from tests.simulation.world import EPOCH_MS, World

T = TypeVar("T")
FLEET_CHANGES = frozenset({"restore", "strangers", "removal"})
"""Themes in which operators change the fleet; in the others nobody needs to look for that."""
INSTALLATION = Installation(database="", cluster=CLUSTER)
"""As a replica has it before it has read its own: the first look at a host reads it."""


class Broken(Exception):
    """The connection to the replica ended before it answered."""


class LeasedWorker(GroupWorker):
    """The real worker; what it does can be told by its lease."""

    async def run(self) -> None:
        """See GroupWorker.run."""
        LEASE.set((self.uuid, self.epoch))
        await super().run()


def install() -> None:
    """Let the manager make workers that can be told by their lease."""
    setattr(manager, "GroupWorker", LeasedWorker)  # noqa: B010  # a class that the module imports
    owners.has_ended = _has_ended
    DEADLINE_MS[Wipe.METADATA] = 40_000  # the rest of a run is not much longer
    setattr(sight, "time", SimpleNamespace(monotonic=_now))  # noqa: B010  # how old a guest's word is
    feed_module.TAIL, feed_module.BATCH = 6, 3  # followers fall out of a short tail, and read on from the store
    feed_module.POLL_SECONDS = 2.0  # its polls are most of what happens, and commits of this process wake it anyway


def _now() -> float:
    return asyncio.get_running_loop().time()


def _has_ended(owner: str) -> bool:
    """Whether this owner has ended, by the process table of the asker's machine; false for owners on other machines."""
    me = PROCESS.get()
    name, _, incarnation = owner.partition(".")
    if me is None or me.table is None or name not in me.table:
        return False
    return me.table[name]() != int(incarnation)


@cache
def metrics() -> Metrics:
    """Counters that all runs share: making them costs more than a run, and finding the one of some labels a lot."""
    MetricWrapperBase.labels = _known_labels(MetricWrapperBase.labels)  # type: ignore[method-assign]
    return Metrics()


def _known_labels(find: Callable[..., Any]) -> Callable[..., Any]:
    known: dict[tuple[object, ...], Any] = {}

    def labels(metric: MetricWrapperBase, *values: Any, **named: Any) -> Any:
        if named:
            return find(metric, *values, **named)
        key = (metric, *values)
        found = known.get(key)
        if found is None:
            found = known[key] = find(metric, *values)
        return found

    return labels


class Fleet:
    """What the operator configured, the same for all replicas."""

    def __init__(
        self,
        zones: dict[str, Zone],
        hosts: dict[str, Host],
        catalogue: dict[str, ModelService],
        quota: dict[str, int],
        devices: DeviceRules | None = None,
    ) -> None:
        self.zones = zones
        self.hosts = hosts
        self.catalogue = catalogue
        self.quota = quota
        self.devices = devices

    def write(self, connection: Connection) -> None:
        """As the service does at its start."""
        configured.write(
            connection,
            zones=list(self.zones.values()),
            hosts=list(self.hosts.values()),
            images=(),
            model_services=list(self.catalogue.values()),
            overcommit=Overcommit(),
            devices=self.devices,
            now=EPOCH_MS,
        )
        quotas.put(connection, [Quota("default", self.quota)] if self.quota else [])

    def leave_to_run_time(self, world: World) -> None:
        """From now on the file names one host only; the others are in the fleet, and calls may take them out."""
        world.database.transact(self.write)
        world.committed()
        self.hosts = dict(list(self.hosts.items())[:1])


class Replica:
    """The place of one process after the other: what is killed is started again under the same name."""

    def __init__(self, world: World, name: str, configured: Fleet) -> None:
        self.world = world
        self.name = name
        self.fleet = configured
        self.incarnation = 0
        self.process = Process(f"{name}.0", world.loop)
        self.drivers: dict[str, FaultyDriver] = {}
        self.clock_offset_ms = int(world.random.choice((0.0, world.random.uniform(-600.0, 600.0))) * 1000)
        self.machine = world.random.choice(("here", name))
        self.serving = False
        self._dice = random.Random(f"knocks {world.seed} {name}")
        self._calls: dict[asyncio.Future[Any], None] = {}  # as asked: a set's order is that of addresses
        self.groups: Groups
        self.evacuation: Evacuation
        self.rebalancing: Rebalancing
        self.rolls: Rolls
        self.quarantine: Quarantine
        self.devices: Devices
        self.fleet_cases: FleetCases
        self.reconciler: Reconciler

    def clock(self) -> int:
        """The replica's own wall clock in ms, right or wrong."""
        return EPOCH_MS + int(self.world.loop.time() * 1000) + self.clock_offset_ms

    def start(self) -> None:
        """Start a new process, unless one runs: a replica killed before its first start has two starts to come."""
        world = self.world
        if self.incarnation and self.process.alive:
            return
        self.incarnation += 1
        self.process = Process(f"{self.name}.{self.incarnation}", world.loop)
        world.note("start", self.process.name)
        self.process.table = {r.name: r.living for r in world.replicas if r.machine == self.machine}
        store = SimulatedStore(world, self.process)
        self._seats = StoredSeats(store)
        feed = Feed(store)
        planner = FirstFitPlanner(world)
        signals = Signals()
        custody = Custody(store, INSTALLATION)
        monitors: dict[str, HostMonitor] = {}
        directory = Directory(self.fleet.hosts, self.fleet.zones, self.fleet.catalogue)
        stagings = Stagings(store, metrics(), self.process.name, token=lambda: world.new_uuid()[:8])
        calls = MemberCalls(custody, monitors, directory, metrics(), stagings=stagings)
        context = WorkerContext(
            store=store, planner=planner, calls=calls, monitors=monitors, metrics=metrics(),
            owner=self.process.name, custody=custody, kept_after_ms=8_000, priorities=priorities.policies(world.seed),
            clock=StoreClock(LEASE_MS, wall=self.clock, monotonic=world.loop.time),
        )  # fmt: skip
        self.reconciler = Reconciler(
            context, Sweep(store, monitors, custody, metrics(), world.copies.sweep(store, metrics(), self.process.name))
        )
        self.groups = Groups(
            store, feed, planner, cluster=CLUSTER, new_uuid=world.new_uuid, signals=signals,
            limits=GroupLimits(priorities=priorities.policies(world.seed)), holder=self.reconciler,
        )  # fmt: skip
        self.drivers = {}
        for uuid, host in self.fleet.hosts.items():
            monitors[uuid] = HostMonitor(host, self._driver(host), store, self.reconciler.host_changed, custody)
        self._roster = Roster(store, self.reconciler, directory, self._driver, custody)
        self.quarantine = Quarantine(store, self.clock, signals, Adoption(store, monitors, custody).prepare)
        signals.group_due.listen(self.reconciler.poke)
        self.devices = Devices(store, self.clock, signals)
        self.fleet_cases = FleetCases(store, self.clock, self._first_contact, planner)
        self.evacuation = Evacuation(
            store, feed, planner, self.clock, self.fleet_cases, signals=signals, live_targets=calls.live_targets,
            new_uuid=world.new_uuid,
        )  # fmt: skip
        self.rebalancing = Rebalancing(
            store, feed, planner, self.clock, FleetReader(), calls.live_targets, metrics=metrics(), signals=signals
        )
        self.rolls = Rolls(store, planner, self.clock, FleetReader(), calls.live_targets, signals=signals)
        self.roller = Roller(store, planner, FleetReader(), calls.live_targets, custody, metrics(), self.clock, signals)
        self.fencer = Fencer(
            store, monitors, custody, metrics(), context.clock, self.process.name, self._switch,
            group_due=signals.group_due, new_uuid=world.new_uuid, knock=self._knock,
        )  # fmt: skip
        cleaning.GRACE_SECONDS = world.metal.grace
        self.cleaner = Cleaner(store, monitors, custody, metrics(), context.clock, self.process.name)
        self._reaper = LeaseReaper(store, lambda: None)
        self.process.spawn(self._run(store, feed), "replica")

    async def _run(self, store: SimulatedStore, feed: Feed) -> None:
        from service.errors import CorralError

        while True:
            try:
                await store.write(self.fleet.write)
                await feed.start()
                break
            except CorralError:
                await asyncio.sleep(1.0)  # a supervisor starts it again
        self._feed = asyncio.create_task(feed.run(), name="feed")
        await self.reconciler.start()
        self._reaper_task = asyncio.create_task(self._reaper.run(), name="reaper")
        if self.world.theme == boards.THEME:
            self._fencing = asyncio.create_task(self.fencer.run(), name="fencing")
        if self.world.theme == "metal":
            self._cleaning = asyncio.create_task(self.cleaner.run(), name="cleaning")
        if self.world.theme == "balance":
            self._rolling = asyncio.create_task(self.roller.run(), name="rolls")
        if self.world.theme in FLEET_CHANGES:
            self._follows = asyncio.create_task(self._follow_fleet(), name="roster")
        self.serving = True

    async def _follow_fleet(self) -> None:
        """Take over what operators changed in the fleet; in production a commit's event says when to look."""
        while True:
            await self._roster.refresh()
            await asyncio.sleep(2.0)

    def _driver(self, host: Host) -> FaultyDriver:
        seated = self.world.theme == "metal" and host.bare_metal
        kind = SeatedDriver if seated else FaultyDriver
        driver = self.drivers[host.uuid] = kind(self.world, self.process, self.world.hosts[host.uuid])
        if isinstance(driver, SeatedDriver):
            driver.seats = self._seats
        return driver

    def _switch(self, bmc: Bmc) -> SimulatedSwitch:
        return SimulatedSwitch(self.world, self.process, self.world.boards.boards[bmc.address.address])

    async def _knock(self, address: HostAddress) -> Answer:
        """Ask the kernel of the host of this name; its word is lost at times."""
        world, host = self.world, self.world.hosts[address.address]
        await asyncio.sleep(0.01)
        if world.kernel_answers(host, self.name) and not (world.faulty and self._dice.random() < 0.1):
            return Answer(Heard.ALIVE, "it refuses connections")
        await asyncio.sleep(3.0)
        return Answer(Heard.NOTHING)

    async def _first_contact(self, host: Host) -> HostFacts:
        """What a host that is not of the fleet yet says of itself."""
        driver = FaultyDriver(self.world, self.process, self.world.hosts[host.uuid])
        return await driver.probe(budget_seconds=15.0)

    def living(self) -> int:
        """The number of the incarnation that runs, or stands still; 0: none."""
        return self.incarnation if self.process.alive else 0

    def crash(self, seconds: float | None) -> None:
        """kill -9 now, start again later (None: never). Callers see their connections break."""
        if not self.process.alive:
            return
        self.world.note("crash", self.process.name)
        self.process.kill()
        self.serving = False
        for call in list(self._calls):
            self.world.loop.outside(0.001, _break, call)
        self._calls.clear()
        if seconds is not None:
            self.world.loop.outside(seconds, self.start)

    def freeze(self, seconds: float) -> None:
        """SIGSTOP now, SIGCONT later."""
        self.world.note("freeze", self.process.name, seconds)
        self.process.freeze()
        self.world.loop.outside(seconds, self.process.thaw)

    def jump_clock(self, seconds: float) -> None:
        """The wall clock is set."""
        self.world.note("clock", self.process.name, seconds)
        self.clock_offset_ms += int(seconds * 1000)

    async def call(self, work: Coroutine[Any, Any, T], patience: float) -> T:
        """A remote call from outside: runs in the process, its answer may be lost. Raises Broken, TimeoutError."""
        loop = self.world.loop
        if not self.serving or not self.process.alive:
            work.close()
            await asyncio.sleep(self.world.latency())
            raise Broken
        reply: asyncio.Future[T] = loop.create_future()
        self._calls[reply] = None
        task = self.process.spawn(work, "call")
        lost = self.world.fault("lost_answer")

        def done(ended: asyncio.Task[T]) -> None:
            if not ended.cancelled() and isinstance(ended.exception(), Killed):
                return  # the connection breaks by itself
            if lost:
                loop.outside(self.world.random.uniform(0.0, 2.0), _break, reply)
            else:
                loop.outside(self.world.latency(), _pass_on, ended, reply)

        task.add_done_callback(done)
        try:
            async with asyncio.timeout(patience):
                return await reply
        finally:
            self._calls.pop(reply, None)


def _break(reply: asyncio.Future[Any]) -> None:
    if not reply.done():
        reply.set_exception(Broken())


def _pass_on(ended: asyncio.Task[T], reply: asyncio.Future[T]) -> None:
    if ended.cancelled() or reply.done():
        return
    error = ended.exception()
    if error is not None:
        reply.set_exception(error)
    else:
        reply.set_result(ended.result())


__all__ = ["Broken", "Fleet", "Overcommit", "Replica", "install"]
