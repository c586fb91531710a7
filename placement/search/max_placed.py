"""As many nodes as possible instead of all or nothing.

The same columns, where a host costs nothing and a node left out costs one; the bound says how many can be placed at
most.
"""

from __future__ import annotations

from placement.model import Assignment, Decision, Policy, Proof, Status
from placement.packing.bounds import volume
from placement.packing.columns import Generator, Goal, Search
from placement.packing.dive import Residue
from placement.packing.fewest_hosts import no_loss, pricer_for
from placement.packing.fill import best_fill
from placement.packing.instance import Load, Packing, components
from placement.problem.feasibility import surplus
from placement.problem.gang import Gang, Landed
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
        generator.seed(loads)
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


def place_max(gang: Gang, policy: Policy, stop: Stop) -> Decision:
    """Places as many nodes as it can; the objective is their number, between proven bounds."""
    reduction = reduce(gang)
    landed, upper = _by_packing(reduction, policy, stop)
    if not reduction.exact or any(len(b) > 1 or b[0][1] > 1 for b in reduction.bundles):
        state = greedy(gang, gang.request.strategy, stop, partial=True)
        landed = list(state.assignments) if state is not None and state.keeps_hard_rules() else []
        upper = max(upper, len(landed)) if reduction.exact else upper
    upper = min(upper, gang.size - surplus(gang))
    waiting = [kind.ids() for kind in gang.kinds]
    found = tuple(Assignment(next(waiting[k]), gang.index.hosts[host].id, cells) for k, host, cells in landed)
    left = tuple(identity for ids in waiting for identity in ids)
    closed = len(found) >= upper
    return Decision(
        Status.PLACED,
        found,
        len(found),
        len(found),
        max(upper, len(found)),
        Proof.OPTIMAL if closed else Proof.GAP,
        "most",
        gang.request.strategy,
        unplaced=left,
        stopped=stop(),
        max_placed=True,
    )


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
