"""What network filters of hosts are kept and removed by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, select

from service.store import schema


def versions(connection: Connection, uuids: Sequence[str]) -> Mapping[str, int]:
    """The version of each of the groups that exist."""
    table = schema.groups
    found = connection.execute(select(table.c.uuid, table.c.version).where(table.c.uuid.in_(uuids)))
    return {row.uuid: row.version for row in found}


def let_go(connection: Connection, host_uuid: str, groups: Sequence[str]) -> frozenset[str]:
    """Those of the groups of which some member was let go on the host, on record."""
    table = schema.retired
    here = table.c.host_uuid == host_uuid, table.c.group_uuid.in_(groups)
    return frozenset(connection.scalars(select(table.c.group_uuid).where(*here).distinct()))
