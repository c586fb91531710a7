"""Claims of capacity, and their end. The guard stands inside the UPDATE, never after a SELECT of a sum."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Table,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    tuple_,
    union_all,
    update,
)

from service.domain.cleaning import CleaningState
from service.domain.fleet import GPU, HostState, HostStatus
from service.domain.groups import GroupPhase, Seat
from service.errors import InvariantViolation
from service.failpoints import failpoint
from service.store import bookings, devices, schema
from service.store.engine import FLEET_LOCK
from service.store.statement import Statement, among


class ClaimLost(Exception):
    """Since the plan was made a host has filled up or takes no claims any more, or an address was taken: plan again."""


# Statements that run with every claim are made once.
_CLAIMS, _RESOURCES = schema.claims, schema.host_resources
OF_HOST = ~_CLAIMS.c.resource.startswith("cell.")
"""Claims of the host itself, and not of a cell of it."""
_ON_HOST = Statement(
    select(_CLAIMS.c.instance_uuid, _CLAIMS.c.attempt, _CLAIMS.c.group_uuid)
    .where(_CLAIMS.c.host_uuid == bindparam("host"))
    .distinct()
)
_SEATS_OF = Statement(
    select(_CLAIMS.c.instance_uuid, _CLAIMS.c.attempt, _CLAIMS.c.host_uuid)
    .where(_CLAIMS.c.group_uuid == bindparam("of"))
    .distinct()
)
_SEATED = select(_CLAIMS.c.host_uuid, _CLAIMS.c.instance_uuid, _CLAIMS.c.group_uuid, schema.groups.c.exclusive_hosts)
_SEATED_HERE = Statement(
    union_all(
        _SEATED.join(schema.groups, schema.groups.c.uuid == _CLAIMS.c.group_uuid)
        .where(among(_CLAIMS.c.host_uuid, "hosts"))
        .distinct(),
        bookings.SEATED.where(among(schema.bookings.c.host_uuid, "hosts")),
    ).order_by("host_uuid", "instance_uuid")
)
_OPEN_HOST = Statement(
    update(schema.hosts)
    .where(
        schema.hosts.c.uuid == bindparam("host"),
        schema.hosts.c.state == HostState.ENABLED.value,
        schema.hosts.c.status == HostStatus.CONNECTED.value,
        schema.hosts.c.cleaning == CleaningState.OPEN.value,
    )
    .values(generation=schema.hosts.c.generation + 1)
)
_ANY_HOST = Statement(
    update(schema.hosts)
    .where(schema.hosts.c.uuid == bindparam("host"))
    .values(generation=schema.hosts.c.generation + 1)
)
# Those of others that claim at the same time are counted: `take` has locked the host's row before.
_GUESTS = (
    select(func.count())
    .where(_CLAIMS.c.host_uuid == _RESOURCES.c.host_uuid, _CLAIMS.c.resource == _RESOURCES.c.resource)
    .scalar_subquery()
)
_KEPT = (
    select(func.count())
    .where(schema.bookings.c.host_uuid == _RESOURCES.c.host_uuid, schema.bookings.c.resource == _RESOURCES.c.resource)
    .scalar_subquery()
)
_BESIDE = case((_RESOURCES.c.beside == 0, 0), else_=_RESOURCES.c.beside * (_GUESTS + _KEPT + bindparam("guests")))
_USE = Statement(
    update(_RESOURCES)
    .where(
        _RESOURCES.c.host_uuid == bindparam("host"),
        _RESOURCES.c.resource == bindparam("what"),
        _RESOURCES.c.used + _RESOURCES.c.booked + _RESOURCES.c.foreign_used + _BESIDE + bindparam("more")
        <= _RESOURCES.c.usable,
    )
    .values(used=_RESOURCES.c.used + bindparam("more"))
)
_TAKE = Statement(insert(_CLAIMS), ("instance_uuid", "attempt", "resource", "host_uuid", "group_uuid", "amount"))
_SHARE_FLEET = Statement(select(func.pg_advisory_xact_lock_shared(bindparam("key", type_=BigInteger))))
_GONE = (_CLAIMS.c.host_uuid, _CLAIMS.c.resource, _CLAIMS.c.amount)
_SEAT = (_CLAIMS.c.instance_uuid, _CLAIMS.c.attempt, _CLAIMS.c.host_uuid)
_ONE = (column == bindparam(name) for column, name in zip(_SEAT, ("instance", "of", "host"), strict=True))
_LEAVE_ONE = Statement(delete(_CLAIMS).where(*_ONE).returning(*_GONE))
_GIVE_BACK = Statement(
    update(_RESOURCES)
    .where(_RESOURCES.c.host_uuid == bindparam("host"), _RESOURCES.c.resource == bindparam("what"))
    .values(used=_RESOURCES.c.used - bindparam("less"))
)
_CLAIMED = (
    select(func.coalesce(func.sum(_CLAIMS.c.amount), 0))
    .where(_CLAIMS.c.host_uuid == _RESOURCES.c.host_uuid, _CLAIMS.c.resource == _RESOURCES.c.resource)
    .scalar_subquery()
)
_IS_WRONG = among(_RESOURCES.c.host_uuid, "hosts"), _RESOURCES.c.used != _CLAIMED
_WRONG = Statement(
    select(_RESOURCES.c.host_uuid, _RESOURCES.c.resource, _RESOURCES.c.used, _CLAIMED.label("claimed")).where(
        *_IS_WRONG
    )
)


def _of_another(table: Table) -> ColumnElement[bool]:
    """Whether a group that wants its hosts alone has one of these, and is not the one that asks."""
    there = select(table.c.host_uuid).join(schema.groups, schema.groups.c.uuid == table.c.group_uuid)
    rules = among(table.c.host_uuid, "hosts"), table.c.group_uuid != bindparam("mine"), schema.groups.c.exclusive_hosts
    return there.where(*rules).exists()


_APART = schema.group_apart
_BESIDE_OTHERS = Statement(
    select(
        select(_RESOURCES.c.host_uuid).where(*_IS_WRONG).exists().label("wrong"),
        or_(_of_another(_CLAIMS), _of_another(schema.bookings)).label("alone"),
        select(_APART.c.group_uuid)
        .join(schema.groups, schema.groups.c.uuid == _APART.c.group_uuid)
        .where(_APART.c.other_uuid == bindparam("mine"), schema.groups.c.phase != GroupPhase.DELETED.value)
        .exists()
        .label("apart"),
    )
)


class Beside(NamedTuple):
    """Of the rules of other groups, which are seldom there, whether some may be about a group's hosts: `alone`: another
    one that wants its hosts for itself has one of them; `apart`: another one is to be apart from this one."""

    alone: bool
    apart: bool


def take(
    connection: Connection,
    group_uuid: str,
    seats: Sequence[Seat],
    *,
    alone: bool = False,
    there: bool = False,
    booked: bool = True,
) -> Beside:
    """Claim these seats, for the whole gang, or raise ClaimLost (the caller's transaction rolls back).

    Hosts and resources are touched in id order, so that concurrent gangs cannot deadlock. `alone`: the caller is
    inside `Store.claiming(alone=True)`; everybody else waits here until that is over. `there`: for machines that the
    hosts have already, whether or not they take new ones. A seat that is booked for its member is taken out of that;
    `booked`: False where none is.
    Returns which rules of others there may be, now that the hosts are locked.
    """
    if not alone and connection.dialect.name == "postgresql":
        _SHARE_FLEET.all(connection, {"key": FLEET_LOCK})
    sums: dict[tuple[str, str], int] = defaultdict(int)
    guests: dict[tuple[str, str], int] = defaultdict(int)
    for seat in seats:
        for resource, amount in seat.claimed.items():
            sums[seat.host_uuid, resource] += amount
            guests[seat.host_uuid, resource] += 1
    _open_hosts(connection, {seat.host_uuid for seat in seats}, there=there)
    failpoint("claim.hosts_open")
    if booked:
        bookings.use(connection, seats)
    _use(connection, sums, guests)
    failpoint("claim.used")
    rows = [
        {
            "instance_uuid": seat.instance_uuid,
            "attempt": seat.attempt,
            "resource": resource,
            "host_uuid": seat.host_uuid,
            "group_uuid": group_uuid,
            "amount": amount,
        }
        for seat in seats
        for resource, amount in sorted(seat.claimed.items())
        if amount
    ]
    _TAKE.many(connection, rows)
    failpoint("claim.taken")
    return _beside_others(connection, group_uuid, {seat.host_uuid for seat in seats})


def resize(connection: Connection, sizes: Mapping[tuple[str, int, str], Mapping[str, int]]) -> None:
    """Make the claims of these (instance, attempt, host) as large as that, by the guard of any claim where they grow.

    Resources that are not named, and those that are not claimed, stay as they are. Raises ClaimLost.
    """
    table = schema.claims
    more: dict[tuple[str, str], int] = defaultdict(int)
    for (instance, attempt, host_uuid), wanted in sorted(sizes.items()):
        mine = (table.c.instance_uuid == instance, table.c.attempt == attempt, table.c.host_uuid == host_uuid)
        for row in connection.execute(select(table.c.resource, table.c.amount).where(*mine)).all():
            amount = wanted.get(row.resource, row.amount)
            if amount != row.amount:
                more[host_uuid, row.resource] += amount - row.amount
                what = (*mine, table.c.resource == row.resource)
                connection.execute(update(table).where(*what).values(amount=amount))
    failpoint("claim.resized")
    if not more:
        return
    _open_hosts(connection, {host_uuid for host_uuid, _ in more}, there=True)
    _use(connection, {key: amount for key, amount in more.items() if amount > 0}, defaultdict(int))
    less = [{"host": h, "what": what, "less": -amount} for (h, what), amount in sorted(more.items()) if amount < 0]
    _GIVE_BACK.many(connection, less)
    _verify(connection, {host_uuid for host_uuid, _ in more})


def release(connection: Connection, attempts: Iterable[tuple[str, int]]) -> None:
    """Give back the capacity of these (instance, attempt), on every host; those that have none are ignored."""
    ended = sorted(set(attempts))
    if ended:
        _give_back(connection, connection.execute(delete(_CLAIMS).where(_of(_CLAIMS, ended)).returning(*_GONE)))


def leave(connection: Connection, seats: Iterable[tuple[str, int, str]]) -> None:
    """Give back what these (instance, attempt, host) hold there. Addresses are another matter: `addresses.let_go`."""
    ended = sorted(set(seats))
    if len(ended) == 1:  # nearly always
        ((instance, attempt, host),) = ended
        _give_back(connection, _LEAVE_ONE.all(connection, {"instance": instance, "of": attempt, "host": host}))
    elif ended:
        _give_back(connection, connection.execute(delete(_CLAIMS).where(tuple_(*_SEAT).in_(ended)).returning(*_GONE)))


def _give_back(connection: Connection, gone: Iterable[Any]) -> None:
    """Count the amounts of these claims, which are deleted already, as used no more."""
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for row in gone:
        sums[row.host_uuid, row.resource] += row.amount
    failpoint("release.deleted")
    back = [{"host": host, "what": resource, "less": amount} for (host, resource), amount in sorted(sums.items())]
    _GIVE_BACK.many(connection, back)  # in the order in which `take` locks them
    if with_devices := {host_uuid for host_uuid, resource in sums if resource.startswith(GPU)}:
        devices.let_go(connection, with_devices)
    failpoint("release.given_back")
    _verify(connection, {host_uuid for host_uuid, _ in sums})


def on_host(connection: Connection, host_uuid: str) -> frozenset[tuple[str, int, str]]:
    """`(instance, attempt, group)` of every claim on the host."""
    rows = _ON_HOST.all(connection, {"host": host_uuid})
    return frozenset((r.instance_uuid, r.attempt, r.group_uuid) for r in rows)


def seated(connection: Connection, hosts: Iterable[str]) -> Mapping[str, Sequence[tuple[str, str, bool]]]:
    """Host uuid -> (instance, group, exclusive) of everything claimed or booked on these hosts, for rules between
    groups."""
    found: dict[str, list[tuple[str, str, bool]]] = defaultdict(list)
    for host_uuid, *seat in _SEATED_HERE.all(connection, {"hosts": sorted(hosts)}):
        found[host_uuid].append(tuple(seat))
    return found


def guests(connection: Connection, hosts: Sequence[str] | None = None) -> Mapping[tuple[str, str], int]:
    """(host uuid, resource) -> how many attempts claim it there (of these hosts)."""
    table = schema.claims
    query = select(table.c.host_uuid, table.c.resource, func.count().label("n"))
    if hosts is not None:
        query = query.where(table.c.host_uuid.in_(hosts))
    counted = connection.execute(query.group_by(table.c.host_uuid, table.c.resource))
    return {(r.host_uuid, r.resource): int(r.n) for r in counted}


def seats_of(connection: Connection, group_uuid: str) -> Mapping[tuple[str, int], frozenset[str]]:
    """(instance, attempt) -> hosts of all claims of a group: one, or two while the attempt is moved live."""
    found: dict[tuple[str, int], set[str]] = defaultdict(set)
    for row in _SEATS_OF.all(connection, {"of": group_uuid}):
        found[row.instance_uuid, row.attempt].add(row.host_uuid)
    return {attempt: frozenset(hosts) for attempt, hosts in found.items()}


def host_of(connection: Connection, instance_uuid: str, attempt: int) -> str | None:
    """The host that this attempt has a claim on."""
    return connection.scalar(
        select(schema.claims.c.host_uuid).where(
            schema.claims.c.instance_uuid == instance_uuid, schema.claims.c.attempt == attempt
        )
    )


def lock_open(connection: Connection, hosts: Iterable[str]) -> None:
    """Lock these hosts' rows, as `take` does, and see that they take claims. Raises ClaimLost."""
    _open_hosts(connection, set(hosts), there=False)


def hold(connection: Connection, hosts: Iterable[str]) -> None:
    """Nobody changes what an operator says of these hosts until this transaction ends; in the order of `take`."""
    table = schema.hosts
    query = select(table.c.uuid).where(table.c.uuid.in_(sorted(hosts))).order_by(table.c.uuid)
    connection.execute(query.with_for_update(key_share=True)).all()


def _open_hosts(connection: Connection, hosts: Set[str], *, there: bool) -> None:
    """Lock the hosts' rows in the order of their ids, and see that all of them take claims."""
    rows = [{"host": host_uuid} for host_uuid in sorted(hosts)]
    if (_ANY_HOST if there else _OPEN_HOST).many(connection, rows) != len(rows):
        raise ClaimLost(f"one of these hosts takes no claims now: {', '.join(sorted(hosts)[:8])}")


def _use(connection: Connection, sums: Mapping[tuple[str, str], int], guests: Mapping[tuple[str, str], int]) -> None:
    """Raise what is used, in the order of the ids, where there is so much left of everything; each row must match."""
    rows = [
        {"host": host_uuid, "what": resource, "more": amount, "guests": guests[host_uuid, resource]}
        for (host_uuid, resource), amount in sorted(sums.items())
        if amount
    ]
    if _USE.many(connection, rows) != len(rows):
        wanted = ", ".join(f"{row['more']} {row['what']} of host {row['host']}" for row in rows[:8])
        raise ClaimLost(f"not all of this is left: {wanted}")


def _of(table: Table, attempts: Sequence[tuple[str, int]]) -> ColumnElement[bool]:
    return tuple_(table.c.instance_uuid, table.c.attempt).in_(attempts)


def _beside_others(connection: Connection, group_uuid: str, hosts: Iterable[str]) -> Beside:
    """As `_verify`, and in the same statement what may have to be read beside it."""
    asked = sorted(hosts)
    wrong, alone, apart = _BESIDE_OTHERS.first(connection, {"hosts": asked, "mine": group_uuid})
    if wrong:
        _verify(connection, asked)
    return Beside(bool(alone), bool(apart))


def _verify(connection: Connection, hosts: Iterable[str]) -> None:
    """Invariant I2, inside the transaction: on each host, used is the sum of the claims.

    One statement reads both, because on PostgreSQL every statement sees what others committed before it.
    """
    wrong = _WRONG.first(connection, {"hosts": sorted(hosts)})
    if wrong is not None:
        raise InvariantViolation(
            f"host {wrong.host_uuid}: {wrong.used} {wrong.resource} used is not the sum of its claims, {wrong.claimed}"
        )
