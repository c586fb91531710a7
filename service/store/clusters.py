"""Rows of clusters. Which hosts are in one stands in the hosts' own documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, delete, select

from service.domain.fleet import Cluster
from service.errors import NotFound
from service.store import fleet, rows, schema
from service.store.codec import decode_known, encode


def put(connection: Connection, cluster: Cluster, now: int) -> None:
    """Insert or overwrite the cluster."""
    plain = replace(cluster, version=0, created_at=0, updated_at=0)
    values = {"name": cluster.name, "zone_uuid": cluster.zone_uuid, "document": encode(plain)}
    rows.put(connection, schema.clusters, cluster.uuid, values, now)


def forget(connection: Connection, uuid: str) -> None:
    """Remove the cluster; the caller has seen that no host is in it."""
    connection.execute(delete(schema.clusters).where(schema.clusters.c.uuid == uuid))


def find(connection: Connection, uuid: str, *, lock: bool = False) -> Cluster | None:
    """The cluster of this uuid. `lock`: nobody removes or changes it meanwhile."""
    query = select(schema.clusters).where(schema.clusters.c.uuid == uuid)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    return None if row is None else _cluster(row)


def get(connection: Connection, uuid: str, *, lock: bool = False) -> Cluster:
    """One cluster. Raises NotFound."""
    found = find(connection, uuid, lock=lock)
    if found is None:
        raise NotFound("cluster", uuid)
    return found


def page(connection: Connection, after: tuple[str, str] | None, limit: int) -> tuple[Cluster, ...]:
    """Up to `limit` clusters by name after the given key (`rows.page_key`)."""
    return tuple(_cluster(row) for row in connection.execute(rows.page(schema.clusters, after, limit)))


def of_zone(connection: Connection, zone_uuid: str) -> int:
    """How many clusters a zone has."""
    table = schema.clusters
    return len(connection.execute(select(table.c.uuid).where(table.c.zone_uuid == zone_uuid)).all())


def hosts_in(connection: Connection) -> Mapping[str, Mapping[str, int]]:
    """Cluster's uuid -> zone's uuid -> how many of its hosts are there; clusters without hosts are left out."""
    found: dict[str, Counter[str]] = {}
    for host in fleet.hosts(connection).values():
        if host.cluster_uuid:
            found.setdefault(host.cluster_uuid, Counter())[host.zone_uuid] += 1
    return found


def _cluster(row: Row[Any]) -> Cluster:
    return replace(decode_known(Cluster, row.document), **rows.stamps(row))
