"""Gangs whose rules no packing holds: a relaxation bounds them, three searches place them.

Bounds come from the packing without the open rules; placements from laying its loads out, from the node-by-node greedy,
and from CP-SAT on the most promising hosts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np

from placement.constraints import Scope, Together, Within
from placement.model import Policy
from placement.packing.bounds import volume
from placement.packing.instance import Load
from placement.problem.feasibility import domains_with_room, impossible_rules, room_of_domains
from placement.problem.gang import Gang, Landed, fitting_hosts
from placement.problem.index import Bools, Ints
from placement.problem.scoring import room_value, sizes_for
from placement.problem.state import PlacementState
from placement.problem.topology import Tally
from placement.search.greedy import greedy
from placement.search.incumbent import Incumbent
from placement.search.layout import lay_out
from placement.search.reduce import Reduction, needs_rules, reduce
from placement.search.strategies import BY_STRATEGY, fewest, filled, racks_needed, spread_bound
from placement.stop import Stop
from placement.strategy import OBJECTIVES, Strategy, Term

Greedily = Callable[[], PlacementState | None]
"""The greedy's placement of the gang, worked out at the first call."""
CANDIDATES = 100
DOMAINS = 32
MODEL_SIZE = 20_000
QUICK_SIZE = 1_000_000
"""Nodes times hosts up to which the greedy takes some ten milliseconds."""


def solve_constrained(gang: Gang, strategy: Strategy, policy: Policy, stop: Stop) -> Incumbent:
    """The best answer that can be found for a gang with open rules or NUMA cells, and a bound for it."""
    if impossible_rules(gang):
        return Incumbent(infeasible=True, stage="counts")
    greedily = cache(partial(_greedily, gang, strategy, stop))
    start = _at_once(gang, strategy, stop, greedily)
    incumbent = _search(gang, strategy, policy, stop, greedily, start)
    if not incumbent.closed:
        incumbent.offer_state(gang, strategy, start.state, start.stage)
    return incumbent


@dataclass(frozen=True, slots=True)
class _Start:
    """A placement, and its stage, for a deadline that comes before anything better is found; the packing, where it
    was made for it."""

    state: PlacementState | None
    stage: str
    reduction: Reduction | None = None


def _at_once(gang: Gang, strategy: Strategy, stop: Stop, greedily: Greedily) -> _Start:
    """By the greedy, which looks at all hosts for each node; where they are many, by one filling first."""
    if gang.size * len(gang.index.hosts) <= QUICK_SIZE:
        return _Start(greedily(), "greedy")
    reduction = reduce(gang)
    loads = filled(reduction.packing, stop)
    state = lay_out(reduction, loads, strategy, stop) if loads is not None else None
    if state is not None:
        return _Start(state, "layout", reduction)
    if loads is None and (stop() or volume(reduction.packing, stop)[0] > int(reduction.packing.hosts.sum())):
        return _Start(None, "greedy", reduction)
    return _Start(greedily(), "greedy", reduction)


def _greedily(gang: Gang, strategy: Strategy, stop: Stop) -> PlacementState | None:
    """What the greedy places by the strategy's preference, or else by spreading, which seldom gets stuck in a rule."""
    state = greedy(gang, strategy, stop)
    if state is None and strategy is not Strategy.SPREAD and not stop():
        state = greedy(gang, Strategy.SPREAD, stop)
    return state


def _search(gang: Gang, strategy: Strategy, policy: Policy, stop: Stop, greedily: Greedily, start: _Start) -> Incumbent:
    """Wishes as rules first; then the relaxation, and what each search makes of it."""
    hard = all(rule.weight is None for rule in gang.request.constraints)
    incumbent = Incumbent(stage="greedy")
    if not hard:
        strict = _strictly(gang)
        inner = _solve(strict, strategy, policy, stop)
        if inner.landed is not None:
            return inner
    relaxed = _relaxation(gang, strategy, policy, stop, incumbent, start.reduction)
    if incumbent.infeasible:
        return incumbent
    if hard and start.stage == "layout":
        incumbent.offer_state(gang, strategy, start.state, start.stage)
        if incumbent.closed:
            return incumbent
    together = _open_affinity(gang)
    if hard and together is not None:
        return _domain_by_domain(gang, together, strategy, policy, stop, incumbent)
    few = _open_within(gang)
    if hard and few is not None:
        _in_few_domains(gang, few, strategy, policy, stop, incumbent)
    if relaxed is not None and hard:
        reduction, loads = relaxed
        if reduction.exact:
            incumbent.offer(gang, strategy, reduction.spread_out(loads), 0, "dive")
        incumbent.offer_state(gang, strategy, lay_out(reduction, loads, strategy, stop), "layout")
    if not incumbent.closed and not stop():
        incumbent.offer_state(gang, strategy, greedily(), "greedy")
    if not incumbent.closed and not stop() and policy.branches:
        by_model(gang, strategy, policy, stop, incumbent)
    return incumbent


def _open_affinity(gang: Gang) -> int | None:
    """The first rule that keeps new nodes together in a rack or zone that no member has chosen yet."""
    for number, rule in enumerate(gang.request.constraints):
        if not isinstance(rule, Together) or rule.scope is Scope.HOST or number in gang.settled:
            continue
        tally = Tally.start(gang, number)
        if tally.coming > 1 and not (tally.old_first > 0).any():
            return number
    return None


def _domain_by_domain(
    gang: Gang, number: int, strategy: Strategy, policy: Policy, stop: Stop, incumbent: Incumbent
) -> Incumbent:
    """Confines the nodes of an affinity rule to each domain with room for them in turn, the roomiest first.

    ``incumbent`` holds the bounds without the rule. When every domain was tried, the lowest of their bounds holds too,
    and if none can take the gang, nothing can.
    """
    tally = Tally.start(gang, number)
    mine = gang.playing(number)
    codes = domains_with_room(gang, tally, mine).tolist()
    bounds = []
    quick = replace(policy, dives=min(policy.dives, 1), branches=0)
    best: tuple[int, Gang] | None = None
    for code in codes[:DOMAINS]:
        if stop() or incumbent.closed:
            break
        confined = _confined(gang, number, mine, tally.domain == code)
        inner = _solve(confined, strategy, quick, stop)
        if inner.landed is not None:
            incumbent.offer(gang, strategy, inner.landed, inner.penalty, inner.stage)
            assert inner.objective is not None
            if best is None or inner.objective < best[0]:
                best = inner.objective, confined
        if not inner.infeasible:
            bounds.append(inner.lower)
        elif incumbent.stage in ("none", "greedy"):
            incumbent.stage = inner.stage
    else:
        if len(codes) <= DOMAINS:
            incumbent.infeasible = not bounds
            incumbent.lower = max(incumbent.lower, min(bounds, default=0))
    if best is not None and not incumbent.closed and not stop():
        inner = _solve(best[1], strategy, policy, stop)
        if inner.landed is not None:
            incumbent.offer(gang, strategy, inner.landed, inner.penalty, inner.stage)
    if incumbent.landed is None and not incumbent.infeasible and not stop() and policy.branches:
        by_model(gang, strategy, policy, stop, incumbent)
    return incumbent


def _open_within(gang: Gang) -> int | None:
    """The first rule that bounds the domains of new nodes and leaves more than one to be opened."""
    for number, rule in enumerate(gang.request.constraints):
        if isinstance(rule, Within) and rule.scope is not Scope.HOST and number not in gang.settled:
            tally = Tally.start(gang, number)
            if tally.fresh_left() and tally.coming > tally.fresh_left():
                return number
    return None


def _in_few_domains(
    gang: Gang, number: int, strategy: Strategy, policy: Policy, stop: Stop, incumbent: Incumbent
) -> None:
    """Offers what fits the domains with members and as many others as the rule lets be opened, the roomiest first.

    No bounds come of it: there are more choices than are tried.
    """
    tally = Tally.start(gang, number)
    mine = gang.playing(number)
    old = tally.old_first > 0
    room, _ = room_of_domains(gang, tally, mine)
    share = (room / np.maximum(1.0, room.max(axis=0, initial=1))).sum(axis=1)
    fresh = [code for code in np.lexsort([np.arange(len(share)), -share]).tolist() if not old[code]]
    quick = replace(policy, dives=min(policy.dives, 1), branches=0)
    left = tally.fresh_left()
    for start in range(max(1, min(DOMAINS, len(fresh) - left + 1))):
        if stop() or incumbent.closed:
            return
        inside = old.copy()
        inside[fresh[start : start + left]] = True
        inner = _solve(_confined(gang, number, mine, inside[tally.domain]), strategy, quick, stop)
        if inner.landed is not None:
            incumbent.offer(gang, strategy, inner.landed, inner.penalty, inner.stage)


def _confined(gang: Gang, number: int, mine: list[int], inside: Bools) -> Gang:
    """The gang with the kinds of an affinity rule confined to a domain, which settles the rule."""
    kinds = tuple(
        replace(kind, within=inside if kind.within is None else kind.within & inside) if k in mine else kind
        for k, kind in enumerate(gang.kinds)
    )
    return replace(gang, kinds=kinds, settled=gang.settled | {number}, fits={}, nowhere=[])


def _solve(gang: Gang, strategy: Strategy, policy: Policy, stop: Stop) -> Incumbent:
    """The answer for a gang, by the packing where it holds all the rules."""
    if needs_rules(gang):
        return solve_constrained(gang, strategy, policy, stop)
    return BY_STRATEGY[strategy](gang, policy, stop)


def _strictly(gang: Gang) -> Gang:
    """The gang with every wish made a rule: a placement of it misses nothing, so its bounds are the gang's."""
    rules = tuple(replace(rule, weight=None) for rule in gang.request.constraints)
    return replace(gang, request=replace(gang.request, constraints=rules))


def _relaxation(
    gang: Gang, strategy: Strategy, policy: Policy, stop: Stop, incumbent: Incumbent, reduction: Reduction | None
) -> tuple[Reduction, list[Load]] | None:
    """Bounds without the open rules; its loads are where a layout starts."""
    if stop():
        return None
    reduction = reduction or reduce(gang)
    search = fewest(reduction, policy, stop)
    if search.lower > int(reduction.packing.hosts.sum()):
        incumbent.infeasible, incumbent.stage = True, search.stage
        return None
    least = {Term.HOSTS: search.lower}
    if Term.SQUARES in OBJECTIVES[strategy].terms:
        least[Term.SQUARES] = spread_bound(gang, stop)
    if Term.RACKS in OBJECTIVES[strategy].terms:
        least[Term.RACKS] = racks_needed(gang, stop)
    if Term.VALUE_LOST in OBJECTIVES[strategy].terms:
        value = room_value(gang)
        least[Term.VALUE_LOST] = value.least_lost(sizes_for(gang, value.names), gang.counts)
    incumbent.lower = OBJECTIVES[strategy].total(gang.size, least)
    return (reduction, search.loads) if search.loads is not None else None


def by_model(gang: Gang, strategy: Strategy, policy: Policy, stop: Stop, incumbent: Incumbent) -> None:
    """CP-SAT over all useful hosts where they are few, else over the best hundred."""
    from placement.exact.constraint_model import solve_model

    rows, whole = candidates(gang, incumbent.landed)
    if len(rows) * len(gang.kinds) > MODEL_SIZE:
        return
    if strategy is Strategy.LEAST_LOST_VALUE and len(rows) * len(room_value(gang).flavours) > MODEL_SIZE:
        return
    work = min(10.0, policy.branches / 5000)
    verdict = solve_model(gang, rows.tolist(), strategy, work, policy.seed, stop, incumbent.landed)
    if verdict.infeasible and whole:
        incumbent.infeasible, incumbent.landed, incumbent.stage = True, None, "model"
        return
    if verdict.landed is not None:
        incumbent.offer(gang, strategy, verdict.landed, verdict.penalty, "model")
    if whole and verdict.landed is not None:
        incumbent.penalty_bound = max(incumbent.penalty_bound, verdict.penalty_bound)
        if verdict.lower is not None and verdict.penalty == verdict.penalty_bound:
            incumbent.lower = max(incumbent.lower, verdict.lower)


def candidates(gang: Gang, landed: Landed | None) -> tuple[Ints, bool]:
    """(rows of the hosts for a model, whether these are all that can take anything).

    Where those are too many: the hosts of a known placement and the roomiest others, at most five a rack.
    """
    useful = np.zeros(len(gang.index.hosts), np.bool_)
    for number in range(len(gang.kinds)):
        useful |= fitting_hosts(gang, number)
    rows = np.flatnonzero(useful)
    if len(rows) <= CANDIDATES:
        return rows, True
    mine = sorted({host for _, host, _ in landed or ()})[:CANDIDATES]
    largest = np.maximum(1, gang.free.max(axis=0, initial=1))
    room = (gang.free[rows] * 1000 // largest).sum(axis=1)
    chosen = list(mine)
    seen = set(mine)
    a_rack: dict[int, int] = {}
    for row in rows[np.argsort(-room, kind="stable")].tolist():
        rack = int(gang.index.rack[row])
        if len(chosen) >= CANDIDATES:
            break
        if row not in seen and a_rack.get(rack, 0) < 5:
            a_rack[rack] = a_rack.get(rack, 0) + 1
            chosen.append(row)
    return np.array(sorted(chosen), np.int64), False
