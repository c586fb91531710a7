"""Streams are views of the event log: gapless, resumable anywhere, in bounded memory, and honest about their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import TypeVar

import pytest
from sqlalchemy import Connection

from service.app import feed as feeds
from service.app.feed import Bookmark, Feed
from service.domain.events import Event, EventKind
from service.domain.groups import Group
from service.domain.specs import DeployRequest
from service.errors import RevisionUnavailable, Unavailable
from service.store import events, fleet_events, groups
from service.store.engine import Store
from service.store.events import Draft
from service.store.fleet_events import FleetChange
from tests.support.builders import group, spec
from tests.support.control_plane import control_plane
from tests.support.schema import migrated

pytestmark = pytest.mark.asyncio

T = TypeVar("T")
ONE, TWO = "1" * 32, "2" * 32


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Store, Feed]]:
    """A feed over an empty in-memory store that holds two groups."""
    store = Store("sqlite://")
    migrated(store.engine)
    for number, uuid in enumerate((ONE, TWO)):
        made = group(1, uuid=uuid, project=f"project-{number}")
        made = replace(made, instances=tuple(replace(m, uuid=f"{number:032x}") for m in made.instances))
        await store.write(lambda c, g=made: groups.create(c, g, due_at=0))  # type: ignore[misc]
    feed = Feed(store)
    await feed.start()
    task = asyncio.create_task(feed.run())
    try:
        yield store, feed
    finally:
        feed.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        store.close()


async def tell(store: Store, uuid: str, count: int) -> int:
    """Append `count` events of the group; returns the newest revision."""

    def append(connection: Connection) -> int:
        before: Group = groups.load(connection, uuid, lock=True)
        drafts = [Draft(EventKind.GROUP, before.sequence + n + 1, before) for n in range(count)]
        revision = events.append(connection, before, drafts, 1)
        groups.save(connection, before, replace(before, sequence=before.sequence + count, revision=revision))
        return revision

    return await store.write(append)


async def standing(feed: Feed) -> list[Group]:
    """What a watch begins with."""
    found: list[Group] = []
    async with aclosing(feed.watch(None, group_uuid=None, project=None)) as changes:
        async for change in changes:
            if not isinstance(change, Group):
                break
            found.append(change)
    return found


async def test_watches_begin_with_the_same_groups_and_with_those_that_changed_anew() -> None:
    async with running() as (store, feed):
        first = await standing(feed)
        assert [group.uuid for group in first] == [ONE, TWO]
        assert all(one is other for one, other in zip(first, await standing(feed), strict=True))
        revision = await tell(store, TWO, 1)
        again = await standing(feed)
        assert again[0] is first[0]
        assert (again[1].revision, again[1] is first[1]) == (revision, False)


async def caught_up(feed: Feed, revision: int) -> None:
    """Wait until the process has read the log up to the revision."""
    async with asyncio.timeout(60):
        while feed.head < revision:  # noqa: ASYNC110  # the feed tells its followers, and this is none
            await asyncio.sleep(0.01)


async def to_the_end(changes: AsyncGenerator[Event | Bookmark, None], seen: list[int]) -> None:
    """Read on, into `seen`, until the stream raises."""
    async with asyncio.timeout(60):
        async for change in changes:
            seen.append(change.revision)


async def read(feed: Feed, after: int, until: int, **filters: str) -> list[int]:
    """Revisions from a new follower until it has seen `until`."""
    seen: list[int] = []
    async with asyncio.timeout(60), aclosing(feed.follow(after, **filters)) as changes:  # type: ignore[arg-type]
        async for event in changes:
            assert isinstance(event, Event)
            seen.append(event.revision)
            if event.revision >= until:
                break
    return seen


async def test_a_stream_that_is_taken_up_anywhere_goes_on_without_gap_or_repetition() -> None:
    async with running() as (store, feed):
        for step in range(20):
            newest = await tell(store, (ONE, TWO)[step % 2], 1 + step % 3)
        everything = await read(feed, 0, newest)
        assert everything == list(range(everything[0], newest + 1))
        for cut in range(everything[0] - 1, newest, 5):
            assert await read(feed, cut, newest) == [r for r in everything if r > cut]


async def test_events_that_come_while_a_reader_reads_are_told_in_order() -> None:
    async with running() as (store, feed):
        first = await tell(store, ONE, 1)
        reader = asyncio.create_task(read(feed, first - 1, first + 60))
        for _ in range(30):
            await tell(store, ONE, 1)
            await tell(store, TWO, 1)
        assert await reader == list(range(first, first + 61))


async def test_a_stream_of_one_group_or_tenant_has_no_other_ones_events() -> None:
    async with running() as (store, feed):
        for _ in range(5):
            await tell(store, ONE, 2)
            newest = await tell(store, TWO, 2)
        log = await store.read(lambda c: events.after(c, 0, 1000))
        mine = [e.revision for e in log if e.group_uuid == TWO]
        assert await read(feed, 0, newest, group_uuid=TWO) == mine
        assert await read(feed, 0, newest, project="project-1") == mine


async def test_a_slow_reader_costs_no_memory_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "TAIL", 16)
    monkeypatch.setattr(feeds, "BATCH", 8)
    async with running() as (store, feed):
        first = await tell(store, ONE, 1)
        slow = feed.follow(first - 1)
        seen = [await anext(slow)]
        for _ in range(40):
            newest = await tell(store, ONE, 10)  # far more than the process keeps
        await caught_up(feed, newest)
        assert len(feed._tail) <= 16
        async with asyncio.timeout(60):
            while seen[-1].revision < newest:
                seen.append(await anext(slow))
        await slow.aclose()
        assert [e.revision for e in seen] == list(range(first, newest + 1))


async def test_what_has_come_since_is_told_from_the_tail_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "TAIL", 16)
    async with running() as (store, feed):
        before = feed.head
        assert feed.since(before) == []
        # A revision of the fleet's log is none of an event's.
        await store.write(lambda c: fleet_events.append(c, FleetChange.CATALOGUE, ONE, "", 1))
        newest = await tell(store, ONE, 3)
        await caught_up(feed, newest)
        for after in (before, newest - 3, newest - 2, newest):
            told = feed.since(after)
            assert told is not None
            assert [event.revision for event in told] == list(range(max(after, newest - 3) + 1, newest + 1))
        newest = await tell(store, ONE, 20)
        await caught_up(feed, newest)
        assert feed.since(before) is None


async def test_a_reader_that_falls_behind_the_compacted_log_is_told_where_to_begin() -> None:
    async with running() as (store, feed):
        feed._tail.clear()
        first = await tell(store, ONE, 5)
        slow = feed.follow(first - 5)
        await anext(slow)
        newest = first
        for _ in range(3):
            newest = await tell(store, ONE, feeds.TAIL // 2)
        await caught_up(feed, newest)
        await store.write(lambda c: events.compact(c, newest - 10))
        with pytest.raises(RevisionUnavailable) as refused:
            await to_the_end(slow, [])
        assert refused.value.oldest == newest - 10
        assert await read(feed, newest - 10, newest) == list(range(newest - 9, newest + 1))


@pytest.mark.parametrize("offset", [-1, 1])
async def test_revisions_that_are_gone_or_not_there_yet_are_refused(offset: int) -> None:
    async with running() as (store, feed):
        newest = await tell(store, ONE, 10)
        await store.write(lambda c: events.compact(c, newest - 5))
        wrong = newest - 5 + offset if offset < 0 else newest + offset
        late = feeds.Feed(store)  # of a process that began after that: it has no more than the log
        await late.start()
        with pytest.raises(RevisionUnavailable):
            await read(late, wrong, newest)
        for one in (feed, late):
            assert await read(one, newest - 5, newest) == list(range(newest - 4, newest + 1))


async def test_what_the_log_lets_go_is_still_told_by_a_process_that_has_it() -> None:
    async with running() as (store, feed):
        newest = await tell(store, ONE, 10)
        await caught_up(feed, newest)
        await store.write(lambda c: events.compact(c, newest - 5))
        assert await read(feed, newest - 6, newest) == list(range(newest - 5, newest + 1))


async def test_a_quiet_watch_says_how_far_it_has_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "BOOKMARK_SECONDS", 0.02)
    async with running() as (store, feed):
        other = await tell(store, TWO, 3)
        await caught_up(feed, other)
        async with asyncio.timeout(60), aclosing(feed.follow(0, group_uuid=ONE, bookmarks=True)) as changes:
            async for change in changes:
                assert isinstance(change, Bookmark)
                assert not change.initial_state_complete
                if change.revision >= other:
                    break
        assert await read(feed, change.revision, await tell(store, ONE, 1)) == [other + 1]


async def test_a_watch_begins_with_what_stands_and_goes_on_from_there() -> None:
    async with running() as (store, feed):
        newest = await tell(store, ONE, 2)
        async with asyncio.timeout(60), aclosing(feed.watch(None, group_uuid=None, project=None)) as changes:
            standing = [await anext(changes), await anext(changes)]
            assert [g.uuid for g in standing if isinstance(g, Group)] == [ONE, TWO]
            assert await anext(changes) == Bookmark(newest, initial_state_complete=True)
            later = await tell(store, TWO, 1)
            event = await anext(changes)
        assert isinstance(event, Event)
        assert event.revision == later


async def test_a_stream_ends_with_what_is_stored_when_the_service_drains() -> None:
    async with running() as (store, feed):
        first = await tell(store, ONE, 1)
        seen: list[int] = []
        changes = feed.follow(first - 1)
        seen.append((await anext(changes)).revision)
        newest = await tell(store, ONE, 20)
        await caught_up(feed, newest)
        feed.close()
        with pytest.raises(Unavailable):
            await to_the_end(changes, seen)
        assert seen == list(range(first, newest + 1))


async def test_a_waiting_stream_ends_at_once_when_the_service_drains() -> None:
    async with running() as (_, feed):
        waiting = asyncio.create_task(read(feed, feed.head, feed.head + 1))
        async with asyncio.timeout(60):
            while feed.followers == 0:  # noqa: ASYNC110  # the feed tells its followers, and this is none
                await asyncio.sleep(0.01)
        assert feed.followers == 1
        feed.close()
        with pytest.raises(Unavailable):
            async with asyncio.timeout(60):
                await waiting
        assert feed.followers == 0


async def test_readers_that_leave_are_forgotten() -> None:
    async with running() as (store, feed):
        newest = await tell(store, ONE, 3)
        await asyncio.gather(*(read(feed, 0, newest) for _ in range(50)))
        assert feed.followers == 0


async def test_what_the_process_commits_it_has_without_a_read_and_as_it_would_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feeds, "POLL_SECONDS", 3600.0)  # what is read every half second is another matter
    async with running() as (store, feed):
        seen, asked = [], []
        read = store.read
        store.read = lambda work: asked.append(work) or read(work)  # type: ignore[method-assign,func-returns-value]
        newest = await tell(store, ONE, 3)
        assert feed.head == newest
        assert asked == []
        async with asyncio.timeout(60), aclosing(feed.follow(0)) as changes:
            async for change in changes:
                seen.append(change)
                if change.revision == newest:
                    break
        assert seen == list(await read(lambda c: events.after(c, 0, 10)))


async def test_what_others_commit_in_between_is_read_and_nothing_is_told_twice() -> None:
    async with running() as (store, feed):
        other = Store("sqlite://")
        other.close()
        # A replica whose commits this process does not hear of; the one connection of both serves one thread.
        other.engine, other._writes, other._reads = store.engine, store._writes, store._reads
        await tell(store, ONE, 2)
        await tell(other, TWO, 2)
        newest = await tell(store, ONE, 2)
        await caught_up(feed, newest)
        assert await read(feed, 0, newest) == list(range(1, newest + 1))


async def test_while_nobody_watches_the_log_is_left_alone_and_whoever_comes_has_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feeds, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(feeds, "IDLE_SECONDS", 3600.0)
    looked = asyncio.Event()
    reads = Store.read

    async def noted(store: Store, work: Callable[[Connection], T]) -> T:
        looked.set()
        return await reads(store, work)

    async with running() as (store, feed):
        monkeypatch.setattr(Store, "read", noted)
        async with asyncio.timeout(60):
            await looked.wait()  # the next time is in an hour
        other = Store("sqlite://")
        other.close()
        # A replica whose commits this process does not hear of; the one connection of both serves one thread.
        other.engine, other._writes, other._reads = store.engine, store._writes, store._reads
        newest = await tell(other, TWO, 2)
        assert await read(feed, 0, newest) == list(range(1, newest + 1))
        reader = asyncio.create_task(read(feed, newest, newest + 1))
        async with asyncio.timeout(60):
            while feed.followers == 0:  # noqa: ASYNC110  # the feed tells its followers, and this is none
                await asyncio.sleep(0.01)
        newest = await tell(other, TWO, 1)
        assert await reader == [newest]
        assert feed.head == newest  # by the process's own look, not by the follower's after ten seconds


async def test_a_transaction_that_changes_no_group_wakes_nobody_and_one_that_fails_tells_nothing() -> None:
    async with running() as (store, feed):
        newest = await tell(store, ONE, 1)
        await store.write(lambda c: groups.due(c, ONE, 5))
        with pytest.raises(ValueError, match="broken"):
            await store.write(lambda c: _append_and_break(c))
        assert feed.head == newest
        assert await tell(store, ONE, 1) == newest + 1
        assert feed.head == newest + 1


def _append_and_break(connection: Connection) -> None:
    before = groups.load(connection, ONE, lock=True)
    events.append(connection, before, [Draft(EventKind.GROUP, before.sequence + 1, before)], 1)
    raise ValueError("broken")


async def test_events_of_a_groups_whole_life_are_as_they_would_be_read() -> None:
    async with control_plane() as plane:
        made = await plane.deploy(DeployRequest(spec(2)))
        await plane.delete(made[-1].group_uuid)
        stored = await plane.store.read(lambda c: events.after(c, 0, 1000))
        assert {event.kind for event in stored} == set(EventKind)
        assert list(plane.feed._tail) == list(stored)
