"""Groups as they were read last: one that has not changed since is the same object, and its members are not read again.

Whether it has is seen in the same transaction by what every change of it changes. Guests' words that change nothing for
anybody make no new version, so those that callers are told of are compared beside it; of the others
(`Instance.guest_boot`, `Instance.holds`) what is answered may be of an earlier moment.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock

from sqlalchemy import Connection, func, select

from service.domain.groups import Group
from service.errors import NotFound
from service.store import groups, schema
from service.store.statement import Statement, among

MOST_MEMBERS = 16_384
"""So many members, and groups without any, are kept at most: about 30 MiB."""

_GROUPS, _MEMBERS = schema.groups, schema.instances
_STANDS = (
    _GROUPS.c.uuid, _GROUPS.c.version, _GROUPS.c.revision, _GROUPS.c.sequence, _GROUPS.c.epoch, _GROUPS.c.created_at,
    _GROUPS.c.updated_at, _GROUPS.c.waiting,
)  # fmt: skip
_MARKS = Statement(
    select(
        *_STANDS,
        func.count(_MEMBERS.c.uuid).label("members"),
        func.sum(_MEMBERS.c.last_answer_at).label("answers"),
        func.sum(_MEMBERS.c.told_epoch).label("told"),
    )
    .select_from(_GROUPS.outerjoin(_MEMBERS, _MEMBERS.c.group_uuid == _GROUPS.c.uuid))
    .where(among(_GROUPS.c.uuid, "of"))
    .group_by(_GROUPS.c.uuid)
)

Mark = tuple[object, ...]
"""What is not the same any more once a group has changed."""


class KnownGroups:
    """Those of one process; several threads may use it at once."""

    def __init__(self, most_members: int = MOST_MEMBERS) -> None:
        self._most = most_members
        self._kept: OrderedDict[str, tuple[Mark, Group]] = OrderedDict()
        self._weight = 0
        self._guard = Lock()

    def load(self, connection: Connection, uuid: str) -> Group:
        """As `groups.load`. Raises NotFound."""
        found = self.load_many(connection, [uuid])
        if not found:
            raise NotFound("instance group", uuid)
        return found[0]

    def load_many(self, connection: Connection, uuids: Sequence[str]) -> tuple[Group, ...]:
        """As `groups.load_many`."""
        if not uuids:
            return ()
        marks: Mapping[str, Mark] = {row.uuid: tuple(row) for row in _MARKS.all(connection, {"of": uuids})}
        known = {uuid: group for uuid, mark in marks.items() if (group := self._known(uuid, mark)) is not None}
        missing = [uuid for uuid in uuids if uuid in marks and uuid not in known]
        for group in groups.load_many(connection, missing):
            known[group.uuid] = group
            self._keep(group, marks[group.uuid])
        return tuple(known[uuid] for uuid in uuids if uuid in known)

    def _known(self, uuid: str, mark: Mark) -> Group | None:
        with self._guard:
            kept = self._kept.get(uuid)
            if kept is None or kept[0] != mark:
                return None
            self._kept.move_to_end(uuid)
            return kept[1]

    def _keep(self, group: Group, mark: Mark) -> None:
        """A group that changed between the two reads of a transaction without a snapshot is not kept."""
        if (group.version, group.revision, group.epoch) != (mark[1], mark[2], mark[4]):
            return
        with self._guard:
            before = self._kept.pop(group.uuid, None)
            self._weight += _weight(group) - (_weight(before[1]) if before is not None else 0)
            self._kept[group.uuid] = mark, group
            while self._weight > self._most:
                self._weight -= _weight(self._kept.popitem(last=False)[1][1])


def _weight(group: Group) -> int:
    return 1 + len(group.instances)
