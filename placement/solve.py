"""One independent packing, from the cheapest stage to the dearest, until the bounds meet or a budget or stop ends it.

May import ``packing``, ``bounds``, ``fill``, ``knapsack``, ``labels``, ``columns``, ``dive``, ``model``, ``index``
and numpy. OR-Tools is loaded only when filling greedily has left a gap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from placement.bounds import volume
from placement.columns import Generator, Goal, Search
from placement.dive import dive, round_by_search
from placement.fill import best_fill, used_hosts
from placement.index import Bools, Ints
from placement.knapsack import DenseTable, Pricer
from placement.labels import LabelPricer
from placement.model import Policy
from placement.numa import CellPricer
from placement.packing import Packing
from placement.snug import balanced, snug_fill

Stop = Callable[[], bool]
COARSENESS = (0.7, 0.5, 0.3)
RETREATS = 40
ROUGH = (150, 1200, 8000)


def no_loss(cls: int, pattern: Sequence[int]) -> int:
    """The lost value of a pattern where room has no value."""
    return 0


def needed_only(packing: Packing, most: int) -> Packing:
    """Drops hosts that an answer with at most ``most`` hosts never needs, as so many others can do all they can.

    A host dominates another when it has no less of anything and may take no fewer kinds; among hosts that are alike in
    both, those of the earlier class do.
    """
    better = _dominating(packing)
    if better is None:
        return packing
    room = np.clip(most - better, 0, packing.hosts)
    kept = np.flatnonzero(room > 0)
    part = packing.part(np.arange(len(packing.counts)), kept)
    return replace(part, hosts=room[kept])


def _dominating(packing: Packing) -> Ints | None:
    """int64[C]: how many hosts dominate each class, by suffix sums over all capacities or pair by pair."""
    caps = packing.caps
    if packing.cells is not None:
        caps = packing.cells.caps.reshape(len(caps), -1)
    kinds, alike = np.unique(packing.eligible, axis=0, return_inverse=True)
    group = alike.reshape(-1)[packing.group]
    wider: Bools = np.all(kinds[:, None, :] >= kinds[None, :, :], axis=2)
    at_least = _hosts_at_least(caps, group, wider, packing.hosts)
    if at_least is None:
        return None
    _, same = np.unique(np.column_stack([group, caps]), axis=0, return_inverse=True)
    same = same.reshape(-1)
    twins = np.bincount(same, weights=packing.hosts).astype(np.int64)
    earlier = np.zeros(len(caps), np.int64)
    if len(twins) < len(caps):
        seen = np.zeros(len(twins), np.int64)
        for cls, key in enumerate(same.tolist()):
            earlier[cls] = seen[key]
            seen[key] += packing.hosts[cls]
    result: Ints = at_least - twins[same] + earlier
    return result


def _hosts_at_least(caps: Ints, group: Ints, wider: Bools, hosts: Ints) -> Ints | None:
    """int64[C]: hosts with no less of anything that may take no fewer kinds, the class's own included."""
    shape = tuple((caps.max(axis=0) + 1).tolist())
    present = np.unique(group)
    if math.prod(shape) * len(present) <= 1 << 19:
        found = np.zeros(len(caps), np.int64)
        for one in present.tolist():
            mine = group == one
            above = np.zeros(shape, np.int64)
            np.add.at(above, tuple(caps[mine].T), hosts[mine])
            for axis in range(len(shape)):
                above = np.flip(np.cumsum(np.flip(above, axis), axis=axis), axis)
            below = wider[one, group]
            found[below] += above[tuple(caps[below].T)]
        return found
    if len(caps) > 1500:
        return None
    beats: Bools = wider[group[:, None], group[None, :]]
    for d in range(caps.shape[1]):
        beats &= caps[:, None, d] >= caps[None, :, d]
    result: Ints = hosts @ beats
    return result


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
    lower, weights = volume(packing)
    search = Search(lower, None, None, "volume")
    if lower > packing.hosts.sum():
        return search
    best, _, _ = best_fill(packing, weights, lower, stop)
    if best is not None:
        search.offer(best, used_hosts(best), "greedy")
    if not search.closed and packing.cells is None:
        _fill_snugly(packing, search, stop)
    if search.closed or stop() or not policy.rounds:
        return search
    return _by_columns(packing, search, weights, policy, stop)


def _fill_snugly(packing: Packing, search: Search, stop: Stop) -> None:
    """Tries exact fillings, the quick coarse ones first; both resources weigh in, as the second runs out next."""
    weights = balanced(packing)
    for coarse in COARSENESS:
        most = search.cost - 1 if search.cost is not None else int(packing.hosts.sum())
        loads = snug_fill(packing, weights, most, coarse, stop)
        if loads is not None:
            search.offer(loads, used_hosts(loads), "snug")
        if search.closed or stop():
            return


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


def _by_columns(packing: Packing, search: Search, weights: Ints, policy: Policy, stop: Stop) -> Search:
    # With as many hosts as the best answer uses, that answer stays feasible and the prices start near the truth.
    most = search.cost if search.cost is not None else int(packing.hosts.sum())
    reduced = needed_only(packing, most)
    back = {id(rows): number for number, rows in enumerate(packing.rows)}
    pricer = pricer_for(reduced, policy, stop)
    inner = Search(search.lower, None, search.cost, search.stage)
    goal = Goal(1, len(packing.counts) + int(packing.hosts.sum()), None, no_loss)
    generator = Generator(reduced, goal, pricer, inner, stop)
    place = {id(rows): number for number, rows in enumerate(reduced.rows)}
    known = [replace(load, cls=place.get(id(packing.rows[load.cls]), -1)) for load in search.loads or ()]
    generator.seed([load for load in known if load.cls >= 0])
    if isinstance(pricer, LabelPricer):
        _rough_first(generator, pricer, weights, policy, stop)
    else:
        generator.start(weights)
    generator.run(policy.rounds)
    for number in range(policy.dives):
        if inner.closed or stop():
            break
        dive(generator, weights, stop, 0.2 * number, RETREATS * number // 4)
        if not inner.closed:
            generator.run(policy.rounds // 4, enough=False)
    if not inner.closed and not stop() and policy.branches:
        round_by_search(generator, policy.branches, stop)
    search.lower = inner.lower
    if inner.loads is not None and inner.cost is not None:
        loads = [replace(load, cls=back[id(reduced.rows[load.cls])]) for load in inner.loads]
        search.offer(loads, inner.cost, inner.stage)
    return search
