"""An operator who rebalances and rolls again and again, calls some of it off, and drains a host now and then."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import aclosing

from service.app.rebalancing import RebalancePlan
from service.domain.rebalances import RebalanceWish
from service.domain.rolls import RollEnable, RollStage, RollWish
from service.errors import Conflict, InvalidArgument, NotFound, Unavailable, Undecided, WrongState
from tests.simulation.faults import CLOCK
from tests.simulation.operators import ME, REFUSALS, Operator
from tests.simulation.replica import Replica

HOLDS = (0, 0, 60)
"""s."""


class Balancer(Operator):
    """One person: one thing at a time."""

    async def _more(self) -> None:
        dice = self.world.random
        if dice.random() < 0.5:
            await self._roll()
            return
        for _ in range(dice.choice((2, 3, 4, 6))):
            await self._rebalance()
            if dice.random() < 0.5:
                await self._call_off()
            await asyncio.sleep(dice.uniform(0.0, 5.0))
            if self._calm():
                return

    async def restore_fleet(self) -> None:
        """At peace: no host is closed any more that is to be emptied."""
        for (uuid,) in self.world.database.rows("SELECT uuid FROM rolls WHERE ended_at = 0 ORDER BY uuid"):
            await self.insist(lambda r, uuid=uuid: r.rolls.call_off(ME, uuid), 10.0)  # type: ignore[misc]

    async def _roll(self) -> None:
        """Some hosts, or all: each is enabled once it is told to be empty, or sooner, or it is all called off."""
        dice = self.world.random
        self._requests += 1
        request = f"roll-{self._requests}"
        some = tuple(host.uuid for host in self._in_fleet() if dice.random() < 0.6)
        wish = RollWish(host_uuids=some, at_once=dice.choice((1, 1, 2)), enable=dice.choice(tuple(RollEnable)))
        self.world.note("roll", request)
        try:
            begun = await self.insist(lambda r: r.rolls.begin(ME, wish, request), 10.0, once=True, tries=20)
        except (*REFUSALS, InvalidArgument, Undecided, Unavailable, Conflict) as refused:
            self.world.note("roll refused", request, type(refused).__name__)
            return
        if begun is None:
            return
        self.world.stats["rolls begun"] += 1
        for _ in range(dice.choice((5, 20, 40))):
            await asyncio.sleep(dice.uniform(0.5, 3.0))
            now = await self.insist(lambda r: r.rolls.get(begun.roll.uuid), 10.0)
            if self._calm() or now is None or now.ended_at:
                return
            for host in now.under_way:
                if host.stage is RollStage.DRAINED or dice.random() < 0.02:
                    self.world.stats["hosts rolled"] += host.stage is RollStage.DRAINED
                    await self.enable(host.uuid, tries=10)
        self.world.note("roll called off", request)
        await self.insist(lambda r: r.rolls.call_off(ME, begun.roll.uuid), 10.0)

    async def _rebalance(self) -> None:
        """All that can be gained, by however little; whoever gives up waiting gives up the report only."""
        dice = self.world.random
        self._requests += 1
        request = f"rebalance-{self._requests}"
        most, leaves = dice.choice((1, 3, 10)), dice.random() < 0.5
        goal, advised = dice.choice(("even_load", "even_load", "free_hosts")), dice.random() < 0.2
        hold = HOLDS[self._requests % len(HOLDS)]
        wish = RebalanceWish("", "", most, 1, 1, goal, advised, hold)

        async def run(replica: Replica) -> None:
            async with aclosing(replica.rebalancing.run(ME, wish, request)) as steps:
                async for step in steps:
                    if step.plan is not None:
                        self._judge(step.plan, goal, hold)
                    if step.plan is not None and step.plan.moves:
                        self.world.stats["rebalances advised" if advised else "rebalances begun"] += 1
                        self.world.stats["hosts to be freed"] += len(step.plan.plan.freed)
                        if leaves:
                            return
                    if advised and step.instance is not None:
                        self.world.observer.violated("I5", f"{step.instance.uuid} moves for what was only advised")

        self.world.note("rebalance", request)
        try:
            await self.insist(run, dice.choice((0.5, 3.0, 20.0)), once=True, tries=20)
        except (*REFUSALS, Undecided, Unavailable, Conflict) as refused:
            self.world.note("rebalance refused", request, type(refused).__name__)

    def _judge(self, plan: RebalancePlan, goal: str, hold: int) -> None:
        """Moves are for what was asked for; what is to become free is left, and entered by nobody; who has moved within
        the hold moves for a broken rule alone."""
        self._judge_hold(plan, hold)
        causes = {move.cause for move in plan.moves}
        if ("load" if goal == "free_hosts" else "free") in causes:
            self.world.observer.violated("I5", f"members move for {sorted(causes)} where {goal} was asked for")
        freed = set(plan.plan.freed)
        if freed != {move.source_host_uuid for move in plan.moves if move.cause == "free"}:
            self.world.observer.violated("I5", f"others are left than the hosts that are to be free: {sorted(freed)}")
        if freed & {move.target_host_uuid for move in plan.moves}:
            self.world.observer.violated("I5", "a member moves to a host that is to be free")

    def _judge_hold(self, plan: RebalancePlan, hold: int) -> None:
        self.world.stats["members held"] += plan.held.count
        arrivals = self.world.observer.rooms.arrivals
        soon = [m.instance_uuid for m in plan.moves if m.cause != "rule" and arrivals.too_soon(m.instance_uuid, hold)]
        # By a clock that was set, or by a database of before, it may be long ago.
        if soon and not self.world.restored and not any(entry[1] == CLOCK for entry in self.world.timeline):
            self.world.observer.violated("I5", f"{soon} moved less than {hold} s ago, and are to move again")

    async def _call_off(self) -> None:
        """The newest of all that were begun, whether it is over or not."""
        rows = self.world.database.rows("SELECT uuid FROM rebalances ORDER BY created_at DESC, uuid LIMIT 1")
        if not rows:
            return
        uuid = rows[0][0]
        self.world.note("call off", uuid)
        with contextlib.suppress(NotFound, Unavailable, WrongState):  # there is nothing to call off in advice
            await self.insist(lambda r: r.rebalancing.call_off(ME, uuid), 5.0, once=True, tries=20)
