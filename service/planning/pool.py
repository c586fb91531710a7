"""Plans in worker processes beside the event loop, because the planner's computing would hold it up.

Each process keeps the fleet that it saw last; an order brings only the hosts that changed since. The pool remembers
what it sent to which process, and sends all again to one that is new or that failed.
"""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import os
import pickle
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from placement.model import Decision, Node, Policy, Request, Snapshot
from placement.modes.moves import Evictions, Leaving, MadeRoom, Neighbours
from placement.modes.plans import Limits, Rebalance, Roll
from service.errors import Unavailable
from service.planning.fair_queue import FairQueue
from service.planning.planner import Planned
from service.planning.process import (
    Balance,
    Change,
    CountRoom,
    Evict,
    Flag,
    MakeRoom,
    Order,
    Place,
    Reply,
    RollHosts,
    Time,
    Work,
    begin,
    load,
    run,
)
from service.telemetry.logs import get_logger
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from placement.modes.capacity import Room

log = get_logger("corral.planner")

_MANY_HOSTS = 500
"""With this many changed hosts or more, they are pickled on a thread: it takes longer than the event loop may stand."""


@dataclass(slots=True)
class Sent:
    """What a planner process keeps, as far as its caller knows; `fleet` None: nothing."""

    fleet: Snapshot | None = None
    version: int = 0

    def change_to(self, snapshot: Snapshot) -> Change:
        """What makes the process's fleet this one."""
        if self.fleet is None:
            return Change(0, self.version + 1, snapshot.hosts, frozenset())
        changed, removed = snapshot.difference(self.fleet)
        same = not changed and not removed
        return Change(self.version, self.version if same else self.version + 1, changed, removed)

    def taken(self, snapshot: Snapshot, change: Change) -> None:
        """The process has taken the change in."""
        self.fleet, self.version = snapshot, change.version


class _Worker:
    """One process, made at its first order. A process that died is replaced by a new worker."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # never fork: gRPC and libvirt run threads
        self.flag: Flag = context.RawValue("q", 0)
        self.executor = ProcessPoolExecutor(1, mp_context=context, initializer=begin, initargs=(os.getpid(), self.flag))
        self.sent = Sent()
        self.ticket = 0

    def give_up(self) -> None:
        """Tell the process to stop the work that it has, if any."""
        self.flag.value = self.ticket

    def given_up(self) -> bool:
        """Whether nobody waits for the present work any more."""
        return self.flag.value >= self.ticket


class PoolPlanner:
    """See `Planner`. Processes are spawned on the first use or by `warm`, so that the service starts fast.

    A process that dies takes its plan with it: Unavailable, and it is made anew.
    """

    def __init__(self, workers: int, metrics: Metrics | None = None) -> None:
        self._metrics = metrics or Metrics()
        self._idle = [_Worker() for _ in range(workers)]
        self._places = FairQueue(workers)
        self._busy: set[_Worker] = set()
        self._closed = False

    async def place(
        self,
        snapshot: Snapshot,
        request: Request,
        policy: Policy,
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
        project: str = "",
    ) -> Planned:
        """See `Planner.place`. Raises Unavailable where a process died."""
        started = time.monotonic()
        decision = await self._run(snapshot, Place(request, policy), Time(budget_seconds, answer_by), project)
        assert isinstance(decision, Decision)
        return Planned(decision, (time.monotonic() - started) * 1000)

    async def room(self, snapshot: Snapshot, node: Node, *, budget_seconds: float, answer_by: float = math.inf) -> Room:
        """See `Planner.room`. Raises Unavailable where a process died."""
        room = await self._run(snapshot, CountRoom(node), Time(budget_seconds, answer_by), "")
        assert not isinstance(room, Decision | MadeRoom | Evictions | Rebalance | Roll)
        return room

    async def make_room(
        self,
        snapshot: Snapshot,
        request: Request,
        neighbours: Sequence[Neighbours],
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
    ) -> MadeRoom:
        """See `Planner.make_room`. Raises Unavailable where a process died."""
        work = MakeRoom(request, tuple(neighbours))
        room = await self._run(snapshot, work, Time(budget_seconds, answer_by), "")
        assert isinstance(room, MadeRoom)
        return room

    async def evict(
        self,
        snapshot: Snapshot,
        request: Request,
        leaving: Sequence[Leaving],
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
        neighbours: Sequence[Neighbours] = (),
    ) -> Evictions:
        """See `Planner.evict`. Raises Unavailable where a process died."""
        work = Evict(request, tuple(leaving), tuple(neighbours))
        plan = await self._run(snapshot, work, Time(budget_seconds, answer_by), "")
        assert isinstance(plan, Evictions)
        return plan

    async def rebalance(
        self,
        snapshot: Snapshot,
        groups: Sequence[Neighbours],
        limits: Limits,
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
    ) -> Rebalance:
        """See `Planner.rebalance`. Raises Unavailable where a process died."""
        plan = await self._run(snapshot, Balance(tuple(groups), limits), Time(budget_seconds, answer_by), "")
        assert isinstance(plan, Rebalance)
        return plan

    async def roll(
        self,
        snapshot: Snapshot,
        groups: Sequence[Neighbours],
        hosts: Sequence[str],
        at_once: int,
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
    ) -> Roll:
        """See `Planner.roll`. Raises Unavailable where a process died."""
        work = RollHosts(tuple(groups), tuple(hosts), at_once)
        plan = await self._run(snapshot, work, Time(budget_seconds, answer_by), "")
        assert isinstance(plan, Roll)
        return plan

    async def warm(self) -> None:
        """Start the processes and load the solver, so that the first plan does not wait for it."""
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(worker.executor, load) for worker in (*self._idle, *self._busy)))

    def close(self) -> None:
        """End the processes; plans in progress are told to stop and not waited for."""
        self._closed = True
        for worker in (*self._idle, *self._busy):
            worker.give_up()
            worker.executor.shutdown(wait=False, cancel_futures=True)

    async def _run(
        self, snapshot: Snapshot, work: Work, allowed: Time, project: str
    ) -> Decision | Room | MadeRoom | Evictions | Rebalance | Roll:
        """Have a process do the work; whoever waits for it may be cancelled, and then the process stops early."""
        if self._closed:
            raise Unavailable("the service is shutting down")
        await self._places.take(project)
        worker = self._idle.pop()  # the one that worked last: the fewest hosts changed since
        worker.ticket += 1
        self._busy.add(worker)
        answer = asyncio.create_task(self._answer(worker, snapshot, work, allowed))
        answer.add_done_callback(partial(self._ended, worker, project))
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            if not answer.done():
                worker.give_up()
            raise

    async def _answer(
        self, worker: _Worker, snapshot: Snapshot, work: Work, allowed: Time
    ) -> Decision | Room | MadeRoom | Evictions | Rebalance | Roll:
        try:
            reply = await self._order(worker, snapshot, work, allowed)
            if reply.result is None:  # it keeps another fleet than this process thought
                worker.sent.fleet = None
                reply = await self._order(worker, snapshot, work, allowed)
        except BaseException:
            worker.sent.fleet = None
            raise
        if worker.given_up():
            self._metrics.plans_given_up.labels("stopped" if reply.stopped else "finished").inc()
        assert reply.result is not None
        return reply.result

    async def _order(self, worker: _Worker, snapshot: Snapshot, work: Work, allowed: Time) -> Reply:
        change = worker.sent.change_to(snapshot)
        many = len(change.changed) >= _MANY_HOSTS
        data = await asyncio.to_thread(pickle.dumps, change, 5) if many else pickle.dumps(change, 5)
        kind = "changes" if change.base else "full"
        self._metrics.planner_snapshots.labels(kind).inc()
        self._metrics.planner_snapshot_bytes.labels(kind).inc(len(data))
        order = Order(worker.ticket, allowed, data, snapshot.flavours, snapshot.version, work)
        asked = None
        try:
            asked = worker.executor.submit(run, order)
            reply = await asyncio.wrap_future(asked)
        except BrokenProcessPool as error:
            raise Unavailable("a planner process died") from error
        except (RuntimeError, asyncio.CancelledError) as error:
            if self._closed and (asked is None or asked.cancelled()):
                raise Unavailable("the service is shutting down") from error
            raise
        worker.sent.taken(snapshot, change)
        return reply

    def _ended(self, worker: _Worker, project: str, answer: asyncio.Task[Decision | Room]) -> None:
        """The process is free again, whether or not its caller still waits; a dead one is replaced."""
        self._busy.discard(worker)
        error = None if answer.cancelled() else answer.exception()
        if error is not None and isinstance(error.__cause__, BrokenProcessPool):
            worker.executor.shutdown(wait=False)
            worker = _Worker()
        if error is not None and worker.given_up():
            log.info("a plan that was given up failed", error=str(error))
        self._idle.append(worker)
        self._places.give(project)
