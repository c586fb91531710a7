"""Which groups have to go, and which members of the others to move, so that a gang fits that no moves alone make fit.

What moves goes on and what goes does not, so the groups cost as little as possible, however much is moved; of the moves
that are enough once they are gone the cheapest are taken. The groups go first: a member may move to where one was.

Two things bound the groups. The cheapest cover (``packing/vacate.py``) in which whoever can move leaves for nothing:
somebody who cannot has to go. And what the fleet has free in all: moves do not change that, whatever their number, so
whole groups have to leave as much as the gang lacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from placement.engine import DEFAULT, place
from placement.model import (
    Decision,
    InvalidPlacementInput,
    Node,
    Policy,
    Proof,
    Request,
    Snapshot,
    Status,
)
from placement.modes.evict import MOST_GROUPS, MOST_SETS, MOST_SPARED, evict, owners, shared
from placement.modes.fleet_members import STAYS, Fleet, sizes
from placement.modes.leavers import leavers
from placement.modes.make_room import make_room
from placement.modes.moves import Evictions, Leaving, MadeRoom, Neighbours
from placement.packing.cover import cheapest_cover
from placement.packing.vacate import Residents
from placement.problem.index import Bools, Ints
from placement.stop import Stop, never

ATTEMPTS = 6
"""So often more groups go because those that would move found no homes."""


def evict_or_move(
    snapshot: Snapshot,
    request: Request,
    leaving: Sequence[Leaving],
    neighbours: Sequence[Neighbours],
    policy: Policy = DEFAULT,
    stop: Stop = never,
) -> Evictions:
    """The cheapest groups that were found, of the lowest level that is enough, and the moves once they are gone.

    Where moves alone are enough nobody goes. A member may be both of a group that may go and of neighbours.
    Raises ``InvalidPlacementInput`` as ``evict`` and ``make_room`` do.
    """
    fleet = Fleet.of(snapshot, request, [shared(group) for group in leaving])
    if any(group.level < 0 for group in leaving):
        raise InvalidPlacementInput("leaving.level", "must not be below 0")
    decision = place(snapshot, request, policy, stop)
    if decision.status is Status.PLACED:
        return Evictions(Status.PLACED, decision, (), decision, 0, 0, Proof.OPTIMAL)
    quiet = replace(policy, explain=False, max_placed=False)
    return _Search(snapshot, fleet, tuple(leaving), tuple(neighbours), decision, quiet, stop).run()


@dataclass(frozen=True, slots=True)
class _Bound:
    """No groups that make room cost less than ``lower``; ``first``: those that go by what proves it."""

    lower: int
    first: frozenset[int]


@dataclass(slots=True, eq=False)
class _Search:
    """``fleet``: with the members of groups that may go as large as these say; ``owner``: int64[M], see ``owners``;
    ``moves``: bool[M], the members that may move; ``known``: what was tried so far."""

    snapshot: Snapshot
    fleet: Fleet
    leaving: tuple[Leaving, ...]
    neighbours: tuple[Neighbours, ...]
    decision: Decision
    policy: Policy
    stop: Stop
    owner: Ints = field(init=False)
    moves: Bools = field(init=False)
    movable: dict[str, Node] = field(init=False)
    lacking: dict[str, int] = field(init=False)
    known: dict[frozenset[int], MadeRoom] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.owner = owners(self.fleet, self.leaving)
        self.movable = {node.id: node for group in self.neighbours for node in group.nodes}
        self.moves = np.fromiter((name in self.movable for name in self.fleet.ids), np.bool_, len(self.fleet.ids))
        self.lacking = _lacking(self.fleet.snapshot, self.fleet.request)

    def run(self) -> Evictions:
        alone = self._tried(frozenset())
        if alone.status is Status.PLACED:
            return self._answer(frozenset(), alone, 0)
        undecided = alone.status is Status.UNKNOWN and not self.leaving
        for level in sorted({group.level for group in self.leaving}):
            may = frozenset(number for number, group in enumerate(self.leaving) if group.level <= level)
            bound = self._bound(may)
            if bound is None:
                continue
            plan = self._cheapest(may, bound)
            if plan is not None:
                return plan if plan.proof is Proof.OPTIMAL else self._proven(plan, may)
            undecided = True
            if self.stop():
                break
        status, proof = (Status.UNKNOWN, Proof.NONE) if undecided else (Status.INFEASIBLE, Proof.INFEASIBLE)
        return Evictions(status, self.decision, proof=proof, stopped=self.stop())

    # --- whether these are enough -------------------------------------------------------------------------------------

    def _tried(self, chosen: frozenset[int]) -> MadeRoom:
        """The moves once these groups are gone."""
        if chosen not in self.known:
            self.known[chosen] = self._moves(chosen)
        return self.known[chosen]

    def _moves(self, chosen: frozenset[int]) -> MadeRoom:
        if any(amount > self._left_by(chosen, name) for name, amount in self.lacking.items()):
            return MadeRoom(Status.INFEASIBLE, self.decision, proof=Proof.INFEASIBLE)
        gone = {node.id for number in chosen for node in self.leaving[number].nodes}
        changed = self.fleet.without(np.flatnonzero(np.isin(self.owner, list(chosen))).tolist())
        staying = [
            group
            for group in self.neighbours
            if not any(node.id in gone for node in group.nodes) and gone.isdisjoint(group.staying)
        ]
        without = self.snapshot.updated(changed) if changed else self.snapshot
        return make_room(without, self.fleet.request, staying, self.policy, self.stop)

    def _left_by(self, chosen: Iterable[int], name: str) -> int:
        """How much these groups leave to others on hosts that are open."""
        return sum(self._gives(number).get(name, 0) for number in chosen)

    def _gives(self, number: int) -> dict[str, int]:
        """What a group leaves, of that which lacks."""
        return {name: sum(node.demand.get(name, 0) for node in self.leaving[number].nodes) for name in self.lacking}

    # --- who goes -----------------------------------------------------------------------------------------------------

    def _bound(self, may: frozenset[int]) -> _Bound | None:
        """None: not even all of these are enough, with any moves."""
        found = leavers(self.fleet.gang, self._residents(may), self.stop)
        if found.lower is None:
            return None
        first = {int(self.owner[number]) for number in found.leaving or () if not self.moves[number]}
        picked = self._filled(may, frozenset(), {})
        if picked is None:
            return None
        least, groups = picked
        missing = self._filled(may - first, frozenset(first), {})
        groups = missing[1] if missing is not None else groups
        return _Bound(max(least, found.lower), frozenset(first) | groups)

    def _residents(self, may: frozenset[int]) -> Residents:
        """All members; one that may move costs nothing, and leaves what it does, whether it goes or moves."""
        fleet = self.fleet
        size = np.maximum(fleet.size, sizes(self.movable, fleet.ids, fleet.gang.names))
        cost = np.where(np.isin(self.owner, list(may)), fleet.cost, STAYS)
        return replace(fleet.residents, size=size, cost=np.where(self.moves, 0, cost))

    def _filled(
        self, may: Iterable[int], chosen: frozenset[int], more: dict[str, int]
    ) -> tuple[int, frozenset[int]] | None:
        """(no others cost less, who they are) of groups that leave what is lacking beside ``chosen``, and ``more``."""
        names = sorted({*self.lacking, *more})
        need = [max(0, self.lacking.get(name, 0) + more.get(name, 0) - self._left_by(chosen, name)) for name in names]
        groups = sorted(set(may) - chosen)
        sizes = [[self._gives(number).get(name, 0) for name in names] for number in groups]
        if any(sum(size[n] for size in sizes) < amount for n, amount in enumerate(need)):
            return None
        lower, _, who = cheapest_cover(sizes, [self.leaving[number].cost for number in groups], need)
        return lower, frozenset(groups[n] for n in who)

    def _cheapest(self, may: frozenset[int], bound: _Bound) -> Evictions | None:
        """The cheapest plan that begins with some set of groups that is enough."""
        best: Evictions | None = None
        for chosen in self._enough(may, bound):
            plan = self._spared(chosen, bound.lower)
            if best is None or (plan.cost or 0, plan.moved) < (best.cost or 0, best.moved):
                best = plan
            if best.proof is Proof.OPTIMAL or self.stop():
                break
        return best

    def _enough(self, may: frozenset[int], bound: _Bound) -> Iterator[frozenset[int]]:
        """Sets of groups that are enough: what the bound says and more, those that do without moves, all."""
        chosen, found = bound.first, False
        for attempt in range(ATTEMPTS):
            tried = self._tried(chosen)
            if tried.status is Status.PLACED:
                found = True
                yield chosen
                break
            more = self._more(tried, attempt)
            picked = self._filled(may, chosen, more) if more else None
            if picked is None or not picked[1] or self.stop():
                break
            chosen |= picked[1]
        numbers = sorted(may)
        without_moves = evict(
            self.snapshot, self.fleet.request, [self.leaving[number] for number in numbers], self.policy, self.stop
        )
        if without_moves.status is Status.PLACED:
            found = True
            yield frozenset(numbers[number] for number in without_moves.gone)
        if not found and self._tried(may).status is Status.PLACED:
            yield may

    def _more(self, tried: MadeRoom, attempt: int) -> dict[str, int]:
        """What the homeless ask for, or a node of the gang where it was the gang that found no place, ever more of."""
        demands = [self.movable[member].demand for member in tried.homeless] or [
            n.demand for n in self.fleet.request.nodes
        ]
        return {name: (attempt + 1) * max(d.get(name, 0) for d in demands) for name in self.lacking}

    def _spared(self, chosen: frozenset[int], lower: int) -> Evictions:
        """The plan without the groups that need not go after all."""

        def worth(number: int) -> tuple[int, int, int]:
            return -self.leaving[number].level, -self.leaving[number].cost, number

        for number in sorted(chosen, key=worth)[:MOST_SPARED]:
            if self.stop():
                break
            if self._tried(chosen - {number}).status is Status.PLACED:
                chosen -= {number}
        return self._answer(chosen, self._tried(chosen), lower)

    def _proven(self, plan: Evictions, may: frozenset[int]) -> Evictions:
        """The cheapest set of all, or the plan with the cost of the first set of which it could not be said that the
        gang does not fit without it. Cheapest first, from the bound on."""
        lower, most = plan.lower_bound or 0, plan.cost or 0
        if len(may) > MOST_GROUPS:
            return plan
        sets = (frozenset(some) for size in range(len(may) + 1) for some in combinations(sorted(may), size))
        between = sorted((cost, sorted(some)) for some in sets if lower <= (cost := self._cost(some)) < most)
        for number, (cost, some) in enumerate(between):
            if number == MOST_SETS or self.stop():
                return replace(plan, lower_bound=cost, stopped=self.stop())
            tried = self._tried(frozenset(some))
            if tried.status is Status.PLACED:
                return self._answer(frozenset(some), tried, cost)
            if tried.status is not Status.INFEASIBLE:
                return replace(plan, lower_bound=cost)
        return replace(plan, lower_bound=most, proof=Proof.OPTIMAL)

    def _cost(self, chosen: Iterable[int]) -> int:
        return sum(self.leaving[number].cost for number in chosen)

    def _answer(self, chosen: frozenset[int], room: MadeRoom, lower: int) -> Evictions:
        cost = self._cost(chosen)
        return Evictions(
            Status.PLACED,
            self.decision,
            tuple(sorted(chosen)),
            room.placed,
            cost,
            lower,
            Proof.OPTIMAL if cost == lower else Proof.GAP,
            self.stop(),
            room.moves,
            room.cost or 0,
        )


def _lacking(snapshot: Snapshot, request: Request) -> dict[str, int]:
    """By resource, how much more the gang asks for than all hosts have free that are open to anybody.

    A host on which more is used than it has may stay so, and has nothing free.
    """
    asked: dict[str, int] = {}
    for node in request.nodes:
        for name, amount in node.demand.items():
            asked[name] = asked.get(name, 0) + amount * node.count
    free = {
        name: sum(
            max(0, host.capacity.get(name, 0) - host.used.get(name, 0)) for host in snapshot.hosts if host.schedulable
        )
        for name, amount in asked.items()
        if amount
    }
    return {name: asked[name] - amount for name, amount in free.items()}
