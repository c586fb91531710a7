"""Writes what the configuration file defines. What only an earlier file defined can be removed by calls afterwards."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqlalchemy import Connection, update

from service.domain.catalog import ModelService, RegisteredImage
from service.domain.devices import DeviceRules
from service.domain.fleet import Cluster, Host, HostStatus, Overcommit, Zone
from service.store import catalog, clusters, fleet, kept_rules, rows, schema, settings
from service.store.codec import encode

logger = logging.getLogger(__name__)


def write(
    connection: Connection,
    *,
    zones: Sequence[Zone],
    hosts: Sequence[Host],
    images: Sequence[RegisteredImage],
    model_services: Sequence[ModelService],
    overcommit: Overcommit,
    now: int,
    clusters_of: Sequence[Cluster] = (),
    devices: DeviceRules | None = None,
) -> Overcommit:
    """Bring the rows up to the file, in one transaction; returns the overcommit that the fleet had before.

    Called at the start, before this process has heard of any host.
    """
    definitions = {z.uuid: encode(z) for z in zones}
    wanted = rows.new_in_file(connection, schema.zones, Zone, definitions)
    for zone in zones:
        if zone.uuid in wanted:
            fleet.put_zone(connection, zone, now=now)
    rows.remember_file(connection, schema.zones, definitions)

    definitions = {c.uuid: encode(c) for c in clusters_of}
    wanted = rows.new_in_file(connection, schema.clusters, Cluster, definitions)
    for cluster in clusters_of:
        if cluster.uuid in wanted:
            clusters.put(connection, cluster, now)
    rows.remember_file(connection, schema.clusters, definitions)

    definitions = {h.uuid: encode(h) for h in hosts}
    wanted = rows.new_in_file(connection, schema.hosts, Host, definitions)
    known = fleet.hosts(connection, sorted(wanted))
    for host in hosts:
        if host.uuid in wanted:
            _tell_who_is_left_outside(connection, known.get(host.uuid), host)
            fleet.put_host(connection, host, now=now)
    rows.remember_file(connection, schema.hosts, definitions)
    # Locks every host: a probe that is being recorded comes before, and the next one reads the overcommit written here.
    connection.execute(update(schema.hosts).values(status=HostStatus.CONNECTING.value))
    settings.set_device_rules(connection, devices or DeviceRules())
    before = settings.overcommit(connection)
    if before != overcommit:
        fleet.set_overcommit(connection, overcommit, now)

    definitions = {i.uuid: encode(i) for i in images}
    wanted = rows.new_in_file(connection, schema.images, RegisteredImage, definitions)
    for image in images:
        if image.uuid in wanted:
            catalog.put_image(connection, image, now=now)
    rows.remember_file(connection, schema.images, definitions)

    definitions = {m.uuid: encode(m) for m in model_services}
    wanted = rows.new_in_file(connection, schema.model_services, ModelService, definitions)
    for entry in model_services:
        if entry.uuid in wanted:
            catalog.put_model_service(connection, entry, now=now)
    rows.remember_file(connection, schema.model_services, definitions)
    return before


def _tell_who_is_left_outside(connection: Connection, known: Host | None, host: Host) -> None:
    """The file has the last word, and is not refused by members: whom it leaves where they must not be is told."""
    if known is not None and (left := kept_rules.broken_by(connection, known, host)):
        logger.warning(
            "host %s has other labels, another rack or another cluster by the file, which breaks rules of members that "
            "are on it until they are placed anew (drain it): %s",
            host.name,
            "; ".join(left),
        )
