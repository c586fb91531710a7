"""Leases that a process may have without knowing it, because nobody heard that they were committed."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, update

from service.store import schema
from service.store.statement import Statement, among

_GROUPS = schema.groups
_SET_FREE = Statement(
    update(_GROUPS)
    .where(among(_GROUPS.c.uuid, "of"), _GROUPS.c.owner == bindparam("by"))
    .values(lease_until=0)
    .returning(_GROUPS.c.uuid)
)


def set_free(connection: Connection, owner: str, uuids: Sequence[str]) -> frozenset[str]:
    """End the owner's leases of these groups, on which nobody works; of which groups that were."""
    return frozenset(_SET_FREE.scalars(connection, {"of": uuids, "by": owner})) if uuids else frozenset()
