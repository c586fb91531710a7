"""How a stored group stands: locked, compared with what its writer knows of it, and its claims of the same moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, select, true

from service.domain.groups import Group
from service.store import schema
from service.store.statement import Statement

Seats = Mapping[tuple[str, int], frozenset[str]]
"""(instance, attempt) -> hosts."""
_GROUPS, _CLAIMS = schema.groups, schema.claims
# Its claims with it: where the group is as known they are of the same moment, for they change in its commits alone.
_SEATS = (
    select(_CLAIMS.c.instance_uuid, _CLAIMS.c.attempt, _CLAIMS.c.host_uuid)
    .where(_CLAIMS.c.group_uuid == bindparam("of"))
    .distinct()
    .subquery()
)


def stands(*more: ColumnElement[Any]) -> Statement:
    """How the group `of` stands, locked as by `groups.load`, for `seats_as_known`. `more`: what else is asked; where
    others held the lock it is of the moment before that was waited for."""
    return Statement(
        select(_GROUPS.c.version, _GROUPS.c.epoch, *_SEATS.c, *more)
        .select_from(_GROUPS.outerjoin(_SEATS, true()))
        .where(_GROUPS.c.uuid == bindparam("of"))
        .with_for_update(of=_GROUPS)
    )


_STANDS = stands()


def as_known(connection: Connection, known: Group) -> Seats | None:
    """Where the stored group is this very version under this very lease: (instance, attempt) -> hosts of its claims.
    None where it is not. It is locked from here on as by `groups.load`."""
    return seats_as_known(known, _STANDS.all(connection, {"of": known.uuid}))


def seats_as_known(known: Group, rows: Sequence[Any]) -> Seats | None:
    """From the rows of a statement of `stands`: see `as_known`."""
    if not rows or (rows[0].version, rows[0].epoch) != (known.version, known.epoch):
        return None
    seats: dict[tuple[str, int], set[str]] = {}
    for row in rows:
        if row.instance_uuid is not None:
            seats.setdefault((row.instance_uuid, row.attempt), set()).add(row.host_uuid)
    return {attempt: frozenset(hosts) for attempt, hosts in seats.items()}
