"""Which groups would have to end so that another one fits, and which members of others would move then."""

from __future__ import annotations

import math
from collections.abc import Sequence

from placement.model import Request, Snapshot
from placement.modes.moves import Evictions, Leaving
from service.planning.neighbours import LiveTargets, Others
from service.planning.planner import Planner

MOST_PLANS = 6
"""How often that is planned around hosts that do not take members as they run; then nobody moves."""


async def ends_and_moves(
    planner: Planner,
    snapshot: Snapshot,
    request: Request,
    leaving: Sequence[Leaving],
    others: Others,
    live_targets: LiveTargets,
    *,
    budget_seconds: float,
    answer_by: float = math.inf,
) -> Evictions:
    """Verified groups and moves. Who moves does so as it runs: it may have to wait for its seat until a group has
    ended, and is not stopped for so long."""
    for _ in range(MOST_PLANS):
        plan = await planner.evict(
            snapshot, request, leaving, budget_seconds=budget_seconds, answer_by=answer_by, neighbours=others.asked()
        )
        if not others.unfit(plan, live_targets):
            return plan
    return await planner.evict(snapshot, request, leaving, budget_seconds=budget_seconds, answer_by=answer_by)
