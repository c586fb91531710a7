"""Runs the placement engine off the event loop: every Decision is verified by the independent checker before use."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from placement.model import Decision, Node, Policy, Request, Snapshot
from service.errors import InvariantViolation, Unavailable

if TYPE_CHECKING:
    from placement.drain import Room  # with it comes all of the engine, which only workers need


_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class Planned:
    """A verified Decision and how long it took, in ms, as the caller saw it."""

    decision: Decision
    duration_ms: float


class Planner(Protocol):
    """What the use cases and reconciliation need of a planner."""

    async def place(self, snapshot: Snapshot, request: Request, policy: Policy, *, budget_seconds: float) -> Planned:
        """A verified Decision within the budget. Raises InvariantViolation where the checker refuses it."""
        ...

    async def room(self, snapshot: Snapshot, node: Node, *, budget_seconds: float) -> Room:
        """How many more of a node fit."""
        ...

    def close(self) -> None:
        """Let worker processes go."""
        ...


def place_verified(snapshot: Snapshot, request: Request, policy: Policy, budget_seconds: float) -> Decision:
    """Place and check in this process. Raises InvariantViolation for a Decision that breaks a rule: a planner's bug."""
    from placement.check import check
    from placement.engine import place

    deadline = time.monotonic() + budget_seconds
    decision = place(snapshot, request, policy, lambda: time.monotonic() >= deadline)
    violations = check(snapshot, request, decision)
    if violations:
        raise InvariantViolation(f"the planner's decision breaks {len(violations)} rules, the first: {violations[0]}")
    return decision


def count_room(snapshot: Snapshot, node: Node, budget_seconds: float) -> Room:
    """How many more of a node fit, counted in this process."""
    from placement.drain import room_for

    deadline = time.monotonic() + budget_seconds
    return room_for(snapshot, node, stop=lambda: time.monotonic() >= deadline)


class InlinePlanner:
    """Plans on the calling thread: for small fleets, tools and simulations, where a pool would only add noise."""

    async def place(self, snapshot: Snapshot, request: Request, policy: Policy, *, budget_seconds: float) -> Planned:
        """See `Planner.place`."""
        started = time.perf_counter()
        decision = place_verified(snapshot, request, policy, budget_seconds)
        return Planned(decision, (time.perf_counter() - started) * 1000)

    async def room(self, snapshot: Snapshot, node: Node, *, budget_seconds: float) -> Room:
        """See `Planner.room`."""
        return count_room(snapshot, node, budget_seconds)

    def close(self) -> None:
        """Nothing to let go."""


class PoolPlanner:
    """Plans in worker processes beside the event loop, because numpy's stages hold the GIL.

    Workers are spawned (never forked: gRPC and libvirt run threads) and made on the first use or by `warm`, so that
    the service starts fast. A worker that dies takes its plan with it: Unavailable, and the pool is made anew.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    async def place(self, snapshot: Snapshot, request: Request, policy: Policy, *, budget_seconds: float) -> Planned:
        """See `Planner.place`. Raises Unavailable where a worker died."""
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        pool = self._ready()
        try:
            decision = await loop.run_in_executor(pool, place_verified, snapshot, request, policy, budget_seconds)
        except BrokenProcessPool as error:
            if self._pool is pool:
                self._pool = None
            raise Unavailable("a planner process died") from error
        return Planned(decision, (time.perf_counter() - started) * 1000)

    async def room(self, snapshot: Snapshot, node: Node, *, budget_seconds: float) -> Room:
        """See `Planner.room`. Raises Unavailable where a worker died."""
        pool = self._ready()
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, count_room, snapshot, node, budget_seconds)
        except BrokenProcessPool as error:
            if self._pool is pool:
                self._pool = None
            raise Unavailable("a planner process died") from error

    async def warm(self) -> None:
        """Start the workers and load the solver, so that the first plan does not wait for it."""
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(self._ready(), _load) for _ in range(self._workers)))

    def close(self) -> None:
        """End the workers without waiting for a plan in progress."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _ready(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(os.getpid(),),
            )
        return self._pool


def _load() -> None:
    import placement.engine  # noqa: F401  # the import is the work


def _begin(parent: int) -> None:
    """What a worker does first: leave Ctrl-C to the service, and end with it, however it ends.

    A worker waits on a pipe that its siblings hold open too, so a service killed with -9 would leave them for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the request was made
        os._exit(1)
