"""Stored times that somebody waits for, held to the present: none lies further ahead than it is ever set.

A database's clock may have been wrong and be set right. What was stored meanwhile then lies in the future, and whoever
waits for it would sleep for as long as the clock was ahead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Column, ColumnElement, Connection, update

from service.store import schema

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
        columns = schema.metadata.tables[wait.table].c
        column = columns[wait.column]
        held_to: dict[Column[int], ColumnElement[int] | int] = {column: now + wait.longest_ms}
        too_far = column > now + wait.longest_ms + SLACK_MS
        if wait.since:
            begun = columns[wait.since]
            held_to, too_far = {column: column - begun + now, begun: now}, begun > now + SLACK_MS
        if count := connection.execute(update(column.table).where(too_far).values(held_to)).rowcount:
            held[wait.kind] = count
    return held
