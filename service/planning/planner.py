"""What the use cases ask of a planner, and the two steps that every planner takes: decide, then check independently."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from placement.model import Decision, Node, Policy, Request, Snapshot
from placement.modes.moves import Evictions, Leaving, MadeRoom, Neighbours
from placement.modes.plans import Limits, Rebalance, Roll
from placement.stop import Stop
from service.errors import InvariantViolation

if TYPE_CHECKING:
    from placement.modes.capacity import Room


ANSWER_SECONDS = 0.1
"""What it may take until a search hears its stop and its answer has reached the caller."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A verified Decision and how long it took, in ms, as the caller saw it."""

    decision: Decision
    duration_ms: float


class Planner(Protocol):
    """What the use cases and reconciliation need of a planner.

    `budget_seconds` is the search's: waiting for a process that is busy or just starts costs none of it. `answer_by`, a
    time of `time.monotonic`, is when the caller needs the answer, waiting included. A caller that is cancelled ends its
    plan. `project`: whose plan it is, so that one tenant's hard ones do not hold up another's; "": the operator's.
    """

    async def place(
        self,
        snapshot: Snapshot,
        request: Request,
        policy: Policy,
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
        project: str = "",
    ) -> Planned:
        """A verified Decision within the budget. Raises InvariantViolation where the checker refuses it."""
        ...

    async def room(self, snapshot: Snapshot, node: Node, *, budget_seconds: float, answer_by: float = math.inf) -> Room:
        """How many more of a node fit."""
        ...

    async def make_room(
        self,
        snapshot: Snapshot,
        request: Request,
        neighbours: Sequence[Neighbours],
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
    ) -> MadeRoom:
        """Verified moves after which the gang fits. Raises InvariantViolation where the checker refuses them."""
        ...

    async def evict(
        self,
        snapshot: Snapshot,
        request: Request,
        leaving: Sequence[Leaving],
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
        neighbours: Sequence[Neighbours] = (),
    ) -> Evictions:
        """Verified groups after whose end, and moves of the `neighbours` then, the gang fits. Raises
        InvariantViolation where the checker refuses them."""
        ...

    async def rebalance(
        self,
        snapshot: Snapshot,
        groups: Sequence[Neighbours],
        limits: Limits,
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
    ) -> Rebalance:
        """Verified moves that mend and balance. Raises InvariantViolation where the checker refuses them."""
        ...

    async def roll(
        self,
        snapshot: Snapshot,
        groups: Sequence[Neighbours],
        hosts: Sequence[str],
        at_once: int,
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
    ) -> Roll:
        """A verified order in which hosts are emptied. Raises InvariantViolation where the checker refuses it."""
        ...

    def close(self) -> None:
        """Let worker processes go."""
        ...


def place_verified(snapshot: Snapshot, request: Request, policy: Policy, stop: Stop) -> Decision:
    """Place and check in this process. Raises InvariantViolation for a Decision that breaks a rule: a planner's bug."""
    from placement.check import check
    from placement.engine import place

    decision = place(snapshot, request, policy, stop)
    violations = check(snapshot, request, decision)
    _refuse("the planner's decision breaks", violations)
    return decision


def count_room(snapshot: Snapshot, node: Node, stop: Stop) -> Room:
    """How many more of a node fit, counted in this process."""
    from placement.modes.capacity import room_for

    return room_for(snapshot, node, stop=stop)


def room_verified(snapshot: Snapshot, request: Request, neighbours: Sequence[Neighbours], stop: Stop) -> MadeRoom:
    """Make room and check it in this process. Raises InvariantViolation for moves that break a rule."""
    from placement.modes.make_room import make_room
    from placement.modes.room_check import check_room

    room = make_room(snapshot, request, neighbours, stop=stop)
    violations = check_room(snapshot, request, neighbours, room)
    _refuse("the planner's moves break", violations)
    return room


def evictions_verified(
    snapshot: Snapshot, request: Request, leaving: Sequence[Leaving], neighbours: Sequence[Neighbours], stop: Stop
) -> Evictions:
    """Say which groups go, and who moves then, and check it in this process. Raises InvariantViolation for a plan that
    breaks a rule."""
    from placement.modes.evict import evict
    from placement.modes.evict_check import check_evictions
    from placement.modes.evict_or_move import evict_or_move

    if neighbours:
        plan = evict_or_move(snapshot, request, leaving, neighbours, stop=stop)
    else:
        plan = evict(snapshot, request, leaving, stop=stop)
    violations = check_evictions(snapshot, request, leaving, plan, neighbours)
    _refuse("the planner's evictions break", violations)
    return plan


def rebalance_verified(snapshot: Snapshot, groups: Sequence[Neighbours], limits: Limits, stop: Stop) -> Rebalance:
    """Plan a rebalance and check it in this process. Raises InvariantViolation for moves that break a rule."""
    from placement.modes.rebalance import rebalance
    from placement.modes.rebalance_check import check_rebalance

    plan = rebalance(snapshot, groups, limits, stop=stop)
    violations = check_rebalance(snapshot, groups, limits, plan)
    _refuse("the planner's moves break", violations)
    return plan


def roll_verified(
    snapshot: Snapshot, groups: Sequence[Neighbours], hosts: Sequence[str], at_once: int, stop: Stop
) -> Roll:
    """Plan a roll and check it in this process. Raises InvariantViolation for an order that breaks a rule."""
    from placement.modes.roll import roll
    from placement.modes.roll_check import check_roll

    plan = roll(snapshot, groups, hosts, at_once, stop=stop)
    violations = check_roll(snapshot, groups, hosts, at_once, plan)
    _refuse("the planner's roll breaks", violations)
    return plan


def _refuse(what: str, violations: Sequence[object]) -> None:
    if violations:
        raise InvariantViolation(f"{what} {len(violations)} rules, the first: {violations[0]}")


def until(deadline: float) -> Stop:
    """A stop that comes at `deadline`, a time of `time.monotonic`."""
    return lambda: time.monotonic() >= deadline


def answer_time(seconds: float | None) -> float:
    """When, by `time.monotonic`, a caller that waits `seconds` from now needs the answer; None: it waits for ever.

    A little is kept back, because the answer has to reach the caller before its deadline.
    """
    return math.inf if seconds is None else time.monotonic() + seconds - min(ANSWER_SECONDS, seconds / 10)


class InlinePlanner:
    """Plans on the calling thread: for small fleets, tools and simulations, where a pool would only add noise."""

    async def place(
        self,
        snapshot: Snapshot,
        request: Request,
        policy: Policy,
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
        project: str = "",
    ) -> Planned:
        """See `Planner.place`."""
        started = time.monotonic()
        decision = place_verified(snapshot, request, policy, until(min(started + budget_seconds, answer_by)))
        return Planned(decision, (time.monotonic() - started) * 1000)

    async def room(self, snapshot: Snapshot, node: Node, *, budget_seconds: float, answer_by: float = math.inf) -> Room:
        """See `Planner.room`."""
        return count_room(snapshot, node, until(min(time.monotonic() + budget_seconds, answer_by)))

    async def make_room(
        self,
        snapshot: Snapshot,
        request: Request,
        neighbours: Sequence[Neighbours],
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
    ) -> MadeRoom:
        """See `Planner.make_room`."""
        return room_verified(snapshot, request, neighbours, until(min(time.monotonic() + budget_seconds, answer_by)))

    async def evict(
        self,
        snapshot: Snapshot,
        request: Request,
        leaving: Sequence[Leaving],
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
        neighbours: Sequence[Neighbours] = (),
    ) -> Evictions:
        """See `Planner.evict`."""
        stop = until(min(time.monotonic() + budget_seconds, answer_by))
        return evictions_verified(snapshot, request, leaving, neighbours, stop)

    async def rebalance(
        self,
        snapshot: Snapshot,
        groups: Sequence[Neighbours],
        limits: Limits,
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
    ) -> Rebalance:
        """See `Planner.rebalance`."""
        return rebalance_verified(snapshot, groups, limits, until(min(time.monotonic() + budget_seconds, answer_by)))

    async def roll(
        self,
        snapshot: Snapshot,
        groups: Sequence[Neighbours],
        hosts: Sequence[str],
        at_once: int,
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
    ) -> Roll:
        """See `Planner.roll`."""
        stop = until(min(time.monotonic() + budget_seconds, answer_by))
        return roll_verified(snapshot, groups, hosts, at_once, stop)

    def close(self) -> None:
        """Nothing to let go."""
