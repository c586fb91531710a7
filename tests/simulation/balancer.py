"""An operator who rebalances again and again, calls some of it off, and drains a host now and then."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import aclosing

from service.domain.rebalances import RebalanceWish
from service.errors import Conflict, NotFound, Unavailable, Undecided
from tests.simulation.operators import ME, REFUSALS, Operator
from tests.simulation.replica import Replica


class Balancer(Operator):
    """One person: one thing at a time."""

    async def _more(self) -> None:
        dice = self.world.random
        for _ in range(dice.choice((2, 3, 4, 6))):
            await self._rebalance()
            if dice.random() < 0.5:
                await self._call_off()
            await asyncio.sleep(dice.uniform(0.0, 5.0))
            if self._calm():
                return

    async def _rebalance(self) -> None:
        """All that can be gained, by however little; whoever gives up waiting gives up the report only."""
        dice = self.world.random
        self._requests += 1
        request = f"rebalance-{self._requests}"
        wish = RebalanceWish("", "", dice.choice((1, 3, 10)), 1, 1)
        leaves = dice.random() < 0.5

        async def run(replica: Replica) -> None:
            async with aclosing(replica.rebalancing.run(ME, wish, request)) as steps:
                async for step in steps:
                    if step.plan is not None and step.plan.moves:
                        self.world.stats["rebalances begun"] += 1
                        if leaves:
                            return

        self.world.note("rebalance", request)
        try:
            await self.insist(run, dice.choice((0.5, 3.0, 20.0)), once=True, tries=20)
        except (*REFUSALS, Undecided, Unavailable, Conflict) as refused:
            self.world.note("rebalance refused", request, type(refused).__name__)

    async def _call_off(self) -> None:
        """The newest of all that were begun, whether it is over or not."""
        rows = self.world.database.rows("SELECT uuid FROM rebalances ORDER BY created_at DESC, uuid LIMIT 1")
        if not rows:
            return
        uuid = rows[0][0]
        self.world.note("call off", uuid)
        with contextlib.suppress(NotFound, Unavailable):
            await self.insist(lambda r: r.rebalancing.call_off(ME, uuid), 5.0, once=True, tries=20)
