"""Room for a gang by groups that go as a whole: compared with every set of groups of tiny fleets."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest

from placement.engine import place
from placement.model import Host, InvalidPlacementInput, Member, Node, Policy, Proof, Request, Snapshot, Status, left
from placement.modes.evict import evict
from placement.modes.evict_check import check_evictions
from placement.modes.moves import Evictions, Leaving
from tests.placement.modes.test_make_room import tiny

SEEDS = 240
QUIET = Policy(explain=False)


def groups_of(snapshot: Snapshot, seed: int) -> list[Leaving]:
    """Each third member with a fellow, so that some groups are on two hosts; costs and levels follow the seed."""
    members = [m for host in snapshot.hosts for m in host.members]
    parts = [members[n : n + 1 + (n % 3 == 0)] for n in range(0, len(members), 2)]
    return [
        Leaving(tuple(Node(m.id, m.demand) for m in part), 1 + (seed + 7 * number) % 5, (seed + number) % 3)
        for number, part in enumerate(parts)
        if part
    ]


def without(snapshot: Snapshot, groups: list[Leaving], gone: tuple[int, ...]) -> Snapshot:
    names = {node.id for number in gone for node in groups[number].nodes}
    hosts = []
    for host in snapshot.hosts:
        for member in host.members:
            if member.id in names:
                host = left(host, member)
        hosts.append(host)
    return Snapshot(tuple(hosts))


def best(snapshot: Snapshot, request: Request, groups: list[Leaving]) -> tuple[int, int] | None:
    """(level, cost) of the cheapest set of the lowest level at which any set is enough; None: no set is."""
    found = [
        (max((groups[n].level for n in gone), default=-1), sum(groups[n].cost for n in gone))
        for size in range(len(groups) + 1)
        for gone in combinations(range(len(groups)), size)
        if place(without(snapshot, groups, gone), request, QUIET).status is Status.PLACED
    ]
    if not found:
        return None
    level = min(level for level, _ in found)
    return level, min(cost for at, cost in found if at <= level)


@pytest.mark.parametrize("part", range(4))
def test_against_every_set_of_groups(part: int) -> None:
    proven = planned = 0
    for seed in range(part, SEEDS, 4):
        snapshot, request, _ = tiny(seed)
        groups = groups_of(snapshot, seed)
        plan = evict(snapshot, request, groups, QUIET)
        assert not check_evictions(snapshot, request, groups, plan), seed
        truth = best(snapshot, request, groups)
        if truth is None:
            assert plan.status is not Status.PLACED
            continue
        assert plan.status is not Status.INFEASIBLE, seed
        if plan.status is not Status.PLACED:
            continue
        assert plan.cost is not None
        assert plan.lower_bound is not None
        level = max((groups[number].level for number in plan.gone), default=-1)
        planned += 1
        assert level >= truth[0]
        if level == truth[0]:
            assert plan.lower_bound <= truth[1] <= plan.cost, seed
            proven += plan.proof is Proof.OPTIMAL
            assert plan.proof is not Proof.OPTIMAL or plan.cost == truth[1]
    assert planned > SEEDS // 8
    assert proven * 2 > planned


def test_no_group_of_a_higher_level_goes_where_lower_ones_are_enough() -> None:
    hosts = tuple(
        Host(f"h{n}", "z", {"cpu": 4}, used={"cpu": 4}, members=(Member(f"m{n}", {"cpu": 4}),)) for n in range(2)
    )
    groups = [Leaving((Node("m0", {"cpu": 4}),), 9, level=0), Leaving((Node("m1", {"cpu": 4}),), 1, level=1)]
    request = Request((Node("n", {"cpu": 3}),))
    plan = evict(Snapshot(hosts), request, groups)
    assert (plan.gone, plan.cost, plan.proof) == ((0,), 9, Proof.OPTIMAL)
    two = evict(Snapshot(hosts), Request((Node("n", {"cpu": 3}, count=2),)), groups)
    assert (two.gone, two.cost) == ((0, 1), 10)


def test_a_group_goes_as_a_whole_and_only_where_it_must() -> None:
    hosts = tuple(
        Host(f"h{n}", "z", {"cpu": 4}, used={"cpu": 4}, members=(Member(f"m{n}", {"cpu": 4}),)) for n in range(3)
    )
    wide = Leaving((Node("m0", {"cpu": 4}), Node("m1", {"cpu": 4})), 6)
    plan = evict(Snapshot(hosts), Request((Node("n", {"cpu": 4}),)), [wide, Leaving((Node("m2", {"cpu": 4}),), 4)])
    assert plan.gone == (1,)
    assert plan.lower_bound is not None
    assert plan.lower_bound <= 4


def test_where_nobody_may_go_it_is_proven_that_it_does_not_fit() -> None:
    host = Host("h", "z", {"cpu": 4}, used={"cpu": 4}, members=(Member("m", {"cpu": 4}),))
    plan = evict(Snapshot((host,)), Request((Node("n", {"cpu": 4}),)), [])
    assert plan.status is Status.INFEASIBLE
    larger = evict(Snapshot((host,)), Request((Node("n", {"cpu": 5}),)), [Leaving((Node("m", {"cpu": 4}),), 1)])
    assert larger.status is Status.INFEASIBLE


def test_one_that_lives_nowhere_is_refused() -> None:
    host = Host("h", "z", {"cpu": 4})
    with pytest.raises(InvalidPlacementInput, match="lives on no host"):
        evict(Snapshot((host,)), Request((Node("n", {"cpu": 4}),)), [Leaving((Node("m", {"cpu": 4}),), 1)])
    with pytest.raises(InvalidPlacementInput, match="level"):
        evict(Snapshot((host,)), Request((Node("n", {"cpu": 4}),)), [Leaving((), 1, level=-1)])


def test_the_verifier_sees_a_wrong_cost_and_a_group_that_was_forgotten() -> None:
    host = Host("h", "z", {"cpu": 4}, used={"cpu": 4}, members=(Member("m", {"cpu": 4}),))
    snapshot, request = Snapshot((host,)), Request((Node("n", {"cpu": 4}),))
    groups = [Leaving((Node("m", {"cpu": 4}),), 3)]
    plan = evict(snapshot, request, groups)
    assert isinstance(plan, Evictions)
    assert not check_evictions(snapshot, request, groups, plan)
    for wrong in (replace(plan, cost=2), replace(plan, gone=(), cost=0, lower_bound=0), replace(plan, lower_bound=9)):
        assert check_evictions(snapshot, request, groups, wrong)
