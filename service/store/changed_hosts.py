"""Which hosts, with their amounts and what is claimed or booked on them, are not as they were at an earlier moment.

PostgreSQL keeps with each row which transaction wrote it, so nothing is written for this. What an earlier snapshot may
not have seen was written by a transaction that was no older than the oldest that ran then. SQLite has no such thing:
triggers note there for each host the number of its last change. Nobody waits for anybody in either.

A host that was removed leaves no row: `Moment.hosts` tells that there are fewer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Integer, Row, Text, TextualSelect, column, select, text, true

from service.store import schema
from service.store.statement import Statement

TABLE = "host_changes"
"""Of SQLite alone, and outside of the schema: what is in it can be lost, for then all hosts are read."""

_COLUMNS = {
    "hosts": (
        "uuid",
        "created_at",
        "version",
        "generation",
        "state",
        "status",
        "status_reason",
        "boot_id",
        "virt_type",
    ),
    "host_resources": ("total", "usable", "foreign_used", "beside", "used", "booked"),
}
"""What a change of is a change of the host. Claims are covered: taking one raises the generation, and giving one back
lowers what is used; so are bookings."""

_KEY = {"hosts": "uuid", "host_resources": "host_uuid"}

_SEEN = column("seen", Text()), column("lineage", Text()), column("hosts", Integer())
_NAMED = column("host_uuid", Text())
_SQLITE_MOMENT = text(
    "SELECT coalesce((SELECT max(number) FROM host_changes), 0) AS seen, '' AS lineage, "
    "(SELECT count(*) FROM hosts) AS hosts"
).columns(*_SEEN)
_SQLITE_SINCE = text("SELECT host_uuid FROM host_changes WHERE number > :earlier").columns(_NAMED)
# The files of the tables are others after a restore and after a VACUUM FULL, which forgets who wrote what.
_POSTGRESQL_MOMENT = text(
    "SELECT CAST(pg_current_snapshot() AS text) AS seen, "
    "concat_ws('/', CAST(pg_postmaster_start_time() AS text), "
    "(SELECT oid FROM pg_database WHERE datname = current_database()), pg_relation_filenode('hosts'), "
    "pg_relation_filenode('host_resources')) AS lineage, (SELECT count(*) FROM hosts) AS hosts"
).columns(*_SEEN)
_POSTGRESQL_SINCE = text(
    "SELECT uuid AS host_uuid FROM hosts WHERE age(xmin) <= age(CAST(CAST(:earlier AS xid8) AS xid)) UNION "
    "SELECT host_uuid FROM host_resources WHERE age(xmin) <= age(CAST(CAST(:earlier AS xid8) AS xid))"
).columns(_NAMED)


def _with_changes(moment: TextualSelect, since: TextualSelect) -> Statement:
    """The moment, once for each host that is not as it was, with that host's row as far as it is there."""
    now, named = moment.subquery(), since.subquery()
    joined = now.outerjoin(named, true()).outerjoin(schema.hosts, schema.hosts.c.uuid == named.c.host_uuid)
    moment_of = now.c.seen, now.c.lineage, now.c.hosts.label("there")
    return Statement(
        select(*moment_of, named.c.host_uuid, *schema.hosts.c).select_from(joined).order_by(named.c.host_uuid)
    )


_MOMENT = {"sqlite": Statement(_SQLITE_MOMENT), "postgresql": Statement(_POSTGRESQL_MOMENT)}
_SINCE = {"sqlite": Statement(_SQLITE_SINCE), "postgresql": Statement(_POSTGRESQL_SINCE)}
_CHANGES = {
    "sqlite": _with_changes(_SQLITE_MOMENT, _SQLITE_SINCE),
    "postgresql": _with_changes(_POSTGRESQL_MOMENT, _POSTGRESQL_SINCE),
}


Rows = Mapping[str, Row[Any] | None]
"""Hosts by uuid, in its order; None: it is gone."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What one transaction sees. `seen`: SQLite's newest number of a change, or PostgreSQL's snapshot; `lineage`: what
    must be the same for two moments to be compared at all; `hosts`: how many there are."""

    seen: str
    lineage: str
    hosts: int

    def is_before(self, later: Moment | None) -> bool:
        """Whether all that is seen here is seen at the later one too, which may be the same; False where that is not
        certain."""
        if later is None or self.lineage != later.lineage:
            return False
        if ":" not in self.seen:
            return int(self.seen) <= int(later.seen)
        oldest, newest, running = _snapshot(self.seen)
        their_oldest, their_newest, theirs = _snapshot(later.seen)
        if their_oldest < oldest or their_newest < newest:
            return False
        return all(number >= newest or number in running for number in theirs)


def _snapshot(told: str) -> tuple[int, int, frozenset[int]]:
    """PostgreSQL's `xmin:xmax:running`: all below xmin have ended, none from xmax on has."""
    oldest, newest, running = told.split(":")
    return int(oldest), int(newest), frozenset(int(number) for number in running.split(",") if number)


def moment(connection: Connection) -> Moment:
    """Of this transaction. To be asked before what is read: what changes meanwhile counts as changed later."""
    seen, lineage, hosts = _MOMENT[connection.dialect.name].first(connection)
    return Moment(str(seen), lineage, int(hosts))


def since(connection: Connection, earlier: Moment) -> set[str]:
    """The hosts that were changed or added since then, and perhaps some that were not; some of them may be gone."""
    return set(_SINCE[connection.dialect.name].scalars(connection, {"earlier": _from(earlier)}))


def changes(connection: Connection, earlier: Moment) -> tuple[Moment, Rows]:
    """`moment`, and the hosts of `since`. They say nothing where the earlier moment was not before."""
    rows = _CHANGES[connection.dialect.name].all(connection, {"earlier": _from(earlier)})
    now = Moment(str(rows[0].seen), rows[0].lineage, int(rows[0].there))
    return now, {row.host_uuid: row if row.uuid is not None else None for row in rows if row.host_uuid is not None}


def _from(moment: Moment) -> int | str:
    """What the databases compare with: the newest change, or the oldest transaction that ran then."""
    return moment.seen.partition(":")[0] if ":" in moment.seen else int(moment.seen)


def install(connection: Connection) -> None:
    """What SQLite needs for it, where it is not there: a table that is rebuilt loses its triggers."""
    if connection.dialect.name != "sqlite":
        return
    connection.exec_driver_sql(
        f"CREATE TABLE IF NOT EXISTS {TABLE} (host_uuid TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE) WITHOUT ROWID"
    )
    note = (
        f"INSERT INTO {TABLE} (host_uuid, number) "
        f"VALUES ({{row}}.{{key}}, (SELECT coalesce(max(number), 0) + 1 FROM {TABLE})) "
        "ON CONFLICT (host_uuid) DO UPDATE SET number = excluded.number"
    )
    told = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    there = {name: sql for name, sql in told}  # noqa: C416  # rows are no pairs to a type checker
    for table, columns in _COLUMNS.items():
        differs = " OR ".join(f"OLD.{name} IS NOT NEW.{name}" for name in columns)
        for event, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
            name, when = f"{table}_{event.lower()}_noted", f"WHEN {differs} " if event == "UPDATE" else ""
            made = note.format(row=row, key=_KEY[table])
            wanted = f"CREATE TRIGGER {name} AFTER {event} ON {table} {when}BEGIN {made}; END"
            if there.get(name) != wanted:  # an earlier version may have had other columns in mind
                connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}")
                connection.exec_driver_sql(wanted)
