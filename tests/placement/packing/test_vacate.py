"""Who leaves so that a gang fits: compared with every set of residents of tiny houses."""

from __future__ import annotations

import random
from itertools import combinations, product

import numpy as np
import pytest

from placement.packing.vacate import Cap, Houses, Residents, Vacated, vacate

SEEDS = 400


def tiny(seed: int) -> Houses:
    """One to three hosts with up to eight residents, some of whom stay or live alone; one or two kinds."""
    r = random.Random(seed)
    hosts, kinds = r.randint(1, 3), r.randint(1, 2)
    where = sorted(r.randrange(hosts) for _ in range(r.randint(0, 8)))
    residents = Residents(
        np.array(where, np.int64),
        np.array([[r.randint(0, 4), r.randint(0, 4)] for _ in where], np.int64).reshape(len(where), 2),
        np.array([r.choice([-1, *range(10)]) for _ in where], np.int64),
        np.array([r.random() < 0.1 for _ in where], np.bool_),
    )
    caps = (Cap(np.ones(kinds, np.bool_), np.array([r.randint(0, 2) for _ in range(hosts)], np.int64)),)
    return Houses(
        np.array([[r.randint(0, 4), r.randint(0, 4)] for _ in range(kinds)], np.int64),
        np.array([r.randint(1, 2) for _ in range(kinds)], np.int64),
        np.array([[r.randint(-2, 4), r.randint(-2, 4)] for _ in range(hosts)], np.int64),
        np.array([[r.random() < 0.9 for _ in range(hosts)] for _ in range(kinds)]),
        np.array([r.random() < 0.2 for _ in range(kinds)]),
        residents,
        caps if r.random() < 0.3 else (),
    )


def fits(houses: Houses, gone: frozenset[int]) -> bool:
    """Whether all nodes find room once these have left."""
    left = {tuple(houses.counts.tolist())}
    for host in range(len(houses.free)):
        left = {
            tuple(have - n for have, n in zip(counts, shape, strict=True))
            for counts in left
            for shape in product(*(range(count + 1) for count in counts))
            if takes(houses, host, shape, gone)
        }
    return any(not any(counts) for counts in left)


def takes(houses: Houses, host: int, shape: tuple[int, ...], gone: frozenset[int]) -> bool:
    if not any(shape):
        return True
    those = houses.residents
    there = [n for n, at in enumerate(those.host.tolist()) if at == host and n not in gone]
    for kind, count in enumerate(shape):
        if count and (not houses.allowed[kind, host] or (houses.strict[kind] and there)):
            return False
    if any(those.alone[n] for n in there):
        return False
    for cap in houses.caps:
        if sum(count for kind, count in enumerate(shape) if cap.kinds[kind]) > cap.room[host]:
            return False
    for resource in range(houses.demand.shape[1]):
        need = sum(count * int(houses.demand[kind, resource]) for kind, count in enumerate(shape))
        given = sum(int(those.size[n, resource]) for n in gone if those.host[n] == host)
        if need and need > int(houses.free[host, resource]) + given:
            return False
    return True


def cheapest(houses: Houses) -> int | None:
    """What the cheapest of all sets costs, None where no set is enough."""
    costs = houses.residents.cost.tolist()
    may = [n for n, cost in enumerate(costs) if cost >= 0]
    sets = [frozenset(some) for size in range(len(may) + 1) for some in combinations(may, size)]
    return min((sum(costs[n] for n in some) for some in sets if fits(houses, some)), default=None)


@pytest.mark.parametrize("part", range(4))
def test_nobody_leaves_for_less(part: int) -> None:
    possible = 0
    for seed in range(part, SEEDS, 4):
        houses = tiny(seed)
        found, best = vacate(houses, lambda: False), cheapest(houses)
        if best is None:
            assert found.leaving is None, seed
            assert found.lower is None, seed
            continue
        possible += 1
        assert found.leaving is not None, seed
        assert (found.lower, found.cost) == (best, best), seed
        assert sum(houses.residents.cost[n] for n in found.leaving) == found.cost, seed
        assert len(set(found.leaving)) == len(found.leaving), seed
        assert fits(houses, frozenset(found.leaving)), seed
    assert possible * 4 > SEEDS // 4


def test_a_stop_leaves_a_bound_that_holds() -> None:
    for seed in range(100):
        houses = tiny(seed)
        cut, best = vacate(houses, lambda: True), cheapest(houses)
        if best is None:
            assert cut == Vacated(None, 0, None), seed
        else:
            assert cut.lower is not None, seed
            assert cut.lower <= best <= cut.cost, seed
