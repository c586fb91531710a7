"""Views of the event log: one reader for the process, any number of followers with a cursor each.

A follower holds no queue: it reads from the shared tail while it keeps up and from the store when it is too slow, so a
slow reader costs no memory and nobody loses an event.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from itertools import takewhile

from service.app.news import News, told
from service.domain.events import Event
from service.domain.groups import Group
from service.errors import NotFound, RevisionUnavailable, Unavailable
from service.failpoints import failpoint
from service.store import events, group_pages, groups
from service.store.connection import Connection
from service.store.engine import Store
from service.store.known_groups import KnownGroups

TAIL = 4096
BATCH = 256
POLL_SECONDS = 0.5
"""So often the log is read while somebody watches: a hint of what another replica commits may be lost."""
IDLE_SECONDS = 10.0
"""So seldom while nobody does and nothing happens."""
BOOKMARK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Everything up to `revision` was told. `initial_state_complete`: and all that was there when the watch began."""

    revision: int
    initial_state_complete: bool = False


class Feed:
    """The process's view of the event log. `run` keeps it fresh until cancelled."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tail: deque[Event] = deque(maxlen=TAIL)
        self._head = 0
        self._held_from = 0
        """The tail holds every event above this revision. Revisions of the fleet's log lie between those of events."""
        self._started = False
        self._news = News()
        self.known = KnownGroups()
        """Groups as this process read them last, for all that are told of them."""
        self._listeners: list[Callable[[], None]] = []
        self.followers = 0
        self._watching = 0
        store.on_commit(self._committed)

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever there are new events, on the event loop."""
        self._listeners.append(listener)

    def since(self, revision: int) -> list[Event] | None:
        """The events above the revision that this process has read; None where it does not hold them any more."""
        if revision >= self._head:
            return []
        if revision < self._held_from:
            return None
        # From the newest on: who asks often asks for a few.
        found = list(takewhile(lambda event: event.revision > revision, reversed(self._tail)))
        return found[::-1]

    @property
    def head(self) -> int:
        """The newest revision that this process has read."""
        return self._head

    def poke(self) -> None:
        """A hint from outside (a notification) that there may be new events."""
        self._news.poke()

    async def start(self) -> None:
        """Find the head of the log. Raises Unavailable."""
        _, self._head = await self._store.read(events.head)
        self._held_from = self._head
        self._started = True

    @contextmanager
    def watched(self, *, followers: int = 0) -> Iterator[None]:
        """Somebody waits for news meanwhile, and has it within POLL_SECONDS of its commit, hint or not. `followers`: so
        many of those that are counted."""
        self._watching += 1
        self.followers += followers
        try:
            yield
        finally:
            self._watching -= 1
            self.followers -= followers

    async def run(self) -> None:
        """Read what is new, by hints and every POLL_SECONDS, or IDLE_SECONDS where nobody watches and nothing was new.
        What this process commits it has already."""
        loop = asyncio.get_running_loop()
        due = 0.0
        while True:
            hinted = await self._news.poked(POLL_SECONDS)
            if not hinted and not self._watching and loop.time() < due:
                continue
            before = self._head
            try:
                await self._catch_up()
            except Unavailable:
                await asyncio.sleep(POLL_SECONDS)  # followers wait; the store's own health is shown by /healthz
            due = loop.time() + (IDLE_SECONDS if self._head == before else POLL_SECONDS)

    def _committed(self, told: Sequence[Event]) -> None:
        """This process has committed these. Where others came between, or come later, they are read with them."""
        if not told:
            return  # leases and the like
        if not self._started or told[0].revision != self._head + 1:
            self._news.poke()
            return
        self._take(told)

    def _take(self, found: Sequence[Event]) -> None:
        self._tail.extend(found)
        if len(self._tail) == TAIL:
            self._held_from = max(self._held_from, self._tail[0].revision - 1)
        self._head = found[-1].revision
        self._news.publish()
        for listener in self._listeners:
            listener()

    @property
    def closed(self) -> bool:
        """Whether followers are to end: the process drains."""
        return self._news.closed

    def close(self) -> None:
        """End every follower with Unavailable: the process drains."""
        self._news.close()

    async def follow(
        self,
        after: int,
        *,
        group_uuid: str | None = None,
        project: str | None = None,
        bookmarks: bool = False,
        idle_seconds: float | None = None,
    ) -> AsyncGenerator[Event | Bookmark, None]:
        """Every event above revision `after`, without end. Raises RevisionUnavailable, Unavailable (draining).

        `bookmarks`: after every `idle_seconds` (BOOKMARK_SECONDS) in which none of these events came, tell how far the
        log was read: whatever else happens in the service, no proxy takes the stream for dead. A
        follower so slow that events were compacted before it had read them gets RevisionUnavailable too. When the
        process drains, what is stored is told first.
        """
        if not (self._started and self._held_from <= after <= self._head):  # or the tail has all that follows
            oldest, current = await self._store.read(events.head)
            if not oldest <= after <= max(current, self._head):
                raise RevisionUnavailable(after, oldest, current)
        with self.watched(followers=1):
            cursor, loop = after, asyncio.get_running_loop()
            idle = idle_seconds or BOOKMARK_SECONDS
            # A point in time, not what has passed since one: rounded, that may come out too short at the very moment.
            due = loop.time() + idle
            while True:
                closed = self._news.closed
                batch, cursor = await self._batch(cursor, _filter(group_uuid, project), group_uuid, project)
                for event in batch:
                    yield event
                if batch:
                    due = loop.time() + idle
                elif bookmarks and loop.time() >= due:
                    yield Bookmark(cursor)
                    due = loop.time() + idle
                if batch or cursor < self._head:
                    continue
                if closed:
                    raise Unavailable("the service is shutting down")
                await self._wait_beyond(cursor, max(0.0, due - loop.time()) if bookmarks else idle)

    async def watch(
        self, revision: int | None, *, group_uuid: str | None, project: str | None
    ) -> AsyncGenerator[Group | Event | Bookmark, None]:
        """From `revision` on; with None first all that stands now, then a bookmark, then every change."""
        if revision is not None:
            async with aclosing(self._follow_marked(revision, group_uuid, project)) as changes:
                async for change in changes:
                    yield change
            return
        _, start = await self._store.read(events.head)
        async for group in self._standing(group_uuid, project):
            yield group
        yield Bookmark(start, initial_state_complete=True)
        async with aclosing(self._follow_marked(start, group_uuid, project)) as changes:
            async for change in changes:
                yield change

    def _follow_marked(
        self, after: int, group_uuid: str | None, project: str | None
    ) -> AsyncGenerator[Event | Bookmark, None]:
        return self.follow(after, group_uuid=group_uuid, project=project, bookmarks=True)

    async def _standing(self, group_uuid: str | None, project: str | None) -> AsyncGenerator[Group, None]:
        if group_uuid is not None:
            group = await self._store.read(lambda c: groups.load(c, group_uuid))
            if project is not None and group.project != project:
                raise NotFound("instance group", group_uuid)
            yield group
            return
        after: tuple[int, str] | None = None
        while page := await self._store.read(
            lambda c, key=after: group_pages.page(  # type: ignore[misc]
                c, project=project, after=key, limit=BATCH, load=self.known.load_many
            )
        ):
            for group in page:
                yield group
            after = (page[-1].created_at, page[-1].uuid)

    async def _batch(
        self, cursor: int, wanted: Callable[[Event], bool], group_uuid: str | None, project: str | None
    ) -> tuple[list[Event], int]:
        """The next events after `cursor`, and the cursor after them."""
        if self._tail and self._tail[0].revision <= cursor + 1:
            # From the newest on: most followers have read all but the last few.
            new = list(takewhile(lambda event: event.revision > cursor, reversed(self._tail)))
            return [event for event in reversed(new) if wanted(event)], max(self._head, cursor)
        head = self._head

        def read(connection: Connection) -> tuple[int, int, tuple[Event, ...]]:
            oldest, current = events.head(connection)
            found = events.after(connection, cursor, BATCH, group_uuid=group_uuid, project=project)
            return oldest, current, found

        oldest, current, found = await self._store.read(read)
        if cursor < oldest:
            raise RevisionUnavailable(cursor, oldest, current)
        if len(found) < BATCH:
            return list(found), max(head, found[-1].revision if found else 0, cursor)
        return list(found), found[-1].revision

    async def _catch_up(self) -> None:
        while found := await self._store.read(lambda c: events.after(c, self._head, BATCH)):
            failpoint("feed.read")
            # Some of them this process may have committed, and taken, while they were read.
            if new := [event for event in found if event.revision > self._head]:
                self._take(new)

    async def _wait_beyond(self, cursor: int, seconds: float) -> None:
        """Wait until the head passes `cursor`, at most so long."""
        if self._head <= cursor and not self._news.closed:
            await told(self._news.next, seconds)


def _filter(group_uuid: str | None, project: str | None) -> Callable[[Event], bool]:
    def wanted(event: Event) -> bool:
        return (group_uuid is None or event.group_uuid == group_uuid) and (project is None or event.project == project)

    return wanted
