"""What a deploy costs, counted: transactions, statements, commits that reach the disk, threads and tasks. Time is
virtual and everything takes a fixed while, so that a count is the same on every machine, however busy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from unittest.mock import patch

from sqlalchemy import Connection, event

from service.domain.groups import GroupPhase, InstanceStatus
from service.domain.network import Network
from service.domain.specs import CreationStrategy, DeployRequest, GroupSpec, PlacementPolicy, PlacementStrategy
from service.drivers.simulated import SimulatedHost, SimulationOptions
from service.reconcile.worker import LEASE_MS
from service.store import clock, groups, statement, transaction
from service.store.clock import StoreClock
from service.store.engine import Store
from service.store.transaction import Work
from tests.simulation.loop import SimulatedLoop
from tests.support.builders import host, spec, zone
from tests.support.control_plane import ControlPlane, control_plane

T = TypeVar("T")
EPOCH_MS = 1_800_000_000_000
WRITE_SECONDS, READ_SECONDS, CALL_MS, BOOT_MS = 0.002, 0.001, 5, 60
"""How long a transaction, a call to a host, and a boot take."""
HOSTS = 8
UNLIKE_MS = 3
"""By how much each host is slower than the one before, where they are unlike."""
NETWORK = Network("network", "corral", "10.9.0.0/23", "10.9.0.1", "10.9.0.10", "10.9.1.200")
START = 1_000.0
QUIET_AT = START + 3.3
"""Neither hosts are probed nor rows compared for a second from here on."""


@dataclass
class Counts:
    """`writes`, `reads`: transactions, each of which is a hop to a thread and back; `flushes`: commits of those that
    changed something, an fsync each; `statements`: without BEGIN, COMMIT and savepoints; `tasks`: of the event loop."""

    writes: int = 0
    reads: int = 0
    flushes: int = 0
    statements: int = 0
    tasks: int = 0
    by_work: dict[str, int] = field(default_factory=dict)
    """How often each kind of transaction ran, by the name of its work."""


class CountingStore(Store):
    """A store whose transactions run one after the other on the loop, each in its time, and are counted."""

    def __init__(self, url: str, counts: Callable[[], Counts]) -> None:
        super().__init__(url, inline=True)
        self._counts = counts
        self._writer = asyncio.Lock()
        event.listen(self.engine, "before_cursor_execute", self._statement)
        event.listen(self.engine, "commit", self._commit)

    async def _write(self, work: Work[T]) -> T:
        async with self._writer:
            await asyncio.sleep(WRITE_SECONDS)
            self._ran(work, "writes")
            return transaction.run(self.engine, work)

    async def _run(self, executor: Any, engine: Any, work: Work[T]) -> T:
        await asyncio.sleep(READ_SECONDS)
        self._ran(work, "reads")
        return transaction.run(engine, work)

    def _ran(self, work: Any, kind: str) -> None:
        counts = self._counts()
        setattr(counts, kind, getattr(counts, kind) + 1)
        name = f"{kind[:-1]} {getattr(work, '__qualname__', work)}".replace(".<locals>", "")
        counts.by_work[name] = counts.by_work.get(name, 0) + 1

    def _statement(self, *_arguments: object) -> None:
        self._counts().statements += 1

    def _commit(self, connection: Connection) -> None:
        self._counts().flushes += _has_written(connection)


def _has_written(connection: Connection) -> bool:
    """Whether the transaction leaves anything to be flushed."""
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite":
        before = connection.info.get("changes", 0)
        connection.info["changes"] = driver.total_changes
        return bool(driver.total_changes != before)
    with driver.cursor() as cursor:
        return bool(cursor.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() != (None,))


def _now_ms(loop: SimulatedLoop) -> int:
    return EPOCH_MS + int(loop.time() * 1000)


@contextmanager
def virtual_time() -> Iterator[SimulatedLoop]:
    """A loop whose time jumps, by which the database's clock goes as well."""
    loop = SimulatedLoop()
    with patch.object(clock, "now", lambda _connection: _now_ms(loop)):
        try:
            yield loop
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


class Counted:
    """A control plane at work on `url`, whose costs are counted from `begin` on."""

    def __init__(self, loop: SimulatedLoop, url: str) -> None:
        self.counts = Counts()
        self._loop = loop
        self.store = CountingStore(url, lambda: self.counts)
        self._by_driver = statement._run
        loop.set_task_factory(self._task)

    def begin(self) -> Counts:
        """Count from 0."""
        self.counts = Counts()
        return self.counts

    def by_driver(self, *arguments: Any, **options: Any) -> Any:
        """Runs a statement of those that go past SQLAlchemy."""
        self.counts.statements += 1
        return self._by_driver(*arguments, **options)

    def _task(self, loop: Any, work: Any, **options: Any) -> asyncio.Task[Any]:
        self.counts.tasks += 1
        return asyncio.Task(work, loop=loop, **options)


def on_a_plane(
    url: str,
    work: Callable[[ControlPlane, Counted], Awaitable[T]],
    hosts: int = HOSTS,
    slower_ms: int = 0,
    *,
    sweeps: bool = False,
) -> T:
    """What `work` answers on a control plane with so many simulated hosts, in virtual time. `slower_ms`: by so much
    each host is slower than the one before."""
    with virtual_time() as loop:
        counted = Counted(loop, url)

        async def run() -> T:
            fleet = [host(number) for number in range(1, hosts + 1)]
            async with control_plane(
                hosts=fleet,
                there={h.uuid: _machine(h.name, n * slower_ms, loop) for n, h in enumerate(fleet)},
                zones=[zone(network=NETWORK)],
                store=counted.store,
                clock=StoreClock(LEASE_MS, wall=lambda: _now_ms(loop), monotonic=loop.time),
                monotonic=loop.time,
                sweeps=sweeps,
            ) as plane:
                return await work(plane, counted)

        with patch.object(statement, "_run", counted.by_driver):
            return loop.run_until_complete(run())


GROUPS = 12
IDLE_SECONDS = 60.0


def idle_counts(url: str) -> tuple[Counts, float]:
    """Of IDLE_SECONDS of GROUPS groups of 4 members that run as they should, on hosts that are swept; and how many
    seconds after that it takes until a machine is missed that is gone without anybody having said so."""

    async def work(plane: ControlPlane, counted: Counted) -> tuple[Counts, float]:
        for _ in range(GROUPS):
            uuid = await _deploy(plane, 4)
        await asyncio.sleep(75.0)  # all were looked at once, and the hosts' marks have followed what was done there
        counts = counted.begin()
        await asyncio.sleep(IDLE_SECONDS)
        counted.begin()
        return counts, await _until_missed(plane, uuid)

    return on_a_plane(url, work, sweeps=True)


async def _until_missed(plane: ControlPlane, group_uuid: str) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    member = (await plane.store.read(lambda c: groups.load(c, group_uuid))).instances[0]
    del plane.drivers[member.host_uuid].host.machines[member.machine_uuid]
    while loop.time() < began + 120.0:
        found = await plane.store.read(lambda c: groups.load(c, group_uuid))
        if found.instances[0].status is not InstanceStatus.RUNNING:
            break
        await asyncio.sleep(0.1)
    return loop.time() - began


def _machine(name: str, slower_ms: int, loop: SimulatedLoop) -> SimulatedHost:
    times = {"call_ms": str(CALL_MS + slower_ms), "boot_ms": str(BOOT_MS + 10 * slower_ms)}
    options = SimulationOptions.read({"cpu": "64", "memory": "256GiB", **times})
    return SimulatedHost(name, options, loop.time)


def deploy_counts(url: str, members: int, slower_ms: int = 0) -> Counts:
    """Of one deploy, from the call until its stream has ended and the lease is given back, on a fleet at rest that has
    deployed before. `slower_ms`: see `on_a_plane`."""

    async def work(plane: ControlPlane, counted: Counted) -> Counts:
        await _deploy(plane, 1)
        await asyncio.sleep(QUIET_AT - asyncio.get_running_loop().time())
        counts = counted.begin()
        await _deploy(plane, members)
        counted.begin()
        return counts

    return on_a_plane(url, work, slower_ms=slower_ms)


async def _deploy(plane: ControlPlane, members: int) -> str:
    events = await plane.deploy(DeployRequest(_spread(members)))
    assert events[-1].group is not None
    assert events[-1].group.phase is GroupPhase.RUNNING
    while plane.reconciler.working:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    return events[-1].group.uuid


def _spread(members: int) -> GroupSpec:
    """Members over as many hosts as there are, which are let run all at once."""
    policy = PlacementPolicy(strategy=PlacementStrategy.SPREAD)
    return spec(members, creation_strategy=CreationStrategy.PARALLEL, placement=policy)
