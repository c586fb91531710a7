"""Groups at rest that are as they should be: no lease is taken of them, only their next look is put off.

Every host is listed by its sweep. Where the newest listings show all of a group's machines as they are wanted, a turn
would find nothing to do and write twice to say so. In all other cases the group has its turn: a host that is silent, a
listing that is old, anything noticed, a deadline, or a fact that would change the least of the group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from service.domain.groups import Group, GroupPhase, Instance, InstanceStatus, MoveStage
from service.drivers.base import MachineState
from service.lifecycle.effects import next_deadline
from service.lifecycle.facts import Fact
from service.lifecycle.members import PLACED
from service.lifecycle.present import held_to_present
from service.lifecycle.transitions import advance_all
from service.reconcile import sight
from service.reconcile.context import WorkerContext

LISTED_SECONDS = 13.0
"""How old a listing may be: a sweep's period, and the time that it takes."""
_LEFT_ALONE = {GroupPhase.RUNNING: InstanceStatus.RUNNING, GroupPhase.STOPPED: InstanceStatus.STOPPED}


@dataclass(slots=True)
class Resting:
    """What this process's workers have left at rest, as they left it."""

    context: WorkerContext
    _known: dict[str, tuple[Group, int]] = field(default_factory=dict)

    def remember(self, group: Group, due_at: int) -> None:
        """The group as it is stored, and when (ms) it is due."""
        if group.phase in _LEFT_ALONE:
            self._known[group.uuid] = group, due_at

    def forget(self, uuid: str) -> None:
        """It is somebody's again."""
        self._known.pop(uuid, None)

    def as_they_should_be(self, now: int, noticed: Collection[str]) -> Mapping[str, int]:
        """Uuid -> version of the groups that are due at `now` (ms) and need no turn. `noticed`: those that do."""
        custody = self.context.custody
        if custody.held or custody.missing or not custody.judged:
            return {}
        return {
            uuid: group.version
            for uuid, (group, due_at) in self._known.items()
            if due_at <= now and uuid not in noticed and self._is_as_it_should_be(group, now)
        }

    def put_off(self, asked: Collection[str], done: Collection[str], until: int) -> None:
        """These were to be looked at again later, and those of them are; the others are not as they were known."""
        for uuid in asked:
            known = self._known.pop(uuid, None)
            if known is not None and uuid in done:
                self._known[uuid] = known[0], until

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
        return not facts or advance_all(group, facts, now) == group

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
