"""Room that is kept for the first of those that wait for hosts, so that smaller ones do not pass it for ever."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from placement.model import Decision, Policy, Snapshot, Status
from placement.modes.moves import Leaving
from service.domain.fleet import Host
from service.domain.groups import Group, KeptRoom
from service.domain.waiting import long_enough
from service.lifecycle.members import PLACED
from service.planning import backfill, foresight, translate
from service.planning.neighbours import groups_in
from service.reconcile.context import WorkerContext
from service.reconcile.standing_in_line import Turn
from service.store import groups

QUICK = Policy(explain=False)


@dataclass(slots=True)
class Reserving:
    """For one group under its worker's lease. `now`: the database's time, ms."""

    context: WorkerContext
    now: Callable[[], int]

    async def foreseen(
        self, group: Group, hosts: Mapping[str, Host], snapshot: Snapshot, turn: Turn | None
    ) -> tuple[int, KeptRoom | None]:
        """(by when, ms, the first in line is proven to fit, 0: not known; the room that those behind leave it)."""
        if turn is None or not turn.first or group.waiting is None:
            return 0, None
        now = self.now()
        starts_at, decision = await self._earliest(group, hosts, snapshot, turn, now)
        if long_enough(group.waiting, starts_at, now, self.context.kept_after_ms):
            return starts_at, await self._by_age(group, hosts, snapshot)
        if decision is None:
            return 0, None
        return starts_at, KeptRoom(backfill.seats(group, decision.assignments, hosts), starts_at)

    async def _earliest(
        self, group: Group, hosts: Mapping[str, Host], snapshot: Snapshot, turn: Turn, now: int
    ) -> tuple[int, Decision | None]:
        times = foresight.times(turn.ends, now)
        if not times:
            return 0, None
        ends = {uuid for uuid, at in turn.ends.items() if now < at <= times[-1]}
        going = await self.context.store.read(lambda c: groups.load_many(c, sorted(ends)))

        async def fits(at: int) -> Decision:
            later = foresight.without(snapshot, hosts, [g for g in going if g.ends_at <= at])
            asked, budget = translate.request(group, later, hosts), self.context.plan_seconds
            planner, project = self.context.planner, group.project
            planned = await planner.place(later, asked, QUICK, budget_seconds=budget, project=project)
            return planned.decision

        return await foresight.earliest(times, fits)

    async def _by_age(self, group: Group, hosts: Mapping[str, Host], snapshot: Snapshot) -> KeptRoom | None:
        """The hosts on which the least has to go; those that were chosen before, as long as they will do: others would
        be as full again as these were."""
        before = group.waiting.kept if group.waiting is not None else None
        if before is not None and not before.starts_at and backfill.still_there(before, group, hosts):
            return before
        others = await self.context.store.read(lambda c: groups.load_many(c, groups_in(snapshot)))
        plan = await self.context.planner.evict(
            snapshot,
            translate.request(group, snapshot, hosts),
            tuple(leaving(other, snapshot, hosts) for other in others if other.uuid != group.uuid),
            budget_seconds=self.context.plan_seconds,
        )
        if plan.status is not Status.PLACED or plan.placed is None:
            return None
        return KeptRoom(backfill.seats(group, plan.placed.assignments, hosts))


def leaving(group: Group, snapshot: Snapshot, hosts: Mapping[str, Host], level: int = 0) -> Leaving:
    """The group as one that goes, at the cost of its memory in bytes."""
    there = {m.id for host in snapshot.hosts for m in host.members}
    seated = frozenset(m.uuid for m in group.instances if m.status in PLACED and m.uuid in there)
    one = translate.neighbours(group, seated, snapshot, hosts)
    if one is None:
        return Leaving((), 0, level)
    return Leaving(one.nodes, sum(one.costs.values()), level)
