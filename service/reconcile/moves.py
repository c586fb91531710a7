"""A member's live move, step by step: what both hosts show decides, however often the process that drives it dies.

The machine executes on its source until the hypervisors switch it over, and then on its target; in between on neither.
So a target where it executes has it for good; a source where it executes has it as long as no move goes on. Every end
leaves a tombstone where the machine is not: a request of this move or of an earlier one that comes late, however late,
finds the uuid taken.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from service.domain.groups import Instance
from service.drivers.base import (
    HostRejected,
    MachineConflict,
    MachineIdentity,
    MachineSpec,
    MachineState,
    ObservedMachine,
)
from service.failpoints import failpoint
from service.lifecycle.facts import Fact, MoveAborted, Moved, MoveImpossible
from service.reconcile.monitor import HostMonitor

logger = logging.getLogger(__name__)

WAIT_SECONDS = 12.0
"""How long one call waits for a move to end."""
STEP_SECONDS = 8.0

_AGAIN: Sequence[Fact] = ()
_Key = tuple[str, int, str]


@dataclass(slots=True)
class Trail:
    """What this lease knows of moves, as (instance, attempt, target): which it claimed itself, so that nobody else has
    ever sent a request for them, and for which of those a request may be under way still."""

    begun: set[_Key] = field(default_factory=set)
    unanswered: set[_Key] = field(default_factory=set)

    def answered(self, key: _Key) -> bool:
        """Whether no request of this move can come late."""
        return key in self.begun and key not in self.unanswered


@dataclass(slots=True)
class LiveMove:
    """One member between its two hosts. `target` None: this process does not know that host yet."""

    member: Instance
    identity: MachineIdentity
    source: HostMonitor
    target: HostMonitor | None
    trail: Trail

    @property
    def key(self) -> _Key:
        """Which move it is."""
        return self.member.uuid, self.member.attempt, self.member.target_host_uuid

    async def go_on(self, spec: MachineSpec | None) -> Sequence[Fact]:
        """Begin it, wait for it, or find that it has ended. Empty: call again. Raises DriverError."""
        target = self.target
        if target is None or target.silent:
            return _AGAIN  # the move's time ends it
        if spec is None:
            return (self._impossible("its catalogue entry is gone"),)
        there = await target.observe(self.identity)
        if there is None or not there.state.executing:
            here = await self.source.observe(self.identity)
            if here is None or here.state not in (MachineState.RUNNING, MachineState.MIGRATING):
                return (self._impossible("its machine does not run"),)
            await self._send(spec, target)
            there = await target.observe(self.identity)
        return await self._settled(there)

    async def _send(self, spec: MachineSpec, target: HostMonitor) -> None:
        # The machine tells of the generation that it was made in, not of this one: an older copy of the database would
        # find it missing where it was, and its new host none the wiser.
        if not await target.mark_now():
            return
        failpoint("move.sending")
        self.trail.unanswered.add(self.key)
        try:
            await self.source.driver.migrate(spec, target.driver, budget_seconds=WAIT_SECONDS)
        except (HostRejected, MachineConflict):
            self.trail.unanswered.discard(self.key)
            raise
        self.trail.unanswered.discard(self.key)
        failpoint("move.answered")

    async def abort(self) -> Sequence[Fact]:
        """End it, wherever it stands: the target is proven to be without the machine, or has it and keeps it."""
        await self.source.driver.abort_migration(self.identity, budget_seconds=STEP_SECONDS)
        failpoint("move.stopped")
        if self.target is None or self.target.silent:
            return await self._abort_unseen()
        there = await self._arrived(self.target)
        if there is not None and there.state.executing:
            return await self._settled(there)
        if there is not None and there.state is not MachineState.TOMBSTONE:
            # It came in part, has never executed, and without a move that goes on never will.
            await self.target.driver.remove(self.identity, budget_seconds=STEP_SECONDS)
        await self.target.driver.entomb(self.identity, budget_seconds=STEP_SECONDS)
        failpoint("move.barred")
        if not await self.target.confirm_absent(self.identity.machine_uuid):
            return _AGAIN
        await self._carry_on()
        return (MoveAborted(self.member.uuid, self.member.attempt, absent=True),)

    async def _carry_on(self) -> None:
        """A hypervisor that lost the move in the middle of the switch-over leaves the machine paused for a move that
        goes on no more; nobody else may have it by now."""
        here = await self.source.observe(self.identity)
        if here is not None and here.state is MachineState.MIGRATING:
            failpoint("move.carrying_on")
            await self.source.driver.resume(self.identity, budget_seconds=STEP_SECONDS)

    async def _abort_unseen(self) -> Sequence[Fact]:
        """The target does not answer. Where every request was answered and the machine executes here, it cannot be
        there, now or later; the claim there stands until that was seen."""
        if not self.trail.answered(self.key):
            return _AGAIN
        here = await self.source.observe(self.identity)
        if here is None or here.state is not MachineState.RUNNING:
            return _AGAIN
        return (MoveAborted(self.member.uuid, self.member.attempt, absent=False),)

    async def _arrived(self, target: HostMonitor) -> ObservedMachine | None:
        try:
            return await target.observe(self.identity)
        except MachineConflict:
            return None  # somebody else's: ours cannot be there; the tombstone will say the same

    async def _settled(self, there: ObservedMachine | None) -> Sequence[Fact]:
        """The fact that it has arrived, once its source is certain to be without it."""
        if there is None or not there.state.executing:
            return _AGAIN
        here = await self.source.observe(self.identity)
        if here is not None and here.state is not MachineState.TOMBSTONE:
            if here.state.executing:
                logger.error("member %s executes on both hosts of its move; nothing is done", self.member.uuid)
                return _AGAIN
            failpoint("move.clearing")
            await self.source.driver.remove(self.identity, budget_seconds=STEP_SECONDS)
        await self.source.driver.entomb(self.identity, budget_seconds=STEP_SECONDS)
        failpoint("move.entombed")
        if not await self.source.confirm_absent(self.identity.machine_uuid):
            return _AGAIN
        failpoint("move.seen")
        return (Moved(self.member.uuid, self.member.attempt),)

    def _impossible(self, reason: str) -> MoveImpossible:
        return MoveImpossible(self.member.uuid, self.member.attempt, reason)
