"""A group's place among those that wait for hosts: whether it is its turn, and when it is to look again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from service.domain.groups import Group, GroupPhase, InstanceStatus
from service.domain.waiting import Queue, Waiter, first_for_hosts
from service.lifecycle.facts import Fact, NotPlaced
from service.lifecycle.waiting import waits
from service.planning.backfill import Kept, kept_hosts
from service.reconcile.context import WorkerContext
from service.store import waiting
from service.store.claims import ClaimLost
from service.store.connection import Connection
from service.transactions import kept_room

NOT_YET_MS = 5_000
"""How long one rests whose turn has not come; it is woken when it does."""


@dataclass(frozen=True, slots=True)
class Turn:
    """`come`: those before it have seen that they do not fit into what is there.
    `first`: nobody before it waits for hosts. `ends`: of groups whose callers have stated them, where the first wants
    to know (ms, by their uuids). `kept`: room that it leaves to somebody before it. `ahead`: whether anybody is."""

    position: int
    looked: int
    come: bool
    poll_ms: int
    first: bool
    ends: dict[str, int]
    kept: Kept | None = None
    ahead: bool = False


@dataclass(slots=True)
class Line:
    """One group's standing in line under its worker's lease. `rest_ms`: how long its worker may leave it alone; 0 = it
    has not looked."""

    turn: Turn | None = None
    rest_ms: int = 0

    def look(self, connection: Connection, group: Group, now: int, *, anybody: bool = True) -> bool:
        """Whether it is the group's turn. Members that were placed before, and those that join, do not stand in line:
        their group serves. One that was evicted, and waits again, does. `anybody`: False where this transaction has
        seen that nobody waits."""
        self.turn = None
        may_wait = group.waiting is not None
        began = group.served or group.starts or any(m.attempt > 1 or _has_seat(m.status) for m in group.instances)
        if (began or not anybody) and not may_wait:
            return True
        queue, shares = waiting.queue(connection, now, group.project, counted=may_wait)
        if not queue.waiters and not may_wait:
            return True
        self.turn = _turn(connection, queue, shares, group, now)
        if not self.turn.come:
            self.rest_ms = NOT_YET_MS
        return self.turn.come

    def still(self, connection: Connection, group: Group, now: int) -> None:
        """Raises ClaimLost where the room that it leaves to somebody before it is another by now. Where nobody was
        before it when it looked, nobody's is."""
        if self.turn is None or not self.turn.ahead:
            return
        queue, shares = waiting.queue(connection, now, group.project, counted=False)
        mine = Waiter(group.uuid, group.project, group.created_at, priority=group.priority)
        kept, was = kept_room.kept(connection, queue.ahead(mine, shares), now), self.turn.kept
        if kept is not None and (was is None or (kept.group.uuid, kept.room) != (was.group.uuid, was.room)):
            raise ClaimLost("room is kept for another group before it since")

    @property
    def kept_hosts(self) -> frozenset[str]:
        """Where room is kept for somebody before the group: what becomes free there is for that one."""
        return kept_hosts(self.turn.kept if self.turn is not None else None)

    def told(self, facts: Sequence[Fact]) -> list[Fact]:
        """The facts of a look, with where the group stands."""
        turn = self.turn
        if turn is None:
            return list(facts)
        self.rest_ms = turn.poll_ms
        return [
            replace(f, looked=turn.looked, position=turn.position) if isinstance(f, NotPlaced) else f for f in facts
        ]

    def rests_until(self, group: Group, now: int) -> int:
        """When (ms) a group that waits is due again, and is left alone until then; 0 where it may not be."""
        if not self.rest_ms or not waits(group) or group.waiting is None:
            return 0
        return min(now + self.rest_ms, group.waiting.until)

    def told_others(self, context: WorkerContext, before: Group, after: Group, now: int) -> None:
        """Those who wait for hosts look at once where some were left, and the next ones after this group has."""
        if before is after:
            return
        there = {m.uuid: m.host_uuid for m in after.instances if m.status is not InstanceStatus.REMOVED}
        left = any(m.host_uuid and there.get(m.uuid, "") != m.host_uuid for m in before.instances)
        was = before.waiting
        if was is not None and after.waiting is None and was.since:
            outcome = "placed" if after.phase is GroupPhase.CREATING else "ended"
            context.metrics.wait_duration.labels(outcome).observe(max(0, now - was.since) / 1000)
        if left or was != after.waiting:
            context.poke("")


def _turn(connection: Connection, queue: Queue, shares: Mapping[str, float], group: Group, now: int) -> Turn:
    mine = Waiter(group.uuid, group.project, group.created_at, priority=group.priority)
    ahead = queue.ahead(mine, shares)
    first = first_for_hosts(ahead) and group.waiting is not None
    return Turn(
        position=len(ahead) + 1,
        looked=queue.given_back,
        come=not queue.owed(ahead),
        poll_ms=queue.poll_ms,
        first=first,
        ends=dict(waiting.ends(connection)) if first else {},
        kept=kept_room.kept(connection, ahead, queue.as_of),
        ahead=bool(ahead),
    )


def _has_seat(status: InstanceStatus) -> bool:
    return status is not InstanceStatus.PENDING
