"""Members across groups, page by page."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from service.domain.groups import GroupPhase, Instance, InstanceStatus
from service.store import groups, schema


def page(
    connection: Connection,
    *,
    project: str | None,
    after: str,
    limit: int,
    group_uuid: str = "",
    host_uuid: str = "",
) -> Sequence[Instance]:
    """Up to `limit` members by uuid, after the given one, that are not removed. `project` None: of all."""
    members, of_groups = schema.instances, schema.groups
    query = (
        select(members.c.uuid, members.c.group_uuid)
        .join(of_groups, of_groups.c.uuid == members.c.group_uuid)
        .where(
            members.c.uuid > after,
            members.c.status != InstanceStatus.REMOVED.value,
            of_groups.c.phase != GroupPhase.DELETED.value,
        )
        .order_by(members.c.uuid)
        .limit(limit)
    )
    if project is not None:
        query = query.where(of_groups.c.project == project)
    if group_uuid:
        query = query.where(members.c.group_uuid == group_uuid)
    if host_uuid:
        query = query.where(members.c.host_uuid == host_uuid)
    wanted = {row.uuid: row.group_uuid for row in connection.execute(query)}
    found = {
        member.uuid: member
        for group in groups.load_many(connection, sorted(set(wanted.values())))
        for member in group.instances
    }
    return [found[uuid] for uuid in wanted]
