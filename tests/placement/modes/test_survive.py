"""Whichever rack is lost, so many members of each group are left: proven when they are placed, and true after every
move that is planned later."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations

import pytest

from placement.constraints import AtMost, Scope
from placement.engine import place
from placement.model import Host, Member, Node, Proof, Request, Snapshot, Status, joined
from placement.modes.answered import answered
from placement.modes.drain import Leaving, drain
from placement.modes.evict import evict
from placement.modes.evict_check import check_evictions
from placement.modes.make_room import make_room
from placement.modes.moves import Leaving as Evicted
from placement.modes.moves import Move, Neighbours
from placement.modes.plans import Goal, Limits
from placement.modes.rebalance import rebalance
from placement.modes.roll import roll
from tests.placement.modes.test_evict import without

SEEDS = 25


def fleet(seed: int) -> tuple[Snapshot, list[Neighbours], list[int]]:
    """Hosts in three to five racks, and groups placed on them one after another, each with how many it keeps."""
    r = random.Random(seed)
    racks = r.randint(3, 5)
    hosts = [Host(f"h{n}", "z", {"cpu": 8}, rack=f"r{n % racks}") for n in range(r.randint(2, 3) * racks)]
    snapshot, groups, kept = Snapshot(tuple(hosts)), list[Neighbours](), list[int]()
    for number in range(r.randint(2, 4)):
        size = r.randint(2, 4)
        left = r.randint(1, size - 1)
        rule = AtMost(limit=size - left, scope=Scope.RACK)
        nodes = tuple(Node(f"g{number}m{k}", {"cpu": r.randint(1, 4)}, "z") for k in range(size))
        decision = place(snapshot, Request(nodes, constraints=(rule,)))
        if decision.status is not Status.PLACED:
            continue
        demands = {node.id: node.demand for node in nodes}
        by_host: dict[str, Host] = {host.id: host for host in snapshot.hosts}
        for one in decision.assignments:
            by_host[one.host] = joined(by_host[one.host], Member(one.node, demands[one.node]))
        snapshot = snapshot.updated(tuple(by_host.values()))
        groups.append(Neighbours(nodes, {node.id: 1 for node in nodes}, (rule,)))
        kept.append(left)
    return snapshot, groups, kept


def least_left(snapshot: Snapshot, where: dict[str, str], group: Neighbours) -> int:
    """How many members are left where the worst rack is lost, counted without the planner."""
    rack = {host.id: host.rack_key for host in snapshot.hosts}
    in_racks = Counter(rack[where[node.id]] for node in group.nodes)
    return len(group.nodes) - max(in_racks.values())


def seats(snapshot: Snapshot) -> dict[str, str]:
    return {member.id: host.id for host in snapshot.hosts for member in host.members}


def kept_by(snapshot: Snapshot, groups: Sequence[Neighbours], kept: Sequence[int], moves: Iterable[Move]) -> int:
    """How many moves there are, after each of which each group keeps what it is to keep."""
    where, made = seats(snapshot), 0
    for move in moves:
        assert where[move.member] == move.source
        where[move.member] = move.target
        made += 1
        for group, left in zip(groups, kept, strict=True):
            assert least_left(snapshot, where, group) >= left
    return made


def test_it_is_proven_when_the_group_is_placed_and_told_where_it_cannot_be() -> None:
    placed = 0
    for seed in range(SEEDS):
        snapshot, groups, kept = fleet(seed)
        for group, left in zip(groups, kept, strict=True):
            assert least_left(snapshot, seats(snapshot), group) >= left
            placed += 1
    assert placed >= 2 * SEEDS
    two_racks = Snapshot(tuple(Host(f"h{n}", "z", {"cpu": 8}, rack=f"r{n}") for n in range(2)))
    nodes = tuple(Node(f"n{k}", {"cpu": 1}) for k in range(3))
    decision = place(two_racks, Request(nodes, constraints=(AtMost(limit=1, scope=Scope.RACK),)))
    assert (decision.status, decision.proof) == (Status.INFEASIBLE, Proof.INFEASIBLE)


def test_a_member_that_lost_its_host_is_placed_so_that_it_holds_again() -> None:
    moved = 0
    for seed in range(SEEDS):
        snapshot, groups, kept = fleet(seed)
        for group, left in zip(groups, kept, strict=True):
            lost, where = group.nodes[0], seats(snapshot)
            staying = {node.id: where[node.id] for node in group.nodes[1:]}
            request = Request(
                (lost,), constraints=group.constraints, excluded_hosts=frozenset({where[lost.id]}), staying=staying
            )
            decision = place(snapshot, request)
            if decision.status is Status.PLACED:
                where[lost.id] = decision.assignments[0].host
                assert least_left(snapshot, where, group) >= left
                moved += 1
    assert moved >= SEEDS


def test_it_holds_after_every_move_of_a_drain() -> None:
    moved = 0
    for seed in range(SEEDS):
        snapshot, groups, kept = fleet(seed)
        gone = next(host.id for host in snapshot.hosts if host.members)
        where, leaving = seats(snapshot), []
        for group in groups:
            going = tuple(node for node in group.nodes if where[node.id] == gone)
            if going:
                staying = {node.id: where[node.id] for node in group.nodes if where[node.id] != gone}
                request = Request(
                    going, constraints=group.constraints, excluded_hosts=frozenset({gone}), staying=staying
                )
                leaving.append(Leaving(request))
        done = answered(drain(snapshot, leaving))
        by_gang: dict[str, list[Move]] = defaultdict(list)
        for move in done.moves:
            by_gang[move.member.split("m")[0]].append(move)
        moved += len(done.moves)
        # The members of one group leave together: the rule is of what is there once they have gone.
        for gang in by_gang.values():
            for move in gang:
                where[move.member] = move.target
            for group, left in zip(groups, kept, strict=True):
                assert least_left(snapshot, where, group) >= left
    assert moved >= SEEDS


@pytest.mark.parametrize("goal", Goal)
def test_it_holds_after_every_move_of_a_rebalance(goal: Goal) -> None:
    moved = 0
    for seed in range(SEEDS):
        snapshot, groups, kept = fleet(seed)
        plan = rebalance(snapshot, groups, Limits(10, 100, 50, goal=goal))
        assert not plan.broken
        moved += kept_by(snapshot, groups, kept, plan.moves)
    assert moved >= SEEDS // 2


def test_it_is_mended_by_a_rebalance_where_somebody_broke_it_by_hand() -> None:
    hosts = [Host(f"h{n}", "z", {"cpu": 8}, rack=f"r{n // 2}") for n in range(4)]
    nodes = tuple(Node(f"m{k}", {"cpu": 2}, "z") for k in range(2))
    hosts[0] = joined(hosts[0], Member("m0", {"cpu": 2}))
    hosts[1] = joined(hosts[1], Member("m1", {"cpu": 2}))
    group = Neighbours(nodes, {"m0": 1, "m1": 1}, (AtMost(limit=1, scope=Scope.RACK),))
    snapshot = Snapshot(tuple(hosts))
    plan = rebalance(snapshot, [group])
    assert (len(plan.broken), len(plan.left), len(plan.moves)) == (1, 0, 1)
    kept_by(snapshot, [group], [1], plan.moves)


def test_it_holds_after_every_move_of_a_roll() -> None:
    moved = 0
    for seed in range(SEEDS):
        snapshot, groups, kept = fleet(seed)
        plan = roll(snapshot, groups, [host.id for host in snapshot.hosts])
        moved += kept_by(snapshot, groups, kept, plan.moves)
    assert moved >= 2 * SEEDS


def test_it_holds_for_all_once_room_was_made() -> None:
    made = 0
    for seed in range(2 * SEEDS):
        snapshot, groups, kept = fleet(seed)
        free = sum(1 for host in snapshot.hosts if not host.members)
        room = make_room(snapshot, Request((Node("new", {"cpu": 8}, count=free + 1),)), groups)
        if room.status is not Status.PLACED or not room.moves:
            continue
        where = seats(snapshot)
        where.update({move.member: move.target for move in room.moves})
        for group, left in zip(groups, kept, strict=True):
            assert least_left(snapshot, where, group) >= left
        made += 1
    assert made >= 10


def test_it_holds_for_the_group_and_for_all_who_stay_once_others_were_evicted() -> None:
    """Compared with every set of groups: none that is cheaper makes room so that the rule holds."""
    made = proven = 0
    for seed in range(2 * SEEDS):
        snapshot, groups, kept = fleet(seed)
        going = [Evicted(group.nodes, 1 + (seed + 3 * n) % 4, n % 2) for n, group in enumerate(groups)]
        size = 1 + seed % 2 + sum(1 for host in snapshot.hosts if not host.members)
        left = min(size - 1, size // 2 + 1)
        new = Request((Node("new", {"cpu": 8}, count=size),))
        new = replace(new, constraints=(AtMost(limit=size - left, scope=Scope.RACK),))
        plan = evict(snapshot, new, going)
        assert not check_evictions(snapshot, new, going, plan)
        sets = {
            gone: place(without(snapshot, going, gone), new).status is Status.PLACED
            for count in range(len(going) + 1)
            for gone in combinations(range(len(going)), count)
        }
        if plan.status is not Status.PLACED:
            assert plan.status is not Status.INFEASIBLE or not any(sets.values())
            continue
        level = max((going[n].level for n in plan.gone), default=-1)
        enough = [gone for gone, fits in sets.items() if fits]
        best = min(cost_of(going, gone) for gone in enough if all(going[n].level <= level for n in gone))
        assert plan.placed is not None
        assert plan.cost is not None
        assert plan.lower_bound is not None
        assert plan.lower_bound <= best <= plan.cost
        if plan.proof is Proof.OPTIMAL:
            assert plan.cost == best
        proven += plan.proof is Proof.OPTIMAL
        rack = {host.id: host.rack_key for host in snapshot.hosts}
        landed = Counter(rack[one.host] for one in plan.placed.assignments)
        assert size - max(landed.values()) >= left
        where = seats(snapshot)
        for number, (group, least) in enumerate(zip(groups, kept, strict=True)):
            assert number in plan.gone or least_left(snapshot, where, group) >= least
        made += bool(plan.gone)
    assert made >= 10
    assert proven >= made * 9 // 10


def cost_of(groups: Sequence[Evicted], gone: Iterable[int]) -> int:
    return sum(groups[n].cost for n in gone)
