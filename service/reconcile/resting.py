"""Groups at rest that are as they should be: no lease is taken of them, only their next look is put off.

Every host is listed by its sweep. Where the newest listings show all of a group's machines as they are wanted, a turn
would find nothing to do and write twice to say so. In all other cases the group has its turn: a host that is silent, a
listing that is old, anything noticed, a deadline, or a fact that would change the least of the group.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

from service.domain.groups import Group, GroupPhase, Instance, InstanceStatus, MoveStage
from service.drivers.base import MachineState
from service.lifecycle.effects import next_deadline
from service.lifecycle.facts import Fact, Observed
from service.lifecycle.members import PLACED
from service.lifecycle.present import held_to_present
from service.lifecycle.transitions import advance_all
from service.reconcile import sight
from service.reconcile.context import WorkerContext
from service.reconcile.worker import REST_MS
from service.store import clock
from service.store.connection import Connection
from service.store.resting import put_off

LISTED_SECONDS = 13.0
"""How old a listing may be: a sweep's period, and the time that it takes."""
MARKS = 5
"""Groups at rest are due at multiples of REST_MS, so that one commit puts off many of them: all at the same mark where
they are few, and at one of so many marks between two multiples where they are many, by their uuid."""
GROUPS_A_MARK = 200
MEMBERS_A_TURN = 200
"""After so many members others on the event loop have their turn: some 5 ms."""
PUT_OFF_AT_ONCE = 500
"""So many groups are put off by one commit at most: some 5 ms of the writer."""
_LEFT_ALONE = {GroupPhase.RUNNING: InstanceStatus.RUNNING, GroupPhase.STOPPED: InstanceStatus.STOPPED}


@dataclass(slots=True)
class Resting:
    """What this process's workers have left at rest, as they left it."""

    context: WorkerContext
    _known: dict[str, tuple[Group, int]] = field(default_factory=dict)
    _first: int = 0
    """None of them is due before (ms)."""
    _judged: dict[str, tuple[Group, list[Fact]]] = field(default_factory=dict)
    """Groups as they are known -> facts that change nothing of them, whatever the time."""

    def remember(self, group: Group, due_at: int) -> None:
        """The group as it is stored, and when (ms) it is due."""
        if group.phase in _LEFT_ALONE:
            self._known[group.uuid] = group, due_at
            self._first = min(self._first, due_at)

    def forget(self, uuid: str) -> None:
        """It is somebody's again."""
        self._known.pop(uuid, None)
        self._judged.pop(uuid, None)

    def until(self, uuid: str, now: int) -> int:
        """When (ms) a group that needs no turn at `now` is looked at next: at the last of its marks within REST_MS."""
        apart = REST_MS // MARKS
        marks = min(MARKS, 1 + len(self._known) // GROUPS_A_MARK)
        after = zlib.crc32(uuid.encode()) % marks * apart
        return (now + REST_MS - after) // REST_MS * REST_MS + after

    async def as_they_should_be(self, now: int, noticed: Collection[str]) -> dict[str, int]:
        """Uuid -> version of the groups that are due at `now` (ms) and need no turn. `noticed`: those that do."""
        custody = self.context.custody
        if now < self._first or custody.held or custody.missing or not custody.judged:
            return {}
        self._first = min((due_at for _, due_at in self._known.values()), default=0)
        found, members = {}, 0
        for uuid, known in [(u, known) for u, known in self._known.items() if known[1] <= now and u not in noticed]:
            group, _ = known
            members += len(group.instances)
            if members > MEMBERS_A_TURN:
                members = len(group.instances)
                await asyncio.sleep(0)
            if self._known.get(uuid) is known and self._is_as_it_should_be(group, now):
                found[uuid] = group.version
        return found

    async def most_put_off(self, noticed: Collection[str], leases: Callable[[int, float], int]) -> dict[str, int]:
        """Uuid -> version of those that need no turn and are still to be put off. Where they are many most of them have
        been, by commits of their own, between which others write. `leases`: the time (ms) by which leases are judged,
        from the database's and from when it was asked. Raises Unavailable."""
        fine = await self.as_they_should_be(self.context.clock.now(), noticed)
        while len(fine) > PUT_OFF_AT_ONCE:
            some = {uuid: fine.pop(uuid) for uuid in list(fine)[:PUT_OFF_AT_ONCE]}
            asked_at = asyncio.get_running_loop().time()
            self.put_off(some, await self.context.store.write(partial(self._write, some, leases, asked_at)))
        return fine

    def _write(
        self, some: Mapping[str, int], leases: Callable[[int, float], int], asked_at: float, connection: Connection
    ) -> Mapping[str, int]:
        now = clock.now(connection)
        return put_off(connection, some, lambda u: self.until(u, now), now, leases_as_of=leases(now, asked_at))

    def put_off(self, asked: Collection[str], later: Mapping[str, int]) -> None:
        """These were to be looked at again later, and those of them are, at their times (ms); the others are not as
        they were known."""
        for uuid in asked:
            known = self._known.get(uuid)
            if known is not None and uuid in later:
                self._known[uuid] = known[0], later[uuid]
            else:
                self.forget(uuid)

    def _is_as_it_should_be(self, group: Group, now: int) -> bool:
        deadline = next_deadline(group)
        if 0 < deadline <= now or held_to_present(group, now) is not group:
            return False
        facts: list[Fact] = []
        for member in group.instances:
            seen = self._seen(group, member)
            if seen is None:
                return False
            facts += seen
        if not facts:
            return True
        judged = self._judged.get(group.uuid)
        if judged is not None and judged[0] is group and judged[1] == facts:
            return True
        if advance_all(group, facts, now) != group:
            return False
        if not (group.endpoint or group.updating or group.eviction or any(map(_ages, facts))):
            self._judged[group.uuid] = group, facts
        return True

    def _seen(self, group: Group, member: Instance) -> list[Fact] | None:
        """What the newest listing says of the member; None where it says too little."""
        if member.status not in PLACED:
            return None
        monitor = self.context.monitors.get(member.host_uuid)
        settled = member.status is _LEFT_ALONE[group.phase] and not member.unknown_since and not member.room
        if not settled or member.move is not MoveStage.NONE or member.target_host_uuid or member.leaving:
            return None
        if monitor is None or monitor.silent or not monitor.fresh or monitor.last is None:
            return None
        if asyncio.get_running_loop().time() - monitor.last.asked_at > LISTED_SECONDS:
            return None
        if group.phase is GroupPhase.STOPPED:
            return []  # a turn looks at none of its machines either
        if self.context.calls.asks_host(member):
            return None  # no listing has the answer
        machine = monitor.last.listing.find(member.machine_uuid)
        if machine is None or machine.state is not MachineState.RUNNING:
            return None
        return None if machine.unheard_seconds > sight.UNHEARD_SECONDS else list(sight.seen(member, machine))


def _ages(fact: Fact) -> bool:
    """Whether the fact may mean something else later, as it is."""
    if not isinstance(fact, Observed) or fact.staging is not None:
        return True
    return fact.silent or fact.answered_ms >= 0 or fact.reset_ms >= 0
