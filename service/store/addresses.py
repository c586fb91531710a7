"""Addresses that members hold: taken in the transaction of their claim, and theirs as long as they are members."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import chain, islice

from sqlalchemy import (
    Connection,
    bindparam,
    delete,
    exists,
    insert,
    literal,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.exc import IntegrityError

from service.domain.fleet import Zone
from service.domain.groups import Instance, InstanceStatus
from service.domain.network import (
    ANSWER,
    ForeignAddress,
    Network,
    PoolUse,
    in_pool,
    in_pools,
    in_subnet,
    number_of,
    pool_use,
    size_of,
)
from service.errors import NoAddresses
from service.store import schema
from service.store.basis import Basis
from service.store.claims import ClaimLost
from service.store.codec import decode_known
from service.store.statement import Statement, among


@dataclass(frozen=True, slots=True)
class _Known:
    """Of a zone: address -> the member that holds it, and those that somebody else has."""

    held: dict[str, str]
    foreign: set[str]


_ADDRESSES, _FOREIGN = schema.addresses, schema.foreign_addresses

_KNOWN_IN = (
    select(_ADDRESSES.c.zone_uuid, _ADDRESSES.c.address, _ADDRESSES.c.instance_uuid).where(
        among(_ADDRESSES.c.zone_uuid, "zones")
    ),
    select(_FOREIGN.c.zone_uuid, _FOREIGN.c.address, literal("").label("instance_uuid")).where(
        among(_FOREIGN.c.zone_uuid, "zones")
    ),
)
_KNOWN = Statement(union_all(*_KNOWN_IN))
_NETWORK = "network"
_ZONES = select(schema.zones.c.uuid, schema.zones.c.document, literal(_NETWORK).label("instance_uuid"))
# As `_KNOWN`, and the zones themselves: what they plan is read with what of it is taken.
_PLANNED = Statement(union_all(_ZONES.where(among(schema.zones.c.uuid, "zones")), *_KNOWN_IN))
_KEEP = Statement(
    update(_ADDRESSES).where(_ADDRESSES.c.zone_uuid == bindparam("in"), _ADDRESSES.c.address == bindparam("at")),
    ("attempt",),
)
_TAKE = Statement(insert(_ADDRESSES), ("zone_uuid", "address", "instance_uuid", "attempt"))


def take_addresses(
    connection: Connection, zone_uuid: str, network: Network, wanted: Sequence[tuple[str, int]]
) -> Mapping[str, str]:
    """An address of the zone's pools for each (instance, attempt): instance uuid -> address.

    A member that has one there already keeps it, whichever attempt it took it with; others get the lowest free ones.
    Raises NoAddresses where too few are left, ClaimLost where another transaction just took one.
    """
    return _take(connection, zone_uuid, network, _known(connection, [zone_uuid])[zone_uuid], wanted)


def take_planned(connection: Connection, wanted: Mapping[str, Sequence[tuple[str, int]]]) -> Mapping[str, str]:
    """As `take_addresses`, of each of the zones (by uuid) that plans addresses now. Raises as it does."""
    networks: dict[str, Network] = {}
    taken: list[tuple[str, str, str]] = []
    for zone_uuid, address, instance_uuid in _PLANNED.all(connection, {"zones": sorted(wanted)}):
        if instance_uuid == _NETWORK:
            networks[zone_uuid] = decode_known(Zone, address).network
        else:
            taken.append((zone_uuid, address, instance_uuid))
    known, found = _sorted_out(wanted, taken), dict[str, str]()
    for zone_uuid, members in sorted(wanted.items()):
        if networks[zone_uuid].plans_addresses:
            found |= _take(connection, zone_uuid, networks[zone_uuid], known[zone_uuid], members)
    return found


def _take(
    connection: Connection, zone_uuid: str, network: Network, known: _Known, wanted: Sequence[tuple[str, int]]
) -> Mapping[str, str]:
    members = dict(wanted)
    found = {known.held[address]: address for address in known.held if known.held[address] in members}
    _KEEP.many(
        connection,
        [{"in": zone_uuid, "at": at, "attempt": members[instance]} for instance, at in sorted(found.items())],
    )
    new = [instance_uuid for instance_uuid, _ in wanted if instance_uuid not in found]
    taken = dict(zip(new, _free(connection, zone_uuid, network, known, len(new)), strict=True))
    rows = [
        {"zone_uuid": zone_uuid, "address": address, "instance_uuid": instance, "attempt": members[instance]}
        for instance, address in taken.items()
    ]
    try:
        _TAKE.many(connection, rows)
    except IntegrityError as error:  # another transaction took it since the SELECT
        raise ClaimLost(f"one of the addresses {', '.join(list(taken.values())[:8])} was just taken") from error
    return found | taken


def hand_over(connection: Connection, zone_uuid: str, instance_uuid: str, group_uuid: str) -> None:
    """The address that a member has there is its group's from now on, whoever leads it."""
    table = schema.addresses
    mine = table.c.zone_uuid == zone_uuid, table.c.instance_uuid == instance_uuid
    connection.execute(update(table).where(*mine).values(instance_uuid=group_uuid, attempt=0))


def give_back(connection: Connection, group_uuid: str) -> None:
    """The group is over, and with it what it has kept for whoever led it."""
    connection.execute(delete(schema.addresses).where(schema.addresses.c.instance_uuid == group_uuid))


def let_go(connection: Connection, instances: Iterable[str]) -> None:
    """Give back the addresses that these members have no use for any more: those of an attempt without a claim, where
    the member is over or has a later attempt in another zone."""
    asked = sorted(set(instances))
    if not asked:
        return
    _LET_GO.run(connection, {"asked": asked})


def _to_let_go() -> Statement:
    table, claims, members = schema.addresses, schema.claims, schema.instances
    claimed = exists().where(claims.c.instance_uuid == table.c.instance_uuid, claims.c.attempt == table.c.attempt)
    lives = exists().where(members.c.uuid == table.c.instance_uuid, members.c.status != InstanceStatus.REMOVED.value)
    newer = table.alias()
    elsewhere = exists().where(newer.c.instance_uuid == table.c.instance_uuid, newer.c.attempt > table.c.attempt)
    return Statement(delete(table).where(among(table.c.instance_uuid, "asked"), ~claimed, or_(~lives, elsewhere)))


_LET_GO = _to_let_go()


def free_addresses(connection: Connection, zone_uuid: str, network: Network, count: int) -> Sequence[str]:
    """The lowest addresses of the first pools that nobody has now; none of them is taken. Raises NoAddresses."""
    return _free(connection, zone_uuid, network, _known(connection, [zone_uuid])[zone_uuid], count)


def _free(connection: Connection, zone_uuid: str, network: Network, known: _Known, count: int) -> Sequence[str]:
    found: list[str] = []
    for low, high in network.pools:
        taken = {number_of(address) for address in chain(known.held, known.foreign) if in_pool(address, low, high)}
        first = ip_address(low)
        candidates = (n for n in range(int(first), number_of(high) + 1) if n not in taken)
        found += (str(type(first)(number)) for number in islice(candidates, count - len(found)))
    if len(found) < count:
        raise _too_few(connection, {zone_uuid: network}, count, len(found))
    return found


def _known(connection: Connection, zones: Iterable[str]) -> Mapping[str, _Known]:
    asked = sorted(zones)
    return _sorted_out(asked, _KNOWN.all(connection, {"zones": asked}) if asked else ())


def _sorted_out(zones: Iterable[str], taken: Iterable[tuple[str, str, str]]) -> Mapping[str, _Known]:
    """By zone. `taken`: zone, address, and the member that holds it, if one does."""
    found = {zone_uuid: _Known({}, set()) for zone_uuid in zones}
    for zone_uuid, address, instance_uuid in taken:
        if instance_uuid:
            found[zone_uuid].held[address] = instance_uuid
        else:
            found[zone_uuid].foreign.add(address)
    return found


def _too_few(connection: Connection, networks: Mapping[str, Network], asked: int, free: int) -> NoAddresses:
    zones = schema.zones
    rows = connection.execute(select(zones.c.uuid, zones.c.name).where(zones.c.uuid.in_(networks)))
    names = {row.uuid: row.name for row in rows}
    pools = [f"{low}-{high}" for network in networks.values() for low, high in network.pools]
    return NoAddresses(", ".join(names.get(uuid, uuid) for uuid in networks), ", ".join(pools), asked, free)


def pool_uses(connection: Connection, zone_uuid: str, network: Network) -> tuple[PoolUse, ...]:
    """Who has how many addresses of each pool. One that a member and somebody else have counts as the member's."""
    return _uses(network, _known(connection, [zone_uuid])[zone_uuid])


def _uses(network: Network, known: _Known) -> tuple[PoolUse, ...]:
    held = set(known.held)
    return tuple(pool_use(pool, held, known.foreign - held) for pool in network.pools)


@dataclass(frozen=True, slots=True)
class Shortages:
    """Zones in which members that are to be placed would find too few addresses. `none`: there is not one."""

    tight: frozenset[str] = frozenset()
    none: frozenset[str] = frozenset()


def require_free(connection: Connection, members: Sequence[Instance], known: Basis) -> Shortages:
    """That the zones in which these members may be placed can have addresses enough for them; and the zones that
    cannot take all of them. Raises NoAddresses: by no placement can each have one."""
    zones = {uuid: known.zones[uuid].network for uuid in sorted(known.taken)}
    planned = {uuid: network for uuid, network in zones.items() if network.plans_addresses}
    # Where each zone has enough for all, whoever they are, it need not be known which are taken.
    if all(size_of(network) - known.taken[uuid] >= len(members) for uuid, network in planned.items()):
        return Shortages()
    return _shortages(connection, members, planned, len(zones))


def _shortages(
    connection: Connection, members: Sequence[Instance], planned: Mapping[str, Network], zones: int
) -> Shortages:
    """See `require_free`. `planned`: the zones that plan addresses, of `zones` in all."""
    unlimited = len(planned) < zones
    known = _known(connection, planned)
    free = {uuid: sum(use.free for use in _uses(network, known[uuid])) for uuid, network in planned.items()}
    has = {(uuid, instance) for uuid, one in known.items() for instance in one.held.values()}
    needs = {uuid: sum((uuid, m.uuid) not in has for m in members) for uuid in planned}
    pinned = Counter(m.spec.zone_uuid for m in members if (m.spec.zone_uuid, m.uuid) not in has)
    for uuid, asked in sorted(pinned.items()):
        if uuid in planned and free[uuid] < asked:
            raise _too_few(connection, {uuid: planned[uuid]}, asked, free[uuid])
    floating = sum(not m.spec.zone_uuid and not any((uuid, m.uuid) in has for uuid in planned) for m in members)
    left = sum(amount - pinned.get(uuid, 0) for uuid, amount in free.items())
    if planned and not unlimited and left < floating:
        raise _too_few(connection, planned, floating, left)
    return Shortages(
        frozenset(uuid for uuid in planned if free[uuid] < needs[uuid]),
        frozenset(uuid for uuid in planned if not free[uuid] and needs[uuid] == len(members)),
    )


# --- addresses that somebody else has ------------------------------------------------------------------------------


def foreign_addresses(
    connection: Connection, zone_uuid: str, network: Network, limit: int
) -> tuple[ForeignAddress, ...]:
    """Those of the zone's pools that are known, at most `limit`, by address as text."""
    table = schema.foreign_addresses
    query = select(table).where(table.c.zone_uuid == zone_uuid).order_by(table.c.address, table.c.seen_by)
    found = (
        ForeignAddress(r.address, r.hardware_address, r.how, r.seen_by, r.since) for r in connection.execute(query)
    )
    return tuple(islice((one for one in found if in_pools(one.address, network)), limit))


def seen_on_host(
    connection: Connection, zone_uuid: str, network: Network, host_uuid: str, seen: Iterable[ForeignAddress], now: int
) -> bool:
    """What a host shows now of others' addresses, of those in the zone's subnet; returns whether it is news."""
    table = schema.foreign_addresses
    told = {one.address: one for one in seen if in_subnet(one.address, network)}
    before = {
        row.address: (row.zone_uuid, row.hardware_address, row.how)
        for row in connection.execute(select(table).where(table.c.seen_by == host_uuid))
    }
    wanted = {address: (zone_uuid, one.hardware_address, one.how) for address, one in told.items()}
    if wanted == before:
        return False
    changed = [address for address in {*wanted, *before} if wanted.get(address) != before.get(address)]
    connection.execute(delete(table).where(table.c.seen_by == host_uuid, table.c.address.in_(changed)))
    for address in sorted(set(changed) & wanted.keys()):
        zone, hardware, how = wanted[address]
        values = {"zone_uuid": zone, "address": address, "seen_by": host_uuid, "hardware_address": hardware}
        connection.execute(insert(table).values(**values, how=how, since=now))
    return True


def held_outside(connection: Connection, zone_uuid: str, network: Network) -> list[str]:
    """Addresses that members have in the zone and its network does not give out."""
    held = _known(connection, [zone_uuid])[zone_uuid].held
    return sorted(address for address in held if not in_pools(address, network))


def forget_zone(connection: Connection, zone_uuid: str) -> None:
    """The zone is gone: whatever strangers have there."""
    connection.execute(delete(schema.foreign_addresses).where(schema.foreign_addresses.c.zone_uuid == zone_uuid))


def answered(connection: Connection, member: Instance, hardware_address: str, now: int) -> None:
    """The member's guest hears that a machine of another hardware address answers for its address."""
    silent(connection, member.uuid)
    values = {"zone_uuid": member.zone_uuid, "address": member.address, "seen_by": member.uuid}
    row = {**values, "hardware_address": hardware_address, "how": ANSWER, "since": now}
    connection.execute(insert(schema.foreign_addresses).values(**row))


def silent(connection: Connection, seen_by: str) -> None:
    """Forget what this member's guest heard, or this host showed."""
    connection.execute(delete(schema.foreign_addresses).where(schema.foreign_addresses.c.seen_by == seen_by))


def forget_foreign(connection: Connection, before: int) -> None:
    """Forget what is known by hosts that are of the fleet no more, and what guests heard before then (ms) that are
    gone: nobody hears any more whether it still answers."""
    table, members = schema.foreign_addresses, schema.instances
    alive = select(members.c.uuid).where(members.c.status != InstanceStatus.REMOVED.value)
    gone = table.c.seen_by.not_in(alive) & (table.c.since < before) & (table.c.how == ANSWER)
    lost = table.c.seen_by.not_in(select(schema.hosts.c.uuid)) & (table.c.how != ANSWER)
    connection.execute(delete(table).where(or_(gone, lost)))


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
