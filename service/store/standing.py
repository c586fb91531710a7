"""How a stored group stands: locked, compared with what its writer knows of it, and its claims of the same moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, select, true

from service.domain.groups import Group
from service.store import schema
from service.store.statement import Statement, among

Seats = Mapping[tuple[str, int], frozenset[str]]
"""(instance, attempt) -> hosts."""
_GROUPS, _CLAIMS = schema.groups, schema.claims
# Its claims with it: where the group is as known they are of the same moment, for they change in its commits alone.
_SEATS = select(_CLAIMS.c.instance_uuid, _CLAIMS.c.attempt, _CLAIMS.c.host_uuid).distinct()
_OF_ALL = _CLAIMS.c.group_uuid == bindparam("of")


def stands(*more: ColumnElement[Any], whose: ColumnElement[bool] = _OF_ALL) -> Statement:
    """How the group `of` stands, locked as by `groups.load`, for `seats_as_known`. `more`: what else is asked; where
    others held the lock it is of the moment before that was waited for. `whose`: the claims that are told of."""
    seats = _SEATS.where(whose).subquery()
    return Statement(
        select(_GROUPS.c.version, _GROUPS.c.epoch, *seats.c, *more)
        .select_from(_GROUPS.outerjoin(seats, true()))
        .where(_GROUPS.c.uuid == bindparam("of"))
        .with_for_update(of=_GROUPS)
    )


_STANDS, _STANDS_OF_SOME = stands(), stands(whose=among(_CLAIMS.c.instance_uuid, "members"))


def as_known(connection: Connection, known: Group, members: Sequence[str] | None = None) -> Seats | None:
    """Where the stored group is this very version under this very lease: (instance, attempt) -> hosts of its claims, at
    least those of `members` (uuids). None where it is not. It is locked from here on as by `groups.load`."""
    if members is None or 2 * len(members) > len(known.instances):
        return seats_as_known(known, _STANDS.all(connection, {"of": known.uuid}))
    return seats_as_known(known, _STANDS_OF_SOME.all(connection, {"of": known.uuid, "members": members}))


def seats_as_known(known: Group, rows: Sequence[Any]) -> Seats | None:
    """From the rows of a statement of `stands`: see `as_known`."""
    if not rows or (rows[0].version, rows[0].epoch) != (known.version, known.epoch):
        return None
    seats: dict[tuple[str, int], set[str]] = {}
    for row in rows:
        if row.instance_uuid is not None:
            seats.setdefault((row.instance_uuid, row.attempt), set()).add(row.host_uuid)
    return {attempt: frozenset(hosts) for attempt, hosts in seats.items()}
