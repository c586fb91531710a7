"""Addresses that members hold, taken in the transaction of their claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address

from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.exc import IntegrityError

from service.domain.network import Network
from service.errors import NoCapacity
from service.store import schema
from service.store.claims import ClaimLost


def take_addresses(
    connection: Connection, zone_uuid: str, network: Network, wanted: Sequence[tuple[str, int]]
) -> Mapping[str, str]:
    """A free address of the zone's pool for each (instance, attempt): instance uuid -> address.

    Raises NoCapacity where too few are left, ClaimLost where another transaction just took one.
    """
    found: dict[str, str] = {}
    for (instance_uuid, attempt), address in zip(
        wanted, free_addresses(connection, zone_uuid, network, len(wanted)), strict=True
    ):
        found[instance_uuid] = address
        row = insert(schema.addresses).values(
            zone_uuid=zone_uuid, address=address, instance_uuid=instance_uuid, attempt=attempt
        )
        try:
            connection.execute(row)
        except IntegrityError as error:  # another transaction took it since the SELECT
            raise ClaimLost(f"address {address} was just taken") from error
    return found


def free_addresses(connection: Connection, zone_uuid: str, network: Network, count: int) -> Sequence[str]:
    """The lowest addresses of the pool that nobody holds now; none of them is taken. Raises NoCapacity."""
    taken = set(connection.scalars(select(schema.addresses.c.address).where(schema.addresses.c.zone_uuid == zone_uuid)))
    candidate, last = ip_address(network.first_address), ip_address(network.last_address)
    found: list[str] = []
    while len(found) < count:
        if candidate > last:  # type: ignore[operator]  # both ends are of one family, checked by the configuration
            raise NoCapacity(f"zone {zone_uuid} has too few free addresses", None)
        if str(candidate) not in taken:
            found.append(str(candidate))
        candidate += 1
    return found


def keep_addresses(connection: Connection, held: Sequence[tuple[str, str, str, int]]) -> None:
    """Record addresses that machines have already: (zone, address, instance, attempt). Raises ClaimLost for one that
    another instance has."""
    table = schema.addresses
    for zone_uuid, address, instance_uuid, attempt in held:
        # Those of earlier attempts, and one that another attempt of the same member has: a member has one address.
        connection.execute(delete(table).where(table.c.instance_uuid == instance_uuid))
        other = connection.scalar(
            select(table.c.instance_uuid).where(table.c.zone_uuid == zone_uuid, table.c.address == address)
        )
        if other is not None:
            raise ClaimLost(f"address {address} is on record as that of instance {other}")
        connection.execute(
            insert(table).values(zone_uuid=zone_uuid, address=address, instance_uuid=instance_uuid, attempt=attempt)
        )
