"""Stored times that somebody waits for, held to the present: none lies further ahead than it is ever set.

A database's clock may have been wrong and be set right. What was stored meanwhile then lies in the future, and whoever
waits for it would sleep for as long as the clock was ahead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from sqlalchemy import BigInteger, Column, ColumnElement, Connection, bindparam, update

from service.store import schema
from service.store.statement import Statement

SLACK_MS = 20_000
"""A time may have been set after `now` was read: later by as long as a transaction takes, at most."""


@dataclass(frozen=True, slots=True)
class Wait:
    """One stored time, ms since the epoch: `kind` in words for metrics, and the longest that it is set ahead, in ms.

    `since`: instead, the column of the time from which it was set, where each row has a length of its own.
    """

    kind: str
    table: str
    column: str
    longest_ms: int = 0
    since: str = ""


def hold_to_present(connection: Connection, now: int, waits: Iterable[Wait]) -> Mapping[str, int]:
    """Set each time that lies too far ahead of `now` to the furthest that it can lie. Answers kind -> how many were."""
    held: dict[str, int] = {}
    for wait in waits:
        ahead = 0 if wait.since else wait.longest_ms
        if count := _held(wait).run(connection, {"held_to": now + ahead, "furthest": now + ahead + SLACK_MS}):
            held[wait.kind] = count
    return held


@cache
def _held(wait: Wait) -> Statement:
    columns = schema.metadata.tables[wait.table].c
    column, present = columns[wait.column], bindparam("held_to", type_=BigInteger())
    held_to: dict[Column[int], ColumnElement[int]] = {column: present}
    late = column
    if wait.since:
        late = columns[wait.since]
        held_to = {column: column - late + present, late: present}
    return Statement(update(column.table).where(late > bindparam("furthest", type_=BigInteger())).values(held_to))
