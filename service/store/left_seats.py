"""What is kept of seats on machines that were given up, as rows (`service/domain/seats.py`).

A BMC may carry out an order long after whoever gave it has gone, and its group with it. By these rows what comes then
is known to be an attempt that was let go here, and may be ended (ARCHITECTURE I15).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, insert, select, tuple_, update

from service.domain.cleaning import Cleaning
from service.domain.seats import MOST_LEFT, SEVERAL, Seating, SeatOf
from service.store import cleanings, clock, fleet, schema
from service.store.statement import Statement, among

_LEFT, _SEATS, _RETIRED, _HOSTS = schema.left_seats, schema.machine_seats, schema.retired, schema.hosts
_MOST_KEYS = 8
_WHY = "its seat there was given up"
_LEFT_HERE = select(_LEFT).where(_LEFT.c.host_uuid == bindparam("host"))
_OF_HOST = Statement(_LEFT_HERE)
_OF_SOME = Statement(
    _LEFT_HERE.with_only_columns(_LEFT.c.instance_uuid, _LEFT.c.attempt, _LEFT.c.why).where(
        among(_LEFT.c.instance_uuid, "of")
    )
)


def keep(connection: Connection, row: Row[Any], now: int) -> None:
    """A seat (of `machine_seats`) is about to be forgotten: what it was known by is kept, by the record that let its
    attempt go. One that never had a key says nothing of its machine."""
    where = _this(row.host_uuid, row.instance_uuid, row.attempt)
    before = connection.execute(select(_LEFT).where(where)).one_or_none()
    kept = (*(before.keys.split() if before is not None else ()), *row.former.split(), *([row.key] if row.key else ()))
    if not kept:
        return
    connection.execute(delete(_LEFT).where(where))
    let_go = select(_RETIRED.c.why).where(
        _RETIRED.c.host_uuid == row.host_uuid,
        _RETIRED.c.instance_uuid == row.instance_uuid,
        _RETIRED.c.attempt == row.attempt,
    )
    served = connection.scalar(select(_HOSTS.c.served).where(_HOSTS.c.uuid == row.host_uuid))
    values = {
        "host_uuid": row.host_uuid,
        "instance_uuid": row.instance_uuid,
        "attempt": row.attempt,
        "cluster": row.cluster,
        "group_uuid": row.group_uuid,
        "keys": " ".join(list(dict.fromkeys(kept))[-_MOST_KEYS:]),
        "unanswered": row.unanswered or (before is not None and before.unanswered),
        "served": served or (before.served if before is not None else ""),
        "why": connection.scalar(let_go) or _WHY,
        "left_at": now,
    }
    connection.execute(insert(_LEFT).values(values))
    newest = select(_LEFT.c.instance_uuid, _LEFT.c.attempt).where(_LEFT.c.host_uuid == row.host_uuid)
    newest = newest.order_by(_LEFT.c.left_at.desc(), _LEFT.c.instance_uuid, _LEFT.c.attempt).offset(MOST_LEFT)
    if too_many := [tuple(one) for one in connection.execute(newest)]:
        these = tuple_(_LEFT.c.instance_uuid, _LEFT.c.attempt).in_(too_many)
        connection.execute(delete(_LEFT).where(_LEFT.c.host_uuid == row.host_uuid, these))


def with_left(connection: Connection, host: str, seats: Sequence[Seating], now: int) -> Sequence[Seating]:
    """The seats of a machine, each with what is kept of it from before, and what is kept of those that are gone."""
    found = {(one.of.instance, one.of.attempt): one for one in seats}
    for row in _OF_HOST.all(connection, {"host": host}):
        key, keys = (row.instance_uuid, row.attempt), frozenset(row.keys.split())
        if (here := found.get(key)) is not None:
            late = here.unanswered or (here.revoked and row.unanswered)
            found[key] = replace(here, former=here.former | keys, unanswered=late)
            continue
        of = SeatOf(row.cluster, row.group_uuid, row.instance_uuid, row.attempt)
        age = max(0, now - row.left_at) / 1000
        found[key] = Seating(of, "", former=keys, unanswered=row.unanswered, left=True, age=age)
    return tuple(found[key] for key in sorted(found))


def answered(connection: Connection, host: str, of: SeatOf) -> None:
    """What the machine was told, to switch on, has taken effect."""
    for table in (_SEATS, _LEFT):
        mine = and_(table.c.host_uuid == host, table.c.instance_uuid == of.instance, table.c.attempt == of.attempt)
        connection.execute(update(table).where(mine, table.c.unanswered).values(unanswered=False))


def came_late(connection: Connection, host_uuid: str, of: SeatOf) -> None:
    """The machine ran for an attempt that was given up, and is off again: whose data that may have brought back is on
    record, so that it is cleaned before another project has it."""
    host = fleet.host(connection, host_uuid, lock=True)
    answered(connection, host_uuid, of)
    served = connection.scalar(select(_LEFT.c.served).where(_this(host_uuid, of.instance, of.attempt))) or ""
    now = host.cleaning.served
    if served and served != now:
        mixed: Cleaning = replace(host.cleaning, served=SEVERAL if now else served)
        cleanings.put(connection, host, mixed, clock.now(connection))


def records(connection: Connection, host: str, instances: Iterable[str]) -> Mapping[tuple[str, int], str]:
    """Which attempts of these instances were given up on the machine, and why."""
    of = sorted(set(instances))
    rows = _OF_SOME.all(connection, {"host": host, "of": of}) if of else ()
    return {(row.instance_uuid, row.attempt): row.why for row in rows}


def forget_old(connection: Connection, before: int) -> None:
    """Forget what was given up before then, in ms since the epoch."""
    connection.execute(delete(_LEFT).where(_LEFT.c.left_at < before))


def _this(host: str, instance: str, attempt: int) -> Any:
    return and_(_LEFT.c.host_uuid == host, _LEFT.c.instance_uuid == instance, _LEFT.c.attempt == attempt)
