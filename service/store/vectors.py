"""The amounts of hosts, a row a resource: what is there, what may be claimed, what is held. Cells' among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypedDict

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from service.domain import cells
from service.domain.cells import Cell
from service.store import claims, schema
from service.store.statement import Statement, among

_MANY = 2_000  # of so many hosts or more all are read: one statement cannot name more
_NONE: Mapping[str, int] = {"total": 0, "usable": 0, "foreign_used": 0, "beside": 0, "used": 0, "booked": 0}
_NEW = Statement(insert(schema.host_resources), ("host_uuid", "resource", *_NONE))
_EVERY = select(schema.host_resources)
_ALL, _SOME = Statement(_EVERY), Statement(_EVERY.where(among(schema.host_resources.c.host_uuid, "of")))

Vectors = Mapping[str, Row[Any]]
"""Resource -> its row."""


class Amounts(TypedDict):
    """The fields of a host that its rows hold."""

    total: Mapping[str, int]
    allocatable: Mapping[str, int]
    foreign: Mapping[str, int]
    used: Mapping[str, int]
    booked: Mapping[str, int]
    beside: Mapping[str, int]
    cells: tuple[Cell, ...]


def read(connection: Connection, host_uuids: Sequence[str] | None) -> Mapping[str, Vectors]:
    """The rows of these hosts by uuid; None: of all."""
    found: dict[str, dict[str, Row[Any]]] = {}
    for row in _ALL.all(connection) if host_uuids is None else _SOME.all(connection, {"of": host_uuids}):
        found.setdefault(row.host_uuid, {})[row.resource] = row
    return found


def write(connection: Connection, uuid: str, known: Vectors, wanted: Mapping[str, Mapping[str, int]]) -> bool:
    """Make the host's rows say this; returns whether any of them said something else."""
    changed = False
    for resource, amounts in wanted.items():
        if resource not in known:
            _NEW.run(connection, {**_NONE, "host_uuid": uuid, "resource": resource, **amounts})
        elif any(getattr(known[resource], name) != amount for name, amount in amounts.items()):
            _set(tuple(sorted(amounts))).run(connection, {"host": uuid, "what": resource, **amounts})
        else:
            continue
        changed = True
    return changed


@cache
def _set(names: tuple[str, ...]) -> Statement:
    table = schema.host_resources
    row = table.c.host_uuid == bindparam("host"), table.c.resource == bindparam("what")
    return Statement(update(table).where(*row).values({name: bindparam(name) for name in names}))


def guests(connection: Connection, known: Mapping[str, Vectors]) -> Mapping[tuple[str, str], int]:
    """See `claims.guests`; of the hosts where each takes something beside its claim."""
    of = [uuid for uuid, vectors in known.items() if any(v.beside for v in vectors.values())]
    return claims.guests(connection, of if len(of) < _MANY else None) if of else {}


def amounts(uuid: str, known: Vectors, guests: Mapping[tuple[str, str], int]) -> Amounts:
    """What the host's rows say of it, and of its cells, without those that it has no more and nobody holds."""
    total = {name: int(v.total) for name, v in known.items()}
    usable = {name: int(v.usable) for name, v in known.items()}
    foreign = {n: int(v.foreign_used) + int(v.beside) * guests.get((uuid, n), 0) for n, v in known.items()}
    used = {name: int(v.used) for name, v in known.items()}
    taken = {name: used[name] + int(v.booked) for name, v in known.items()}  # of a cell what is booked counts as used
    of_cells = [cells.by_cell(vector) for vector in (total, usable, foreign, taken)]
    return Amounts(
        total=cells.without_cells(total),
        allocatable=cells.without_cells(usable),
        foreign=cells.without_cells(foreign),
        used=cells.without_cells(used),
        booked=cells.without_cells({name: int(v.booked) for name, v in known.items() if v.booked}),
        beside={name: int(v.beside) for name, v in known.items() if v.beside and not cells.is_of_cell(name)},
        cells=tuple(
            Cell(number, *(vector[number] for vector in of_cells))
            for number in sorted(of_cells[0])
            if any(of_cells[0][number].values()) or any(of_cells[3][number].values())
        ),
    )
