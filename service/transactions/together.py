"""Changes of several groups in one commit: those that wait at the same time share its flush, and take the counter of
the events' revisions once and last (ARCHITECTURE mechanism 16).

On PostgreSQL alone: SQLite's one writer shares commits of whatever it writes (`service/store/shared_commit.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from service.domain.difference import difference
from service.domain.groups import Group, Instance, InstanceStatus
from service.errors import InvariantViolation, Unavailable
from service.failpoints import failpoint
from service.lifecycle import invariants
from service.lifecycle.facts import Fact
from service.lifecycle.renewal import CLASH
from service.store import events, group_batches
from service.store.connection import Connection
from service.store.engine import Store
from service.store.events import Draft, Story
from service.store.groups import Freed
from service.transactions import changes
from service.transactions.changes import Foreseen

MOST_CHANGES, MOST_MEMBERS = 32, 512
"""So many changes, and members of their groups, share a commit at most: who comes last waits for all of them."""

_TURNS = 3
"""Of the event loop, after which those who were answered have asked for the next, if they do so at once."""


class Stored(NamedTuple):
    """A group as it is stored now. `given`: its lease has ended with that."""

    group: Group
    given: bool


@dataclass(frozen=True, slots=True)
class Change:
    """Of one group, under a lease of `epoch`. `known`: as its writer knows it; `foreseen`: what comes of the facts at
    `now` (ms) where it is stored so; `freed`: then the lease ends with it."""

    known: Group
    foreseen: Foreseen | None
    facts: Sequence[Fact]
    now: int
    epoch: int
    freed: Freed | None = None

    def alone(self, connection: Connection) -> Stored:
        """In a transaction of its own. Raises like `changes.apply`."""
        known = changes.as_known(connection, self.known, self.foreseen)
        freed = self.freed if known is not None else None
        uuid, epoch = self.known.uuid, self.epoch
        group = changes.apply(connection, uuid, self.facts, self.now, epoch=epoch, known=known, freed=freed)
        return Stored(group, freed is not None)


def is_plain(change: Change) -> bool:
    """Whether it writes only rows that are the group's own, and its events: no claim, address or booking is touched,
    for which others might wait or be waited for."""
    if change.foreseen is None or change.known.epoch != change.epoch:
        return False
    before, (after, ended) = change.known, change.foreseen
    if ended or before.updating or after.updating or after.endpoint is not None:
        return False
    if (before.spec, before.room, before.endpoint) != (after.spec, after.room, after.endpoint):
        return False
    differs = difference(before, after)
    were, are = changes.wanted(differs)
    return not differs.gone and were == are and all(_stays_plain(old, new) for _, old, new in differs.changed)


def _stays_plain(was: Instance | None, now: Instance) -> bool:
    if was is None or now.status is InstanceStatus.REMOVED:
        return False
    clashes = was.reason.startswith(CLASH) or now.reason.startswith(CLASH)
    return (was.spec, was.room) == (now.spec, now.room) and not clashes


class _Ready(NamedTuple):
    number: int
    change: Change
    stored: Group
    drafts: Sequence[Draft]


def together(connection: Connection, several: Sequence[Change]) -> list[Stored | None]:
    """Write plain changes of as many groups. None for one that has to be made alone: its group is not stored as known,
    somebody else has locked it, or an invariant would not hold; nothing of it is written."""
    differ = {c.known.uuid: difference(c.known, c.foreseen.group) for c in several if c.foreseen is not None}
    members = [new.uuid for differs in differ.values() for _, _, new in differs.changed]
    seats = group_batches.as_known(connection, [change.known for change in several], members)
    ready: list[_Ready] = []
    for number, change in enumerate(several):
        before, held = change.known, seats.get(change.known.uuid)
        if held is None or change.foreseen is None:
            continue
        after, differs = change.foreseen.group, differ[before.uuid]
        try:
            invariants.check(before, after, held, differs.changed)
        except InvariantViolation:
            continue  # alone it is told to whoever made it
        quiet = changes.heard_alone(before, after, differs)
        told = (after, ()) if quiet else changes.to_store(before, after, differs, change.now)
        ready.append(_Ready(number, change, *told))
    failpoint("together.decided")
    group_batches.save_members(connection, [(one.change.known, one.stored) for one in ready])
    return _told(connection, ready, len(several))


def _told(connection: Connection, ready: Sequence[_Ready], count: int) -> list[Stored | None]:
    """Write the groups' rows, and events last: everybody waits for the counter's lock, from its statement on."""
    counted = [replace(one.stored, sequence=one.change.known.sequence + len(one.drafts)) for one in ready]
    group_batches.save(
        connection, [(one.change.known, group, one.change.freed) for group, one in zip(counted, ready, strict=True)]
    )
    failpoint("together.stored")
    stories = [Story(one.stored, one.drafts, one.change.now) for one in ready if one.drafts]
    newest = iter(events.append_and_stamp(connection, stories) if stories else ())
    failpoint("together.told")
    ended: list[Stored | None] = [None] * count
    for group, one in zip(counted, ready, strict=True):
        stored = replace(group, revision=next(newest)) if one.drafts else group
        ended[one.number] = Stored(stored, one.change.freed is not None)
    return ended


@dataclass(slots=True)
class _Waiting:
    change: Change
    done: asyncio.Future[Stored]


@dataclass(slots=True)
class SharedChanges:
    """Makes the changes of one process: what comes while others are being committed goes into the next commit."""

    store: Store
    _waiting: deque[_Waiting] = field(default_factory=deque)
    _is_led: bool = False
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def write(self, change: Change) -> Stored:
        """The group as it is stored once that is committed; cancelling it changes nothing. Raises like
        `changes.apply`, or Unavailable: then it is not known."""
        if self.store.sqlite or not is_plain(change):
            return await self.store.write(change.alone)
        if self._is_led:
            done: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
            done.add_done_callback(_retrieve)
            self._waiting.append(_Waiting(change, done))
            return await asyncio.shield(done)
        self._is_led = True
        try:
            (stored,) = await self._together([change])
        finally:
            if self._waiting:
                self._go_on(self._lead())
            else:
                self._is_led = False
        return await self.store.write(change.alone) if stored is None else stored

    async def _lead(self) -> None:
        """Until nobody waits any more."""
        some: list[_Waiting] = []
        try:
            while some := self._next():
                await self._commit(some)
                for _ in range(_TURNS):
                    await asyncio.sleep(0)
        finally:
            self._is_led = False
            for one in [*some, *self._waiting]:
                one.done.cancel()  # of a loop that ends; otherwise all are done

    def _next(self) -> list[_Waiting]:
        """Those that waited longest, one a group."""
        some: list[_Waiting] = []
        seen: set[str] = set()
        later: list[_Waiting] = []
        members = 0
        while self._waiting and len(some) < MOST_CHANGES and members < MOST_MEMBERS:
            one = self._waiting.popleft()
            if one.change.known.uuid in seen:
                later.append(one)
                continue
            seen.add(one.change.known.uuid)
            members += len(one.change.known.instances)
            some.append(one)
        self._waiting.extendleft(reversed(later))
        return some

    async def _commit(self, some: Sequence[_Waiting]) -> None:
        """Commit and answer them. Who has to be alone is, and holds up nobody."""
        try:
            ended: Sequence[Stored | None] = await self._together([one.change for one in some])
        except Unavailable as error:
            for one in some:
                one.done.set_exception(Unavailable(error.message))
            return
        except Exception:
            ended = [None] * len(some)  # the fault of one of them, and nothing of any was kept: each for itself
        for one, stored in zip(some, ended, strict=True):
            if stored is not None:
                one.done.set_result(stored)
            else:
                self._go_on(self._alone(one))

    async def _together(self, several: Sequence[Change]) -> list[Stored | None]:
        def in_one_commit(connection: Connection) -> list[Stored | None]:
            return together(connection, several)

        return await self.store.write(in_one_commit)

    def _go_on(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _alone(self, one: _Waiting) -> None:
        try:
            stored = await self.store.write(one.change.alone)
        except Exception as error:
            one.done.set_exception(error)
        else:
            one.done.set_result(stored)


def _retrieve(done: asyncio.Future[Stored]) -> None:
    """Take note of the error: its caller may have left."""
    if not done.cancelled():
        done.exception()
