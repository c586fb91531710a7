"""Laws that every decision obeys, whatever the fleet: found by hypothesis, replayed from its seed."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from placement import codec
from placement.check import check
from placement.engine import place
from placement.model import Decision, Flavour, Host, Node, Policy, Proof, Request, Snapshot, Status, Strategy
from placement.problem.gang import collapse
from placement.search.greedy import greedy
from placement.search.incumbent import objective_of
from tests.placement.brute import assert_right
from tests.placement.instances import tiny

POLICY = Policy(explain=False)
LAW = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)
SEEDS = st.integers(0, 10**6)
SIZES = ((1, 2), (2, 4), (3, 7), (4, 16), (6, 6), (8, 32), (12, 20))


def medium(seed: int, strategy: Strategy = Strategy.FEWEST_HOSTS) -> tuple[Snapshot, Request]:
    """Thirty hosts and forty nodes in odd sizes."""
    r = random.Random(seed)
    hosts = tuple(
        Host(f"h{n:02d}", "z", {"cpu": c, "memory": m}, {"cpu": r.randint(0, c // 2)}, f"r{n % 5}")
        for n in range(30)
        for c, m in [r.choice(((16, 64), (24, 48), (32, 128)))]
    )
    picked = [r.choice(SIZES) for _ in range(40)]
    nodes = tuple(Node(f"n{n}", {"cpu": c, "memory": m}) for n, (c, m) in enumerate(picked))
    return Snapshot(hosts), Request(nodes, strategy)


def text(decision: Decision) -> str:
    return codec.dumps(codec.write_decision(decision))


@LAW
@given(SEEDS, st.sampled_from(Strategy))
def test_a_decision_is_feasible_and_its_bounds_are_ordered(seed: int, strategy: Strategy) -> None:
    snapshot, request = medium(seed, strategy)
    decision = place(snapshot, request, POLICY)
    assert decision.status is Status.PLACED
    assert_right(snapshot, request, decision)
    assert decision.lower_bound is not None
    assert decision.upper_bound == decision.objective
    assert (decision.proof is Proof.OPTIMAL) == (decision.lower_bound == decision.upper_bound)


@LAW
@given(SEEDS, st.sampled_from(Strategy))
def test_a_decision_is_never_worse_than_greedy(seed: int, strategy: Strategy) -> None:
    snapshot, request = medium(seed, strategy)
    gang = collapse(snapshot, request)
    state = greedy(gang, strategy, lambda: False)
    decision = place(snapshot, request, POLICY)
    assert decision.objective is not None
    if state is not None:
        assert decision.objective <= objective_of(gang, strategy, state.assignments)


@LAW
@given(SEEDS, SEEDS, st.sampled_from(Strategy))
def test_the_order_of_hosts_and_nodes_does_not_matter(seed: int, shuffle: int, strategy: Strategy) -> None:
    snapshot, request = medium(seed, strategy)
    r = random.Random(shuffle)
    hosts, nodes = list(snapshot.hosts), list(request.nodes)
    r.shuffle(hosts)
    r.shuffle(nodes)
    before = place(snapshot, request, POLICY)
    after = place(Snapshot(tuple(hosts)), replace(request, nodes=tuple(nodes)), POLICY)
    assert (before.objective, before.lower_bound) == (after.objective, after.lower_bound)
    assert sorted({a.host for a in before.assignments}) == sorted({a.host for a in after.assignments})


@LAW
@given(SEEDS, st.sampled_from([2, 3, 1024, 1 << 30]), st.sampled_from(Strategy))
def test_the_unit_of_a_resource_does_not_matter(seed: int, factor: int, strategy: Strategy) -> None:
    snapshot, request = medium(seed, strategy)

    def scaled(amounts: dict[str, int]) -> dict[str, int]:
        return {name: amount * factor if name == "memory" else amount for name, amount in amounts.items()}

    hosts = tuple(replace(h, capacity=scaled(dict(h.capacity)), used=scaled(dict(h.used))) for h in snapshot.hosts)
    nodes = tuple(replace(node, demand=scaled(dict(node.demand))) for node in request.nodes)
    before = place(snapshot, request, POLICY)
    after = place(Snapshot(hosts), replace(request, nodes=nodes), POLICY)
    assert text(before) == text(after)


@LAW
@given(SEEDS)
def test_more_capacity_never_hurts(seed: int) -> None:
    snapshot, request = medium(seed)
    r = random.Random(seed)
    more = tuple(
        replace(host, capacity={name: amount + r.randint(0, 8) for name, amount in host.capacity.items()})
        for host in snapshot.hosts
    )
    before = place(snapshot, request, POLICY)
    after = place(Snapshot(more), request, POLICY)
    assert before.objective is not None
    assert after.status is Status.PLACED
    assert after.lower_bound is not None
    assert after.lower_bound <= before.objective


@LAW
@given(SEEDS)
def test_more_capacity_never_turns_a_placement_with_rules_infeasible(seed: int) -> None:
    snapshot, request = tiny(seed)
    if place(snapshot, request, POLICY).status is not Status.PLACED:
        return
    more = tuple(
        replace(host, capacity={name: amount + 2 for name, amount in host.capacity.items()}) for host in snapshot.hosts
    )
    assert place(Snapshot(more, snapshot.flavours), request, POLICY).status is Status.PLACED


@LAW
@given(SEEDS)
def test_the_same_question_gives_the_same_bytes(seed: int) -> None:
    first = place(*tiny(seed), Policy(seed=seed % 5))
    second = place(*tiny(seed), Policy(seed=seed % 5))
    assert text(first) == text(second)


@LAW
@given(SEEDS, st.integers(1, 1000))
def test_another_seed_changes_hosts_but_not_what_is_proven(seed: int, other: int) -> None:
    snapshot, request = medium(seed)
    one = place(snapshot, request, POLICY)
    two = place(snapshot, request, replace(POLICY, seed=other))
    assert (one.objective, one.lower_bound, one.proof) == (two.objective, two.lower_bound, two.proof)
    assert_right(snapshot, request, two)


@LAW
@given(SEEDS, st.integers(0, 400))
def test_a_stop_at_any_moment_leaves_an_honest_answer(seed: int, patience: int) -> None:
    snapshot, request = medium(seed)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > patience

    whole = place(snapshot, request, POLICY)
    cut = place(snapshot, request, POLICY, stop)
    assert check(snapshot, request, cut) == ()
    assert cut.status in (Status.PLACED, Status.UNKNOWN)
    if cut.status is Status.PLACED:
        assert cut.lower_bound is not None
        assert whole.objective is not None
        assert cut.objective is not None
        assert cut.lower_bound <= whole.objective <= cut.objective


@LAW
@given(SEEDS, st.integers(0, 29))
def test_an_updated_snapshot_decides_like_a_fresh_one(seed: int, row: int) -> None:
    snapshot, request = medium(seed)
    place(snapshot, request, POLICY)
    changed = replace(snapshot.hosts[row], used={"cpu": 1, "memory": 3}, schedulable=seed % 2 == 0)
    updated = snapshot.updated((changed,))
    fresh = Snapshot(tuple(changed if host.id == changed.id else host for host in snapshot.hosts))
    assert text(place(updated, request, POLICY)) == text(place(fresh, request, POLICY))


@pytest.mark.parametrize("seed", range(6))
def test_least_lost_value_leaves_more_room_than_fewest_hosts(seed: int) -> None:
    snapshot, request = medium(seed, Strategy.LEAST_LOST_VALUE)
    flavours = tuple(Flavour({"cpu": c, "memory": m}) for c, m in SIZES)
    snapshot = Snapshot(snapshot.hosts, flavours)
    gang = collapse(snapshot, request)
    best = place(snapshot, request, POLICY)
    packed = place(snapshot, replace(request, strategy=Strategy.FEWEST_HOSTS), POLICY)
    kind_of = {identity: number for number, kind in enumerate(gang.kinds) for identity in kind.ids()}
    landed: list[tuple[int, int, tuple[int, ...]]] = [
        (kind_of[a.node], gang.index.position[a.host], ()) for a in packed.assignments
    ]
    assert best.objective is not None
    assert best.objective <= objective_of(gang, Strategy.LEAST_LOST_VALUE, landed)
