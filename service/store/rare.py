"""What is seldom there, asked for in one statement: who plans and claims reads only of that of which there is some.

Each flag says that there may be something, and where it says no there is nothing, of the moment of the statement. What
changes only under the lock of the group's row is asked for under that lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, or_, select

from service.domain.groups import GroupPhase
from service.domain.ownership import Holding
from service.store import schema, waiting
from service.store.statement import Statement, among

_GROUPS, _APART, _QUARANTINE, _QUOTAS = schema.groups, schema.group_apart, schema.quarantine, schema.quotas


class Rare(NamedTuple):
    """`held`: something keeps groups, or this one, from being placed (`ownership.in_the_way`); `waiting`: groups wait
    for hosts; `apart`: some are to be apart from others; `booked`: seats are kept for its members; `quota`: its project
    has one; `retired`: attempts of its members were let go before."""

    held: bool = True
    waiting: bool = True
    apart: bool = True
    booked: bool = True
    quota: bool = True
    retired: bool = True


_RARE = Statement(
    select(
        or_(
            select(schema.hosts.c.uuid).where(schema.hosts.c.ahead).exists(),
            select(_QUARANTINE.c.key)
            .where(_QUARANTINE.c.group_uuid == bindparam("group"), _QUARANTINE.c.holding == Holding.MACHINE.value)
            .exists(),
        ).label("held"),
        select(_GROUPS.c.uuid).where(waiting.WAITS).exists().label("waiting"),
        select(_APART.c.group_uuid)
        .join(_GROUPS, _GROUPS.c.uuid == _APART.c.group_uuid)
        .where(_GROUPS.c.phase != GroupPhase.DELETED.value)
        .exists()
        .label("apart"),
        select(schema.bookings.c.room)
        .where(among(schema.bookings.c.instance_uuid, "members"))
        .exists()
        .label("booked"),
        select(_QUOTAS.c.resource).where(_QUOTAS.c.project == bindparam("project")).exists().label("quota"),
        select(schema.retired.c.attempt)
        .where(among(schema.retired.c.instance_uuid, "members"))
        .exists()
        .label("retired"),
    )
)


def rare(connection: Connection, group_uuid: str, project: str, members: Sequence[str]) -> Rare:
    """Of a group, its project and these of its members (uuids)."""
    row = _RARE.first(connection, {"group": group_uuid, "project": project, "members": members})
    return Rare(*map(bool, row))
