"""Seats that are kept while room is made for a group. What is booked on a host nobody else can claim.

A booking may be made of what others still use, where those are about to leave: it becomes a claim once they have, and
the claim's guard alone says whether they have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, insert, select, update

from service.domain.cells import cells_in
from service.domain.groups import Seat
from service.errors import InvariantViolation
from service.failpoints import failpoint
from service.store import rebalances, schema
from service.store.statement import Statement, among

_BOOKINGS, _RESOURCES = schema.bookings, schema.host_resources
_ADD = (
    update(_RESOURCES)
    .where(_RESOURCES.c.host_uuid == bindparam("host"), _RESOURCES.c.resource == bindparam("what"))
    .values(booked=_RESOURCES.c.booked + bindparam("more"))
)
_BOOKED = (
    select(func.coalesce(func.sum(_BOOKINGS.c.amount), 0))
    .where(_BOOKINGS.c.host_uuid == _RESOURCES.c.host_uuid, _BOOKINGS.c.resource == _RESOURCES.c.resource)
    .scalar_subquery()
)
_WRONG = (
    select(_RESOURCES.c.host_uuid, _RESOURCES.c.resource, _RESOURCES.c.booked, _BOOKED.label("sum"))
    .where(_RESOURCES.c.host_uuid.in_(bindparam("hosts", expanding=True)), _RESOURCES.c.booked != _BOOKED)
    .limit(1)
)
_OPEN = (
    select(_BOOKINGS.c.room)
    .where(_BOOKINGS.c.room.in_(bindparam("of", expanding=True)), _BOOKINGS.c.group_uuid == _BOOKINGS.c.for_group)
    .distinct()
)
_SEATS = Statement(
    select(_BOOKINGS.c.instance_uuid, _BOOKINGS.c.host_uuid, _BOOKINGS.c.resource, _BOOKINGS.c.amount).where(
        among(_BOOKINGS.c.instance_uuid, "of")
    )
)
SEATED = (
    select(_BOOKINGS.c.host_uuid, _BOOKINGS.c.instance_uuid, _BOOKINGS.c.group_uuid, schema.groups.c.exclusive_hosts)
    .join(schema.groups, schema.groups.c.uuid == _BOOKINGS.c.group_uuid)
    .distinct()
)
"""Every seat that is kept, as `claims.seated` tells it."""


def book(connection: Connection, room: str, for_group: str, seats: Sequence[tuple[str, Seat]]) -> None:
    """Keep these seats, (group, seat) each. The caller holds the hosts' locks and has seen that there will be room."""
    rows = [
        {
            "instance_uuid": seat.instance_uuid,
            "host_uuid": seat.host_uuid,
            "resource": resource,
            "room": room,
            "group_uuid": group_uuid,
            "for_group": for_group,
            "amount": amount,
        }
        for group_uuid, seat in seats
        for resource, amount in sorted(seat.claimed.items())
        if amount
    ]
    connection.execute(insert(_BOOKINGS), rows)
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for _, seat in seats:
        for resource, amount in seat.claimed.items():
            sums[seat.host_uuid, resource] += amount
    failpoint("room.booked")
    _add(connection, sums)


def give_back(connection: Connection, room: str, instances: Iterable[str]) -> None:
    """These members' seats in the room are kept no longer, wherever they are; those that have none are ignored."""
    wanted = sorted(set(instances))
    if wanted:
        _drop(connection, (_BOOKINGS.c.room == room) & _BOOKINGS.c.instance_uuid.in_(wanted))


def use(connection: Connection, seats: Iterable[Seat]) -> None:
    """What was booked for these seats on their hosts is about to be claimed. The caller holds the hosts' locks."""
    wanted = {seat.instance_uuid: seat.host_uuid for seat in seats}
    for instance, (host, _) in sorted(booked(connection, wanted).items()):
        if wanted[instance] == host:
            _drop(connection, (_BOOKINGS.c.instance_uuid == instance) & (_BOOKINGS.c.host_uuid == host))


def open_rooms(connection: Connection, rooms: Iterable[str], now: int) -> frozenset[str]:
    """Which of these rooms are still wanted at `now` (ms): the group that they are for has its seats booked, or they
    are a rebalance's that goes on."""
    asked = sorted(set(rooms))
    return frozenset(connection.scalars(_OPEN, {"of": asked})) | rebalances.wanted(connection, asked, now)


def booked(connection: Connection, instances: Iterable[str]) -> Mapping[str, tuple[str, tuple[int, ...]]]:
    """Instance -> the host on which a seat is kept for it and its cells there, of those for which one is."""
    found: dict[str, tuple[str, dict[str, int]]] = {}
    for row in _SEATS.all(connection, {"of": sorted(set(instances))}):
        found.setdefault(row.instance_uuid, (row.host_uuid, {}))[1][row.resource] = row.amount
    return {instance: (host, cells_in(vector)) for instance, (host, vector) in found.items()}


def for_group(connection: Connection, room: str) -> str:
    """The group that this room is made for; "" where nothing is kept for it, or it is a rebalance's."""
    query = select(_BOOKINGS.c.for_group).where(_BOOKINGS.c.room == room).limit(1)
    return connection.scalar(query) or ""


def on_host(connection: Connection, host_uuid: str) -> int:
    """How many seats are kept on the host."""
    query = select(func.count(_BOOKINGS.c.instance_uuid.distinct())).where(_BOOKINGS.c.host_uuid == host_uuid)
    return int(connection.scalar(query) or 0)


def _drop(connection: Connection, which: ColumnElement[bool]) -> None:
    sums: dict[tuple[str, str], int] = defaultdict(int)
    gone = delete(_BOOKINGS).where(which)
    for row in connection.execute(gone.returning(_BOOKINGS.c.host_uuid, _BOOKINGS.c.resource, _BOOKINGS.c.amount)):
        sums[row.host_uuid, row.resource] -= row.amount
    failpoint("room.given_back")
    _add(connection, sums)


def _add(connection: Connection, sums: Mapping[tuple[str, str], int]) -> None:
    for (host_uuid, resource), amount in sorted(sums.items()):  # the order in which claims lock them
        connection.execute(_ADD, {"host": host_uuid, "what": resource, "more": amount})
    wrong = connection.execute(_WRONG, {"hosts": sorted({host for host, _ in sums})}).one_or_none()
    if wrong is not None:
        where, what = wrong.host_uuid, wrong.resource
        raise InvariantViolation(f"host {where}: {wrong.booked} {what} booked is not the sum of bookings, {wrong.sum}")
