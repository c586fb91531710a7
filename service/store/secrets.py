"""Rows of stored secrets. What stands in them is encrypted; who may read it is decided elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, Row, delete, func, or_, select, update

from service.domain.catalog import ModelService
from service.domain.environment import SECRET_SCHEME, secret_of
from service.domain.groups import GroupPhase
from service.domain.secrets import Sealed, StoredSecret
from service.domain.specs import NodeSpec
from service.errors import NotFound
from service.store import rows, schema
from service.store.codec import decode

_TABLE = schema.secrets


def put(connection: Connection, secret: StoredSecret, now: int) -> None:
    """Insert the secret, or overwrite its value."""
    sealed = secret.sealed
    values = {"key_name": sealed.key_name, "wrapped": sealed.wrapped, "sealed": sealed.value}
    rows.put(connection, _TABLE, secret.uuid, values, now, first={"project": secret.project, "name": secret.name})


def rewrap(connection: Connection, secret: StoredSecret, sealed: Sealed) -> None:
    """Keep the same value under another key; no change that a caller could see."""
    connection.execute(
        update(_TABLE)
        .where(_TABLE.c.uuid == secret.uuid, _TABLE.c.version == secret.version)
        .values(key_name=sealed.key_name, wrapped=sealed.wrapped)
    )


def remove(connection: Connection, uuid: str) -> None:
    """Forget the secret; the caller has seen that no group uses it."""
    connection.execute(delete(_TABLE).where(_TABLE.c.uuid == uuid))


def get(connection: Connection, uuid: str, *, lock: bool = False) -> StoredSecret:
    """One secret. Raises NotFound."""
    query = select(_TABLE).where(_TABLE.c.uuid == uuid)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound("secret", uuid)
    return _secret(row)


def named(connection: Connection, project: str, name: str, *, share: bool = False) -> StoredSecret | None:
    """The project's secret of this name. `share`: it is not deleted before this transaction ends."""
    query = select(_TABLE).where(_TABLE.c.project == project, _TABLE.c.name == name)
    row = connection.execute(query.with_for_update(read=True) if share else query).one_or_none()
    return None if row is None else _secret(row)


def is_known(connection: Connection, name: str) -> bool:
    """Whether any project has a secret of this name."""
    return connection.execute(select(_TABLE.c.uuid).where(_TABLE.c.name == name)).first() is not None


def count(connection: Connection, project: str) -> int:
    """How many secrets the project has."""
    return int(connection.scalar(select(func.count()).where(_TABLE.c.project == project)) or 0)


def every(connection: Connection) -> Iterator[StoredSecret]:
    """All secrets of all projects."""
    return (_secret(row) for row in connection.execute(select(_TABLE).order_by(_TABLE.c.uuid)))


def page(
    connection: Connection, project: str | None, name: str, after: tuple[str, str] | None, limit: int
) -> tuple[StoredSecret, ...]:
    """Up to `limit` secrets by name after the given key. `project` None: of all; `name` empty: of any."""
    query = rows.page(_TABLE, after, limit)
    if project is not None:
        query = query.where(_TABLE.c.project == project)
    if name:
        query = query.where(_TABLE.c.name == name)
    return tuple(_secret(row) for row in connection.execute(query))


def users(connection: Connection, project: str, name: str) -> tuple[str, ...]:
    """The uuids of the project's groups that are not over and refer to the secret: themselves, or by the version of
    the catalogue entry that a member is made from."""
    groups, members, versions = schema.groups, schema.instances, schema.model_service_versions
    reference = SECRET_SCHEME + name
    entries = {
        (row.uuid, row.version)
        for row in connection.execute(select(versions).where(versions.c.document.contains(reference, autoescape=True)))
        if _refers(decode(ModelService, row.document).environment.values(), name)
    }
    over = (GroupPhase.DELETED.value, GroupPhase.FAILED.value)
    query = (
        select(members.c.group_uuid, members.c.spec)
        .join(groups, groups.c.uuid == members.c.group_uuid)
        .where(
            groups.c.project == project,
            groups.c.phase.not_in(over),
            or_(
                members.c.spec.contains(reference, autoescape=True),
                members.c.model_service_uuid.in_(sorted({uuid for uuid, _ in entries})),
            ),
        )
    )
    found = set()
    for row in connection.execute(query):
        spec = decode(NodeSpec, row.spec)
        entry = (spec.model_service_uuid, spec.model_service_version)
        if entry in entries or _refers(spec.environment_variables.values(), name):
            found.add(str(row.group_uuid))
    return tuple(sorted(found))


def _refers(values: Iterable[str], name: str) -> bool:
    return any(secret_of(value) == name for value in values)


def _secret(row: Row[Any]) -> StoredSecret:
    sealed = Sealed(row.key_name, bytes(row.wrapped), bytes(row.sealed))
    return StoredSecret(row.uuid, row.project, row.name, sealed, **rows.stamps(row))
