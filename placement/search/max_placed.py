"""As many nodes as possible instead of all or nothing.

The same columns, where a host costs nothing and a node left out costs one; the bound says how many can be placed at
most.
"""

from __future__ import annotations

from dataclasses import dataclass

from placement.model import Policy
from placement.packing.bounds import volume
from placement.packing.columns import Generator, Goal, Search
from placement.packing.dive import Residue
from placement.packing.fewest_hosts import no_loss, pricer_for
from placement.packing.fill import best_fill
from placement.packing.instance import Load, Packing, components
from placement.problem.feasibility import surplus
from placement.problem.gang import Gang, Landed, fitting_hosts
from placement.problem.state import PlacementState, penalty_of
from placement.search.constrained import MODEL_SIZE, candidates
from placement.search.greedy import greedy
from placement.search.reduce import Reduction, reduce
from placement.search.strategies import host_order, widened
from placement.stop import Stop


def max_of(packing: Packing, policy: Policy, stop: Stop) -> tuple[list[Load], int]:
    """(loads that place many bundles, an upper bound on how many can be placed)."""
    total = int(packing.counts.sum())
    if not len(packing.caps):
        return [], 0
    _, weights = volume(packing)
    _, loads, left = best_fill(packing, weights, 0, stop)
    missing = sum(left)
    bound = 0
    if missing and not stop() and policy.rounds:
        search = Search(0, loads, missing, "greedy")
        generator = Generator(packing, Goal(0, 1, None, no_loss), pricer_for(packing, policy, stop), search, stop)
        generator.start_from(loads)
        generator.run(policy.rounds)
        bound = search.lower
        found = _rounded(generator, packing, stop)
        if sum(found.counts) < missing:
            missing, loads = sum(found.counts), found.loads
    return loads, total - bound


def _rounded(generator: Generator, packing: Packing, stop: Stop) -> Residue:
    """A whole placement from the linear program: whole parts first, then the largest fractions, then filling."""
    residue = Residue(packing)
    master = generator.master
    if master.solve():
        by_use = sorted(range(len(master.values)), key=lambda number: -master.values[number])
        for number in by_use:
            whole = int(master.values[number] + 1e-6)
            residue.fix(master.columns[number].cls, master.columns[number].pattern, whole)
        for number in by_use:
            if master.values[number] % 1 > 1e-6:
                residue.fix(master.columns[number].cls, master.columns[number].pattern, 1)
    _, weights = volume(packing)
    _, loads, left = best_fill(residue.rest(), weights, 0, stop)
    residue.loads.extend(loads)
    residue.counts = left
    return residue


SMALL = 200
"""Kinds times hosts up to which an exact search costs little."""


@dataclass(slots=True)
class Most:
    """``landed``: as many nodes as were placed, None where no placement is known that keeps the hard rules.

    No placement has more than ``upper`` nodes. ``infeasible``: none keeps the hard rules, not even the empty one.
    ``penalty``: the weight of the wishes that it misses; with this many nodes no placement misses less than
    ``penalty_bound``.
    """

    landed: Landed | None
    upper: int
    infeasible: bool = False
    penalty: int = 0
    penalty_bound: int = 0
    stage: str = "most"


def most_nodes(gang: Gang, policy: Policy, stop: Stop) -> Most:
    """Places as many nodes as it can; the bound is proven."""
    reduction = reduce(gang, partial=True)
    landed, upper = _by_packing(reduction, policy, stop)
    fitting = sum(kind.count for number, kind in enumerate(gang.kinds) if fitting_hosts(gang, number).any())
    upper = max(0, min(upper, fitting, gang.size - surplus(gang)))
    if reduction.exact:
        most = Most(landed, upper)
        small = len(gang.kinds) * len(gang.index.hosts) <= SMALL
        if len(landed) < upper and small and policy.branches and not stop():
            _by_model(gang, policy, stop, most)
        return most
    most = Most(None, upper)
    nothing, state = PlacementState(gang), greedy(gang, gang.request.strategy, stop, partial=True)
    for known in (nothing, state):
        if known is not None and known.keeps_hard_rules():
            most.landed, most.penalty = list(known.assignments), known.penalty()
    settled = most.landed is not None and len(most.landed) == upper and not most.penalty
    if not settled and policy.branches and not stop():
        _by_model(gang, policy, stop, most)
    return most


def _by_model(gang: Gang, policy: Policy, stop: Stop, most: Most) -> None:
    """The constraint model over the hosts that matter: all of them where they are few, which proves the bound too."""
    from placement.exact.constraint_model import solve_model

    rows, whole = candidates(gang, most.landed)
    if len(rows) * len(gang.kinds) > MODEL_SIZE:
        return
    work = min(10.0, policy.branches / 5000)
    strategy = gang.request.strategy
    verdict = solve_model(gang, rows.tolist(), strategy, work, policy.seed, stop, most.landed, partial=True)
    if whole and verdict.infeasible:
        most.landed, most.infeasible, most.upper = None, True, 0
        return
    if whole and verdict.lower is not None:
        most.upper = min(most.upper, -verdict.lower)
    found = verdict.landed
    if found is None:
        return
    penalty = penalty_of(gang, found)
    if most.landed is None or (-len(found), penalty) < (-len(most.landed), most.penalty):
        most.landed, most.penalty, most.stage = found, penalty, "model"
    if whole and len(found) == most.upper:
        most.penalty_bound = verdict.penalty_bound


def _by_packing(reduction: Reduction, policy: Policy, stop: Stop) -> tuple[Landed, int]:
    packing = reduction.packing
    weight = [sum(copies for _, copies in bundle) for bundle in reduction.bundles]
    loads: list[Load] = []
    upper = 0
    for kinds, classes in components(packing):
        part = packing.part(kinds, classes)
        found, bound = max_of(part, policy, stop)
        loads.extend(widened(load, kinds, classes, len(packing.counts)) for load in found)
        upper += bound * max(weight[kind] for kind in kinds)
    size = sum(w * int(n) for w, n in zip(weight, packing.counts, strict=True))
    return reduction.spread_out(loads, host_order(reduction.gang, policy.seed)), min(upper, size)
