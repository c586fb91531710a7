"""Why a request does not fit: the funnel counts, the conflict is minimal, and every cure cures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from placement.constraints import Apart, AtMost, Scope, Selector, SpareHosts, SpreadOver, Together
from placement.engine import place
from placement.model import (
    Cell,
    Cure,
    CureKind,
    Explanation,
    Host,
    Member,
    Node,
    Policy,
    Proof,
    Request,
    Shortage,
    Snapshot,
    Status,
)
from placement.reasons import Family, Reason
from tests.placement.instances import tiny

FLEET = Snapshot(
    (
        Host("a1", "east", {"cpu": 8, "memory": 32}, {"cpu": 6}, "r1", {"disk": "ssd"}),
        Host("a2", "east", {"cpu": 8, "memory": 32}, {"memory": 30}, "r1"),
        Host("b1", "west", {"cpu": 16, "memory": 64}, {}, "r2", {"disk": "ssd"}),
        Host("b2", "west", {"cpu": 16, "memory": 64}, {}, "r3", schedulable=False),
        Host("b3", "west", {"cpu": 4, "memory": 8}, {}, "r3"),
    )
)


def why(request: Request, snapshot: Snapshot = FLEET) -> Explanation:
    decision = place(snapshot, request)
    assert decision.status is Status.INFEASIBLE
    assert decision.proof is Proof.INFEASIBLE
    assert decision.explanation is not None
    return decision.explanation


def test_the_funnel_counts_every_host_once_under_its_first_reason() -> None:
    node = Node("n", {"cpu": 12, "memory": 40}, "east")
    row = why(Request((node,), excluded_hosts=frozenset({"b1"}))).funnels[0]
    assert row.ruled_out == (
        (Reason.UNSCHEDULABLE, 1),
        (Reason.EXCLUDED, 1),
        (Reason.ZONE, 1),
        (Reason.RESOURCE_TOTAL, 2),
    )
    assert row.resources == ((Reason.RESOURCE_TOTAL, "cpu", 2),)
    assert row.hosts == sum(hosts for _, hosts in row.ruled_out) + row.candidates


def test_the_nearest_miss_names_the_host_and_what_it_lacks() -> None:
    explanation = why(Request((Node("n", {"cpu": 4, "memory": 16}, "east"),)))
    assert explanation.nearest is not None
    assert explanation.nearest.host == "a1"
    assert explanation.nearest.shortages == (Shortage("cpu", 2),)
    assert Cure(CureKind.FREE, None, "a1", 0, (Shortage("cpu", 2),)) in explanation.cures
    assert explanation.permanent is False


def test_a_volume_shortage_says_how_much_and_how_many_fit() -> None:
    explanation = why(Request((Node("n", {"cpu": 4, "memory": 4}, count=9),)))
    assert Shortage("cpu", 6) in explanation.shortages
    assert (explanation.placeable, explanation.placeable_bound, explanation.total) == (5, 5, 9)
    assert explanation.conflict == (Family.UNSCHEDULABLE, Family.CAPACITY)
    assert Cure(CureKind.RELAX, Family.UNSCHEDULABLE) in explanation.cures
    assert Cure(CureKind.ADD_HOSTS, None, "b1", 1) in explanation.cures
    assert Cure(CureKind.SHRINK, count=5) in explanation.cures


def test_what_never_fits_is_permanent() -> None:
    assert why(Request((Node("n", {"cpu": 17}),))).permanent is True
    assert why(Request((Node("n", {"cpu": 1}, "nowhere"),))).permanent is True


def test_the_conflict_of_rules_is_minimal() -> None:
    nodes = (Node("n", {"cpu": 1}, count=3, labels={"app": "x"}),)
    rules = (AtMost(limit=1, scope=Scope.RACK), SpreadOver(scope=Scope.RACK), Together(scope=Scope.ZONE))
    explanation = why(Request(nodes, constraints=rules))
    assert explanation.conflict == (Family.AFFINITY, Family.ANTI_AFFINITY)
    assert {cure.family for cure in explanation.cures if cure.kind is CureKind.RELAX} == {
        Family.AFFINITY,
        Family.ANTI_AFFINITY,
    }


def test_members_that_stand_in_the_way_are_counted() -> None:
    hosts = tuple(replace(host, members=(Member(f"m-{host.id}", {}, {"app": "y"}),)) for host in FLEET.hosts)
    request = Request(
        (Node("n", {"cpu": 1}),), constraints=(Apart(Selector(frozenset({"n"})), Selector(labels={"app": "y"})),)
    )
    explanation = why(request, Snapshot(hosts))
    assert (Reason.ANTI_AFFINITY, 4) in explanation.funnels[0].ruled_out
    assert explanation.conflict == (Family.ANTI_AFFINITY,)
    assert explanation.permanent is False


def test_spare_hosts_and_numa_have_families_of_their_own() -> None:
    assert Family.SPARE_HOSTS in why(Request((Node("n", {"cpu": 9}),), constraints=(SpareHosts(3),))).conflict
    cells = Snapshot((Host("n", "z", {"cpu": 8}, cells=(Cell({"cpu": 4}), Cell({"cpu": 4}))),))
    explanation = why(Request((Node("n", {"cpu": 6}, cells=1),)), cells)
    assert explanation.conflict == (Family.NUMA, Family.CAPACITY)
    assert (Reason.NUMA, 1) in explanation.funnels[0].ruled_out


@pytest.mark.parametrize("seed", range(240))
def test_every_cure_that_is_named_cures(seed: int) -> None:
    snapshot, request = tiny(seed)
    decision = place(snapshot, request)
    if decision.explanation is None:
        return
    explanation = decision.explanation
    total = sum(node.count for node in request.nodes)
    assert explanation.total == total
    assert explanation.placeable is not None
    assert explanation.placeable_bound is not None
    assert 0 <= explanation.placeable <= explanation.placeable_bound <= total
    if Family.CAPACITY not in explanation.conflict:
        assert explanation.conflict
    for row in explanation.funnels:
        assert row.candidates + sum(hosts for _, hosts in row.ruled_out) == row.hosts
    for cure in explanation.cures:
        _assert_cures(snapshot, request, cure)


def _assert_cures(snapshot: Snapshot, request: Request, cure: Cure) -> None:
    policy = Policy(explain=False)
    if cure.kind is CureKind.ADD_HOSTS:
        like = next(host for host in snapshot.hosts if host.id == cure.host)
        fresh = replace(
            like, used={}, members=(), schedulable=True, cells=tuple(replace(c, used={}) for c in like.cells)
        )
        more = tuple(replace(fresh, id=f"new-{n}", rack=f"new-{n}") for n in range(cure.count))
        assert place(Snapshot(snapshot.hosts + more), request, policy).status is Status.PLACED
    elif cure.kind is CureKind.FREE:
        hosts = tuple(
            replace(h, used={k: v - {s.resource: s.missing for s in cure.amounts}.get(k, 0) for k, v in h.used.items()})
            if h.id == cure.host
            else h
            for h in snapshot.hosts
        )
        assert place(Snapshot(hosts), request, policy).status is Status.PLACED
    elif cure.kind is CureKind.WAIT:
        empty = tuple(replace(h, used={}, members=(), schedulable=True) for h in snapshot.hosts)
        without = replace(request, staying={})
        assert place(Snapshot(empty), without, policy).status is Status.PLACED
    elif cure.kind is CureKind.RELAX and cure.family is Family.ZONE:
        anywhere = replace(request, nodes=tuple(replace(node, zone=None) for node in request.nodes))
        assert place(snapshot, anywhere, policy).status is Status.PLACED
