"""Whose data machines of bare metal may hold, and how far their cleaning is: columns of their hosts' rows."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, bindparam, or_, select, update

from service.domain.cleaning import Cleaning, CleaningState
from service.domain.fleet import Host
from service.store import fleet, fleet_events, schema
from service.store.claims import ClaimLost
from service.store.fleet_events import FleetChange
from service.store.statement import Statement

_HOSTS, _CLAIMS, _BOOKINGS = schema.hosts, schema.claims, schema.bookings
_TAKEN = or_(
    select(_CLAIMS.c.host_uuid).where(_CLAIMS.c.host_uuid == _HOSTS.c.uuid).exists(),
    select(_BOOKINGS.c.host_uuid).where(_BOOKINGS.c.host_uuid == _HOSTS.c.uuid).exists(),
)
_DUE = Statement(
    select(_HOSTS.c.uuid).where(or_(_HOSTS.c.cleaning != "", (_HOSTS.c.served != "") & ~_TAKEN)).order_by(_HOSTS.c.uuid)
)
_FREE = Statement(select(_HOSTS.c.uuid).where(_HOSTS.c.uuid == bindparam("of"), ~_TAKEN))
_SERVE = Statement(update(_HOSTS).where(_HOSTS.c.uuid == bindparam("of")).values(served=bindparam("by")))
_NOW = Statement(select(_HOSTS.c.cleaning, _HOSTS.c.cleaning_count).where(_HOSTS.c.uuid == bindparam("of")))


def serve(connection: Connection, hosts: Iterable[str], project: str, *, there: bool = False) -> None:
    """Machines of bare metal get a member of the project: on record before it runs. Their rows are locked. `there`: it
    runs there already.

    Raises ClaimLost for one that may hold what another project has left.
    """
    wanted = sorted(hosts)
    for uuid, host in sorted(fleet.hosts(connection, wanted).items()) if wanted else ():
        if not host.open_to(project) and not there:
            raise ClaimLost(f"host {uuid} has served another project, and is to be cleaned first")
        if host.cleaning.served != project:
            _SERVE.run(connection, {"of": uuid, "by": project})


def due(connection: Connection) -> tuple[Host, ...]:
    """Hosts that are being cleaned, or could not be, or that nobody has and that may hold what somebody left."""
    uuids = list(_DUE.scalars(connection, {}))
    return tuple(fleet.hosts(connection, uuids).values()) if uuids else ()


def is_free(connection: Connection, host_uuid: str) -> bool:
    """Whether nobody has claimed the host and nobody has booked it."""
    return _FREE.first(connection, {"of": host_uuid}) is not None


def put(connection: Connection, host: Host, cleaning: Cleaning, now: int) -> None:
    """Record how far the cleaning is. The host's row is locked."""
    values = {
        "served": cleaning.served,
        "cleaning": cleaning.state.value,
        "cleaning_reason": cleaning.reason,
        "cleaning_count": cleaning.count,
        "cleaning_until": cleaning.until,
        "cleaning_tries": cleaning.tries,
        "generation": _HOSTS.c.generation + 1,
    }
    connection.execute(update(_HOSTS).where(_HOSTS.c.uuid == host.uuid).values(values))
    fleet_events.append(connection, FleetChange.HOST, host.uuid, host.zone_uuid, now)


def attempt_now(connection: Connection, host_uuid: str) -> tuple[int, bool]:
    """(the newest attempt to clean the host, whether that one is under way)."""
    row = _NOW.first(connection, {"of": host_uuid})
    return (0, False) if row is None else (int(row.cleaning_count), row.cleaning == CleaningState.CLEANING.value)
