"""Room for a gang by groups that go and moves of others: compared with every set of both on tiny fleets."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations

import pytest

from placement.constraints import AtMost, Constraint
from placement.model import (
    Host,
    InvalidPlacementInput,
    Member,
    Node,
    Policy,
    Proof,
    Request,
    Snapshot,
    Status,
    joined,
    left,
)
from placement.modes.evict import evict
from placement.modes.evict_check import check_evictions
from placement.modes.evict_or_move import evict_or_move
from placement.modes.make_room import make_room
from placement.modes.moves import Leaving, Neighbours
from tests.placement.modes.test_make_room import cheapest

SEEDS = 320
QUIET = Policy(explain=False)

Case = tuple[Snapshot, Request, list[Leaving], list[Neighbours]]


def tiny(seed: int) -> Case:
    """Two to four nearly full hosts with groups of one or two members; some may move, some may go, some both."""
    r = random.Random(seed)
    hosts = [
        Host(f"h{n}", "z", {"cpu": r.randint(4, 6), "memory": r.randint(4, 6)}, schedulable=r.random() > 0.05)
        for n in range(r.randint(2, 4))
    ]
    members: list[list[tuple[Member, str]]] = []
    for number in range(r.randint(2, 5)):
        group: list[tuple[Member, str]] = []
        for copy in range(r.choice((1, 1, 2))):
            demand = {"cpu": r.randint(1, 4), "memory": r.randint(0, 4)}
            at = r.randrange(len(hosts))
            if any(hosts[at].free(name) < amount for name, amount in demand.items()):
                continue
            member = Member(f"m{number}.{copy}", demand)
            hosts[at] = joined(hosts[at], member)
            group.append((member, hosts[at].id))
        members.append(group)
    leaving, neighbours = [], []
    for group in members:
        nodes = tuple(Node(member.id, member.demand, "z") for member, _ in group)
        own: tuple[Constraint, ...] = (AtMost(),) if r.random() < 0.3 else ()
        movable = tuple(node for node in nodes if r.random() < 0.7)
        staying = {member.id: host for member, host in group if all(node.id != member.id for node in movable)}
        if movable:
            neighbours.append(Neighbours(movable, {node.id: r.randint(0, 9) for node in movable}, own, staying))
        if nodes and r.random() < 0.6:
            leaving.append(Leaving(nodes, r.randint(1, 9), r.choice((0, 0, 1))))
    gang = Node("n", {"cpu": r.randint(2, 6), "memory": r.randint(1, 6)}, count=r.choice((1, 1, 2)))
    rules: tuple[Constraint, ...] = r.choice([(), (), (AtMost(),)])
    return Snapshot(tuple(hosts)), Request((gang,), constraints=rules), leaving, neighbours


def unsized(snapshot: Snapshot) -> Snapshot:
    """The fleet as a service knows it: how much is used on each host, and not by whom."""
    return Snapshot(tuple(replace(h, members=tuple(replace(m, demand={}) for m in h.members)) for h in snapshot.hosts))


def gone_of(leaving: list[Leaving], some: tuple[int, ...]) -> frozenset[str]:
    return frozenset(node.id for number in some for node in leaving[number].nodes)


def enough(case: Case, some: tuple[int, ...]) -> bool:
    """Whether some moves of the others do the rest once these groups are gone."""
    snapshot, request, leaving, neighbours = case
    gone = gone_of(leaving, some)
    hosts = []
    for host in snapshot.hosts:
        for member in host.members:
            if member.id in gone:
                host = left(host, member)
        hosts.append(host)
    others = [group for group in neighbours if gone.isdisjoint({*group.costs, *group.staying})]
    return cheapest(Snapshot(tuple(hosts)), request, others) is not None


def truth_of(case: Case) -> tuple[int, int] | None:
    """(level, cost) of the cheapest groups of the lowest level at which any are enough; None: none are."""
    leaving = case[2]
    found = [
        (max((leaving[n].level for n in some), default=-1), sum(leaving[n].cost for n in some))
        for size in range(len(leaving) + 1)
        for some in combinations(range(len(leaving)), size)
        if enough(case, some)
    ]
    if not found:
        return None
    lowest = min(level for level, _ in found)
    return lowest, min(cost for level, cost in found if level <= lowest)


@pytest.mark.parametrize("part", range(4))
def test_against_every_set_of_groups_and_moves(part: int) -> None:
    planned = proven = both = 0
    for seed in range(part, SEEDS, 4):
        case = tiny(seed)
        asked = (unsized(case[0]) if seed % 3 == 0 else case[0], *case[1:])
        plan = evict_or_move(*asked, QUIET)
        assert not check_evictions(*asked[:3], plan, asked[3]), seed
        truth = truth_of(case)
        if truth is None:
            assert plan.status is not Status.PLACED, seed
            continue
        assert plan.status is not Status.INFEASIBLE, seed
        if plan.status is not Status.PLACED:
            continue
        assert plan.cost is not None
        assert plan.lower_bound is not None
        planned += 1
        both += bool(plan.gone and plan.moves)
        level = max((case[2][number].level for number in plan.gone), default=-1)
        assert level >= truth[0], seed
        if level == truth[0]:
            assert plan.lower_bound <= truth[1] <= plan.cost, (seed, plan.lower_bound, truth, plan.cost)
            proven += plan.proof is Proof.OPTIMAL
    assert both >= 2
    assert proven * 2 > planned


def _host(name: str, *members: tuple[str, int], capacity: int = 8) -> Host:
    host = Host(name, "z", {"cpu": capacity})
    for member, size in members:
        host = joined(host, Member(member, {"cpu": size}))
    return host


def _moving(member: str, size: int, cost: int = 1) -> Neighbours:
    return Neighbours((Node(member, {"cpu": size}, "z"),), {member: cost})


def _going(member: str, size: int, cost: int = 1, level: int = 0) -> Leaving:
    return Leaving((Node(member, {"cpu": size}),), cost, level)


def test_a_small_group_goes_so_that_a_large_one_moves() -> None:
    """Neither does alone: nobody who may go is large enough, and nobody who moves finds a home while all stay."""
    snapshot = Snapshot((_host("a", ("large", 5)), _host("b", ("small", 2), ("fixed", 3))))
    request = Request((Node("n", {"cpu": 7}),))
    leaving, neighbours = [_going("small", 2)], [_moving("large", 5, cost=4)]
    assert make_room(snapshot, request, neighbours).status is not Status.PLACED
    assert evict(snapshot, request, leaving).status is Status.INFEASIBLE
    plan = evict_or_move(snapshot, request, leaving, neighbours)
    assert (plan.gone, plan.cost, plan.proof) == ((0,), 1, Proof.OPTIMAL)
    assert [(move.member, move.source, move.target) for move in plan.moves] == [("large", "a", "b")]
    assert plan.moved == 4
    assert not check_evictions(snapshot, request, leaving, plan, neighbours)


def test_less_goes_where_others_can_move() -> None:
    """A group of four would do alone; one of two is enough where the other one moves to its seat."""
    snapshot = Snapshot((_host("a", ("four", 4)), _host("b", ("three", 3), ("two", 2))))
    request = Request((Node("n", {"cpu": 8}),))
    leaving = [_going("four", 4, cost=6), _going("two", 2, cost=2)]
    alone = evict(snapshot, request, leaving)
    assert (alone.gone, alone.cost) == ((0,), 6)
    plan = evict_or_move(snapshot, request, leaving, [_moving("four", 4), _moving("three", 3)])
    assert (plan.gone, plan.cost, plan.proof) == ((1,), 2, Proof.OPTIMAL)
    assert plan.moves


def test_nobody_goes_where_moves_are_enough() -> None:
    snapshot = Snapshot((_host("a", ("one", 2)), _host("b", ("two", 3))))
    plan = evict_or_move(snapshot, Request((Node("n", {"cpu": 8}),)), [_going("one", 2)], [_moving("two", 3)])
    assert (plan.gone, plan.cost, plan.proof) == ((), 0, Proof.OPTIMAL)
    assert [move.member for move in plan.moves] == ["two"]


def test_a_group_of_no_members_and_nobody_at_all() -> None:
    snapshot = Snapshot((_host("a", ("one", 2)),))
    empty = [Leaving((), 1), Leaving((), 0, 3)]
    plan = evict_or_move(snapshot, Request((Node("n", {"cpu": 8}),)), empty, [Neighbours((), {})])
    assert (plan.status, plan.proof) == (Status.INFEASIBLE, Proof.INFEASIBLE)
    assert evict_or_move(snapshot, Request((Node("n", {"cpu": 6}),)), empty, []).gone == ()


def test_a_stop_leaves_a_bound_that_holds() -> None:
    case = next(one for one in map(tiny, range(SEEDS)) if evict_or_move(*one, QUIET).gone)
    whole = evict_or_move(*case, QUIET)
    cut = evict_or_move(*case, QUIET, stop=lambda: True)
    assert cut.stopped
    assert cut.status is not Status.INFEASIBLE
    if cut.lower_bound is not None:
        assert cut.lower_bound <= (whole.cost or 0)


def test_what_makes_no_sense_is_refused() -> None:
    snapshot, request = Snapshot((_host("a", ("one", 2)),)), Request((Node("n", {"cpu": 8}),))
    with pytest.raises(InvalidPlacementInput, match="level"):
        evict_or_move(snapshot, request, [_going("one", 2, level=-1)], [])
    with pytest.raises(InvalidPlacementInput, match="lives on no host"):
        evict_or_move(snapshot, request, [_going("two", 2)], [])


def test_the_verifier_sees_each_kind_of_wrong_plan() -> None:
    snapshot = Snapshot((_host("a", ("large", 5)), _host("b", ("small", 2), ("fixed", 3))))
    request = Request((Node("n", {"cpu": 7}),))
    leaving, neighbours = [_going("small", 2)], [_moving("large", 5, cost=4)]
    plan = evict_or_move(snapshot, request, leaving, neighbours)
    for wrong in (
        replace(plan, moved=3),
        replace(plan, moves=()),
        replace(plan, gone=(), cost=0, lower_bound=0),
        replace(plan, lower_bound=2),
        replace(plan, status=Status.UNKNOWN),
    ):
        assert check_evictions(snapshot, request, leaving, wrong, neighbours)
