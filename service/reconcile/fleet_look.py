"""What a gang's plan stands on, read in one transaction: the fleet, its own seats, and whether it is its turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from placement.model import Snapshot
from service.domain.fleet import Host as FleetHost
from service.domain.groups import Group, InstanceStatus
from service.planning import fleet_reader
from service.planning.fleet_reader import FleetReader
from service.reconcile.standing_in_line import Line
from service.store import addresses, bookings, rare
from service.store.addresses import Shortages
from service.store.connection import Connection
from service.transactions import claiming

Booked = Mapping[str, tuple[str, tuple[int, ...]]]
"""Member -> the host where a seat is kept for it, and its cells there."""


class Look(NamedTuple):
    """`booked`: seats that are kept for its members; `turn`: whether nobody is before it."""

    hosts: Mapping[str, FleetHost]
    snapshot: Snapshot
    booked: Booked
    short: Shortages
    turn: bool


def look(connection: Connection, reader: FleetReader | None, line: Line, group: Group, now: int) -> Look:
    """For the group's pending members, at `now` (ms). `reader`: None where all of the fleet is read.

    Raises HeldBack, NoAddresses.
    """
    pending = [m.uuid for m in group.instances if m.status is InstanceStatus.PENDING]
    some, stands = rare.with_basis(connection, group.uuid, group.project, pending)
    if some.held:
        claiming.held_back(connection, group, pending)  # before anybody takes the trouble to plan
    turn = line.look(connection, group, now, anybody=some.waiting)
    if reader is None:
        hosts, snapshot = fleet_reader.read_fleet(connection)
    else:
        hosts, snapshot = reader.read(connection, apart=some.apart, catalogue=stands.catalogue)
    booked: Booked = bookings.booked(connection, pending) if some.booked else {}
    waiting = [m for m in group.instances if m.uuid in pending and m.uuid not in booked]
    return Look(hosts, snapshot, booked, addresses.require_free(connection, waiting, stands), turn)
