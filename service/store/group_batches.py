"""Rows of many groups at once, for changes of several groups that share a transaction.

A group whose row somebody else has locked is left out: who changes many groups waits for none, and so holds up nobody
for whom he might be waiting.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from service.domain.groups import Group, Instance
from service.store import groups, schema
from service.store.groups import Freed
from service.store.standing import Seats, seats_as_known
from service.store.statement import Statement, among

_GROUPS, _CLAIMS = schema.groups, schema.claims
# Claims with it, as in `standing.as_known`.
_SEATS = (
    select(_CLAIMS.c.group_uuid, _CLAIMS.c.instance_uuid, _CLAIMS.c.attempt, _CLAIMS.c.host_uuid)
    .where(among(_CLAIMS.c.group_uuid, "of"))
    .distinct()
    .subquery()
)
_STAND = Statement(
    select(
        _GROUPS.c.uuid, _GROUPS.c.version, _GROUPS.c.epoch, _SEATS.c.instance_uuid, _SEATS.c.attempt, _SEATS.c.host_uuid
    )
    .select_from(_GROUPS.outerjoin(_SEATS, _SEATS.c.group_uuid == _GROUPS.c.uuid))
    .where(among(_GROUPS.c.uuid, "of"))
    .with_for_update(of=_GROUPS, skip_locked=True)
)


def as_known(connection: Connection, known: Sequence[Group]) -> Mapping[str, Seats]:
    """Group -> (instance, attempt) -> hosts of its claims, of those that are stored as known, under the lease that is
    known, and locked by nobody else. They are locked from here on, and so may be others of the known."""
    rows = defaultdict[str, list[Any]](list)
    for row in _STAND.all(connection, {"of": [group.uuid for group in known]}):
        rows[row.uuid].append(row)
    found = {group.uuid: seats_as_known(group, rows[group.uuid]) for group in known}
    return {uuid: seats for uuid, seats in found.items() if seats is not None}


def save_members(connection: Connection, changes: Sequence[tuple[Group, Group]]) -> None:
    """Write those members, (before, after), that differ between the two: the same members, of the same specs."""
    changed: list[Instance] = []
    for before, after in changes:
        changed += [new for old, new in zip(before.instances, after.instances, strict=True) if old != new]
    groups.SAVE_INSTANCE.many(connection, [{"of": m.uuid, **groups.instance_values(m)} for m in changed])


def save(connection: Connection, changed: Sequence[tuple[Group, Freed | None]]) -> None:
    """Write the groups' own rows, of the same specs; with Freed the lease ends. The caller holds their locks."""
    groups.SAVE_GROUP.many(connection, [_row(group) for group, freed in changed if freed is None])
    left = [{**_row(group), "owner": "", "lease_until": 0, "due_at": freed.due_at} for group, freed in changed if freed]
    groups.SAVE_AND_FREE.many(connection, left)


def _row(group: Group) -> dict[str, Any]:
    return {"of": group.uuid, **groups.group_values(group)}
