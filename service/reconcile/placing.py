"""Finding room for a group's members and claiming it: for the whole gang, or for one that is moved live."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from placement.model import Policy, Request, Snapshot, Status
from service.domain.fleet import HostStatus
from service.domain.groups import Failure, Group, Instance, QuotaViolation
from service.errors import CorralError, InvariantViolation, QuotaExceeded, Unavailable
from service.failpoints import failpoint
from service.lifecycle.facts import MoveImpossible, NotPlaced
from service.planning import fleet_reader, translate
from service.planning.planner import Planned
from service.reconcile.calls import Outcome, Sends
from service.reconcile.tools import Tools
from service.store.claims import ClaimLost
from service.transactions import claiming
from service.transactions.changes import LeaseLost

logger = logging.getLogger(__name__)

CLAIM_TRIES = 8
CLAIM_RACES = 5
"""Tries that race with everybody; later ones have the fleet to themselves, so that large gangs do not starve."""
FLEET_PATIENCE_MS = 10_000


@dataclass(slots=True)
class Placing:
    """Plans and claims for one group under its worker's lease. `now`: the database's time, ms."""

    tools: Tools
    now: Callable[[], int]
    _waits_for_fleet_until: int = 0

    async def gang(self, group: Group) -> Outcome:
        """Seats for all pending members, or why there are none. Raises InvariantViolation, LeaseLost."""
        if self.tools.custody.held:
            return Outcome([], retry=True)  # what hosts have seen and the database has not may be these very members
        try:
            return await self._race(group, lambda attempt, alone: self._gang_once(group, attempt, alone=alone))
        except QuotaExceeded as error:
            passed = QuotaViolation(error.subject, error.resource, error.limit, error.requested)
            return Outcome([NotPlaced(Failure(error.reason, error.message, quota=passed))])
        except (InvariantViolation, LeaseLost):
            raise
        except CorralError as error:
            return Outcome([NotPlaced(Failure(error.reason, error.message))])

    async def target(self, group: Group, member: Instance, sends: Sends) -> Outcome:
        """A host that the member is moved to live, or that there is none. Raises InvariantViolation, LeaseLost."""
        if self.tools.custody.held:
            return Outcome([], retry=True)
        try:
            return await self._race(
                group, lambda attempt, alone: self._target_once(group, member, sends, attempt, alone=alone)
            )
        except (InvariantViolation, LeaseLost):
            raise
        except CorralError as error:
            return Outcome([MoveImpossible(member.uuid, member.attempt, error.message)])

    async def _race(self, group: Group, once: Callable[[int, bool], Awaitable[Outcome | None]]) -> Outcome:
        """A claim that was lost is planned anew with fresh rows, in the end with the fleet to itself."""
        try:
            for attempt in range(1, CLAIM_TRIES + 1):
                alone = attempt > CLAIM_RACES
                async with self.tools.store.claiming(alone=alone):
                    outcome = await once(attempt, alone)
                if outcome is not None:
                    return outcome
                self.tools.metrics.claims_lost.inc()
        except Unavailable as error:
            logger.warning("group %s: planning waits: %s", group.uuid, error)
        return Outcome([], retry=True)

    async def _gang_once(self, group: Group, attempt: int, *, alone: bool) -> Outcome | None:
        # What lost a race reads all of it: whatever was kept of the fleet may be why.
        read = self.tools.fleet_reader.read if attempt == 1 else fleet_reader.read_fleet
        hosts, snapshot = await self.tools.store.read(read)
        planned = await self._decide(snapshot, translate.request(group, snapshot), attempt)
        if planned.decision.status is not Status.PLACED and group.excluded_hosts:
            # Hosts where a member failed are shunned while there are others, not at the price of the group.
            everywhere = replace(translate.request(group, snapshot), excluded_hosts=frozenset())
            planned = await self._decide(snapshot, everywhere, attempt)
        decision = planned.decision
        if decision.status is not Status.PLACED:
            waiting = any(h.status is HostStatus.CONNECTING for h in hosts.values())
            if waiting and self._may_wait_for_fleet():
                return Outcome([], retry=True)
            return Outcome([NotPlaced(translate.failure(decision.explanation, group, snapshot))])
        failpoint("worker.planned")
        placement = translate.record(group, decision, hosts, planned.duration_ms, attempt)
        now = self.now()
        try:
            await self.tools.store.write(
                lambda c: claiming.claim(c, self.tools.custody.installation.cluster, group, placement, now, alone=alone)
            )
        except ClaimLost as lost:
            logger.info("group %s: claim lost (%s), planning again", group.uuid, lost)
            return None
        failpoint("worker.claimed")
        self.tools.metrics.claims.inc()
        return Outcome([], reload=True)

    async def _target_once(
        self, group: Group, member: Instance, sends: Sends, attempt: int, *, alone: bool
    ) -> Outcome | None:
        hosts, snapshot = await self.tools.store.read(fleet_reader.read_fleet)
        targets = self.tools.calls.live_targets(group, member)
        request = translate.move_request(group, member, snapshot, targets)
        decision = (await self._decide(snapshot, request, attempt)).decision if targets else None
        if decision is None or decision.status is not Status.PLACED:
            return Outcome([MoveImpossible(member.uuid, member.attempt, "no other host takes it as it runs")])
        failpoint("move.planned")
        target, now = hosts[decision.assignments[0].host], self.now()
        try:
            after = await self.tools.store.write(
                lambda c: claiming.claim_move(c, group, member, target, now, alone=alone)
            )
        except ClaimLost as lost:
            logger.info("group %s: a live move's claim is lost (%s), planning again", group.uuid, lost)
            return None
        failpoint("move.claimed")
        if after.instance(member.uuid).target_host_uuid == target.uuid:
            sends.moves.begun.add((member.uuid, member.attempt, target.uuid))
        return Outcome([], reload=True)

    async def _decide(self, snapshot: Snapshot, request: Request, attempt: int) -> Planned:
        """Ask the planner; each further attempt breaks ties in another way."""
        return await self.tools.planner.place(
            snapshot, request, Policy(seed=attempt - 1), budget_seconds=self.tools.plan_seconds
        )

    def _may_wait_for_fleet(self) -> bool:
        """Right after a start some hosts were not seen yet: that is no reason to refuse, for a while."""
        now = self.now()
        if not self._waits_for_fleet_until:
            self._waits_for_fleet_until = now + FLEET_PATIENCE_MS
        return now < self._waits_for_fleet_until
