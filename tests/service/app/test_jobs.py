"""Jobs: the promise is kept whatever happens to the process that gave it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from service.app.jobs import KEPT_MS, LEASE_MS, Deliver, Job, JobResult, Jobs, JobState
from service.domain.tenants import Caller
from service.errors import AlreadyExists, Overloaded, Unavailable
from service.store.engine import Store
from tests.support.schema import migrated

CALLER = Caller("alice", "red", "operator")
pytestmark = pytest.mark.asyncio


@dataclass
class World:
    """A database, a clock that is moved by hand, and what jobs did and told."""

    store: Store
    now: int = 1_000_000
    performed: list[Job] = field(default_factory=list)
    told: list[tuple[str, JobState, int]] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    failures: int = 0

    def process(self, owner: str, instead: Deliver | None = None, **limits: Any) -> Jobs:
        """A process on this database. Its jobs end when `go` is set. `instead`: how it delivers."""

        async def perform(job: Job) -> JobResult:
            self.performed.append(job)
            if self.failures:
                self.failures -= 1
                raise Unavailable("not now", retry_after_ms=1)
            await self.go.wait()
            return JobResult("bad" not in job.arguments, f"did {job.arguments}")

        async def deliver(job: Job, tries: int) -> None:
            self.told.append((job.uuid, job.state, tries))
            self.heard.set()

        return Jobs(self.store, lambda: self.now, perform=perform, deliver=instead or deliver, owner=owner, **limits)


@asynccontextmanager
async def world(url: str = "sqlite://") -> AsyncIterator[World]:
    store = Store(url)
    migrated(store.engine)
    try:
        yield World(store)
    finally:
        store.close()


async def ended(jobs: Jobs, uuid: str) -> Job:
    async with asyncio.timeout(60):
        while True:
            job = await jobs.get(uuid)
            assert job is not None
            if job.state is not JobState.RUNNING:
                return job
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(jobs: Jobs) -> AsyncIterator[Jobs]:
    task = asyncio.create_task(jobs.run())
    try:
        yield jobs
    finally:
        await jobs.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_job_runs_and_ends_as_its_outcome_says() -> None:
    async with world() as w, running(w.process("one")) as jobs:
        good = await jobs.submit(CALLER, "op", "good")
        bad = await jobs.submit(CALLER, "op", "bad")
        known = await jobs.get(good)
        assert known is not None
        assert known.state is JobState.RUNNING
        w.go.set()
        assert (await ended(jobs, good)).outcome == "did good"
        assert (await ended(jobs, bad)).state is JobState.FAILED
        assert [job.caller for job in w.performed] == [CALLER, CALLER]


async def test_what_was_asked_is_forgotten_when_the_job_has_ended() -> None:
    async with world() as w, running(w.process("one")) as jobs:
        w.go.set()
        uuid = await jobs.submit(CALLER, "op", "a secret")
        assert (await ended(jobs, uuid)).arguments == ""


async def test_a_uuid_can_be_used_once_also_after_the_job_has_ended() -> None:
    async with world() as w, running(w.process("one")) as jobs:
        w.go.set()
        uuid = await jobs.submit(CALLER, "op", "x", uuid="a" * 32)
        await ended(jobs, uuid)
        with pytest.raises(AlreadyExists):
            await jobs.submit(CALLER, "op", "x", uuid="a" * 32)
        jobs.refuse("op", "no", uuid="b" * 32)
        with pytest.raises(AlreadyExists):
            await jobs.submit(CALLER, "op", "x", uuid="b" * 32)


async def test_what_can_not_be_done_now_is_done_later() -> None:
    async with world() as w, running(w.process("one")) as jobs:
        w.go.set()
        w.failures = 3
        uuid = await jobs.submit(CALLER, "op", "x")
        assert (await ended(jobs, uuid)).state is JobState.SUCCEEDED
        assert len(w.performed) == 4


async def test_an_orderly_stop_leaves_the_job_running_and_the_next_process_ends_it() -> None:
    async with world() as w:
        async with running(w.process("one")) as first:
            uuid = await first.submit(CALLER, "op", "x", webhook="http://hook/")
        w.go.set()
        async with running(w.process("two")) as second:
            assert (await ended(second, uuid)).outcome == "did x"
            with pytest.raises(Unavailable):
                await first.submit(CALLER, "op", "y")
            async with asyncio.timeout(60):
                await w.heard.wait()
        assert [told[:2] for told in w.told] == [(uuid, JobState.SUCCEEDED)]


async def test_after_a_crash_the_next_process_on_a_file_goes_on_at_once(tmp_path: Path) -> None:
    async with world(f"sqlite:///{tmp_path / 'c.db'}") as w:
        crashed = w.process("one")
        uuid = await crashed.submit(CALLER, "op", "x")
        w.go.set()
        for task in list(crashed._tasks.values()):
            task.cancel()
        async with running(w.process("two")) as second:
            assert (await ended(second, uuid)).outcome == "did x"


async def test_a_job_whose_process_died_is_taken_over_when_its_lease_is_over_and_not_before() -> None:
    async with world() as w:
        uuid = await w.process("one").submit(CALLER, "op", "x")
        await asyncio.sleep(0)
        second = w.process("two")
        w.now += LEASE_MS - 1
        await second._beat(patient=True)
        assert second._tasks == {}
        w.now += 1
        w.go.set()
        await second._beat(patient=True)
        assert (await ended(second, uuid)).state is JobState.SUCCEEDED


async def test_who_has_no_job_writes_nothing_and_who_has_one_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world() as w:
        written: list[object] = []
        write = w.store.write

        async def noted(work: Any) -> Any:
            written.append(work)
            return await write(work)

        monkeypatch.setattr(w.store, "write", noted)
        first, second = w.process("one"), w.process("two")
        await first._beat(patient=True)
        assert written == []
        uuid = await first.submit(CALLER, "op", "x")
        w.now += LEASE_MS - 1
        await first._beat(patient=True)
        w.now += LEASE_MS - 1
        await second._beat(patient=True)
        assert second._tasks == {}
        w.go.set()
        assert (await ended(first, uuid)).state is JobState.SUCCEEDED


async def test_two_processes_that_end_the_same_job_tell_its_webhook_once() -> None:
    async with world() as w:
        first, second = w.process("one"), w.process("two")
        uuid = await first.submit(CALLER, "op", "x", webhook="http://hook/")
        async with asyncio.timeout(60):
            while not w.performed:  # noqa: ASYNC110  # the first has begun
                await asyncio.sleep(0.005)
        w.now += LEASE_MS
        await second._beat(patient=True)
        w.go.set()
        await ended(second, uuid)
        await asyncio.gather(*first._tasks.values(), *second._tasks.values())
        assert len(w.performed) == 2
        assert [told[0] for told in w.told] == [uuid]


async def test_a_webhook_that_was_not_told_before_a_stop_is_told_after_it() -> None:
    async with world() as w:
        w.go.set()
        hanging = asyncio.Event()

        async def hang(job: Job, tries: int) -> None:
            hanging.set()
            await asyncio.Event().wait()

        first = w.process("one", hang)
        uuid = await first.submit(CALLER, "op", "x", webhook="http://hook/")
        await hanging.wait()
        await first.stop()
        async with running(w.process("two")) as second:
            async with asyncio.timeout(60):
                await w.heard.wait()
            assert (await ended(second, uuid)).outcome == "did x"
        assert len(w.performed) == 1


async def test_a_job_is_kept_for_three_hours_after_its_end() -> None:
    async with world() as w, running(w.process("one")) as jobs:
        w.go.set()
        uuid = await jobs.submit(CALLER, "op", "x")
        await ended(jobs, uuid)
        refused = jobs.refuse("op", "no")
        w.now += KEPT_MS - 1
        assert await jobs.get(uuid) is not None
        w.now += 1
        assert await jobs.get(uuid) is None
        assert await jobs.get(refused) is None
        w.now += 1
        await jobs._sweep()
        assert await w.store.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM jobs").scalar_one()) == 0


async def test_a_refused_call_costs_no_row_and_is_told_once() -> None:
    async with world() as w, running(w.process("one")) as jobs:
        uuid = jobs.refuse("op", "no", webhook="http://hook/")
        assert (await ended(jobs, uuid)).outcome == "no"
        assert await w.store.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM jobs").scalar_one()) == 0
        await asyncio.gather(*jobs._tasks.values())
        assert w.told == [(uuid, JobState.FAILED, 1)]


async def test_too_many_jobs_at_once_are_refused() -> None:
    async with world() as w, running(w.process("one", max_running=2)) as jobs:
        for _ in range(2):
            await jobs.submit(CALLER, "op", "x")
        with pytest.raises(Overloaded):
            await jobs.submit(CALLER, "op", "x")


async def test_webhooks_that_are_slow_leave_the_room_of_running_jobs_alone() -> None:
    told = asyncio.Event()

    async def slow(_job: Job, _tries: int) -> None:
        w.heard.set()
        await told.wait()

    async with world() as w, running(w.process("one", slow, max_running=1, max_deliveries=1)) as jobs:
        w.go.set()
        first = await jobs.submit(CALLER, "op", "x", webhook="http://hook/")
        async with asyncio.timeout(60):
            await w.heard.wait()
        assert (await ended(jobs, first)).state is JobState.SUCCEEDED
        with pytest.raises(Overloaded, match="1 webhooks are being told already"):
            await jobs.submit(CALLER, "op", "x", webhook="http://hook/")
        assert (await ended(jobs, await jobs.submit(CALLER, "op", "y"))).state is JobState.SUCCEEDED
        told.set()


async def test_a_leap_of_the_clock_ends_no_lease_of_a_process_that_lives() -> None:
    async with world() as w:
        uuid = await w.process("one").submit(CALLER, "op", "x")
        leapt = LEASE_MS * 360
        w.now += leapt
        knows = w.process("two", leases_as_of=lambda: w.now - leapt)
        await knows._beat(patient=True)
        assert knows._tasks == {}
        unaware = w.process("three")
        w.go.set()
        await unaware._beat(patient=True)
        assert (await ended(unaware, uuid)).state is JobState.SUCCEEDED
