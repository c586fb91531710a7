"""Pricers and bounds against plain enumeration: what the proofs rest on."""

from __future__ import annotations

import random
from itertools import product

import numpy as np
import pytest

from placement.model import Policy
from placement.packing.bounds import fewest_for, volume
from placement.packing.dominance import needed_only
from placement.packing.fewest_hosts import fewest_hosts
from placement.packing.instance import Packing, classes_of, components
from placement.packing.knapsack import DenseTable
from placement.packing.labels import LabelPricer
from placement.packing.min_slack import balanced, min_slack_fill
from placement.problem.index import Ints


def random_packing(seed: int, dims: int = 2, hosts: int = 6) -> Packing:
    r = np.random.default_rng(seed)
    kinds = int(r.integers(1, 5))
    demand = r.integers(0, 5, (kinds, dims))
    demand[:, 0] = np.maximum(1, demand[:, 0])
    free = r.integers(0, 12, (hosts, dims))
    group = r.integers(0, 2, hosts)
    eligible = r.random((2, kinds)) < 0.8
    return classes_of(free, demand, r.integers(1, 4, kinds), group, eligible)


def patterns_of(packing: Packing, cls: int) -> list[tuple[int, ...]]:
    may = packing.eligible[packing.group[cls]]
    ranges = [range(int(n) + 1 if may[k] else 1) for k, n in enumerate(packing.counts)]
    return [p for p in product(*ranges) if (np.array(p, np.int64) @ packing.demand <= packing.caps[cls]).all()]


def values_for(packing: Packing, seed: int) -> Ints:
    return np.random.default_rng(seed).integers(0, 1000, len(packing.counts))


@pytest.mark.parametrize("seed", range(60))
def test_both_pricers_find_the_most_valuable_pattern(seed: int) -> None:
    packing = random_packing(seed, dims=1 + seed % 3)
    if not len(packing.caps):
        return
    values = values_for(packing, seed)
    best = [max(int(values @ np.array(p)) for p in patterns_of(packing, c)) for c in range(len(packing.caps))]
    for pricer in (DenseTable(packing), LabelPricer(packing, lambda: False)):
        assert pricer.price(values).tolist() == best
        for cls, worth in enumerate(best):
            found = pricer.patterns(cls)
            assert int(values @ np.array(found[0])) == worth
            assert set(found) <= set(patterns_of(packing, cls))


@pytest.mark.parametrize("seed", range(30))
def test_few_labels_still_bound_the_most_valuable_pattern(seed: int) -> None:
    packing = random_packing(seed, dims=3)
    if not len(packing.caps):
        return
    values = values_for(packing, seed)
    worth = LabelPricer(packing, lambda: False, most=1).price(values)
    for cls in range(len(packing.caps)):
        assert worth[cls] >= max(int(values @ np.array(p)) for p in patterns_of(packing, cls))


@pytest.mark.parametrize("seed", range(30))
def test_a_stopped_pricer_still_bounds(seed: int) -> None:
    packing = random_packing(seed, dims=3)
    if not len(packing.caps):
        return
    values = values_for(packing, seed)
    worth = LabelPricer(packing, lambda: True).price(values)
    for cls in range(len(packing.caps)):
        assert worth[cls] >= max(int(values @ np.array(p)) for p in patterns_of(packing, cls))


def fewest_by_force(packing: Packing) -> int | None:
    """The fewest hosts by breadth-first search over what is left; None when it does not fit."""
    hosts = [cls for cls, n in enumerate(packing.hosts.tolist()) for _ in range(n)]
    options = {cls: patterns_of(packing, cls) for cls in set(hosts)}
    states = {tuple(packing.counts.tolist()): 0}
    for cls in hosts:
        following = dict(states)
        for left, used in states.items():
            for pattern in options[cls]:
                rest = tuple(a - b for a, b in zip(left, pattern, strict=True))
                if min(rest) >= 0 and following.get(rest, 99) > used + 1:
                    following[rest] = used + 1
        states = following
    return states.get((0,) * len(packing.counts))


@pytest.mark.parametrize("seed", range(60))
def test_every_bound_is_below_the_fewest_hosts(seed: int) -> None:
    packing = random_packing(seed)
    truth = fewest_by_force(packing) if len(packing.caps) else None
    search = fewest_hosts(packing, Policy(), lambda: False)
    if truth is None:
        assert search.lower > packing.hosts.sum()
        return
    assert volume(packing)[0] <= truth
    values = values_for(packing, seed)
    assert fewest_for(values, DenseTable(packing).price(values), packing) <= truth
    assert search.lower <= truth
    assert search.cost == truth
    snug, whole = min_slack_fill(packing, balanced(packing), int(packing.hosts.sum()), 0.5, lambda: False)
    assert not whole or sum(load.times for load in snug) >= truth


@pytest.mark.parametrize("seed", range(60))
def test_dropping_dominated_hosts_keeps_the_optimum(seed: int) -> None:
    packing = random_packing(seed)
    truth = fewest_by_force(packing) if len(packing.caps) else None
    if truth is None:
        return
    assert fewest_by_force(needed_only(packing, truth)[0]) == truth


@pytest.mark.parametrize("seed", range(40))
def test_classes_lose_no_host_that_can_take_anything(seed: int) -> None:
    r = random.Random(seed)
    free = np.array([[r.randint(0, 40), r.randint(0, 40)] for _ in range(50)], np.int64)
    demand = np.array([[r.choice([2, 4, 6]), r.choice([3, 9])] for _ in range(4)], np.int64)
    counts = np.full(4, 30, np.int64)
    packing = classes_of(free, demand, counts, np.zeros(50, np.int64), np.ones((1, 4), np.bool_))
    fits = {n for n in range(50) if any((demand[k] <= free[n]).all() for k in range(4))}
    assert sorted(row for rows in packing.rows for row in rows.tolist()) == sorted(fits)
    # What a class may hold is exactly what each of its hosts may hold.
    unit = packing.unit
    for cls, rows in enumerate(packing.rows):
        for row in rows.tolist():
            for pattern in product(range(4), repeat=4):
                need = np.array(pattern, np.int64) @ demand
                assert bool((need <= free[row]).all()) == bool((need // unit <= packing.caps[cls]).all())


def test_kinds_that_share_no_host_fall_apart() -> None:
    free = np.full((4, 1), 5, np.int64)
    demand = np.array([[1], [2]], np.int64)
    eligible = np.array([[True, False], [False, True]])
    packing = classes_of(free, demand, np.array([1, 1]), np.array([0, 0, 1, 1]), eligible)
    assert [kinds.tolist() for kinds, _ in components(packing)] == [[0], [1]]
