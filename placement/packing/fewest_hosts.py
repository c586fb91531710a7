"""One independent packing, from the cheapest stage to the dearest, until the bounds meet or a budget or stop ends it.

OR-Tools is loaded only when filling greedily has left a gap.
"""

from __future__ import annotations

from collections.abc import Sequence

from placement.model import Policy
from placement.packing.bounds import volume
from placement.packing.columns import Generator, Goal, Search
from placement.packing.dive import dive, round_by_search
from placement.packing.dominance import inside, needed_only, renumbered
from placement.packing.exact_fill import fill_exactly
from placement.packing.fill import best_fill, quick_fill, used_hosts
from placement.packing.instance import Load, Packing
from placement.packing.knapsack import DenseTable, Pricer
from placement.packing.labels import LabelPricer
from placement.packing.min_slack import balanced, min_slack_fill
from placement.packing.numa import CellPricer
from placement.packing.side_by_side import side_by_side
from placement.problem.index import Ints
from placement.stop import Stop

QUICK = 0.7
THOROUGH = (0.5, 0.3)
QUICK_CLASSES, QUICK_CELLS = 8, 4_000_000
"""Up to these sizes column generation takes less time than the most thorough of fillings."""
POOL_LOADS, POOL_KINDS = 400, 64
"""With more loads or kinds than these their linear program takes longer than it saves."""
RETREATS = 40
ROUGH = (150, 1200, 8000)


def no_loss(cls: int, pattern: Sequence[int]) -> int:
    """The lost value of a pattern where room has no value."""
    return 0


def pricer_for(packing: Packing, policy: Policy, stop: Stop) -> Pricer:
    """The exact table where it fits the budget, labels otherwise."""
    if packing.cells is not None:
        return CellPricer(packing)
    if DenseTable.cells(packing) <= policy.cells:
        return DenseTable(packing)
    return LabelPricer(packing, stop)


def fewest_hosts(packing: Packing, policy: Policy, stop: Stop) -> Search:
    """The fewest hosts for a packing. ``search.lower`` above the number of hosts proves that it does not fit."""
    if not packing.counts.sum():
        return Search(0, [], 0, "empty")
    if not len(packing.caps):
        return Search(1, None, None, "funnel")
    first = quick_fill(packing, balanced(packing), stop)
    if first is None:
        return _search(packing, Search(0, None, None, "volume"), [], policy, stop)
    part, classes = needed_only(packing, used_hosts(first))
    search = Search(0, None, used_hosts(first), "greedy")
    _search(part, search, inside(first, classes), policy, stop)
    search.loads = renumbered(search.loads, classes) if search.loads is not None else first
    return search


def _search(packing: Packing, search: Search, known: list[Load], policy: Policy, stop: Stop) -> Search:
    """The stages, each only while the bounds are apart. ``known``: loads to start columns from."""
    if stop():
        return search
    search.lower, weights = volume(packing, stop)
    if stop() or search.closed or search.lower > packing.hosts.sum():
        return search
    tried = list(known)
    best, _, _ = best_fill(packing, weights, search.lower, stop, tried if len(packing.counts) <= POOL_KINDS else None)
    if best is not None:
        search.offer(best, used_hosts(best), "greedy")
        if search.loads is None and used_hosts(best) == search.cost:
            search.loads = best
    if search.cost is None and not stop():
        full = fill_exactly(packing, stop)
        if full is not None:
            search.offer(full, used_hosts(full), "exact-fill")
    # Where a table prices all hosts at once, columns come to the same in less time.
    if not search.closed and packing.cells is None and DenseTable.cells(packing) > policy.cells:
        _fill_side_by_side(packing, search, weights, stop)
    if not search.closed and packing.cells is None:
        tried.extend(_fill_with_min_slack(packing, search, QUICK, stop))
    if not search.closed and not stop() and policy.rounds:
        _by_columns(packing, search, tried, weights, policy, stop)
    return search


def _fill_side_by_side(packing: Packing, search: Search, weights: Ints, stop: Stop) -> None:
    """On as few hosts as the bound says; where that fails, by halving, on as few as it can be done."""
    most = search.cost if search.cost is not None else int(packing.hosts.sum()) + 1
    low, hosts = search.lower - 1, max(1, search.lower)
    while low + 1 < most and not stop():
        loads = side_by_side(packing, weights, hosts, stop)
        if loads is not None:
            search.offer(loads, used_hosts(loads), "side-by-side")
            most = min(most, used_hosts(loads))
        else:
            low = hosts
        hosts = min((low + most) // 2, low + 1 + (low - search.lower + 1))


def _fill_with_min_slack(packing: Packing, search: Search, coarse: float, stop: Stop) -> list[Load]:
    """Tries an exact filling and returns it even where it is no better; all resources weigh in."""
    most = search.cost - 1 if search.cost is not None else int(packing.hosts.sum())
    loads, whole = min_slack_fill(packing, balanced(packing), most, coarse, stop)
    if whole:
        search.offer(loads, used_hosts(loads), "min-slack")
    return loads


def _from_pool(generator: Generator, loads: Sequence[Load], weights: Ints, stop: Stop) -> None:
    """Combines loads of several fillings anew: mostly their linear program reaches the bound without any pricing."""
    if len(loads) > POOL_LOADS or len(generator.counts) > POOL_KINDS or generator.packing.cells is not None:
        return
    search, master = generator.search, generator.master
    generator.start_from(loads)
    if not search.closed and not stop() and master.solve() and master.value <= search.lower + 1e-6:
        dive(generator, weights, stop, pricing=False)


def _rough_first(generator: Generator, pricer: LabelPricer, weights: Ints, policy: Policy, stop: Stop) -> None:
    """Columns from few labels and dives on them, before the labels are grown in full for the bound."""
    full = pricer.most
    for most in ROUGH:
        if generator.search.closed or stop():
            break
        pricer.most = min(most, full)
        generator.run(policy.rounds)
        dive(generator, weights, stop, 0.0, RETREATS)
    pricer.most = full


def _by_columns(packing: Packing, search: Search, tried: list[Load], weights: Ints, policy: Policy, stop: Stop) -> None:
    # With as many hosts as the best answer uses, that answer stays feasible and the prices start near the truth.
    most = search.cost if search.cost is not None else int(packing.hosts.sum())
    reduced, classes = needed_only(packing, most)
    inner = Search(search.lower, None, search.cost, search.stage)
    goal = Goal(1, len(packing.counts) + int(packing.hosts.sum()), None, no_loss)
    generator = Generator(reduced, goal, pricer_for(reduced, policy, stop), inner, stop)
    generator.start_from(inside(search.loads or (), classes))
    quick = len(classes) <= QUICK_CLASSES and DenseTable.cells(reduced) <= QUICK_CELLS
    _from_pool(generator, inside(tried, classes), weights, stop)
    for coarse in THOROUGH[:1] if quick else THOROUGH:
        if reduced.cells is None and not inner.closed and not stop():
            _from_pool(generator, _fill_with_min_slack(reduced, inner, coarse, stop), weights, stop)
    _generate(generator, weights, policy, stop)
    if quick and reduced.cells is None and not inner.closed and not stop():
        _fill_with_min_slack(reduced, inner, THOROUGH[-1], stop)
    if not inner.closed and not stop() and policy.branches:
        round_by_search(generator, policy.branches, stop)
    search.lower = inner.lower
    if inner.loads is not None and inner.cost is not None:
        search.offer(renumbered(inner.loads, classes), inner.cost, inner.stage)


def _generate(generator: Generator, weights: Ints, policy: Policy, stop: Stop) -> None:
    """Prices new columns and dives on them."""
    search, pricer = generator.search, generator.pricer
    if search.closed or stop():
        return
    if isinstance(pricer, LabelPricer):
        _rough_first(generator, pricer, weights, policy, stop)
    else:
        generator.start(weights)
    generator.run(policy.rounds)
    for number in range(policy.dives):
        if search.closed or stop():
            break
        dive(generator, weights, stop, 0.2 * number, RETREATS * number // 4)
        if not search.closed:
            generator.run(policy.rounds // 4, enough=False)
