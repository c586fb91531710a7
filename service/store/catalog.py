"""Rows of the catalogue: images, and model services with every version that a member may have been admitted with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from service.domain.catalog import Image, ModelService, RegisteredImage, version_key
from service.domain.groups import GroupPhase
from service.domain.specs import DataDisk, NodeSpec
from service.errors import NotFound
from service.store import fleet_events, rows, schema
from service.store.codec import decode, decode_known, encode
from service.store.fleet_events import FleetChange, wall_clock
from service.store.statement import Statement

_MODEL_SERVICES = Statement(select(schema.model_services))
_VERSIONS = Statement(select(schema.model_service_versions))


def put_model_service(connection: Connection, entry: ModelService, *, now: int | None = None) -> None:
    """Insert or overwrite the catalogue entry, as its next version."""
    at = wall_clock() if now is None else now
    document = encode(replace(entry, version=0, created_at=0, updated_at=0))
    values = {"name": entry.name, "image_uuid": entry.image_uuid, "document": document}
    rows.put(connection, schema.model_services, entry.uuid, values, at)
    version = connection.scalar(
        select(schema.model_services.c.version).where(schema.model_services.c.uuid == entry.uuid)
    )
    connection.execute(
        insert(schema.model_service_versions).values(uuid=entry.uuid, version=version, document=document)
    )
    fleet_events.append(connection, FleetChange.CATALOGUE, entry.uuid, "", at)


def restore_version(connection: Connection, entry: ModelService, now: int) -> None:
    """Bring back a lost version of an entry, as `entry.version`; the newest version, if there is one, stays newest."""
    table, versions = schema.model_services, schema.model_service_versions
    document = encode(replace(entry, version=0, created_at=0, updated_at=0))
    there = connection.execute(
        select(versions.c.version).where(versions.c.uuid == entry.uuid, versions.c.version == entry.version)
    ).first()
    if there is not None:
        return
    connection.execute(insert(versions).values(uuid=entry.uuid, version=entry.version, document=document))
    row = connection.execute(select(table).where(table.c.uuid == entry.uuid).with_for_update()).one_or_none()
    if row is None:
        values = {"name": entry.name, "image_uuid": entry.image_uuid, "document": document}
        stamps = {"version": entry.version, "created_at": now, "updated_at": now}
        connection.execute(insert(table).values(uuid=entry.uuid, **values, **stamps))
    elif row.version < entry.version:
        # The present entry stays the newest: its number rises above those that members were made from.
        newest = entry.version + 1
        connection.execute(update(table).where(table.c.uuid == entry.uuid).values(version=newest))
        connection.execute(insert(versions).values(uuid=entry.uuid, version=newest, document=row.document))
    fleet_events.append(connection, FleetChange.CATALOGUE, entry.uuid, "", now)


def delete_model_service(connection: Connection, uuid: str, now: int) -> None:
    """Forget the entry and its versions; the caller has seen that no group uses it."""
    for table in (schema.model_service_versions, schema.model_services):
        connection.execute(delete(table).where(table.c.uuid == uuid))
    fleet_events.append(connection, FleetChange.CATALOGUE, uuid, "", now)


def model_services(connection: Connection) -> Mapping[str, ModelService]:
    """The catalogue by uuid."""
    return {r.uuid: entry_of(r) for r in _MODEL_SERVICES.all(connection)}


def model_service(connection: Connection, uuid: str, *, lock: bool = False) -> ModelService:
    """One entry. Raises NotFound."""
    query = select(schema.model_services).where(schema.model_services.c.uuid == uuid)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound("model service", uuid)
    return entry_of(row)


def page_of_model_services(
    connection: Connection, after: tuple[str, str] | None, limit: int
) -> tuple[ModelService, ...]:
    """Up to `limit` entries by name after the given key (`rows.page_key`)."""
    return tuple(entry_of(r) for r in connection.execute(rows.page(schema.model_services, after, limit)))


def every_version(connection: Connection) -> Mapping[str, ModelService]:
    """The catalogue by uuid, and besides by `version_key` every version that a member may still be made from."""
    found = dict(model_services(connection))
    for row in _VERSIONS.all(connection):
        found[version_key(row.uuid, row.version)] = replace(decode(ModelService, row.document), version=row.version)
    return found


def users(connection: Connection, uuid: str) -> int:
    """How many groups that are not over use the entry."""
    groups, members = schema.groups, schema.instances
    over = (GroupPhase.DELETED.value, GroupPhase.FAILED.value)
    query = (
        select(func.count(members.c.group_uuid.distinct()))
        .join(groups, groups.c.uuid == members.c.group_uuid)
        .where(members.c.model_service_uuid == uuid, groups.c.phase.not_in(over))
    )
    return int(connection.scalar(query) or 0)


# --- images --------------------------------------------------------------------------------------------------------


def put_image(connection: Connection, image: RegisteredImage, *, now: int | None = None) -> None:
    """Insert or overwrite the image, and its copy in every entry that boots from it."""
    at = wall_clock() if now is None else now
    document = encode(replace(image, version=0, created_at=0, updated_at=0))
    rows.put(connection, schema.images, image.uuid, {"name": image.image.name, "document": document}, at)
    fleet_events.append(connection, FleetChange.CATALOGUE, image.uuid, "", at)
    table = schema.model_services
    for row in connection.execute(select(table).where(table.c.image_uuid == image.uuid).order_by(table.c.uuid)).all():
        entry = entry_of(row)
        if entry.image != image.image:
            put_model_service(connection, replace(entry, image=image.image), now=at)


def delete_image(connection: Connection, uuid: str, now: int) -> None:
    """Forget the image; the caller has seen that no entry uses it."""
    connection.execute(delete(schema.images).where(schema.images.c.uuid == uuid))
    fleet_events.append(connection, FleetChange.CATALOGUE, uuid, "", now)


def image(connection: Connection, uuid: str, *, lock: bool = False) -> RegisteredImage:
    """One image. Raises NotFound."""
    query = select(schema.images).where(schema.images.c.uuid == uuid)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound("image", uuid)
    return _image(row)


def find_image(connection: Connection, uuid: str, *, keep: bool) -> RegisteredImage | None:
    """The image of this uuid; None: there is none. `keep`: it is not deleted before this transaction ends."""
    query = select(schema.images).where(schema.images.c.uuid == uuid)
    row = connection.execute(query.with_for_update(read=True) if keep else query).one_or_none()
    return None if row is None else _image(row)


def image_exists(connection: Connection, uuid: str) -> bool:
    """Whether there is an image of this uuid."""
    return connection.scalar(select(schema.images.c.uuid).where(schema.images.c.uuid == uuid)) is not None


def image_named(connection: Connection, name: str) -> Image | None:
    """The image that bears this name; None: there is none. Of several that were registered the oldest."""
    table = schema.images
    query = select(table).where(table.c.name == name).order_by(table.c.created_at, table.c.uuid).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else _image(row).image


def page_of_images(connection: Connection, after: tuple[str, str] | None, limit: int) -> tuple[RegisteredImage, ...]:
    """Up to `limit` images by name after the given key (`rows.page_key`)."""
    return tuple(_image(r) for r in connection.execute(rows.page(schema.images, after, limit)))


def image_users(connection: Connection, uuid: str) -> int:
    """How many entries boot from the image."""
    table = schema.model_services
    return int(connection.scalar(select(func.count()).where(table.c.image_uuid == uuid)) or 0)


def image_members(connection: Connection, uuid: str) -> int:
    """How many members of groups that are not over are made from the image, by whichever version of their entry, or
    have a disk that is."""
    booted = sum(entry.image_uuid == uuid for entry in _entries_of_members(connection))
    return booted + sum(uuid in {d.image_uuid for d in disks} for disks in _disks_of_members(connection))


def image_paths(connection: Connection) -> frozenset[str]:
    """Every file that an image, an entry or a member is made from."""
    images = [row.image for row in map(_image, connection.execute(select(schema.images)))]
    images += [entry.image for entry in model_services(connection).values()]
    images += [entry.image for entry in _entries_of_members(connection)]
    images += [disk.image for disks in _disks_of_members(connection) for disk in disks if disk.image is not None]
    return frozenset(path for one in images for path in (one.kernel_path, one.initrd_path, one.disk_path) if path)


def uploaded_paths(connection: Connection) -> Mapping[str, str]:
    """Files of images that were uploaded -> the image's name."""
    found = [row for row in map(_image, connection.execute(select(schema.images))) if row.uploaded]
    return {
        path: one.image.name
        for one in found
        for path in (one.image.kernel_path, one.image.initrd_path, one.image.disk_path)
        if path
    }


def _specs_of_members(connection: Connection) -> list[NodeSpec]:
    """What each member was asked to be, of groups that are not over."""
    groups, members = schema.groups, schema.instances
    over = (GroupPhase.DELETED.value, GroupPhase.FAILED.value)
    query = (
        select(members.c.spec).join(groups, groups.c.uuid == members.c.group_uuid).where(groups.c.phase.not_in(over))
    )
    return [decode_known(NodeSpec, row.spec) for row in connection.execute(query)]


def _disks_of_members(connection: Connection) -> list[tuple[DataDisk, ...]]:
    return [spec.data_disks for spec in _specs_of_members(connection) if spec.data_disks]


def _entries_of_members(connection: Connection) -> list[ModelService]:
    """The version that each member is made from, of groups that are not over."""
    versions = schema.model_service_versions
    wanted = Counter((spec.model_service_uuid, spec.model_service_version) for spec in _specs_of_members(connection))
    uuids = {uuid for uuid, _ in wanted}
    known = {
        (row.uuid, row.version): decode(ModelService, row.document)
        for row in connection.execute(select(versions).where(versions.c.uuid.in_(uuids)))
    }
    return [known[key] for key, count in wanted.items() if key in known for _ in range(count)]


def entry_of(row: Row[Any]) -> ModelService:
    """From its row."""
    return replace(decode(ModelService, row.document), **rows.stamps(row))


def _image(row: Row[Any]) -> RegisteredImage:
    return replace(decode(RegisteredImage, row.document), **rows.stamps(row))
