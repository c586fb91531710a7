"""Jobs: API calls that are accepted at once and answered later.

A job's row is committed before the call is acknowledged, and whichever process lives then performs it. What a job means
the face knows: `perform` does it, and is called again after a crash; `deliver` tells how it ended to a webhook.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid as uuids
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from service.domain.tenants import NOBODY, Caller
from service.errors import AlreadyExists, Overloaded, Unavailable
from service.store import jobs
from service.store.connection import Connection
from service.store.engine import Store
from service.store.jobs import Job as Job
from service.store.jobs import JobState as JobState
from service.store.waits import Wait
from service.telemetry.logs import get_logger

T = TypeVar("T")

KEPT_MS = 3 * 3600 * 1000
LEASE_MS = 10_000
WAITS = (Wait("job lease", "jobs", "lease_until", LEASE_MS),)
_BEAT_SECONDS = 3.0
_SWEEP_BEATS = 200
_MAX_REFUSED = 4096

_log = get_logger("corral.jobs")


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended; `document` is what its caller gets."""

    success: bool
    document: str


Perform = Callable[[Job], Awaitable[JobResult]]
"""Does what a job says. Raises Unavailable where it cannot be done now and is to be tried again, and nothing else."""

Deliver = Callable[[Job, int], Awaitable[None]]
"""Tells an ended job's outcome to its webhook in at most so many tries. Raises nothing."""


class Jobs:
    """The jobs of this process, and those that other processes left unfinished. `run` until cancelled, then `stop`."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], int],
        *,
        perform: Perform,
        deliver: Deliver,
        owner: str,
        leases_as_of: Callable[[], int] | None = None,
        max_running: int = 1024,
        max_deliveries: int = 1024,
        webhook_tries: int = 15,
    ) -> None:
        """`clock`: the database's time, ms; `leases_as_of`: the time by which others' leases are judged, where it is
        not the same. `max_deliveries`: how many webhooks are told at a time. Slow ones take no room from running jobs:
        above the number only calls that name a webhook are refused."""
        self._perform = perform
        self._tell = deliver
        self._store = store
        self._clock = clock
        self._leases_as_of = leases_as_of or clock
        self._owner = owner
        self._max_running = max_running
        self._max_deliveries = max_deliveries
        self._webhook_tries = webhook_tries
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._delivering: set[str] = set()
        self._refused: OrderedDict[str, Job] = OrderedDict()
        self._stopping = False

    async def submit(self, caller: Caller, operation: str, arguments: str, *, uuid: str = "", webhook: str = "") -> str:
        """Commit the job and begin with it; returns its uuid (`uuid`, or a new one).

        Raises AlreadyExists (uuid used before), Overloaded, Unavailable.
        """
        self._admit(uuid, webhook)
        now = self._clock()
        job = Job(
            uuid or uuids.uuid4().hex, operation, caller, arguments, now, webhook=webhook, webhook_due=bool(webhook)
        )
        await self._store.write(lambda c: jobs.create(c, job, self._owner, now + LEASE_MS))
        self._begin(job)
        return job.uuid

    def refuse(self, operation: str, document: str, *, uuid: str = "", webhook: str = "") -> str:
        """A job that has failed already, for a caller that may not have it done: kept in memory, without a row.

        `webhook`: told once; never that of a caller that nobody knows, who could have it call whom they like.

        Raises AlreadyExists, Overloaded, Unavailable.
        """
        self._admit(uuid, webhook)
        now = self._clock()
        job = Job(
            uuid or uuids.uuid4().hex,
            operation,
            NOBODY,
            "",
            now,
            state=JobState.FAILED,
            outcome=document,
            webhook=webhook,
            ended_at=now,
        )
        self._refused[job.uuid] = job
        while len(self._refused) > _MAX_REFUSED:
            self._refused.popitem(last=False)
        if webhook:
            self._spawn(job.uuid, self._deliver(job, 1))
        return job.uuid

    def left_ms(self, job: Job, timeout_ms: int) -> int:
        """How much is left of the time that a job was given when it was made, ms; at least 1."""
        return max(1, job.created_at + timeout_ms - self._clock())

    async def get(self, uuid: str) -> Job | None:
        """The job, or None where there was none or it is kept no longer."""
        job = self._refused.get(uuid) or await self._store.read(lambda c: jobs.find(c, uuid))
        if job is None or (job.ended_at and job.ended_at + KEPT_MS <= self._clock()):
            return None
        return job

    async def run(self) -> None:
        """Keep the leases, take over what others left, forget what is old; until cancelled."""
        beats = 0
        # Nobody else can work on a SQLite file, so what a crash left need not wait for its lease to end.
        await self._beat(patient=not self._store.sqlite)
        while True:
            await asyncio.sleep(_BEAT_SECONDS)
            await self._beat(patient=True)
            beats += 1
            if beats % _SWEEP_BEATS == 0:
                await self._sweep()

    async def stop(self) -> None:
        """End this process's work on jobs and give up their leases; another process goes on with them."""
        self._stopping = True
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        with contextlib.suppress(Unavailable):  # the leases then end by themselves
            await self._store.write(lambda c: jobs.release(c, self._owner))

    def _admit(self, uuid: str, webhook: str) -> None:
        if self._stopping:
            raise Unavailable("the service is shutting down")
        if uuid in self._refused:
            raise AlreadyExists("job", uuid)
        if self._running >= self._max_running:
            raise Overloaded(f"{self._max_running} jobs are running already")
        if webhook and len(self._delivering) >= self._max_deliveries:
            raise Overloaded(f"{self._max_deliveries} webhooks are being told already")

    @property
    def _running(self) -> int:
        return len(self._tasks) - len(self._delivering)

    def _begin(self, job: Job) -> None:
        self._spawn(job.uuid, self._work(job))

    def _spawn(self, uuid: str, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks[uuid] = task

        def ended(task: asyncio.Future[None]) -> None:
            self._tasks.pop(uuid, None)
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("a job broke", job=uuid, exc_info=error)

        task.add_done_callback(ended)

    async def _work(self, job: Job) -> None:
        if job.state is JobState.RUNNING:
            outcome = await self._patiently(lambda: self._perform(job))
            ended = await self._patiently(lambda: self._end(job.uuid, outcome))
            if ended is None:
                return  # another process was faster, and tells the webhook too
            job = ended
        if job.webhook_due:
            await self._deliver(job, self._webhook_tries)
            await self._patiently(lambda: self._store.write(lambda c: jobs.delivered(c, job.uuid)))

    async def _deliver(self, job: Job, tries: int) -> None:
        self._delivering.add(job.uuid)
        try:
            await self._tell(job, tries)
        finally:
            self._delivering.discard(job.uuid)

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt` returns, tried again while it raises Unavailable."""
        while True:
            try:
                return await attempt()
            except Unavailable as error:
                await asyncio.sleep(error.retry_after_ms / 1000)

    async def _end(self, uuid: str, outcome: JobResult) -> Job | None:
        state = JobState.SUCCEEDED if outcome.success else JobState.FAILED
        now = self._clock()
        return await self._store.write(lambda c: jobs.end(c, uuid, state, outcome.document, now))

    async def _beat(self, *, patient: bool) -> None:
        now = self._clock()
        until = now + LEASE_MS
        free_before = self._leases_as_of() if patient else until
        room = self._max_running - self._running
        if self._stopping:
            return
        works = bool(self._tasks)

        def keep(connection: Connection) -> tuple[Job, ...]:
            if works:
                jobs.renew(connection, self._owner, until)
            return jobs.take_over(connection, self._owner, free_before, until, room) if room > 0 else ()

        try:
            # Who has no job writes nothing to find out that there is none.
            some = works or await self._store.read(lambda c: jobs.are_free(c, free_before))
            found = await self._store.write(keep) if some else ()
        except Unavailable:
            return  # the next beat comes soon, and leases are long enough for it
        for job in found:
            if job.uuid not in self._tasks:
                self._begin(job)

    async def _sweep(self) -> None:
        before = self._clock() - KEPT_MS
        for uuid in [u for u, job in self._refused.items() if job.ended_at < before]:
            del self._refused[uuid]
        with contextlib.suppress(Unavailable):  # the next sweep does it
            await self._store.write(lambda c: jobs.remove_ended(c, before))
