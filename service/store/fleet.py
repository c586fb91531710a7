"""Rows of zones, hosts and the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from service.errors import NotFound
from service.fleet import Host, HostState, HostStatus, ModelService, Overcommit, Zone
from service.store import schema
from service.store.codec import decode, encode


def put_zone(connection: Connection, zone: Zone) -> None:
    """Insert or overwrite the zone."""
    values = {"name": zone.name, "document": encode(zone)}
    _put(connection, schema.zones, zone.uuid, values, values)


def put_model_service(connection: Connection, entry: ModelService) -> None:
    """Insert or overwrite the catalogue entry."""
    values = {"name": entry.name, "document": encode(entry)}
    _put(connection, schema.model_services, entry.uuid, values, values)


def put_host(connection: Connection, host: Host) -> None:
    """Insert the host, or overwrite what its operator says of it; what was observed and claimed stays.

    Its operator's state is kept too on overwriting: a host disabled at run time is not enabled by a restart.
    """
    plain = replace(host, total={}, usable={}, foreign={}, used={}, status=HostStatus.CONNECTING, status_reason="")
    changed = {"name": host.name, "zone_uuid": host.zone_uuid, "document": encode(plain)}
    _put(
        connection,
        schema.hosts,
        host.uuid,
        {**changed, "state": host.state.value, "status": HostStatus.CONNECTING.value},
        {**changed, "status": HostStatus.CONNECTING.value},
    )


def zones(connection: Connection) -> Mapping[str, Zone]:
    """All zones by uuid."""
    return {r.uuid: decode(Zone, r.document) for r in connection.execute(select(schema.zones))}


def model_services(connection: Connection) -> Mapping[str, ModelService]:
    """The catalogue by uuid."""
    return {r.uuid: decode(ModelService, r.document) for r in connection.execute(select(schema.model_services))}


def hosts(connection: Connection) -> Mapping[str, Host]:
    """All hosts by uuid, with their resource vectors."""
    vectors = _vectors(connection, None)
    rows = connection.execute(select(schema.hosts).order_by(schema.hosts.c.uuid))
    return {row.uuid: _host(row, vectors.get(row.uuid, {})) for row in rows}


def host(connection: Connection, uuid: str) -> Host:
    """One host. Raises NotFound."""
    row = connection.execute(select(schema.hosts).where(schema.hosts.c.uuid == uuid)).one_or_none()
    if row is None:
        raise NotFound("host", uuid)
    return _host(row, _vectors(connection, uuid).get(uuid, {}))


def set_status(connection: Connection, uuid: str, status: HostStatus, reason: str = "") -> None:
    """Record what was seen of the host's connection."""
    connection.execute(
        update(schema.hosts)
        .where(schema.hosts.c.uuid == uuid)
        .values(status=status.value, status_reason=reason, generation=schema.hosts.c.generation + 1)
    )


def set_facts(
    connection: Connection,
    uuid: str,
    *,
    boot_id: str,
    virt_type: str,
    total: Mapping[str, int],
    foreign: Mapping[str, int],
    overcommit: Overcommit,
) -> None:
    """Record a probe: the host is connected, its totals, what others hold, and what is usable by `overcommit`."""
    connection.execute(
        update(schema.hosts)
        .where(schema.hosts.c.uuid == uuid)
        .values(
            status=HostStatus.CONNECTED.value,
            status_reason="",
            boot_id=boot_id,
            virt_type=virt_type,
            generation=schema.hosts.c.generation + 1,
        )
    )
    table = schema.host_resources
    known = set(connection.scalars(select(table.c.resource).where(table.c.host_uuid == uuid)))
    for resource in sorted(known | set(total)):
        amounts = {
            "total": total.get(resource, 0),
            "usable": overcommit.usable(resource, total.get(resource, 0)),
            "foreign_used": foreign.get(resource, 0),
        }
        if resource in known:
            connection.execute(
                update(table).where(table.c.host_uuid == uuid, table.c.resource == resource).values(**amounts)
            )
        else:
            connection.execute(insert(table).values(host_uuid=uuid, resource=resource, used=0, **amounts))


def _put(connection: Connection, table: Any, uuid: str, new: dict[str, Any], changed: dict[str, Any]) -> None:
    if connection.execute(update(table).where(table.c.uuid == uuid).values(**changed)).rowcount == 0:
        connection.execute(insert(table).values(uuid=uuid, **new))


def _vectors(connection: Connection, host_uuid: str | None) -> dict[str, dict[str, Row[Any]]]:
    query = select(schema.host_resources)
    if host_uuid is not None:
        query = query.where(schema.host_resources.c.host_uuid == host_uuid)
    found: dict[str, dict[str, Row[Any]]] = {}
    for row in connection.execute(query):
        found.setdefault(row.host_uuid, {})[row.resource] = row
    return found


def _host(row: Row[Any], vectors: Mapping[str, Row[Any]]) -> Host:
    return replace(
        decode(Host, row.document),
        state=HostState(row.state),
        status=HostStatus(row.status),
        status_reason=row.status_reason,
        boot_id=row.boot_id,
        virt_type=row.virt_type,
        total={name: int(v.total) for name, v in vectors.items()},
        usable={name: int(v.usable) for name, v in vectors.items()},
        foreign={name: int(v.foreign_used) for name, v in vectors.items()},
        used={name: int(v.used) for name, v in vectors.items()},
    )
