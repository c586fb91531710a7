"""What is seldom there, asked for in one statement: who plans and claims reads only of that of which there is some.

Each flag says that there may be something, and where it says no there is nothing, of the moment of the statement. What
is booked for members and which attempts were let go changes only with a new version of their group, so for a group that
stands as known it is of the moment of its lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, bindparam, case, or_, select, union_all

from service.domain.groups import Group, GroupPhase
from service.domain.ownership import Holding
from service.store import basis, schema, standing, waiting
from service.store.basis import Basis
from service.store.standing import Seats
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


_THERE: dict[str, ColumnElement[bool]] = {
    "held": or_(
        select(schema.hosts.c.uuid).where(schema.hosts.c.ahead).exists(),
        select(_QUARANTINE.c.key)
        .where(_QUARANTINE.c.group_uuid == bindparam("group"), _QUARANTINE.c.holding == Holding.MACHINE.value)
        .exists(),
    ),
    "waiting": select(_GROUPS.c.uuid).where(waiting.WAITS).exists(),
    "apart": select(_APART.c.group_uuid)
    .join(_GROUPS, _GROUPS.c.uuid == _APART.c.group_uuid)
    .where(_GROUPS.c.phase != GroupPhase.DELETED.value)
    .exists(),
    "booked": select(schema.bookings.c.room).where(among(schema.bookings.c.instance_uuid, "members")).exists(),
    "quota": select(_QUOTAS.c.resource).where(_QUOTAS.c.project == bindparam("project")).exists(),
    "retired": select(schema.retired.c.attempt).where(among(schema.retired.c.instance_uuid, "members")).exists(),
}
# A bit each, in their order, so that it has a place in statements that are about something else.
_BITS: ColumnElement[int] = reduce(add, (case((_THERE[n], 1 << bit), else_=0) for bit, n in enumerate(Rare._fields)))
_RARE = Statement(select(_BITS))
_WITH_BASIS = Statement(union_all(*basis.PARTS, basis.further(_BITS)))
_WITH_STAND = standing.stands(_BITS.label("rare"))


def rare(connection: Connection, group_uuid: str, project: str, members: Sequence[str]) -> Rare:
    """Of a group, its project and these of its members (uuids)."""
    return _rare(_RARE.scalar(connection, _of(group_uuid, project, members)))


def with_basis(connection: Connection, group_uuid: str, project: str, members: Sequence[str]) -> tuple[Rare, Basis]:
    """`rare`, and the basis of the project's deploys, of one moment."""
    found, further = basis.sorted_out(_WITH_BASIS.all(connection, _of(group_uuid, project, members)))
    return _rare(further), found


def with_stand(connection: Connection, known: Group, members: Sequence[str]) -> tuple[Seats, Rare] | None:
    """`standing.as_known`, and what is rare about the group where it is as known."""
    rows = _WITH_STAND.all(connection, {"of": known.uuid, **_of(known.uuid, known.project, members)})
    seats = standing.seats_as_known(known, rows)
    return None if seats is None else (seats, _rare(rows[0].rare))


def _of(group_uuid: str, project: str, members: Sequence[str]) -> dict[str, object]:
    return {"group": group_uuid, "project": project, "members": members}


def _rare(bits: int) -> Rare:
    return Rare(*(bool(bits >> bit & 1) for bit in range(len(Rare._fields))))
