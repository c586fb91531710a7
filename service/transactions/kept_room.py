"""Which room is kept for somebody who goes before a group in line, as the database has it."""

from __future__ import annotations

from collections.abc import Sequence

from service.domain.groups import Group
from service.domain.waiting import Waiter, keeper
from service.planning.backfill import Kept
from service.store import groups, waiting
from service.store.connection import Connection


def before(connection: Connection, group: Group, now: int) -> Kept | None:
    """What a group that would be deployed at `now` (ms) has to leave to somebody before it."""
    queue, shares = waiting.queue(connection, now, group.project, counted=False)
    mine = Waiter(group.uuid, group.project, group.created_at, priority=group.priority)
    return kept(connection, queue.ahead(mine, shares), now)


def kept(connection: Connection, ahead: Sequence[Waiter], now: int) -> Kept | None:
    """The room that those behind the first leave alone, and who will have gone when it starts."""
    holder = keeper(ahead)
    if holder is None:
        return None
    group = next(iter(groups.load_many(connection, [holder.uuid])), None)
    room = group.waiting.kept if group is not None and group.waiting is not None else None
    if group is None or room is None:
        return None
    ends = waiting.ends(connection) if room.starts_at else {}
    going = sorted(uuid for uuid, at in ends.items() if now < at <= room.starts_at)
    return Kept(group, room, tuple(groups.load_many(connection, going)))
