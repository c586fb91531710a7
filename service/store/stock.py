"""What hosts have, and who holds what of it: all claims and bookings, for whoever plans.

An attempt has a row for each resource. They are read as one text each, which most members share with others: that is
less to fetch, and is understood once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Integer, Text, cast, false, literal, select, type_coerce
from sqlalchemy import union_all as union
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from service.domain.cells import cells_in, is_of_cell
from service.domain.fleet import Size
from service.store import bookings, schema
from service.store.statement import Statement, among

_CLAIMS, _RESOURCES, _GROUPS = schema.claims, schema.host_resources, schema.groups
_IS, _NEXT = "=", "\n"
KNOWN = 4096


class Amounts(NamedTuple):
    """Of a resource of a host, as its row has them."""

    total: int
    usable: int
    foreign_used: int
    beside: int
    used: int
    booked: int


class _Lines(FunctionElement[str]):
    """Texts of all rows as one, each on its line."""

    name = "lines"
    type = Text()
    inherit_cache = True


@compiles(_Lines)
def _on_sqlite(element: _Lines, compiler: SQLCompiler, **options: Any) -> str:
    return f"group_concat({compiler.process(element.clauses, **options)}, char(10))"


@compiles(_Lines, "postgresql")
def _on_postgresql(element: _Lines, compiler: SQLCompiler, **options: Any) -> str:
    return f"string_agg({compiler.process(element.clauses, **options)}, chr(10))"


def _told(resource: ColumnElement[str], amounts: Iterable[ColumnElement[int]]) -> ColumnElement[str]:
    """All resources as one text, a line each: its name, and its amounts."""
    line = resource
    for amount in amounts:
        line = line + literal(_IS) + cast(amount, Text)
    return _Lines(line)


# SQLite's own numbers, so that no row needs to be changed on its way.
_EXCLUSIVE = type_coerce(_GROUPS.c.exclusive_hosts, Integer)
_HOLDER = _CLAIMS.c.host_uuid, _CLAIMS.c.instance_uuid, _GROUPS.c.uuid, _EXCLUSIVE, _CLAIMS.c.attempt
# A claim whose group is gone is held all the same.
_HOLDS = (
    select(*_HOLDER, _told(_CLAIMS.c.resource, [_CLAIMS.c.amount]).label("told"))
    .select_from(_CLAIMS.outerjoin(_GROUPS, _GROUPS.c.uuid == _CLAIMS.c.group_uuid))
    .group_by(*_HOLDER)
)
_KEEPS = bookings.SEATED.add_columns(literal(0), literal(""))
_HAVE = select(
    _RESOURCES.c.host_uuid,
    literal("").label("instance_uuid"),
    literal("").label("group_uuid"),
    type_coerce(false(), Integer).label("exclusive"),
    literal(0).label("attempt"),
    _told(_RESOURCES.c.resource, (_RESOURCES.c[name] for name in Amounts._fields)).label("told"),
).group_by(_RESOURCES.c.host_uuid)
_HELD = Statement(union(_HOLDS, _KEEPS))
_HAVE_AND_HELD = Statement(
    union(
        _HAVE.where(among(_RESOURCES.c.host_uuid, "hosts")),
        _HOLDS.where(among(_CLAIMS.c.host_uuid, "hosts")),
        _KEEPS.where(among(schema.bookings.c.host_uuid, "hosts")),
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

    vectors: Mapping[str, Mapping[str, Any]]
    guests: Mapping[tuple[str, str], int]
    held: Held


def held(connection: Connection) -> Held:
    """Everything that is claimed or booked."""
    return _sorted_out(_HELD.all(connection))


def of_hosts(connection: Connection, hosts: Sequence[str]) -> Stock:
    """What these hosts have, and everything that is claimed or booked there, in one statement."""
    vectors: dict[str, dict[str, Amounts]] = defaultdict(dict)
    rows = []
    for row in _HAVE_AND_HELD.all(connection, {"hosts": hosts}):
        if row[1]:
            rows.append(row)
            continue
        for line in row[5].split(_NEXT):
            resource, *amounts = line.rsplit(_IS, len(Amounts._fields))
            vectors[row[0]][resource] = Amounts(*map(int, amounts))
    alike = Counter((row[0], row[5]) for row in rows)
    guests: Counter[tuple[str, str]] = Counter()
    for (host_uuid, told), many in alike.items():
        for resource in _claim(told).resources:
            guests[host_uuid, resource] += many
    return Stock(vectors, guests, _sorted_out(rows))


class _Claim(NamedTuple):
    """What one attempt holds of a host: `size` of the host itself, its `cells` there, and all `resources`."""

    size: Size
    cells: tuple[int, ...]
    resources: tuple[str, ...]


@lru_cache(maxsize=KNOWN)
def _claim(told: str) -> _Claim:
    amounts = dict(line.rsplit(_IS, 1) for line in told.split(_NEXT)) if told else {}
    vector = {resource: int(amount) for resource, amount in amounts.items()}
    own = {resource: amount for resource, amount in vector.items() if not is_of_cell(resource)}
    of_cells = {resource: amount for resource, amount in vector.items() if is_of_cell(resource)}
    return _Claim(tuple(sorted(own.items())), cells_in(of_cells) if of_cells else (), tuple(vector))


def _sorted_out(rows: Iterable[tuple[Any, ...]]) -> Held:
    seats: dict[str, set[tuple[str, str, bool]]] = defaultdict(set)
    sizes: dict[str, list[Size]] = defaultdict(list)
    pinned: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for host_uuid, instance_uuid, group_uuid, exclusive, _, told in rows:
        if group_uuid is not None:
            seats[host_uuid].add((instance_uuid, group_uuid, bool(exclusive)))
        if not told:
            continue  # a seat that is kept
        size, cells, _ = _claim(told)
        if size:
            sizes[host_uuid].append(size)
        if cells:
            pinned[host_uuid][instance_uuid] = tuple(sorted({*pinned[host_uuid].get(instance_uuid, ()), *cells}))
    return Held(
        {host: tuple(sorted(found)) for host, found in seats.items()},
        {host: tuple(found) for host, found in sizes.items()},
        pinned,
    )
