"""Addresses that members hold: taken in the transaction of their claim, and theirs as long as they are members."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address

from sqlalchemy import Connection, delete, exists, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from service.domain.groups import InstanceStatus
from service.domain.network import Network
from service.errors import NoCapacity
from service.store import schema
from service.store.claims import ClaimLost


def take_addresses(
    connection: Connection, zone_uuid: str, network: Network, wanted: Sequence[tuple[str, int]]
) -> Mapping[str, str]:
    """An address of the zone's pool for each (instance, attempt): instance uuid -> address.

    A member that has one there already keeps it, whichever attempt it took it with; others get the lowest free ones.
    Raises NoCapacity where too few are left, ClaimLost where another transaction just took one.
    """
    table = schema.addresses
    members = dict(wanted)
    here = select(table.c.instance_uuid, table.c.address).where(
        table.c.zone_uuid == zone_uuid, table.c.instance_uuid.in_(members)
    )
    found: dict[str, str] = {row.instance_uuid: row.address for row in connection.execute(here)}
    for instance_uuid, address in sorted(found.items()):
        mine = table.c.zone_uuid == zone_uuid, table.c.address == address
        connection.execute(update(table).where(*mine).values(attempt=members[instance_uuid]))
    new = [instance_uuid for instance_uuid, _ in wanted if instance_uuid not in found]
    for instance_uuid, address in zip(new, free_addresses(connection, zone_uuid, network, len(new)), strict=True):
        found[instance_uuid] = address
        row = insert(table).values(
            zone_uuid=zone_uuid, address=address, instance_uuid=instance_uuid, attempt=members[instance_uuid]
        )
        try:
            connection.execute(row)
        except IntegrityError as error:  # another transaction took it since the SELECT
            raise ClaimLost(f"address {address} was just taken") from error
    return found


def let_go(connection: Connection, instances: Iterable[str]) -> None:
    """Give back the addresses that these members have no use for any more: those of an attempt without a claim, where
    the member is over or has a later attempt in another zone."""
    table, claims, members = schema.addresses, schema.claims, schema.instances
    asked = sorted(set(instances))
    if not asked:
        return
    claimed = exists().where(claims.c.instance_uuid == table.c.instance_uuid, claims.c.attempt == table.c.attempt)
    lives = exists().where(members.c.uuid == table.c.instance_uuid, members.c.status != InstanceStatus.REMOVED.value)
    newer = table.alias()
    elsewhere = exists().where(newer.c.instance_uuid == table.c.instance_uuid, newer.c.attempt > table.c.attempt)
    connection.execute(delete(table).where(table.c.instance_uuid.in_(asked), ~claimed, or_(~lives, elsewhere)))


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
