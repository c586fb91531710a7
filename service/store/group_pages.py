"""Groups page by page, by what a listing asks for."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from sqlalchemy import ColumnElement, Connection, and_, or_, select

from service.domain.groups import Group, GroupPhase
from service.store import schema
from service.store.groups import load_many

_GROUPS = schema.groups
Load = Callable[[Connection, Sequence[str]], tuple[Group, ...]]


def page(
    connection: Connection,
    *,
    project: str | None,
    after: tuple[int, str] | None,
    limit: int,
    name: str = "",
    statuses: Sequence[str] = (),
    zone_uuid: str = "",
    tag: str = "",
    load: Load = load_many,
) -> tuple[Group, ...]:
    """Up to `limit` groups that are not deleted, by (created_at, uuid), after the given key. `project` None: all.

    `zone_uuid`: a node was asked for or is seated there; `tag`: is one of the group's tags or tag uuids; `load`: reads
    the groups of these uuids.
    """
    table = schema.groups
    query = select(table.c.created_at, table.c.uuid).where(table.c.phase != GroupPhase.DELETED.value)
    if project is not None:
        query = query.where(table.c.project == project)
    if name:
        query = query.where(table.c.name == name)
    if statuses:
        query = query.where(table.c.status.in_(statuses))
    if zone_uuid:
        seated = select(schema.instances.c.group_uuid).where(schema.instances.c.zone_uuid == zone_uuid)
        query = query.where(table.c.uuid.in_(seated))
    if tag:  # the text of the document says which groups to read; whether it is a tag there is seen in the document
        query = query.where(table.c.spec.contains(json.dumps(tag, ensure_ascii=False), autoescape=True))
    query = query.order_by(table.c.created_at, table.c.uuid).limit(limit)
    found: list[Group] = []
    while len(found) < limit:
        keys = connection.execute(query if after is None else query.where(_behind(*after))).all()
        batch = load(connection, [key.uuid for key in keys])
        found += [g for g in batch if not tag or tag in (*g.spec.system_tags, *g.spec.user_tags, *g.spec.tag_uuids)]
        if len(keys) < limit:
            break
        after = (keys[-1].created_at, keys[-1].uuid)
    return tuple(found[:limit])


def _behind(created_at: int, uuid: str) -> ColumnElement[bool]:
    later = _GROUPS.c.created_at > created_at
    return or_(later, and_(_GROUPS.c.created_at == created_at, _GROUPS.c.uuid > uuid))
