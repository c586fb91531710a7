"""Groups that end so that a more important one fits: who may be, told when, and the commit by which one begins to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from placement.model import Request, Snapshot
from placement.modes.moves import Evictions
from service.domain.fleet import Host
from service.domain.groups import Group
from service.domain.leaving import RoomEviction
from service.failpoints import failpoint
from service.lifecycle.facts import RoomClosed
from service.planning.ends_and_moves import ends_and_moves
from service.planning.neighbours import Others
from service.planning.victims import Victims, told_of, victims
from service.reconcile.context import WorkerContext
from service.reconcile.outcomes import EffectResult
from service.transactions import evicting

__all__ = ["Evicting", "Victims"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Evicting:
    """For one group under its worker's lease. `now`: the database's time, ms."""

    context: WorkerContext
    now: Callable[[], int]

    async def planned(
        self,
        group: Group,
        request: Request,
        hosts: Mapping[str, Host],
        snapshot: Snapshot,
        others: Sequence[Group],
        movable: Others,
        refused: Collection[str],
    ) -> tuple[Evictions, Victims]:
        """Which groups would have to end so that this one fits, of those that may, and which members would move then.
        `refused`: groups that stayed."""
        asking = [o for o in others if o.uuid not in refused]
        may = victims(self.context.priorities, group, asking, snapshot, hosts, self.now())
        found = await ends_and_moves(
            self.context.planner,
            snapshot,
            request,
            may.leaving,
            movable,
            self.context.calls.live_targets,
            budget_seconds=self.context.plan_seconds,
        )
        return found, may

    def told(self, group: Group, ending: Sequence[Group]) -> tuple[tuple[RoomEviction, ...], int]:
        """See `planning.victims.told_of`."""
        return told_of(self.context.priorities, group, ending, self.now())

    async def begin(self, group: Group) -> EffectResult:
        """Its notice is over: it leaves, where the room is still wanted. Raises LeaseLost, InvariantViolation."""
        asked = group.eviction
        if asked is None or self.context.custody.held:
            return EffectResult([], retry=True)
        failpoint("eviction.due")
        now = self.now()
        after = await self.context.store.write(lambda c: evicting.begin(c, group, now))
        failpoint("eviction.begun")
        if after is None:
            return EffectResult([RoomClosed(asked.room)])
        if after.version == group.version:
            return EffectResult([], retry=True)  # who can move before has not gone yet
        if after.eviction is None or after.eviction.begun:
            self.context.metrics.evictions.labels("begun").inc()
            logger.info("group %s ends so that group %s of a higher priority fits", group.uuid, asked.by_group)
        return EffectResult([], reload=True)
