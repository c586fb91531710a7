"""Packings on NUMA cells whose hosts have less room than their cells: pricing, filling and dominance keep to both."""

from __future__ import annotations

import random
from itertools import product

import numpy as np
import pytest

from placement.engine import place
from placement.model import Cell, Host, Node, Policy, Request, Snapshot, Strategy
from placement.packing.dominance import needed_only
from placement.packing.fill import best_fill
from placement.packing.instance import Packing
from placement.packing.min_slack import balanced
from placement.packing.numa import CellPricer
from placement.problem.gang import collapse
from placement.problem.scoring import room_value
from placement.search.reduce import reduce
from placement.stop import never
from tests.placement.brute import assert_right
from tests.placement.naive import Naive

Pattern = tuple[int, ...]


def tight(seed: int, hosts: int, count: int) -> tuple[Snapshot, Request]:
    """Hosts of two cells with guests that are not pinned, and pinned nodes of up to four sizes."""
    r = random.Random(seed)
    made = []
    for n in range(hosts):
        cells = tuple(
            Cell({"cpu": c, "mem": m}, {"cpu": r.randint(0, 1)}) for c, m in [(r.randint(2, 8), r.randint(3, 10))] * 2
        )
        capacity = {name: sum(cell.capacity[name] for cell in cells) for name in ("cpu", "mem")}
        used = {name: r.randint(0, amount * 2 // 3) for name, amount in capacity.items()}
        made.append(Host(f"h{n:02d}", "z", capacity, used, cells=cells))
    nodes = tuple(
        Node(f"n{k}", {"cpu": r.randint(1, 3), "mem": r.randint(0, 3)}, count=count, cells=r.randint(1, 2))
        for k in range(r.randint(2, 4))
    )
    return Snapshot(tuple(made)), Request(nodes, Strategy.FEWEST_HOSTS)


def on_cells(packing: Packing, cls: int, pattern: Pattern) -> bool:
    """Whether a pattern fits the host, and its cells by some division."""
    assert packing.cells is not None
    held = np.array(pattern, np.int64)
    if (held @ packing.demand > packing.caps[cls]).any():
        return False
    share, wanted, (first, second) = packing.cells.share, packing.cells.wanted, packing.cells.caps[cls]
    both = (held * (wanted == 2)) @ share
    for split in product(*(range(n + 1) if w == 1 else (0,) for n, w in zip(pattern, wanted, strict=True))):
        one = np.array(split, np.int64)
        rest = (held - one) * (wanted == 1)
        if (both + one @ share <= first).all() and (both + rest @ share <= second).all():
            return True
    return False


def patterns(packing: Packing, cls: int) -> list[Pattern]:
    ranges = [range(int(n) + 1) for n in packing.counts]
    return [pattern for pattern in product(*ranges) if on_cells(packing, cls, pattern)]


@pytest.mark.parametrize("seed", range(40))
def test_a_price_is_never_below_the_best_pattern_and_no_pattern_passes_host_or_cell(seed: int) -> None:
    packing = reduce(collapse(*tight(seed, 5, 3))).packing
    assert packing.cells is not None
    values = np.random.default_rng(seed).integers(1, 1000, len(packing.counts))
    pricer = CellPricer(packing)
    worth = pricer.price(values)
    for cls in range(len(packing.caps)):
        fitting = patterns(packing, cls)
        assert worth[cls] >= max(int(values @ np.array(p)) for p in fitting)
        for found in pricer.patterns(
            cls
        ):  # counts bound each cell, so a pattern may hold more of a kind than is wanted
            wanted = tuple(min(int(n), copies) for n, copies in zip(packing.counts, found, strict=True))
            assert on_cells(packing, cls, wanted)
    _, loads, _ = best_fill(packing, balanced(packing), 0, never)
    assert all(on_cells(packing, load.cls, load.pattern) for load in loads)


@pytest.mark.parametrize("seed", range(24))
def test_the_fewest_of_many_tight_hosts_are_those_of_the_textbook_model(seed: int) -> None:
    snapshot, request = tight(seed, 12, 4)
    decision = place(snapshot, request, Policy(explain=False))
    assert_right(snapshot, request, decision)
    best = Naive(snapshot, request, room_value(collapse(snapshot, request))).best()
    if best is None:
        assert decision.objective is None
        return
    assert decision.objective is not None
    assert decision.lower_bound is not None
    assert decision.lower_bound <= best[1] <= decision.objective


def test_large_cells_on_a_full_host_do_not_stand_in_for_a_roomy_host() -> None:
    full = [Host(f"full{n}", "z", {"cpu": 16}, {"cpu": 13}, cells=(Cell({"cpu": 8}),) * 2) for n in range(3)]
    roomy = Host("roomy", "z", {"cpu": 8}, cells=(Cell({"cpu": 4}),) * 2)
    snapshot = Snapshot((*full, roomy))
    packing = reduce(collapse(snapshot, Request((Node("n", {"cpu": 3}, count=2, cells=1),)))).packing
    kept, classes = needed_only(packing, 1)
    hosts = {snapshot.hosts[row].id for cls in classes for row in packing.rows[int(cls)].tolist()}
    assert "roomy" in hosts
    assert int(kept.hosts.sum()) == 2
