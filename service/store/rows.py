"""What rows of zones, hosts, images and catalogue entries share: stamps, pages by name, the file's definitions.

A definition of the configuration file is written when it is new or differs from what the file said at the last start.
So a change that was made at run time stays until the file itself says something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError
from sqlalchemy import (
    Connection,
    Insert,
    Row,
    Select,
    Table,
    and_,
    bindparam,
    func,
    insert,
    or_,
    select,
    update,
)

from service.store.codec import decode
from service.store.statement import Statement

PAGE_NAME = 64
"""Pages are ordered by this many characters of the name; names that differ only after them are ordered by uuid."""


def put(
    connection: Connection,
    table: Table,
    uuid: str,
    values: Mapping[str, Any],
    now: int,
    *,
    first: Mapping[str, Any] | None = None,
) -> None:
    """Overwrite `values` of the row, or insert it with `first` besides."""
    if touch(connection, table, uuid, values, now) == 0:
        stamped = {"version": 1, "created_at": now, "updated_at": now}
        connection.execute(_insert(table), {"uuid": uuid, **stamped, **values, **(first or {})})


def touch(connection: Connection, table: Table, uuid: str, values: Mapping[str, Any], now: int) -> int:
    """Overwrite `values` of the row as its next version; returns how many rows there were."""
    given = {"of": uuid, "updated_at": now, **values}
    return _next_version(table, tuple(sorted(given.keys() - {"of"}))).run(connection, given)


@cache
def _insert(table: Table) -> Insert:
    return insert(table)


@cache
def _next_version(table: Table, names: tuple[str, ...]) -> Statement:
    given: dict[str, Any] = {name: bindparam(name) for name in names}
    return Statement(update(table).where(table.c.uuid == bindparam("of")).values(**given, version=table.c.version + 1))


def stamps(row: Row[Any]) -> dict[str, Any]:
    """Version and times of a row, as keywords of its domain type."""
    return {"version": int(row.version), "created_at": int(row.created_at), "updated_at": int(row.updated_at)}


def page(table: Table, after: tuple[str, str] | None, limit: int) -> Select[Any]:
    """Rows by name, after a key that `page_key` made."""
    name = func.substr(table.c.name, 1, PAGE_NAME)
    query = select(table)
    if after is not None:
        last_name, last_uuid = after
        query = query.where(or_(name > last_name, and_(name == last_name, table.c.uuid > last_uuid)))
    return query.order_by(name, table.c.uuid).limit(limit)


def page_key(name: str, uuid: str) -> tuple[str, str]:
    """Where a page that ends with this row ends."""
    return name[:PAGE_NAME], uuid


def is_configured(connection: Connection, table: Table, uuid: str) -> bool:
    """Whether the configuration file defines the row."""
    return bool(connection.scalar(select(table.c.configured).where(table.c.uuid == uuid)))


def new_in_file(
    connection: Connection, table: Table, kind: type[object], definitions: Mapping[str, str]
) -> frozenset[str]:
    """Which of the file's definitions (uuid -> document) are to be written; remembers all of them.

    `kind`: the domain type that the documents are of.
    A row that an earlier file defined, and this one does not, counts as made at run time and can be removed.
    Call `remember_file` after the rows are there.
    """
    known = {r.uuid: r.configured for r in _in_file(table).all(connection)}
    for uuid in sorted(u for u, document in known.items() if document and u not in definitions):
        connection.execute(update(table).where(table.c.uuid == uuid).values(configured=""))
    return frozenset(u for u, document in definitions.items() if not _says_the_same(kind, known.get(u), document))


@cache
def _in_file(table: Table) -> Statement:
    return Statement(select(table.c.uuid, table.c.configured))


def _says_the_same(kind: type[object], known: str | None, document: str) -> bool:
    """Whether two definitions mean the same, whichever version of the program wrote them: a field that this version
    added or renamed is no change of the file."""
    if not known or known == document:
        return known == document
    try:
        return decode(kind, known) == decode(kind, document)
    except ValidationError:
        return False


def remember_file(connection: Connection, table: Table, definitions: Mapping[str, str]) -> None:
    """Keep what the file says, to see at the next start whether it says something else."""
    _to_remember(table).many(connection, [{"of": u, "says": text} for u, text in sorted(definitions.items())])


@cache
def _to_remember(table: Table) -> Statement:
    anew = table.c.uuid == bindparam("of"), table.c.configured != bindparam("says")
    return Statement(update(table).where(*anew).values(configured=bindparam("says")))
