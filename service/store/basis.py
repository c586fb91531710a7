"""The catalogue, the zones with what is taken of their addresses, and a project's limits: in one statement, because
every deploy needs all of them, and there are few of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, Table, bindparam, false, func, literal, select, union_all

from service.domain.catalog import ModelService
from service.domain.fleet import Zone
from service.store import catalog, fleet, schema
from service.store.statement import Statement

_ENTRIES, _ZONES, _QUOTAS = schema.model_services, schema.zones, schema.quotas
_ENTRY, _ZONE, _LIMIT, _FURTHER = "entry", "zone", "limit", "further"


class Basis(NamedTuple):
    """`catalogue` and `zones`: by uuid; `taken`: of each zone in which there is a host, how many of its addresses
    somebody has, members and others; `limited`: whether the project has a quota."""

    catalogue: Mapping[str, ModelService]
    zones: Mapping[str, Zone]
    taken: Mapping[str, int]
    limited: bool


def _number_in(table: Table) -> ColumnElement[int]:
    return select(func.count()).where(table.c.zone_uuid == _ZONES.c.uuid).scalar_subquery()


_HAS_HOSTS = select(schema.hosts.c.uuid).where(schema.hosts.c.zone_uuid == _ZONES.c.uuid).exists()


def _rows(table: Table, kind: str, hosts: ColumnElement[bool], taken: ColumnElement[int]) -> Select[Any]:
    named = (table.c.uuid, table.c.document, table.c.version, table.c.created_at, table.c.updated_at)
    return select(literal(kind).label("kind"), *named, hosts.label("hosts"), taken.label("taken"))


PARTS: tuple[Select[Any], ...] = (
    _rows(_ENTRIES, _ENTRY, false(), literal(0)),
    _rows(_ZONES, _ZONE, _HAS_HOSTS, _number_in(schema.addresses) + _number_in(schema.foreign_addresses)),
    select(
        literal(_LIMIT), _QUOTAS.c.resource, literal(""), literal(0), literal(0), literal(0), false(), literal(0)
    ).where(_QUOTAS.c.project == bindparam("project")),
)
_BASIS = Statement(union_all(*PARTS))


def further(number: ColumnElement[int]) -> Select[*tuple[Any, ...]]:
    """One part more, for a number that is wanted of the same moment."""
    nothing = (literal(""), literal(""), literal(0), literal(0), literal(0), false())
    return select(literal(_FURTHER), *nothing, number)


def basis(connection: Connection, project: str = "") -> Basis:
    """For a deploy of the project; "": of none."""
    return sorted_out(_BASIS.all(connection, {"project": project}))[0]


def sorted_out(rows: Sequence[Any]) -> tuple[Basis, int]:
    """From all rows of the parts; and the number of the one `further`, 0 without it."""
    zones = [row for row in rows if row.kind == _ZONE]
    found = Basis(
        {row.uuid: catalog.entry_of(row) for row in rows if row.kind == _ENTRY},
        {row.uuid: fleet.zone_of(row) for row in zones},
        {row.uuid: int(row.taken) for row in zones if row.hosts},
        any(row.kind == _LIMIT for row in rows),
    )
    return found, sum(int(row.taken) for row in rows if row.kind == _FURTHER)
