"""The event log: one global revision without gaps in commit order, one gapless sequence a group.

Revisions come from a counter row updated in the writing transaction, because sequences of PostgreSQL are not ordered by
commit. The row's lock is taken last in a transaction, so that writers wait for each other only while they commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, TypeVar

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Connection,
    Row,
    Text,
    bindparam,
    column,
    func,
    insert,
    select,
    true,
    update,
)
from sqlalchemy.types import TypeEngine

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


_COUNT = Statement(
    update(schema.counters)
    .where(schema.counters.c.name == REVISION)
    .values(value=schema.counters.c.value + bindparam("more"))
    .returning(schema.counters.c.value)
)
_HEAD = Statement(select(schema.counters.c.name, schema.counters.c.value))
_EACH: dict[str, TypeEngine[Any]] = {"sequence": BigInteger(), "kind": Text(), "body": Text()}
_NAMES = ("revision", "group_uuid", "sequence", "kind", "project", "time", "body")
_INSERT = Statement(insert(schema.events), _NAMES)


def _counted_and_told() -> Statement:
    """Both in one, and with its commit every replica looks for new events at once: PostgreSQL alone can, and has
    anybody to tell. Others wait for the counter from here on, so there is one way to the database less in that."""
    counted = (
        update(schema.counters)
        .where(schema.counters.c.name == REVISION)
        .values(value=schema.counters.c.value + bindparam("more", type_=BigInteger))
        .returning(schema.counters.c.value, hints.TELL_NEWS)
        .cte("counted")
    )
    drafts = (
        func.unnest(*(bindparam(name, type_=ARRAY(kind)) for name, kind in _EACH.items()))
        .table_valued(*(column(name, kind) for name, kind in _EACH.items()), with_ordinality="place", name="drafts")
        .render_derived()
    )
    revision = counted.c.value - bindparam("more", type_=BigInteger) + drafts.c.place
    of_all = {name: bindparam(name, type_=schema.events.c[name].type) for name in ("group_uuid", "project", "time")}
    values = {"revision": revision, **of_all, **{name: drafts.c[name] for name in _EACH}}
    return Statement(
        insert(schema.events)
        .from_select(_NAMES, select(*(values[name] for name in _NAMES)).select_from(counted.join(drafts, true())))
        .returning(schema.events.c.revision)
    )


_COUNT_INSERT_TELL = _counted_and_told()
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


def append(connection: Connection, group: Group, drafts: Sequence[Draft], now: int) -> int:
    """Write the drafts; returns the newest revision."""
    if not drafts:
        return count(connection, 0)
    of_all = {"group_uuid": group.uuid, "project": group.project, "time": now}
    each = [(draft.sequence, draft.kind.value, encode(draft.body)) for draft in drafts]
    if connection.dialect.name == "postgresql":
        columns = dict(zip(_EACH, map(list, zip(*each, strict=True)), strict=True))
        last = int(max(_COUNT_INSERT_TELL.scalars(connection, {"more": len(drafts), **of_all, **columns})))
    else:
        last = count(connection, len(drafts))
        rows = (dict(zip(_EACH, one, strict=True)) for one in each)
        _INSERT.many(
            connection, [{**row, **of_all, "revision": at} for at, row in enumerate(rows, last - len(drafts) + 1)]
        )
    told: list[Event] | None = connection.info.get(_TOLD)
    if told is not None:
        told += [_drafted(group, draft, at, now) for at, draft in enumerate(drafts, last - len(drafts) + 1)]
    return last


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
