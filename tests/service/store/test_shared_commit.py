"""Writes that wait at the same time share a commit; each is as if it had a transaction of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import IntegrityError

from service.errors import NotFound, Unavailable
from service.store import shared_commit
from service.store.engine import Store
from service.store.transaction import Work


class Lab:
    """A store with a table of numbers that counts its commits."""

    def __init__(self, directory: Path) -> None:
        self.store = Store(f"sqlite:///{directory}/some.db")
        with self.store.engine.begin() as connection:
            connection.execute(text("CREATE TABLE things (n INTEGER PRIMARY KEY)"))
            connection.execute(text("CREATE TABLE parts (n INTEGER PRIMARY KEY, thing INTEGER REFERENCES things (n))"))
        self.commits = 0
        self.at_commit: Callable[[], None] = lambda: None
        event.listen(self.store.engine, "commit", self._committed)

    def _committed(self, _connection: Connection) -> None:
        self.commits += 1
        self.at_commit()

    @asynccontextmanager
    async def busy_writer(self) -> AsyncIterator[None]:
        """What is written inside waits until this ends."""
        began, may_go = threading.Event(), threading.Event()

        def wait(_connection: Connection) -> bool:
            began.set()
            return may_go.wait(60)

        first = asyncio.ensure_future(self.store.write(wait))
        assert await asyncio.to_thread(began.wait, 60)
        try:
            yield
            await asyncio.sleep(0)  # all that is to wait waits
        finally:
            may_go.set()
            assert await first

    async def at_once(self, works: Sequence[Work[Any]]) -> list[Any]:
        """How units end that all wait when the writer is free: results and exceptions."""
        async with self.busy_writer():
            waiting = [asyncio.ensure_future(self.store.write(work)) for work in works]
        return await asyncio.gather(*waiting, return_exceptions=True)

    async def kept(self) -> list[int]:
        return await self.store.read(lambda c: list(c.scalars(text("SELECT n FROM things ORDER BY n"))))


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setattr(shared_commit, "MOST_SECONDS", 60.0)  # a busy machine is slow
    made = Lab(tmp_path)
    yield made
    made.store.close()


def add(n: int) -> Work[int]:
    def work(connection: Connection) -> int:
        connection.execute(text("INSERT INTO things VALUES (:n)"), {"n": n})
        return n

    return work


def add_and_refuse(n: int) -> Work[int]:
    def work(connection: Connection) -> int:
        add(n)(connection)
        raise NotFound("thing", str(n))

    return work


def add_twice(n: int) -> Work[int]:
    def work(connection: Connection) -> int:
        add(n)(connection)
        return add(n)(connection)

    return work


def add_and_break(n: int) -> Work[int]:
    """What SQLite calls an operational error: trouble with the database, as far as anybody can tell."""

    def work(connection: Connection) -> int:
        add(n)(connection)
        connection.execute(text("SELECT * FROM nowhere"))
        return n

    return work


def add_what_no_commit_takes(n: int) -> Work[int]:
    def work(connection: Connection) -> int:
        connection.execute(text("PRAGMA defer_foreign_keys = ON"))
        connection.execute(text("INSERT INTO parts VALUES (:n, -1)"), {"n": n})
        return n

    return work


@pytest.mark.asyncio
async def test_what_waits_at_the_same_time_has_one_commit(lab: Lab) -> None:
    assert await lab.at_once([add(n) for n in range(20)]) == list(range(20))
    assert await lab.kept() == list(range(20))
    assert lab.commits == 2  # theirs, and that of the unit they waited for


@pytest.mark.asyncio
async def test_what_comes_alone_has_its_own(lab: Lab) -> None:
    for n in range(3):
        assert await lab.store.write(add(n)) == n
    assert lab.commits == 3


@pytest.mark.asyncio
async def test_what_takes_long_is_committed_before_the_rest(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_commit, "MOST_SECONDS", 0.0)
    assert await lab.at_once([add(n) for n in range(5)]) == list(range(5))
    assert lab.commits == 6


KINDS = {"add": add, "refuse": add_and_refuse, "twice": add_twice, "break": add_and_break}
ENDS = {"refuse": NotFound, "twice": IntegrityError, "break": Unavailable}


@settings(max_examples=25)
@given(kinds=st.lists(st.sampled_from(sorted(KINDS)), max_size=10), most=st.integers(1, 4))
def test_each_is_as_if_it_were_alone(kinds: list[str], most: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    async def scenario() -> tuple[list[Any], list[int]]:
        lab = Lab(tmp_path_factory.mktemp("shared"))
        try:
            return await lab.at_once([KINDS[kind](n) for n, kind in enumerate(kinds)]), await lab.kept()
        finally:
            lab.store.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_commit, "MOST_UNITS", most)
        ended, kept = asyncio.run(scenario())
    for n, (kind, end) in enumerate(zip(kinds, ended, strict=True)):
        assert end == n if kind == "add" else type(end) is ENDS[kind]
    assert kept == [n for n, kind in enumerate(kinds) if kind == "add"]


@pytest.mark.asyncio
async def test_where_the_commit_fails_nobody_is_told_that_it_is_done_or_refused(lab: Lab) -> None:
    ended = await lab.at_once([add(1), add_and_refuse(2), add_what_no_commit_takes(3), add(4)])
    assert [type(end) for end in ended] == [Unavailable] * 4
    assert await lab.kept() == []
    assert await lab.store.write(add(5)) == 5
    assert await lab.kept() == [5]


@pytest.mark.asyncio
async def test_after_a_commit_that_failed_the_next_transaction_begins(lab: Lab) -> None:
    for n in range(2):
        with pytest.raises(IntegrityError):
            await lab.store.write(add_what_no_commit_takes(n))
    assert await lab.store.write(add(3)) == 3


@pytest.mark.asyncio
async def test_nobody_is_answered_before_the_commit(lab: Lab) -> None:
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[int]] = []

    async def answered() -> int:
        for _ in range(5):
            await asyncio.sleep(0)
        return sum(task.done() for task in tasks)

    early: list[int] = []
    lab.at_commit = lambda: early.append(asyncio.run_coroutine_threadsafe(answered(), loop).result(30))
    async with lab.busy_writer():
        tasks += [loop.create_task(_awaited(lab.store.write(add(n)))) for n in range(6)]
    assert await asyncio.gather(*tasks) == list(range(6))
    assert early == [0, 0]


async def _awaited(what: Coroutine[Any, Any, int]) -> int:
    return await what


@pytest.mark.asyncio
async def test_what_its_caller_has_left_is_done(lab: Lab) -> None:
    async with lab.busy_writer():
        left = asyncio.ensure_future(lab.store.write(add(1)))
        await asyncio.sleep(0)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
    assert await lab.store.write(add(2)) == 2
    assert await lab.kept() == [1, 2]
