"""Changes that wait at the same time share a commit on PostgreSQL; each is as if it had a transaction of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, event, exc, text

from service import failpoints
from service.domain.groups import Group, InstanceStatus
from service.errors import InvariantViolation, Unavailable
from service.lifecycle.renewal import CLASH
from service.store import events, groups
from service.store.engine import Store
from service.transactions import changes, together
from service.transactions.changes import Foreseen, LeaseLost
from service.transactions.together import Change, SharedChanges, Stored, is_plain
from tests.support.changing import next_change, put, running
from tests.support.database import Database, InTurn
from tests.support.postgres import Postgres

COUNT = 9
UUIDS = [f"{number:032x}" for number in range(COUNT)]


class Lab:
    """Some groups that run, and one process's shared changes of them."""

    def __init__(self, url: str) -> None:
        self.url = url
        with Database(url) as database:
            database.fill(1, vcpu=COUNT)
            database.write(put, UUIDS)
        self.store = Store(url)
        self.changes = SharedChanges(self.store)
        self.commits = 0
        self.at_commit: Callable[[Connection], None] = lambda _connection: None
        event.listen(self.store.engine, "commit", self._committed)

    def _committed(self, connection: Connection) -> None:
        if threading.current_thread().name.startswith("store-write"):
            self.commits += 1
            self.at_commit(connection)

    async def load(self, number: int) -> Group:
        return await self.store.read(lambda c: groups.load(c, UUIDS[number]))

    async def known(self) -> list[Group]:
        return [await self.load(number) for number in range(COUNT)]

    async def told(self) -> list[tuple[str, int, int]]:
        """(group, sequence, revision) of every event, in order."""
        rows = await self.store.read(lambda c: events.after(c, 0, 10_000))
        return [(row.group_uuid, row.sequence, row.revision) for row in rows]

    @asynccontextmanager
    async def busy(self, first: Change) -> AsyncIterator[None]:
        """What is written inside waits until this ends, and then goes together."""
        with stopped_at("together.decided") as (began, go_on):
            leading = asyncio.ensure_future(self.changes.write(first))
            assert await asyncio.to_thread(began.wait, 60)
            try:
                yield
                await asyncio.sleep(0)  # all that is to wait waits
            finally:
                go_on.set()
                await leading

    async def at_once(self, several: Sequence[Change], first: Change) -> list[Any]:
        """How changes end that all wait when the one before is done: what is stored, and exceptions."""
        async with self.busy(first):
            waiting = [asyncio.ensure_future(self.changes.write(change)) for change in several]
        return await asyncio.gather(*waiting, return_exceptions=True)


class stopped_at:  # noqa: N801  # it reads as a phrase
    """The first transaction that passes this point stays there: (it has come there, it may go on)."""

    def __init__(self, point: str) -> None:
        self._point, self._came, self._may_go = point, threading.Event(), threading.Event()

    def _passed(self, name: str) -> None:
        if name == self._point and not self._came.is_set():
            self._came.set()
            assert self._may_go.wait(60)

    def __enter__(self) -> tuple[threading.Event, threading.Event]:
        failpoints.install(self._passed)
        return self._came, self._may_go

    def __exit__(self, *_error: object) -> None:
        self._may_go.set()
        failpoints.install(None)


@pytest.fixture
def lab(postgres: Postgres, postgres_in_turn: InTurn) -> Iterator[Lab]:
    try:
        made = Lab(postgres.url(postgres_in_turn.name))
        yield made
        made.store.close()
    finally:
        postgres_in_turn.give_back()


@pytest.mark.asyncio
async def test_what_waits_at_the_same_time_has_one_commit_and_revisions_in_order(lab: Lab) -> None:
    first, *rest = await lab.known()
    before = await lab.told()
    ended: list[Stored] = await lab.at_once([next_change(known, 1) for known in rest], next_change(first, 1))
    assert lab.commits == 2  # theirs, and that of the one they waited for
    for was, (group, given) in zip(rest, ended, strict=True):
        assert group == await lab.store.read(lambda c, u=was.uuid: groups.load(c, u))  # type: ignore[misc]
        assert (group.version, group.sequence, given) == (was.version + 1, was.sequence + 2, False)
        assert (group.reason, group.instances[0].reason) == ("turn 1", "turn 1 of a member")
    told = (await lab.told())[len(before) :]
    assert [uuid for uuid, _, _ in told] == [uuid for uuid in UUIDS for _ in range(2)]
    assert [revision for _, _, revision in told] == list(range(told[0][2], told[0][2] + 2 * COUNT))
    assert [group.revision for group, _ in ended] == [told[2 * n + 1][2] for n in range(1, COUNT)]


@pytest.mark.asyncio
async def test_the_process_hears_of_all_the_events_of_a_shared_commit(lab: Lab) -> None:
    first, *rest = await lab.known()
    heard: list[tuple[str, int, int]] = []
    lab.store.on_commit(lambda told: heard.extend((one.group_uuid, one.sequence, one.revision) for one in told))
    await lab.at_once([next_change(known, 1) for known in rest], next_change(first, 1))
    assert heard == (await lab.told())[-len(heard) :]
    assert len(heard) == 2 * COUNT


@pytest.mark.asyncio
async def test_a_lease_ends_with_the_change_that_ends_it(lab: Lab) -> None:
    first, second, third, *_ = await lab.known()
    lease = "UPDATE groups SET owner = 'me', lease_until = 9, due_at = 9"
    await lab.store.write(lambda c: c.execute(text(lease)).close())
    freed = replace(next_change(second, 1), freed=groups.Freed(77))
    ended = await lab.at_once([freed, next_change(third, 1)], next_change(first, 1))
    assert [given for _, given in ended] == [True, False]
    query = text("SELECT owner, lease_until, due_at FROM groups ORDER BY uuid LIMIT 3")
    rows = await lab.store.read(lambda c: [tuple(row) for row in c.execute(query)])
    assert rows == [("me", 9, 9), ("", 0, 77), ("me", 9, 9)]


def stale(known: Group) -> Change:
    """Of a writer that has not seen the newest version: nothing comes of its facts, which are none."""
    return next_change(replace(known, version=known.version - 1), 1)


def of_an_older_lease(known: Group) -> Change:
    older = replace(known, epoch=known.epoch - 1)
    return next_change(older, 1)


def without_its_claim(known: Group) -> Change:
    change = next_change(known, 1)
    assert change.foreseen is not None
    (member,) = change.foreseen.group.instances
    return replace(change, foreseen=Foreseen(replace(known, instances=(replace(member, attempt=7),)), ()))


def of_a_text_that_is_none(known: Group) -> Change:
    change = next_change(known, 1)
    assert change.foreseen is not None
    return replace(change, foreseen=Foreseen(replace(change.foreseen.group, reason="a\0b"), ()))


FAULTY: dict[Callable[[Group], Change], type[Exception] | None] = {
    stale: None,
    of_an_older_lease: LeaseLost,
    without_its_claim: InvariantViolation,
    of_a_text_that_is_none: exc.DataError,
}


@pytest.mark.asyncio
@pytest.mark.parametrize("faulty", FAULTY)
async def test_the_fault_of_one_is_its_own(lab: Lab, faulty: Callable[[Group], Change], monkeypatch: Any) -> None:
    monkeypatch.setattr(changes, "wanted", lambda _differs: (frozenset(), frozenset()))  # another attempt is plain here
    first, *rest = await lab.known()
    bad = 3
    several = [faulty(known) if n == bad else next_change(known, 1) for n, known in enumerate(rest)]
    ended = await lab.at_once(several, next_change(first, 1))
    for n, (was, end) in enumerate(zip(rest, ended, strict=True)):
        now = await lab.store.read(lambda c, u=was.uuid: groups.load(c, u))  # type: ignore[misc]
        if n != bad:
            assert end == Stored(now, False)
            assert now.version == was.version + 1
        elif (error := FAULTY[faulty]) is None:
            assert end == Stored(was, False)
            assert now == was
        else:
            assert type(end) is error
            assert now == was
    revisions = [revision for _, _, revision in await lab.told()]
    assert revisions == list(range(revisions[0], revisions[0] + 2 * (COUNT - 1)))


@pytest.mark.asyncio
async def test_nobody_is_answered_before_the_commit(lab: Lab) -> None:
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[Stored]] = []

    async def answered() -> int:
        for _ in range(5):
            await asyncio.sleep(0)
        return sum(task.done() for task in tasks)

    early: list[int] = []
    first, *rest = await lab.known()
    lab.at_commit = lambda _connection: early.append(asyncio.run_coroutine_threadsafe(answered(), loop).result(30))
    async with lab.busy(next_change(first, 1)):
        tasks += [loop.create_task(lab.changes.write(next_change(known, 1))) for known in rest]
    await asyncio.gather(*tasks)
    assert early == [0, 0]


@pytest.mark.asyncio
async def test_where_the_commit_fails_nobody_is_told_that_it_is_done(lab: Lab, postgres: Postgres) -> None:
    first, *rest = await lab.known()

    def cut_off(connection: Connection) -> None:
        if lab.commits == 2:
            driver: Any = connection.connection.dbapi_connection
            postgres.query(f"SELECT pg_terminate_backend({driver.info.backend_pid})")

    lab.at_commit = cut_off
    ended = await lab.at_once([next_change(known, 1) for known in rest], next_change(first, 1))
    assert [type(end) for end in ended] == [Unavailable] * len(rest)
    assert [(await lab.load(n)).version for n in range(1, COUNT)] == [known.version for known in rest]
    again: Stored = await lab.changes.write(next_change(rest[0], 2))
    assert again.group.version == rest[0].version + 1


@pytest.mark.asyncio
async def test_a_group_that_somebody_has_locked_holds_up_nobody_else(lab: Lab) -> None:
    first, second, *rest = await lab.known()
    with lab.store.engine.connect() as other:
        other.execute(text("SELECT 1 FROM groups WHERE uuid = :of FOR UPDATE"), {"of": second.uuid})
        async with lab.busy(next_change(first, 1)):
            late = asyncio.ensure_future(lab.changes.write(next_change(second, 1)))
            others = [asyncio.ensure_future(lab.changes.write(next_change(known, 1))) for known in rest]
        ended: list[Stored] = await asyncio.gather(*others)
        assert [group.reason for group, _ in ended] == ["turn 1"] * len(rest)
        assert not late.done()
        other.rollback()
    assert (await late).group.reason == "turn 1"


@pytest.mark.asyncio
async def test_the_counter_is_taken_last(lab: Lab) -> None:
    """Who shares a commit keeps nobody from telling events while rows are being written."""
    first, second, *_ = await lab.known()
    with stopped_at("together.stored") as (began, go_on):
        held = asyncio.ensure_future(lab.changes.write(next_change(first, 1)))
        assert await asyncio.to_thread(began.wait, 60)
        other = await lab.store.write(next_change(second, 1).alone)
        go_on.set()
        mine: Stored = await held
    assert mine.group.revision > other.group.revision


@pytest.mark.asyncio
async def test_two_of_one_group_are_in_two_commits_in_their_order(lab: Lab) -> None:
    first, second, third, *_ = await lab.known()
    after = replace(second, version=second.version + 1, sequence=second.sequence + 2)
    several = [next_change(second, 1), next_change(after, 2), next_change(third, 1)]
    one, two, _ = await lab.at_once(several, next_change(first, 1))
    assert lab.commits == 3
    assert (one.group.reason, two.group.reason) == ("turn 1", "turn 2")
    assert two.group.sequence == one.group.sequence + 2
    assert await lab.load(1) == two.group


@pytest.mark.asyncio
async def test_no_more_than_so_many_share_a_commit(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "MOST_CHANGES", 3)
    first, *rest = await lab.known()
    await lab.at_once([next_change(known, 1) for known in rest], next_change(first, 1))
    assert lab.commits == 4


@pytest.mark.asyncio
async def test_what_its_caller_has_left_is_done(lab: Lab) -> None:
    first, second, third, *_ = await lab.known()
    async with lab.busy(next_change(first, 1)):
        left = asyncio.ensure_future(lab.changes.write(next_change(second, 1)))
        beside = asyncio.ensure_future(lab.changes.write(next_change(third, 1)))
        await asyncio.sleep(0)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
    await beside
    assert (await lab.load(1)).reason == "turn 1"


@pytest.mark.asyncio
async def test_who_waits_goes_on_where_the_first_was_left_by_its_caller(lab: Lab) -> None:
    first, second, *_ = await lab.known()
    with stopped_at("together.decided") as (began, go_on):
        leading = asyncio.ensure_future(lab.changes.write(next_change(first, 1)))
        assert await asyncio.to_thread(began.wait, 60)
        beside = asyncio.ensure_future(lab.changes.write(next_change(second, 1)))
        await asyncio.sleep(0)
        leading.cancel()
        assert (await beside).group.reason == "turn 1"
        go_on.set()
    last: Stored = await lab.changes.write(next_change((await beside).group, 2))
    assert last.group.reason == "turn 2"


def test_what_touches_rows_that_others_may_wait_for_goes_alone() -> None:
    known = running(UUIDS[0], 0, "1" * 32)
    (member,) = known.instances
    plain = next_change(known, 1)
    assert is_plain(plain)

    def instead(**other: object) -> bool:
        return is_plain(replace(plain, foreseen=Foreseen(replace(known, **other), ())))  # type: ignore[arg-type]

    assert not is_plain(replace(plain, foreseen=None))
    assert not is_plain(replace(plain, epoch=known.epoch + 1))
    assert not is_plain(replace(plain, foreseen=Foreseen(known, ((member.uuid, 1, member.host_uuid),))))
    assert not instead(instances=())
    for other in (
        {"attempt": 2},
        {"host_uuid": "2" * 32},
        {"target_host_uuid": "2" * 32},
        {"status": InstanceStatus.REMOVED},
        {"room": "3" * 32},
        {"reason": f"{CLASH} 02:00:00:00:00:01"},
        {"spec": replace(member.spec, cpu_num=7)},
    ):
        assert not instead(instances=(replace(member, **other),)), other
    assert not instead(spec=replace(known.spec, name="other"))
