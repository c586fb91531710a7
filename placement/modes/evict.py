"""Which groups have to go so that a gang fits that does not fit now, at a cost with a proven bound.

A group goes as a whole, and needs no home. The groups stand on levels: those of the lowest level that is enough are
looked at, and none above it. Of a group each member bears a share of the cost, so the cheapest cover of members
(``packing/vacate.py``) costs no more than any set of whole groups that makes room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, repeat

import numpy as np

from placement.engine import DEFAULT, place
from placement.model import Decision, InvalidPlacementInput, Policy, Proof, Request, Snapshot, Status
from placement.modes.fleet_members import STAYS, Fleet
from placement.modes.leavers import leavers
from placement.modes.moves import Evictions, Leaving, Neighbours
from placement.packing.vacate import Vacated
from placement.problem.index import Ints
from placement.stop import Stop, never

MOST_SPARED = 24
"""So many groups of a cover are tried to be kept, the dearest first."""
MOST_GROUPS, MOST_SETS = 12, 64
"""Of so many groups the sets that the bound leaves open are tried one after another, up to so many: rules between
nodes, such as how many a rack may hold, are not in the bound."""


def evict(
    snapshot: Snapshot,
    request: Request,
    leaving: Sequence[Leaving],
    policy: Policy = DEFAULT,
    stop: Stop = never,
) -> Evictions:
    """The cheapest groups that were found, of the lowest level that is enough, with the bound for that level.

    Raises ``InvalidPlacementInput`` for a member that lives nowhere, is listed twice, or belongs to the gang.
    """
    fleet = Fleet.of(snapshot, request, [shared(group) for group in leaving])
    if any(group.level < 0 for group in leaving):
        raise InvalidPlacementInput("leaving.level", "must not be below 0")
    decision = place(snapshot, request, policy, stop)
    if decision.status is Status.PLACED:
        return Evictions(Status.PLACED, decision, (), decision, 0, 0, Proof.OPTIMAL)
    search = _Search(fleet, tuple(leaving), decision, replace(policy, explain=False, max_placed=False), stop)
    return search.run()


def shared(group: Leaving) -> Neighbours:
    """The group's members, its cost divided among them so that the shares are its cost."""
    each, over = divmod(group.cost, max(1, len(group.nodes)))
    costs = {node.id: each + (number < over) for number, node in enumerate(group.nodes)}
    return Neighbours(group.nodes, costs)


def owners(fleet: Fleet, leaving: Sequence[Leaving]) -> Ints:
    """int64[M]: the number of the group that each member of the fleet is of, -1 where it is of none that may go."""
    owner = {node.id: number for number, group in enumerate(leaving) for node in group.nodes}
    return np.fromiter(map(owner.get, fleet.ids, repeat(-1)), np.int64, len(fleet.ids))


@dataclass(slots=True, eq=False)
class _Search:
    """``owner``: int64[M], see ``owners``."""

    fleet: Fleet
    leaving: tuple[Leaving, ...]
    decision: Decision
    policy: Policy
    stop: Stop
    owner: Ints = field(init=False)

    def __post_init__(self) -> None:
        self.owner = owners(self.fleet, self.leaving)

    def run(self) -> Evictions:
        undecided = False
        for level in sorted({group.level for group in self.leaving}):
            may = frozenset(number for number, group in enumerate(self.leaving) if group.level <= level)
            found = self._cover(may)
            if found.lower is None:
                continue
            plan = self._plan(found.leaving, may, found.lower)
            if plan is not None and plan.proof is not Proof.OPTIMAL and not self.stop():
                # Shares flatter who has fellows; each member at all of its group's cost does the opposite.
                dear = self._plan(self._cover(may, whole=True).leaving, may, found.lower)
                plan = dear if dear is not None and _worth(dear) < _worth(plan) else plan
            if plan is not None:
                return plan if plan.proof is Proof.OPTIMAL else self._proven(plan, may)
            undecided = True
            if self.stop():
                break
        status, proof = (Status.UNKNOWN, Proof.NONE) if undecided else (Status.INFEASIBLE, Proof.INFEASIBLE)
        return Evictions(status, self.decision, proof=proof, stopped=self.stop())

    def _plan(self, members: tuple[int, ...] | None, may: frozenset[int], lower: int) -> Evictions | None:
        """The groups of these members, or all that may go, without those that need not after all."""
        chosen = frozenset(int(self.owner[member]) for member in members) if members is not None else may
        placed = self._without(chosen)
        if placed is None and chosen != may and not self.stop():
            chosen, placed = may, self._without(may)
        return None if placed is None else self._spared(chosen, placed, lower)

    def _cover(self, may: frozenset[int], *, whole: bool = False) -> Vacated:
        """The cheapest cover by members of these groups. ``whole``: each member at the cost of all of its group."""
        cost = np.array([group.cost for group in self.leaving], np.int64)[self.owner] if whole else self.fleet.cost
        price = np.where(np.isin(self.owner, list(may)), cost, STAYS)
        return leavers(self.fleet.gang, replace(self.fleet.residents, cost=price), self.stop)

    def _without(self, chosen: frozenset[int]) -> Decision | None:
        """Where the gang goes once these groups are gone; None where it was not placed."""
        decision = self._placed(chosen)
        return decision if decision.status is Status.PLACED else None

    def _placed(self, chosen: frozenset[int]) -> Decision:
        """What is decided of the gang once these groups are gone."""
        changed = self.fleet.without(np.flatnonzero(np.isin(self.owner, list(chosen))).tolist())
        return place(self.fleet.snapshot.updated(changed), self.fleet.request, self.policy, self.stop)

    def _proven(self, plan: Evictions, may: frozenset[int]) -> Evictions:
        """The cheapest set of all, or the plan with the cost of the first set of which it could not be said that the
        gang does not fit without it. Cheapest first, from the bound on."""
        if len(may) > MOST_GROUPS or plan.cost is None or plan.lower_bound is None:
            return plan
        costs = [
            (sum(self.leaving[number].cost for number in some), some)
            for size in range(len(may) + 1)
            for some in combinations(sorted(may), size)
        ]
        open_sets = sorted(one for one in costs if plan.lower_bound <= one[0] < plan.cost)
        for cost, some in open_sets[:MOST_SETS]:
            if self.stop():
                return replace(plan, lower_bound=cost, stopped=True)
            decision = self._placed(frozenset(some))
            if decision.status is Status.PLACED:
                return replace(plan, gone=some, placed=decision, cost=cost, lower_bound=cost, proof=Proof.OPTIMAL)
            if decision.status is not Status.INFEASIBLE:
                return replace(plan, lower_bound=cost)
        if len(open_sets) > MOST_SETS:
            return replace(plan, lower_bound=open_sets[MOST_SETS][0])
        return replace(plan, lower_bound=plan.cost, proof=Proof.OPTIMAL)

    def _spared(self, chosen: frozenset[int], placed: Decision, lower: int) -> Evictions:
        """The plan without the groups that need not go after all."""

        def worth(number: int) -> tuple[int, int, int]:
            return -self.leaving[number].level, -self.leaving[number].cost, number

        for number in sorted(chosen, key=worth)[:MOST_SPARED]:
            if self.stop():
                break
            if (without := self._without(chosen - {number})) is not None:
                chosen, placed = chosen - {number}, without
        cost = sum(self.leaving[number].cost for number in chosen)
        proof = Proof.OPTIMAL if cost == lower else Proof.GAP
        return Evictions(
            Status.PLACED, self.decision, tuple(sorted(chosen)), placed, cost, lower, proof, stopped=self.stop()
        )


def _worth(plan: Evictions) -> int:
    return plan.cost or 0
