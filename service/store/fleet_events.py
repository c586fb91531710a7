"""What changed in zones, hosts and the catalogue, by revision. The rows themselves say how things are now.

Revisions are of the one counter that the groups' events use, so that they rise over the whole service; the counter
`fleet_revision` keeps the newest of these, for those who only ask whether anything changed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, bindparam, insert, select, update

from service.store import events, schema
from service.store.statement import Statement

FLEET_REVISION = "fleet_revision"

_COUNTERS = schema.counters
_REMEMBER = Statement(update(_COUNTERS).where(_COUNTERS.c.name == FLEET_REVISION).values(value=bindparam("newest")))
_INSERT = Statement(insert(schema.fleet_events), ("revision", "kind", "uuid", "zone_uuid", "time"))


class FleetChange(StrEnum):
    """What a change is about."""

    ZONE = "zone"
    ZONE_REMOVED = "zone_removed"
    HOST = "host"
    HOST_REMOVED = "host_removed"
    CATALOGUE = "catalogue"


@dataclass(frozen=True, slots=True)
class FleetEvent:
    """One change. `uuid`: of the thing that changed; `zone_uuid`: the zone that it is in or is. `time`: ms."""

    revision: int
    kind: FleetChange
    uuid: str
    zone_uuid: str
    time: int


def wall_clock() -> int:
    """Milliseconds since the epoch, for writers that have no clock of their own."""
    return time.time_ns() // 1_000_000


def append(connection: Connection, kind: FleetChange, uuid: str, zone_uuid: str, now: int) -> int:
    """Record a change; returns its revision. The counter's lock is held from here to the commit, so this comes last."""
    revision = events.count(connection, 1)
    _REMEMBER.run(connection, {"newest": revision})
    _INSERT.run(
        connection, {"revision": revision, "kind": kind.value, "uuid": uuid, "zone_uuid": zone_uuid, "time": now}
    )
    return revision


def newest(connection: Connection) -> int:
    """The revision of the newest change of the fleet or the catalogue; 0 where there was none."""
    counters = schema.counters
    return int(connection.scalar(select(counters.c.value).where(counters.c.name == FLEET_REVISION)) or 0)


def after(connection: Connection, revision: int, limit: int) -> tuple[FleetEvent, ...]:
    """Up to `limit` changes above the given revision, in order."""
    table = schema.fleet_events
    rows = connection.execute(select(table).where(table.c.revision > revision).order_by(table.c.revision).limit(limit))
    return tuple(FleetEvent(r.revision, FleetChange(r.kind), r.uuid, r.zone_uuid, r.time) for r in rows)
