"""Rolls: laws on random fleets, every order of tiny ones enumerated, and what a user expects of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from heapq import heappop, heappush
from itertools import combinations, count, product

import pytest

from placement.constraints import AtMost, Near, Scope, Selector, Together
from placement.model import Host, InvalidPlacementInput, Member, Node, Proof, Snapshot, Status, joined
from placement.modes.moves import Move, Neighbours
from placement.modes.plans import Batch
from placement.modes.roll import roll
from placement.modes.roll_check import check_roll
from tests.placement.modes.test_rebalance import Seats, _pins, all_seats, fleet_at, holds, seats_of, tiny

SEEDS = 80


def asked_of(seed: int) -> tuple[Snapshot, list[Neighbours], tuple[str, ...], int]:
    """A tiny fleet in which some or all of the open hosts are to be emptied."""
    snapshot, groups = tiny(seed)
    fleet = [h.id for h in snapshot.hosts if h.schedulable]
    return snapshot, groups, tuple(fleet if seed % 3 else fleet[:2]), 1 + seed % 2


# --- the truth, enumerated without the planner ------------------------------------------------------------------------


def fewest(snapshot: Snapshot, groups: list[Neighbours], hosts: tuple[str, ...], at_once: int) -> int | None:
    """The fewest moves of any order of batches after each of which all rules hold; None where there is none."""
    nodes = {n.id: n for g in groups for n in g.nodes}
    start = tuple(sorted((m, seat) for m, seat in seats_of(snapshot).items()))
    ticket = count()
    heap = [(0, next(ticket), start, frozenset[str]())]
    best: dict[object, int] = {(start, frozenset()): 0}
    while heap:
        moves, _, seats, done = heappop(heap)
        if done == set(hosts):
            return moves
        if best[seats, done] < moves:
            continue
        todo = [h for h in hosts if h not in done]
        for many in range(1, min(at_once, len(todo)) + 1):
            for batch in combinations(todo, many):
                for after, cost in emptied(snapshot, groups, nodes, dict(seats), batch):
                    key = (after, done | set(batch))
                    if moves + cost < best.get(key, 1 << 30):
                        best[key] = moves + cost
                        heappush(heap, (moves + cost, next(ticket), *key))
    return None


def emptied(
    snapshot: Snapshot, groups: list[Neighbours], nodes: dict[str, Node], seats: Seats, batch: tuple[str, ...]
) -> Iterator[tuple[tuple[tuple[str, tuple[str, tuple[int, ...]]], ...], int]]:
    """Every fleet with these hosts empty that their members' leaving can make of it, with how many have left."""
    who = [m for m, (host, _) in sorted(seats.items()) if host in batch and m in nodes]
    open_hosts = [h for h in snapshot.hosts if h.schedulable and h.id not in batch]
    choices = [[(h.id, c) for h in open_hosts for c in _pins(nodes[m], h)] for m in who]
    for where in product(*choices):
        after = {**seats, **dict(zip(who, where, strict=True))}
        hosts = fleet_at(snapshot, after)
        fits = all(hosts[h].used.get(r, 0) <= hosts[h].capacity.get(r, 0) for h, _ in where for r in hosts[h].used)
        if fits and holds(snapshot, groups, after):
            yield tuple(sorted(after.items())), len(who)


# --- laws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(SEEDS))
def test_each_plan_is_right_and_no_order_is_better_than_its_bound(seed: int) -> None:
    snapshot, groups, hosts, at_once = asked_of(seed)
    plan = roll(snapshot, groups, hosts, at_once)
    assert check_roll(snapshot, groups, hosts, at_once, plan) == ()
    assert roll(snapshot, groups, hosts, at_once) == plan
    if not holds(snapshot, groups, seats_of(snapshot)):
        return
    best = fewest(snapshot, groups, hosts, at_once)
    if best is not None:
        assert plan.least_moves <= best
        assert plan.status is not Status.INFEASIBLE
    if plan.status is Status.PLACED and best is not None:
        assert best <= len(plan.moves)
    if plan.status is Status.INFEASIBLE:
        # Not even with any number of moves of anybody: no fleet at all has that host empty.
        movers = {n.id for g in groups for n in g.nodes}
        for seats in all_seats(snapshot, groups, len(movers)):
            there = {m for m, (host, _) in seats.items() if host == plan.stuck and m in movers}
            assert there or not holds(snapshot, groups, seats), seats


def test_an_order_is_found_nearly_always_where_there_is_one_and_is_nearly_the_best() -> None:
    found = missed = more = 0
    for seed in range(200):
        snapshot, groups, hosts, at_once = asked_of(seed)
        if not holds(snapshot, groups, seats_of(snapshot)):
            continue
        best = fewest(snapshot, groups, hosts, at_once)
        if best is None:
            continue
        plan = roll(snapshot, groups, hosts, at_once)
        found, missed = found + (plan.status is Status.PLACED), missed + (plan.status is not Status.PLACED)
        more += len(plan.moves) - best if plan.status is Status.PLACED else 0
    assert found >= 15 * missed
    assert more <= found // 5


# --- examples --------------------------------------------------------------------------------------------------------


def full(name: str, *members: str, cpu: int = 4) -> Host:
    host = Host(name, "z", {"cpu": cpu})
    for member in members:
        host = joined(host, Member(member, {"cpu": 2}, {"group": member[0]}))
    return host


def of(members: str, *rules: object, staying: dict[str, str] | None = None) -> Neighbours:
    nodes = tuple(Node(m, {"cpu": 2}, "z", labels={"group": m[0]}) for m in members.split())
    return Neighbours(nodes, {n.id: 1 for n in nodes}, tuple(rules), staying or {})  # type: ignore[arg-type]


def test_an_empty_host_comes_first_and_then_nobody_moves_twice() -> None:
    snapshot = Snapshot((full("h1", "a1", "a2"), full("h2", "b1"), full("h3")))
    plan = roll(snapshot, [of("a1 a2"), of("b1")], ("h1", "h2", "h3"))
    assert plan.batches[0].hosts == ("h3",)
    assert (plan.status, plan.proof, len(plan.moves), plan.least_moves) == (Status.PLACED, Proof.OPTIMAL, 3, 3)


def test_without_an_empty_host_the_fewest_move_twice_and_that_is_proven() -> None:
    snapshot = Snapshot((full("h1", "a1"), full("h2", "b1", "b2", cpu=8)))
    plan = roll(snapshot, [of("a1"), of("b1 b2")], ("h1", "h2"))
    # h1 has room for two: once a1 is on h2, three are there.
    assert (plan.status, plan.stuck, plan.left) == (Status.INFEASIBLE, "h2", ("h2",))
    plan = roll(snapshot.updated((full("h1", "a1", cpu=6),)), [of("a1"), of("b1 b2")], ("h1", "h2"))
    assert (plan.status, plan.proof, len(plan.moves)) == (Status.PLACED, Proof.OPTIMAL, 4)


def test_so_many_at_once_as_there_is_room_for_and_no_more() -> None:
    hosts = tuple(full(f"h{n}", f"{'abcd'[n]}1") for n in range(4))
    groups = [of(f"{'abcd'[n]}1") for n in range(4)]
    plan = roll(Snapshot(hosts), groups, ("h0", "h1", "h2", "h3"), 3)
    assert plan.status is Status.PLACED
    assert [len(batch.hosts) for batch in plan.batches] == [2, 2]


def test_a_rule_that_leaves_a_member_no_other_host_is_told_as_proven() -> None:
    snapshot = Snapshot((full("h1", "a1", cpu=8), full("h2", "a2", cpu=8)))
    plan = roll(snapshot, [of("a1 a2", AtMost())], ("h1",))
    assert (plan.status, plan.stuck) == (Status.INFEASIBLE, "h1")
    assert plan.why


def test_a_group_that_is_to_stay_together_goes_together_and_one_that_is_near_it_follows() -> None:
    racks = [replace(full(f"h{n}", cpu=8), rack=f"r{n}") for n in (1, 2)]
    racks[0] = replace(full("h1", "a1", "a2", "b1", cpu=8), rack="r1")
    near = Near(Selector(labels={"group": "b"}), Selector(labels={"group": "a"}))
    plan = roll(Snapshot(tuple(racks)), [of("b1", near), of("a1 a2", Together(scope=Scope.RACK))], ("h1",))
    assert plan.batches == (Batch(("h1",), tuple(Move(m, "h1", "h2") for m in ("a1", "a2", "b1"))),)
    assert plan.proof is Proof.OPTIMAL


def test_what_stops_is_told_as_not_decided() -> None:
    snapshot = Snapshot((full("h1", "a1"), full("h2")))
    plan = roll(snapshot, [of("a1")], ("h1",), stop=lambda: True)
    assert (plan.status, plan.stopped, plan.left) == (Status.UNKNOWN, True, ("h1",))


@pytest.mark.parametrize(("hosts", "at_once"), [(("nowhere",), 1), (("h1", "h1"), 1), (("h1",), 0)])
def test_absurd_input_is_refused(hosts: tuple[str, ...], at_once: int) -> None:
    with pytest.raises(InvalidPlacementInput):
        roll(Snapshot((full("h1"),)), [], hosts, at_once)


def test_the_check_finds_each_kind_of_wrong_plan() -> None:
    snapshot = Snapshot((full("h1", "a1"), full("h2", "b1"), full("h3")))
    groups, hosts = [of("a1"), of("b1")], ("h1", "h2")
    good = roll(snapshot, groups, hosts)
    first, second = good.batches
    crowded = Snapshot((full("h1", "a1"), full("h2", "b1"), full("h3", "c1", "c2")))
    for rule, plan, fleet, many in (
        ("hosts", replace(good, batches=(first, first)), snapshot, 1),
        ("at_once", replace(good, batches=(Batch(hosts, (*first.moves, *second.moves)),)), snapshot, 1),
        ("status", replace(good, status=Status.UNKNOWN), snapshot, 1),
        ("proof", replace(good, proof=Proof.GAP), snapshot, 1),
        ("bound", replace(good, least_moves=3, proof=Proof.GAP), snapshot, 1),
        ("moves", good, snapshot.updated((full("h1", "b1"), full("h2", "a1"))), 1),
        ("empty", replace(good, batches=(Batch(first.hosts, ()), second)), snapshot, 1),
        ("capacity", good, crowded, 1),
    ):
        assert rule in {v.rule for v in check_roll(fleet, groups, hosts, many, plan)}, rule
