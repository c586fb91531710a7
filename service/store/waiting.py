"""Groups that wait for hosts, in their order; and how often room was given back, which is what they wait for.

The count rises in the transaction that gives the room back. It is counted after the events' revision, whose row
everybody locks last; so whoever has it waits for nobody who could wait for him.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from sqlalchemy import Connection, func, select, update

from service.domain.groups import GroupPhase, Waiting
from service.domain.waiting import Queue, Waiter, ordered, share
from service.store import events, hints, schema, usage
from service.store.codec import decode_known
from service.store.statement import Statement

GIVEN_BACK = "room_given_back"
MOST_HASTENED = 4
"""So many that wait are woken at once, the first first; those behind them come when these have had their turn."""

_GROUPS, _COUNTERS = schema.groups, schema.counters
_COUNT = Statement(update(_COUNTERS).where(_COUNTERS.c.name == GIVEN_BACK).values(value=_COUNTERS.c.value + 1))
_SO_FAR = select(_COUNTERS.c.value).where(_COUNTERS.c.name == GIVEN_BACK).scalar_subquery()
WAITS = (_GROUPS.c.waiting_since > 0) & (_GROUPS.c.phase == GroupPhase.PLANNING.value)
"""Of a group's row: it waits for hosts."""
_QUEUE = Statement(
    select(
        _GROUPS.c.uuid,
        _GROUPS.c.project,
        _GROUPS.c.created_at,
        _GROUPS.c.waiting_looked,
        _GROUPS.c.looked_at,
        _GROUPS.c.waiting_why,
        _GROUPS.c.waiting_kept,
        _GROUPS.c.priority,
        _SO_FAR.label("given_back"),
    ).where(WAITS)
)
_SOMEBODY_IS_LATE = Statement(select(_GROUPS.c.uuid).where(WAITS, _GROUPS.c.waiting_looked < _SO_FAR).limit(1))
_ENDS = select(_GROUPS.c.uuid, _GROUPS.c.ends_at).where(
    _GROUPS.c.ends_at > 0, _GROUPS.c.phase.not_in((GroupPhase.FAILED.value, GroupPhase.DELETED.value))
)


def waits(waiting: Waiting | None) -> Mapping[str, int | str]:
    """Of how a group waits, what its row has in columns of their own."""
    if waiting is None:
        return {"waiting_since": 0, "waiting_looked": 0, "looked_at": 0, "waiting_why": "", "waiting_kept": 0}
    kept = {seat.host_uuid for seat in waiting.kept.seats} if waiting.kept is not None else ()
    return {
        "waiting_since": waiting.since,
        "waiting_looked": waiting.looked,
        "looked_at": waiting.looked_at,
        "waiting_why": waiting.failure.code if waiting.failure is not None else "",
        "waiting_kept": len(kept),
    }


def given_back(connection: Connection) -> None:
    """Room is given back with this transaction, and whoever waits for some looks at once."""
    events.count(connection, 0)
    _COUNT.run(connection)
    hints.group_is_due(connection, "")


def so_far(connection: Connection) -> int:
    """How often room was given back."""
    return int(connection.scalar(select(_SO_FAR)) or 0)


def queue(connection: Connection, now: int, project: str, *, counted: bool) -> tuple[Queue, Mapping[str, float]]:
    """Who waits, in order, and what share of what it may have each project uses, of those that wait and `project`; none
    where all are of one, which stand in one line. `counted`: how often room was given back is to be told though nobody
    waits."""
    rows = _QUEUE.all(connection)
    if not rows:
        return Queue((), so_far(connection) if counted else 0, now), {}
    projects = {row.project for row in rows} | {project}
    shares = _shares(connection, projects) if len(projects) > 1 else {}
    waiters = [
        Waiter(
            r.uuid,
            r.project,
            r.created_at,
            r.waiting_looked,
            r.looked_at,
            r.waiting_why,
            r.waiting_kept > 0,
            r.priority,
        )
        for r in rows
    ]
    return Queue(ordered(waiters, shares), rows[0].given_back or 0, now), shares


def to_wake(connection: Connection, now: int) -> tuple[str, ...]:
    """The first of those that have not looked since room was given back. `now`: ms."""
    if _SOMEBODY_IS_LATE.scalar(connection) is None:
        return ()
    line, _ = queue(connection, now, "", counted=False)
    return tuple(waiter.uuid for waiter in line.owed(line.waiters)[:MOST_HASTENED])


def ends(connection: Connection) -> Mapping[str, int]:
    """Group -> by when (ms) its caller says that it will be gone, of those that have said so."""
    return {row.uuid: row.ends_at for row in connection.execute(_ENDS)}


def counts(connection: Connection) -> Mapping[str, int]:
    """How many wait for which reason."""
    why = (decode_known(Waiting, text).failure for text in connection.scalars(select(_GROUPS.c.waiting).where(WAITS)))
    return Counter(failure.code for failure in why if failure is not None)


def kept_hosts(connection: Connection) -> int:
    """On how many hosts room is kept for whoever is the first in line."""
    return int(connection.scalar(select(func.max(_GROUPS.c.waiting_kept)).where(WAITS)) or 0)


def _shares(connection: Connection, projects: set[str]) -> Mapping[str, float]:
    """Of its quota; of the whole fleet where a project has none."""
    claimed, limits = usage.claimed(connection, projects), usage.limits(connection, projects)
    table = schema.host_resources
    whole: Mapping[str, int] = {}
    if any(not limits.get(name) for name in projects):
        sums = select(table.c.resource, func.sum(table.c.usable).label("amount")).group_by(table.c.resource)
        whole = {row.resource: int(row.amount) for row in connection.execute(sums)}
    return {name: share(claimed.get(name, {}), limits.get(name) or whole) for name in projects}
