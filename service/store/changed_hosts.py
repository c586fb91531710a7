"""Which hosts, with their amounts and what is claimed or booked on them, are not as they were at an earlier moment.

PostgreSQL keeps with each row which transaction wrote it, so nothing is written for this. What an earlier snapshot may
not have seen was written by a transaction that was no older than the oldest that ran then. SQLite has no such thing:
triggers note there for each host the number of its last change. Nobody waits for anybody in either.

A host that was removed leaves no row: `Moment.hosts` tells that there are fewer.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, Integer, Text, column, text

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
_SQLITE_MOMENT = Statement(
    text(
        "SELECT coalesce((SELECT max(number) FROM host_changes), 0) AS seen, '' AS lineage, "
        "(SELECT count(*) FROM hosts) AS hosts"
    ).columns(*_SEEN)
)
_SQLITE_SINCE = Statement(
    text("SELECT host_uuid FROM host_changes WHERE number > :seen").columns(column("host_uuid", Text()))
)
# The files of the tables are others after a restore and after a VACUUM FULL, which forgets who wrote what.
_POSTGRESQL_MOMENT = Statement(
    text(
        "SELECT CAST(pg_current_snapshot() AS text) AS seen, "
        "concat_ws('/', CAST(pg_postmaster_start_time() AS text), "
        "(SELECT oid FROM pg_database WHERE datname = current_database()), pg_relation_filenode('hosts'), "
        "pg_relation_filenode('host_resources')) AS lineage, (SELECT count(*) FROM hosts) AS hosts"
    ).columns(*_SEEN)
)
_POSTGRESQL_SINCE = Statement(
    text(
        "SELECT uuid AS host_uuid FROM hosts WHERE age(xmin) <= age(CAST(CAST(:oldest AS xid8) AS xid)) UNION "
        "SELECT host_uuid FROM host_resources WHERE age(xmin) <= age(CAST(CAST(:oldest AS xid8) AS xid))"
    ).columns(column("host_uuid", Text()))
)


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
    statement = _SQLITE_MOMENT if connection.dialect.name == "sqlite" else _POSTGRESQL_MOMENT
    seen, lineage, hosts = statement.first(connection)
    return Moment(str(seen), lineage, int(hosts))


def since(connection: Connection, earlier: Moment) -> set[str]:
    """The hosts that were changed or added since then, and perhaps some that were not; some of them may be gone."""
    if connection.dialect.name == "sqlite":
        return set(_SQLITE_SINCE.scalars(connection, {"seen": int(earlier.seen)}))
    return set(_POSTGRESQL_SINCE.scalars(connection, {"oldest": earlier.seen.partition(":")[0]}))


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
