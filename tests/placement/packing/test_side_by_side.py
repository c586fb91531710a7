"""Hosts that are filled side by side hold what the bound says they can hold."""

from __future__ import annotations

import numpy as np
import pytest

from placement.check import check
from placement.engine import place
from placement.model import Proof, Strategy
from placement.packing.bounds import volume
from placement.packing.fill import used_hosts
from placement.packing.side_by_side import side_by_side
from placement.problem.gang import collapse
from placement.search.reduce import reduce
from placement.stop import never
from tests.placement.test_deadlines import Deadline
from tests.placement.wild import all_differ, models


@pytest.mark.parametrize("seed", range(3))
def test_where_all_hosts_differ_as_many_as_the_bound_says_hold_the_gang(seed: int) -> None:
    snapshot, request = all_differ(1000, Strategy.FEWEST_HOSTS, seed)
    decision = place(snapshot, request, stop=Deadline(20.0))
    assert decision.proof is Proof.OPTIMAL
    assert check(snapshot, request, decision) == ()


@pytest.mark.parametrize("seed", range(3))
def test_loads_fit_and_hold_all(seed: int) -> None:
    packing = reduce(collapse(*all_differ(300, Strategy.FEWEST_HOSTS, seed))).packing
    _, weights = volume(packing)
    loads = side_by_side(packing, weights, int(packing.hosts.sum()), never)
    assert loads is not None
    placed = np.sum([np.array(load.pattern) * load.times for load in loads], axis=0)
    assert placed.tolist() == packing.counts.tolist()
    taken = np.bincount([load.cls for load in loads], [load.times for load in loads], len(packing.hosts))
    assert (taken <= packing.hosts).all()
    for load in loads:
        assert (np.array(load.pattern) @ packing.demand <= packing.caps[load.cls]).all()
    assert side_by_side(packing, weights, used_hosts(loads) // 4, never) is None


def test_what_a_class_may_not_take_is_not_put_there() -> None:
    snapshot, request = models(1000, Strategy.FEWEST_HOSTS, 1)
    packing = reduce(collapse(snapshot, request)).packing
    _, weights = volume(packing)
    takes = packing.eligible[packing.group] & (packing.caps[:, None, :] >= packing.demand[None]).all(axis=2)
    keep = np.flatnonzero(takes.any(axis=0))  # one kind fits nowhere
    loads = side_by_side(packing.part(keep, np.arange(len(packing.caps))), weights, int(packing.hosts.sum()), never)
    assert loads is not None
    for load in loads:
        assert packing.eligible[packing.group[load.cls]][keep][np.array(load.pattern) > 0].all()


def test_a_stop_ends_it() -> None:
    packing = reduce(collapse(*all_differ(300, Strategy.FEWEST_HOSTS, 1))).packing
    assert side_by_side(packing, volume(packing)[1], 300, lambda: True) is None
