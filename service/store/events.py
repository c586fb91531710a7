"""The event log: one global revision without gaps in commit order, one gapless sequence a group.

Revisions come from a counter row updated in the writing transaction, because sequences of PostgreSQL are not ordered by
commit. The row's lock is taken last in a transaction, so that writers wait for each other only while they commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import ARRAY, BigInteger, Connection, Row, Text, bindparam, func, insert, select, true, update

from service.domain.events import Event, EventKind
from service.domain.groups import Group, Instance, PlacementRecord
from service.store import hints, schema
from service.store.codec import decode, encode
from service.store.statement import Statement

T = TypeVar("T")
_TOLD = "told"
"""Key in `Connection.info` of the list that `noting` fills."""
REVISION = "revision"
COMPACTED = "compacted_revision"
_COLUMNS = ("group_uuid", "sequence", "kind", "project", "time", "body")
"""Of an event's row, beside its revision."""

_COUNT = Statement(
    update(schema.counters)
    .where(schema.counters.c.name == REVISION)
    .values(value=schema.counters.c.value + bindparam("more"))
    .returning(schema.counters.c.value)
)


def _telling(*, stamps: bool) -> Statement:
    """PostgreSQL's way: one statement takes the numbers, writes events in the order of its arrays, has every replica
    look for news with the commit, and gives the counter as it is after it, so that its lock is held for nothing else.
    `stamps`: the rows of the groups `of` get the revision that is `back` before that as well."""
    taken = (
        update(schema.counters)
        .where(schema.counters.c.name == REVISION)
        .values(value=schema.counters.c.value + bindparam("more"))
        .returning(schema.counters.c.value)
        .cte("taken")
    )
    arrays = [bindparam(name, type_=ARRAY(BigInteger if name in ("sequence", "time") else Text)) for name in _COLUMNS]
    new = func.unnest(*arrays).table_valued(*_COLUMNS, with_ordinality="place", name="new").render_derived()
    revision = taken.c.value - bindparam("more") + new.c.place
    told = select(revision, *(new.c[name] for name in _COLUMNS)).select_from(taken.join(new, true()))
    written = insert(schema.events).from_select(["revision", *_COLUMNS], told).cte("written")
    query = select(taken.c.value, hints.TELL_NEWS).add_cte(written)
    if stamps:
        marks = bindparam("of", type_=ARRAY(Text)), bindparam("back", type_=ARRAY(BigInteger))
        mark = func.unnest(*marks).table_valued("uuid", "back", name="mark").render_derived()
        groups = update(schema.groups).where(schema.groups.c.uuid == mark.c.uuid)
        query = query.add_cte(groups.values(revision=taken.c.value - mark.c.back).cte("stamped"))
    return Statement(query)


_TELL, _TELL_AND_STAMP = _telling(stamps=False), _telling(stamps=True)
_HEAD = Statement(select(schema.counters.c.name, schema.counters.c.value))
_INSERT = Statement(insert(schema.events), ("revision", *_COLUMNS))
_AFTER = (
    select(schema.events)
    .where(schema.events.c.revision > bindparam("behind"))
    .order_by(schema.events.c.revision)
    .limit(bindparam("most"))
)
_OF_GROUP = schema.events.c.group_uuid == bindparam("of")
_OF_PROJECT = schema.events.c.project == bindparam("in")
_AFTER_ALL = Statement(_AFTER)
_AFTER_OF = {
    (True, False): Statement(_AFTER.where(_OF_GROUP)),
    (False, True): Statement(_AFTER.where(_OF_PROJECT)),
    (True, True): Statement(_AFTER.where(_OF_GROUP, _OF_PROJECT)),
}


@dataclass(frozen=True, slots=True)
class Draft:
    """An event before it has a revision. `body` is a Group, an Instance or a PlacementRecord, as `kind` says."""

    kind: EventKind
    sequence: int
    body: Group | Instance | PlacementRecord


def noting(work: Callable[[Connection], T], told: list[Event]) -> Callable[[Connection], T]:
    """`work`, which leaves in `told` the events that it appended in the run that was kept."""

    @wraps(work)
    def noted(connection: Connection) -> T:
        told.clear()  # it may be run more than once
        noted_at = connection.info  # of a connection that is lost meanwhile it is not told any more
        noted_at[_TOLD] = told
        try:
            return work(connection)
        finally:
            noted_at.pop(_TOLD, None)

    return noted


class Story(NamedTuple):
    """New events of a group, in order."""

    group: Group
    drafts: Sequence[Draft]
    now: int


def append(connection: Connection, group: Group, drafts: Sequence[Draft], now: int) -> int:
    """Write the drafts; returns the newest revision."""
    story = Story(group, drafts, now)
    if not drafts:
        return count(connection, 0)
    rows = _rows([story])
    if connection.dialect.name == "postgresql":
        last = int(_TELL.scalar(connection, _arrays(rows)))
    else:
        last = count(connection, len(rows))
        first = last - len(rows) + 1
        _INSERT.many(
            connection, [dict(zip(_COLUMNS, row, strict=True), revision=first + n) for n, row in enumerate(rows)]
        )
    _note(connection, [story], last)
    return last


def append_and_stamp(connection: Connection, stories: Sequence[Story]) -> list[int]:
    """On PostgreSQL: write the events of several groups, each of which has some, and into the groups' rows the newest
    revision of each, which is returned. The counter's lock is held from here to the commit."""
    rows = _rows(stories)
    so_far = list(accumulate(len(story.drafts) for story in stories))
    behind = [so_far[-1] - far for far in so_far]
    marks = {"of": [story.group.uuid for story in stories], "back": behind}
    last = int(_TELL_AND_STAMP.scalar(connection, {**_arrays(rows), **marks}))
    _note(connection, stories, last)
    return [last - back for back in behind]


def _rows(stories: Sequence[Story]) -> list[tuple[Any, ...]]:
    """Of all events, in order: what is stored in _COLUMNS."""
    return [
        (group.uuid, draft.sequence, draft.kind.value, group.project, now, encode(draft.body))
        for group, drafts, now in stories
        for draft in drafts
    ]


def _arrays(rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    columns = map(list, zip(*rows, strict=True))
    return {"more": len(rows), **dict(zip(_COLUMNS, columns, strict=True))}


def _note(connection: Connection, stories: Sequence[Story], last: int) -> None:
    """Leave what was appended, up to revision `last`, to `noting`."""
    told: list[Event] | None = connection.info.get(_TOLD)
    if told is None:
        return
    first = last - sum(len(story.drafts) for story in stories) + 1
    drafted = [(group, draft, now) for group, drafts, now in stories for draft in drafts]
    told += [_drafted(group, draft, first + n, now) for n, (group, draft, now) in enumerate(drafted)]


def count(connection: Connection, more: int) -> int:
    """Take the next `more` revisions; returns the last. The counter's lock is held from here to the commit."""
    return int(_COUNT.scalar(connection, {"more": more}))


def head(connection: Connection) -> tuple[int, int]:
    """`(oldest, newest)`: the newest revision, and the oldest that a watch may start *after* (0: nothing compacted)."""
    values = {row.name: int(row.value) for row in _HEAD.all(connection)}
    return values.get(COMPACTED, 0), values[REVISION]


def after(
    connection: Connection, revision: int, limit: int, *, group_uuid: str | None = None, project: str | None = None
) -> tuple[Event, ...]:
    """Up to `limit` events with a revision above the given one, in order."""
    if group_uuid is None and project is None:
        return tuple(_event(row) for row in _AFTER_ALL.all(connection, {"behind": revision, "most": limit}))
    asked = {"behind": revision, "most": limit, "of": group_uuid, "in": project}
    known = _AFTER_OF[group_uuid is not None, project is not None]
    return tuple(_event(row) for row in known.all(connection, asked))


def of_group(connection: Connection, group_uuid: str, sequence: int, limit: int) -> tuple[Event, ...]:
    """Up to `limit` events of one group with a sequence above the given one, in order."""
    table = schema.events
    query = select(table).where(table.c.group_uuid == group_uuid, table.c.sequence > sequence)
    return tuple(_event(row) for row in connection.execute(query.order_by(table.c.sequence).limit(limit)))


def newest(connection: Connection, group_uuid: str) -> int:
    """The revision of the group's newest event."""
    revision = connection.scalar(
        select(schema.events.c.revision)
        .where(schema.events.c.group_uuid == group_uuid)
        .order_by(schema.events.c.sequence.desc())
        .limit(1)
    )
    return int(revision or 0)


def first(connection: Connection, group_uuid: str) -> int:
    """The revision of the group's oldest event that is still kept. 1 above the head where none is."""
    revision = connection.scalar(
        select(schema.events.c.revision)
        .where(schema.events.c.group_uuid == group_uuid)
        .order_by(schema.events.c.sequence)
        .limit(1)
    )
    return int(revision) if revision is not None else head(connection)[1] + 1


def newest_before(connection: Connection, time: int) -> int:
    """The newest revision of an event from before `time` (ms); 0 where there is none."""
    table = schema.events
    revision = connection.scalar(
        select(table.c.revision).where(table.c.time < time).order_by(table.c.revision.desc()).limit(1)
    )
    return int(revision or 0)


def compact(connection: Connection, keep_after: int) -> int:
    """Forget events and the fleet's changes up to and including revision `keep_after`; returns how many events went."""
    connection.execute(schema.fleet_events.delete().where(schema.fleet_events.c.revision <= keep_after))
    gone = connection.execute(schema.events.delete().where(schema.events.c.revision <= keep_after)).rowcount
    connection.execute(
        update(schema.counters)
        .where(schema.counters.c.name == COMPACTED, schema.counters.c.value < keep_after)
        .values(value=keep_after)
    )
    return gone


def _drafted(group: Group, draft: Draft, revision: int, now: int) -> Event:
    """The event as it will be read."""
    body: dict[str, Any] = {}
    if isinstance(draft.body, Group):
        body["group"] = replace(draft.body, revision=revision, sequence=draft.sequence)
    else:
        body["instance" if isinstance(draft.body, Instance) else "placement"] = draft.body
    return Event(
        revision=revision,
        group_uuid=group.uuid,
        sequence=draft.sequence,
        kind=draft.kind,
        time=now,
        project=group.project,
        **body,
    )


def _event(row: Row[Any]) -> Event:
    kind = EventKind(row.kind)
    body: dict[str, Any] = {}
    if kind in (EventKind.ACCEPTED, EventKind.GROUP, EventKind.FINAL):
        body["group"] = replace(decode(Group, row.body), revision=row.revision, sequence=row.sequence)
    elif kind is EventKind.INSTANCE:
        body["instance"] = decode(Instance, row.body)
    else:
        body["placement"] = decode(PlacementRecord, row.body)
    return Event(
        revision=row.revision,
        group_uuid=row.group_uuid,
        sequence=row.sequence,
        kind=kind,
        time=row.time,
        project=row.project,
        **body,
    )
