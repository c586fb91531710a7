"""Rows of zones and hosts. What callers can see of them is changed in one transaction with its event."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, select, update

from service.domain import cells
from service.domain.cleaning import Cleaning, CleaningState
from service.domain.devices import DeviceRules, PciFunction, Unit, units
from service.domain.fleet import GPU, Host, HostState, HostStatus, Overcommit, Zone, policy
from service.errors import NotFound
from service.store import claims, devices, fleet_events, rows, schema, settings, vectors
from service.store.catalog import model_services, put_model_service
from service.store.codec import decode_known, encode
from service.store.fleet_events import FleetChange, wall_clock
from service.store.statement import Statement, among

__all__ = [
    "delete_host",
    "delete_zone",
    "host",
    "hosts",
    "hosts_from",
    "hosts_of",
    "model_services",
    "page_of_hosts",
    "page_of_zones",
    "put_host",
    "put_model_service",
    "put_zone",
    "set_allocatable",
    "set_facts",
    "set_overcommit",
    "set_state",
    "set_status",
    "zone",
    "zones",
]

# Statements that run with every probe and plan are made once.
_ZONES = Statement(select(schema.zones))
_IN_ORDER = select(schema.hosts).order_by(schema.hosts.c.uuid)
_HOSTS, _SOME_HOSTS = Statement(_IN_ORDER), Statement(_IN_ORDER.where(among(schema.hosts.c.uuid, "uuids")))
_THAT_HOST = select(schema.hosts).where(schema.hosts.c.uuid == bindparam("of"))
_HOST, _HOST_LOCKED = Statement(_THAT_HOST), Statement(_THAT_HOST.with_for_update())
_SAID = _THAT_HOST.with_only_columns(
    schema.hosts.c.status, schema.hosts.c.status_reason, schema.hosts.c.status_cause, schema.hosts.c.zone_uuid
)
_STATUS, _STATUS_LOCKED = Statement(_SAID), Statement(_SAID.with_for_update())
_SET_STATUS = Statement(
    update(schema.hosts)
    .where(schema.hosts.c.uuid == bindparam("of"))
    .values(
        status=bindparam("is"),
        status_reason=bindparam("reason"),
        status_cause=bindparam("cause"),
        generation=schema.hosts.c.generation + 1,
    )
)
_SET_CONNECTED = Statement(
    update(schema.hosts)
    .where(schema.hosts.c.uuid == bindparam("of"))
    .values(
        status=HostStatus.CONNECTED.value,
        status_reason="",
        status_cause="",
        boot_id=bindparam("boot"),
        virt_type=bindparam("virt"),
        isolation=bindparam("isolated"),
        firmware=bindparam("by_firmware"),
        secure_boot=bindparam("secured"),
        generation=schema.hosts.c.generation + 1,
    )
)
_UUIDS = Statement(select(schema.hosts.c.uuid))
_CLAIMS = schema.claims


# --- zones ---------------------------------------------------------------------------------------------------------


def put_zone(connection: Connection, zone: Zone, *, now: int | None = None) -> None:
    """Insert or overwrite the zone."""
    at = wall_clock() if now is None else now
    plain = replace(zone, version=0, created_at=0, updated_at=0)
    rows.put(connection, schema.zones, zone.uuid, {"name": zone.name, "document": encode(plain)}, at)
    fleet_events.append(connection, FleetChange.ZONE, zone.uuid, zone.uuid, at)


def delete_zone(connection: Connection, uuid: str, now: int) -> None:
    """Forget the zone; the caller has seen that no host is in it."""
    connection.execute(delete(schema.zones).where(schema.zones.c.uuid == uuid))
    fleet_events.append(connection, FleetChange.ZONE_REMOVED, uuid, uuid, now)


def zones(connection: Connection) -> Mapping[str, Zone]:
    """All zones by uuid."""
    return {r.uuid: zone_of(r) for r in _ZONES.all(connection)}


def zone(connection: Connection, uuid: str, *, lock: bool = False) -> Zone:
    """One zone. Raises NotFound."""
    query = select(schema.zones).where(schema.zones.c.uuid == uuid)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound("zone", uuid)
    return zone_of(row)


def page_of_zones(connection: Connection, after: tuple[str, str] | None, limit: int) -> tuple[Zone, ...]:
    """Up to `limit` zones by name after the given key (`rows.page_key`)."""
    return tuple(zone_of(r) for r in connection.execute(rows.page(schema.zones, after, limit)))


def hosts_of(connection: Connection) -> Mapping[str, int]:
    """How many hosts each zone has; zones without hosts are left out."""
    table = schema.hosts
    counted = connection.execute(select(table.c.zone_uuid, func.count().label("n")).group_by(table.c.zone_uuid))
    return {r.zone_uuid: int(r.n) for r in counted}


# --- hosts ---------------------------------------------------------------------------------------------------------


def put_host(connection: Connection, host: Host, *, now: int | None = None) -> None:
    """Insert the host, or overwrite what its operator says of it; what was observed and claimed stays.

    The state that its operator gave it stays too: a host disabled at run time is not enabled by a restart.
    """
    at = wall_clock() if now is None else now
    changed = {"name": host.name, "zone_uuid": host.zone_uuid, "document": encode(_plain(host))}
    first = {"state": host.state.value, "status": host.status.value}
    rows.put(connection, schema.hosts, host.uuid, changed, at, first=first)
    fleet_events.append(connection, FleetChange.HOST, host.uuid, host.zone_uuid, at)


def delete_host(connection: Connection, host: Host, now: int) -> tuple[str, ...]:
    """Forget the host; the caller has seen that nothing is seated or claimed on it. Returns the keys of its devices
    that are out of service, which they are again where the host is added again."""
    # A group for which room was to be made here finds out.
    out_of_service = devices.delete_of(connection, host.uuid, host.hypervisor, now)
    tables = (
        schema.bookings,
        schema.image_copies,
        schema.machine_seats,
        schema.left_seats,
        schema.fences,
        schema.fence_verdicts,
        schema.host_resources,
    )
    for table in tables:
        connection.execute(delete(table).where(table.c.host_uuid == host.uuid))
    connection.execute(delete(schema.hosts).where(schema.hosts.c.uuid == host.uuid))
    fleet_events.append(connection, FleetChange.HOST_REMOVED, host.uuid, host.zone_uuid, now)
    return out_of_service


def hosts(connection: Connection, uuids: Sequence[str] | None = None) -> Mapping[str, Host]:
    """All hosts (or these) by uuid, with their resource vectors."""
    known = vectors.read(connection, uuids)
    found = _HOSTS.all(connection) if uuids is None else _SOME_HOSTS.all(connection, {"uuids": uuids})
    return hosts_from(found, known, vectors.guests(connection, known))


def hosts_from(
    found: Iterable[Row[Any]], known: Mapping[str, vectors.Vectors], guests: Mapping[tuple[str, str], int]
) -> Mapping[str, Host]:
    """By uuid, from their rows, those of their amounts, and how many guests take something beside their claims."""
    return {row.uuid: _host(row, known.get(row.uuid, {}), guests) for row in found}


def host_uuids(connection: Connection) -> frozenset[str]:
    """Which hosts there are."""
    return frozenset(_UUIDS.scalars(connection))


def host(connection: Connection, uuid: str, *, lock: bool = False) -> Host:
    """One host; `lock`: nobody claims on it or changes it meanwhile. Raises NotFound."""
    row = (_HOST_LOCKED if lock else _HOST).first(connection, {"of": uuid})
    if row is None:
        raise NotFound("host", uuid)
    known = vectors.read(connection, [uuid])
    return _host(row, known.get(uuid, {}), vectors.guests(connection, known))


def page_of_hosts(
    connection: Connection,
    after: tuple[str, str] | None,
    limit: int,
    *,
    zone_uuid: str = "",
    states: Sequence[str] = (),
    statuses: Sequence[str] = (),
    project: str = "",
) -> tuple[Host, ...]:
    """Up to `limit` hosts by name after the given key (`rows.page_key`); empty filters do not filter.

    `project`: a member of one of its groups has a claim there.
    """
    table = schema.hosts
    query = rows.page(table, after, limit)
    if zone_uuid:
        query = query.where(table.c.zone_uuid == zone_uuid)
    if states:
        query = query.where(table.c.state.in_(states))
    if statuses:
        query = query.where(table.c.status.in_(statuses))
    if project:
        of_project = select(schema.groups.c.uuid).where(schema.groups.c.project == project)
        query = query.where(table.c.uuid.in_(select(_CLAIMS.c.host_uuid).where(_CLAIMS.c.group_uuid.in_(of_project))))
    found = connection.execute(query).all()
    known = vectors.read(connection, [row.uuid for row in found])
    return tuple(hosts_from(found, known, vectors.guests(connection, known)).values())


def set_state(connection: Connection, host: Host, state: HostState, now: int) -> None:
    """Record what the operator wants of the host."""
    rows.touch(connection, schema.hosts, host.uuid, {"state": state.value}, now)
    fleet_events.append(connection, FleetChange.HOST, host.uuid, host.zone_uuid, now)


def status_of(connection: Connection, uuid: str) -> HostStatus | None:
    """What is recorded of the host's connection; None where the host is gone."""
    found = _STATUS.scalar(connection, {"of": uuid})
    return None if found is None else HostStatus(found)


def set_status(
    connection: Connection,
    uuid: str,
    status: HostStatus,
    reason: str = "",
    *,
    cause: str = "",
    now: int | None = None,
) -> None:
    """Record what was seen of the host's connection; does nothing where the row says it already, or is gone.

    `cause`: what the host itself said behind the reason, without secrets.
    """
    row = _STATUS_LOCKED.first(connection, {"of": uuid})
    if row is None or tuple(row[:3]) == (status.value, reason, cause):
        return
    _SET_STATUS.run(connection, {"of": uuid, "is": status.value, "reason": reason, "cause": cause})
    fleet_events.append(connection, FleetChange.HOST, uuid, row.zone_uuid, wall_clock() if now is None else now)


def set_facts(
    connection: Connection,
    uuid: str,
    *,
    boot_id: str,
    virt_type: str,
    total: Mapping[str, int],
    foreign: Mapping[str, int],
    beside: Mapping[str, int] | None = None,
    guests: int = 0,
    functions: Sequence[PciFunction] | None = None,
    isolation: str = "",
    firmware: str = "",
    secure_boot: str = "",
    hypervisor: str = "",
    now: int | None = None,
) -> None:
    """Record a probe: the host is connected, its totals, what others hold, its devices, and what is allocatable.

    `total`, `foreign`: those of NUMA cells among them, by their own names (`service/domain/cells.py`). `beside`: what
    each of our guests takes beside its claim; `guests`: how many run, those without a claim included. `functions`: see
    `drivers.base.HostFacts`; what the rules offer of them is counted by model. No `isolation`, `firmware`,
    `secure_boot` or `hypervisor`: the last one stands.

    Policies and the operator's amounts are read here, so that a slow probe does not bring back what was changed
    meanwhile. Does nothing where the host is gone.
    """
    row = _HOST_LOCKED.first(connection, {"of": uuid})
    if row is None:
        return
    seen = {"of": uuid, "boot": boot_id, "virt": virt_type, "isolated": isolation or row.isolation}
    told = {"by_firmware": firmware or row.firmware, "secured": secure_boot or row.secure_boot}
    _SET_CONNECTED.run(connection, {**seen, **told})
    known = vectors.read(connection, [uuid]).get(uuid, {})
    operators = decode_known(Host, row.document)
    overcommit = policy(settings.overcommit(connection), zones(connection), operators)
    total = cells.overridden(total, operators.capacity_override)
    new_devices = False
    if functions is not None:
        rules = settings.device_rules(connection)
        offered = _offered(rules, uuid, operators.name, functions)
        barred = devices.barred(virt_type, overcommit)
        machine = hypervisor or row.hypervisor or ""
        new_devices = devices.record(connection, uuid, offered, overcommitted=barred, hypervisor=machine)
        there, held = devices.counts(devices.of_hosts(connection, [uuid]).get(uuid, ()))
        total, foreign = {**total, **there}, {**foreign, **held}
    usable = _allocatable(overcommit, {name: total.get(name, 0) for name in {*known, *total}})
    claimed = claims.guests(connection, [uuid]) if (beside := beside or {}) else {}
    unclaimed = {name: each * max(0, guests - claimed.get((uuid, name), 0)) for name, each in beside.items()}
    wanted = {
        resource: {
            "total": total.get(resource, 0),
            "usable": usable[resource],
            "foreign_used": foreign.get(resource, 0) + unclaimed.get(resource, 0),
            "beside": beside.get(cells.resource_in(resource), 0),
        }
        for resource in sorted(usable)
    }
    changed = vectors.write(connection, uuid, known, wanted) or new_devices
    changed = changed or told != {"by_firmware": row.firmware, "secured": row.secure_boot}
    if changed or row.status != HostStatus.CONNECTED.value or isolation not in ("", row.isolation):
        fleet_events.append(connection, FleetChange.HOST, uuid, row.zone_uuid, wall_clock() if now is None else now)


def lacks_devices(connection: Connection, host: Host, functions: Sequence[PciFunction]) -> bool:
    """Whether the rules offer more of these functions than the host has by its rows: where another device came into the
    place of one that somebody still had, nothing is told of it before that one was let go."""
    rules = settings.device_rules(connection)
    offered = _offered(rules, host.uuid, host.name, functions)
    there = {unit.key for unit in offered if unit.functions}
    return bool(there) and not devices.standing(connection, host.uuid).issuperset(there)


def _offered(rules: DeviceRules, uuid: str, name: str, functions: Sequence[PciFunction]) -> tuple[Unit, ...]:
    called = rules.name_of(uuid, name)
    return units(rules.rules, called, functions, rules.partitions_of(called))


def set_allocatable(connection: Connection, host: Host, overcommit: Overcommit) -> bool:
    """Count the host's allocatable amounts again, after its policy changed; returns whether any of them is another."""
    known = vectors.read(connection, [host.uuid]).get(host.uuid, {})
    devices.hold_to_policy(connection, host.uuid, overcommitted=devices.barred(host.virt_type, overcommit))
    usable = _allocatable(overcommit, {name: int(row.total) for name, row in known.items()})
    return vectors.write(connection, host.uuid, known, {name: {"usable": amount} for name, amount in usable.items()})


def _allocatable(overcommit: Overcommit, total: Mapping[str, int]) -> dict[str, int]:
    """By the policy; of devices no more than there are, since no two machines can have one."""
    usable = overcommit.allocatable(total)
    return {name: min(amount, total[name]) if name.startswith(GPU) else amount for name, amount in usable.items()}


def set_overcommit(connection: Connection, overcommit: Overcommit, now: int) -> None:
    """Make this the fleet's own overcommit, and count every host's allocatable amounts again."""
    settings.set_overcommit(connection, overcommit)
    of_zones = zones(connection)
    for one in hosts(connection).values():
        if set_allocatable(connection, one, policy(overcommit, of_zones, one)):
            fleet_events.append(connection, FleetChange.HOST, one.uuid, one.zone_uuid, now)


def _plain(host: Host) -> Host:
    """The host as its operator defines it."""
    return replace(
        host,
        total={}, allocatable={}, foreign={}, used={}, beside={}, booked={}, cells=(),
        status=HostStatus.CONNECTING, status_reason="", status_cause="", boot_id="", virt_type="", hypervisor="",
        isolation="", firmware="", secure_boot="", cleaning=Cleaning(), images=(), claim_ordered=False,
        version=0, created_at=0, updated_at=0,
    )  # fmt: skip


def zone_of(row: Row[Any]) -> Zone:
    """From its row."""
    return replace(decode_known(Zone, row.document), **rows.stamps(row))


def _host(row: Row[Any], known: vectors.Vectors, guests: Mapping[tuple[str, str], int]) -> Host:
    return replace(
        decode_known(Host, row.document),
        state=HostState(row.state),
        status=HostStatus(row.status),
        status_reason=row.status_reason,
        status_cause=row.status_cause,
        boot_id=row.boot_id,
        virt_type=row.virt_type,
        isolation=row.isolation,
        firmware=row.firmware,
        secure_boot=row.secure_boot,
        cleaning=Cleaning(
            row.served,
            CleaningState(row.cleaning),
            row.cleaning_reason,
            row.cleaning_count,
            row.cleaning_until,
            row.cleaning_tries,
        ),
        images=tuple(json.loads(row.images)),
        hypervisor=row.hypervisor or "",
        claim_ordered=row.claim_ordered,
        **vectors.amounts(row.uuid, known, guests),
        **rows.stamps(row),
    )
