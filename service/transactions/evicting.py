"""The commit by which a group begins to leave its hosts so that another one fits: not before its time, and for no room
that nobody wants (ARCHITECTURE I15)."""

from __future__ import annotations

from service.domain.groups import Group
from service.lifecycle.facts import EvictionBegun
from service.store import audit, bookings
from service.store.connection import Connection
from service.transactions import rooms
from service.transactions.changes import apply

METHOD = "EvictGroup"


def begin(connection: Connection, known: Group, now: int) -> Group | None:
    """The group as it leaves, or as it is where it does not yet; None where nobody wants its room any more. It does not
    before those have gone whose moves need nobody's end: where one of these is refused nobody has ended for it.

    The audit's row says for which group it ends. Raises LeaseLost, InvariantViolation.
    """
    asked = known.eviction
    if asked is None or not bookings.open_rooms(connection, [asked.room], now):
        return None
    if rooms.goes_before(connection, asked):
        return known
    after = apply(connection, known.uuid, [EvictionBegun(asked.room)], now, epoch=known.epoch)
    if after.version != known.version:
        told = f"{known.uuid}: {asked.becomes} so that group {asked.by_group} of priority {asked.by_priority} fits"
        audit.record(
            connection, principal="corral", project=known.project, method=METHOD, subject=told, request_id="", now=now
        )
    return after
