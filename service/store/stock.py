"""What hosts have, and who holds what of it: all claims and bookings, for whoever plans."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, false, literal, select, union_all

from service.domain.cells import cells_in, is_of_cell
from service.domain.fleet import Size
from service.store import bookings, schema
from service.store.statement import Statement, among

_CLAIMS, _RESOURCES = schema.claims, schema.host_resources
# A claim whose group is gone is held all the same.
_HOLDS = select(
    _CLAIMS.c.host_uuid,
    _CLAIMS.c.instance_uuid,
    schema.groups.c.uuid.label("group_uuid"),
    schema.groups.c.exclusive_hosts,
    _CLAIMS.c.attempt,
    _CLAIMS.c.resource,
    _CLAIMS.c.amount,
).select_from(_CLAIMS.outerjoin(schema.groups, schema.groups.c.uuid == _CLAIMS.c.group_uuid))
_KEEPS = bookings.SEATED.add_columns(literal(0), literal(""), literal(0))
_HELD = Statement(union_all(_HOLDS, _KEEPS))
_AMOUNTS = "usable", "foreign_used", "beside", "used", "booked"
_HAVE = select(
    _RESOURCES.c.host_uuid,
    literal("").label("instance_uuid"),
    literal("").label("group_uuid"),
    false().label("exclusive_hosts"),
    literal(0).label("attempt"),
    _RESOURCES.c.resource,
    _RESOURCES.c.total,
    *(_RESOURCES.c[name] for name in _AMOUNTS),
)
_NO_AMOUNTS = tuple(literal(0) for _ in _AMOUNTS)
_HAVE_AND_HELD = Statement(
    union_all(
        _HAVE.where(among(_RESOURCES.c.host_uuid, "hosts")),
        _HOLDS.add_columns(*_NO_AMOUNTS).where(among(_CLAIMS.c.host_uuid, "hosts")),
        _KEEPS.add_columns(*_NO_AMOUNTS).where(among(schema.bookings.c.host_uuid, "hosts")),
    )
)


class Held(NamedTuple):
    """By host uuid. `seated`: as `claims.seated` tells it; `sizes`: what each attempt has claimed there, without what
    it has of cells; `pinned`: instance -> the cells that it is pinned to there, of those that are."""

    seated: Mapping[str, Sequence[tuple[str, str, bool]]]
    sizes: Mapping[str, Sequence[Size]]
    pinned: Mapping[str, Mapping[str, tuple[int, ...]]]


class Stock(NamedTuple):
    """`vectors` and `guests`: as functions of `vectors` tell them; `held`: of the same hosts."""

    vectors: Mapping[str, Mapping[str, Row[Any]]]
    guests: Mapping[tuple[str, str], int]
    held: Held


def held(connection: Connection) -> Held:
    """Everything that is claimed or booked."""
    return _sorted_out(_HELD.all(connection))


def of_hosts(connection: Connection, hosts: Sequence[str]) -> Stock:
    """What these hosts have, and everything that is claimed or booked there, in one statement."""
    vectors: dict[str, dict[str, Row[Any]]] = defaultdict(dict)
    rows = []
    for row in _HAVE_AND_HELD.all(connection, {"hosts": hosts}):
        if row.instance_uuid:
            rows.append(row[:7])
        else:
            vectors[row.host_uuid][row.resource] = row
    guests = Counter((host_uuid, resource) for host_uuid, *_, resource, _ in rows if resource)
    return Stock(vectors, guests, _sorted_out(rows))


def _sorted_out(rows: Iterable[tuple[Any, ...]]) -> Held:
    seats: dict[str, set[tuple[str, str, bool]]] = defaultdict(set)
    vectors: dict[str, dict[tuple[str, int], list[tuple[str, int]]]] = defaultdict(dict)
    of_cells: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for host_uuid, instance_uuid, group_uuid, exclusive, attempt, resource, amount in rows:
        if group_uuid is not None:
            seats[host_uuid].add((instance_uuid, group_uuid, exclusive))
        if not resource:
            continue  # a seat that is kept
        if is_of_cell(resource):
            of_cells[host_uuid][instance_uuid][resource] = int(amount)
        else:
            vectors[host_uuid].setdefault((instance_uuid, attempt), []).append((resource, int(amount)))
    seated = {host: tuple(sorted(found)) for host, found in seats.items()}
    sizes = {host: tuple(tuple(sorted(vector)) for vector in found.values()) for host, found in vectors.items()}
    pinned = {host: {uuid: cells_in(found) for uuid, found in members.items()} for host, members in of_cells.items()}
    return Held(seated, sizes, pinned)
