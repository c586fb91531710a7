"""Rows of many groups at once, for changes of several groups that share a transaction.

A group whose row somebody else has locked is left out: who changes many groups waits for none, and so holds up nobody
for whom he might be waiting.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from service.domain.difference import difference
from service.domain.groups import Group
from service.store import groups, schema
from service.store.groups import Freed
from service.store.standing import Seats, seats_as_known
from service.store.statement import Statement, among

_GROUPS, _CLAIMS = schema.groups, schema.claims
# Claims with it, as in `standing.as_known`.
_SEATS = (
    select(_CLAIMS.c.group_uuid, _CLAIMS.c.instance_uuid, _CLAIMS.c.attempt, _CLAIMS.c.host_uuid)
    .where(among(_CLAIMS.c.instance_uuid, "members"))
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


def as_known(connection: Connection, known: Sequence[Group], members: Sequence[str]) -> Mapping[str, Seats]:
    """Group -> (instance, attempt) -> hosts of the claims of its `members` (uuids), of those that are stored as known,
    under the lease that is known, and locked by nobody else. They are locked from here on, and so may be others of the
    known."""
    rows = defaultdict[str, list[Any]](list)
    for row in _STAND.all(connection, {"of": [group.uuid for group in known], "members": members}):
        rows[row.uuid].append(row)
    found = {group.uuid: seats_as_known(group, rows[group.uuid]) for group in known}
    return {uuid: seats for uuid, seats in found.items() if seats is not None}


def save_members(connection: Connection, changes: Sequence[tuple[Group, Group]]) -> None:
    """Write those members, (before, after), that differ between the two: the same members, of the same specs."""
    changed = [new for before, after in changes for _, _, new in difference(before, after).changed]
    groups.SAVE_INSTANCE.many(connection, [{"of": m.uuid, **groups.instance_values(m)} for m in changed])


def save(connection: Connection, changed: Sequence[tuple[Group, Group, Freed | None]]) -> None:
    """Write the groups' own rows, (before, after, whether the lease ends), of the same specs. The caller holds their
    locks."""
    rows = defaultdict[tuple[str, ...], list[dict[str, Any]]](list)
    for before, after, freed in changed:
        values = groups.saved(before, after, freed)
        rows[tuple(values)].append({"of": after.uuid, **values})
    for names, alike in rows.items():
        groups.save_group(names).many(connection, alike)
