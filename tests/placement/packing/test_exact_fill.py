"""Gangs that need all the room there is: every host is filled to the last unit, or it is told that none can be."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np
import pytest

from placement.check import check
from placement.engine import place
from placement.model import Host, Node, Policy, Proof, Request, Snapshot, Status, Strategy
from placement.packing.exact_fill import fill_exactly
from placement.packing.exact_patterns import exact_columns
from placement.packing.instance import Packing
from placement.problem.gang import collapse
from placement.search.reduce import reduce
from tests.placement.brute import assert_right
from tests.placement.families import fits

Case = tuple[Snapshot, Request]
QUIET = Policy(explain=False)


def cut(hosts: int, pieces: int, seed: int, most: tuple[int, ...] = (96, 384)) -> Case:
    """Hosts that all differ, the room of each cut at random into up to so many pieces of odd sizes: one node each."""
    r = random.Random(seed)
    names = [f"r{d}" for d in range(len(most))]
    fleet, sizes = [], []
    for number in range(hosts):
        free = tuple(r.randint(max(1, extent // 4), extent) for extent in most)
        fleet.append(Host(f"h{number:03d}", "z", dict(zip(names, free, strict=True))))
        room = [free]
        for _ in range(pieces - 1):
            whole = room.pop(r.randrange(len(room)))
            if min(whole) < 2:
                room.append(whole)
                continue
            part = tuple(r.randint(1, amount - 1) for amount in whole)
            room += [part, tuple(a - b for a, b in zip(whole, part, strict=True))]
        sizes += room
    r.shuffle(sizes)
    nodes = tuple(Node(f"n{n:03d}", dict(zip(names, size, strict=True))) for n, size in enumerate(sizes))
    return Snapshot(tuple(fleet)), Request(nodes, Strategy.FEWEST_HOSTS)


def packing_of(case: Case) -> Packing:
    return reduce(collapse(*case)).packing


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("hosts", "pieces"), [(40, 2), (30, 3), (25, 5), (20, 8)])
def test_what_was_cut_from_the_room_is_placed(hosts: int, pieces: int, seed: int) -> None:
    snapshot, request = cut(hosts, pieces, seed)
    decision = place(snapshot, request, QUIET)
    assert decision.status is Status.PLACED
    assert (decision.objective, decision.proof) == (hosts, Proof.OPTIMAL)
    assert check(snapshot, request, decision) == ()
    assert place(snapshot, request, QUIET) == decision


@pytest.mark.parametrize("most", [(4000,), (24, 60, 30)])
def test_one_resource_or_three_are_filled_as_well(most: tuple[int, ...]) -> None:
    for pieces in (2, 5):
        snapshot, request = cut(15, pieces, 7, most)
        decision = place(snapshot, request, QUIET)
        assert decision.status is Status.PLACED
        assert check(snapshot, request, decision) == ()


@pytest.mark.parametrize("strategy", list(Strategy))
def test_every_strategy_fills_them(strategy: Strategy) -> None:
    snapshot, request = cut(20, 3, 5)
    request = replace(request, strategy=strategy)
    decision = place(snapshot, request, QUIET)
    assert decision.status is Status.PLACED
    assert check(snapshot, request, decision) == ()


def test_each_load_leaves_nothing_and_goes_where_it_may() -> None:
    for seed, pieces in ((1, 2), (2, 5)):
        snapshot, request = cut(20, pieces, seed)
        packing = packing_of((snapshot, request))
        loads = fill_exactly(packing, lambda: False)
        assert loads is not None
        for load in loads:
            assert (np.array(load.pattern) @ packing.demand == packing.caps[load.cls]).all()
        held = np.array([load.pattern for load in loads]).T @ np.array([load.times for load in loads])
        assert held.tolist() == packing.counts.tolist()
        taken = Counter(load.cls for load in loads for _ in range(load.times))
        assert all(taken[cls] == hosts for cls, hosts in enumerate(packing.hosts.tolist()))


@pytest.mark.parametrize("pieces", [2, 7])
def test_nodes_that_may_not_go_everywhere_fill_the_hosts_where_they_may(pieces: int) -> None:
    fleets, nodes = [], []
    for part, disk in enumerate(("ssd", "hdd")):
        snapshot, request = cut(8, pieces, part)
        fleets += [replace(host, id=f"{disk}-{host.id}", labels={"disk": disk}) for host in snapshot.hosts]
        nodes += [
            replace(node, id=f"{disk}-{node.id}", host_labels={"disk": (disk,)} if n % 2 else {"disk": (disk, "none")})
            for n, node in enumerate(request.nodes)
        ]
    wide = replace(nodes[0], host_labels={})
    case = Snapshot(tuple(fleets)), Request((wide, *nodes[1:]), Strategy.FEWEST_HOSTS)
    decision = place(*case, QUIET)
    assert decision.status is Status.PLACED
    assert check(*case, decision) == ()


def tiny_cuts(seed: int) -> Case:
    """A few hosts cut up, and mostly a unit moved from one piece to another, after which it may not fit any more."""
    r = random.Random(seed)
    snapshot, request = cut(r.randint(2, 3), r.randint(2, 3), seed, r.choice([(9,), (6, 7)]))
    nodes = list(request.nodes)
    if len(nodes) > 1 and r.random() < 0.8:
        giver, taker = r.sample(range(len(nodes)), 2)
        name = r.choice(sorted(nodes[giver].demand))
        if nodes[giver].demand[name] > 1:
            for at, change in ((giver, -1), (taker, 1)):
                demand = {**nodes[at].demand, name: nodes[at].demand[name] + change}
                nodes[at] = replace(nodes[at], demand=demand)
    return snapshot, replace(request, nodes=tuple(nodes))


def test_small_cases_are_decided_as_by_enumeration() -> None:
    seen: Counter[Status] = Counter()
    for seed in range(150):
        snapshot, request = tiny_cuts(seed)
        decision = place(snapshot, request)
        seen[decision.status] += 1
        assert_right(snapshot, request, decision)
        assert (decision.status is Status.PLACED) == fits((snapshot, request))
    assert min(seen[Status.PLACED], seen[Status.INFEASIBLE]) > 10


def every_filling(packing: Packing, cls: int) -> Iterator[tuple[int, ...]]:
    kinds = range(len(packing.counts))
    for size in (1, 2, 3):
        for some in combinations_with_replacement(kinds, size):
            pattern = np.bincount(some, minlength=len(kinds))
            if (pattern @ packing.demand == packing.caps[cls]).all() and (pattern <= packing.counts).all():
                yield tuple(pattern.tolist())


def test_all_ways_of_three_nodes_to_fill_a_host_are_found() -> None:
    packing = packing_of(cut(10, 3, 3, (12, 16)))
    columns = exact_columns(packing, lambda: False)
    assert columns is not None
    assert len(columns) == len({(column.cls, column.pattern) for column in columns})
    for cls in range(len(packing.caps)):
        assert {c.pattern for c in columns if c.cls == cls} == set(every_filling(packing, cls))


def test_a_stop_is_heard_and_slack_is_left_to_others() -> None:
    packing = packing_of(cut(20, 5, 1))
    assert fill_exactly(packing, lambda: True) is None
    roomier = replace(packing, caps=packing.caps + 1)
    assert fill_exactly(roomier, lambda: False) is None
