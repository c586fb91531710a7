"""The planner against an exhaustive search and a naive CP-SAT model: thousands of tiny fleets with every rule, wish
and strategy."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from placement.engine import place
from placement.model import Policy, Proof, Request, Snapshot, Status, Strategy
from placement.problem.gang import collapse
from placement.problem.scoring import room_value
from tests.placement.brute import Brute, assert_right
from tests.placement.instances import tiny
from tests.placement.naive import Naive

POLICY = Policy(explain=False)
BLOCK = 100
Truth = Callable[[Snapshot, Request], tuple[int, int] | None]


def by_brute(snapshot: Snapshot, request: Request) -> tuple[int, int] | None:
    """The least (penalty, objective) by enumeration."""
    return Brute(snapshot, request).best(room_value(collapse(snapshot, request)))


def by_naive_model(snapshot: Snapshot, request: Request) -> tuple[int, int] | None:
    """The same by the textbook CP-SAT model."""
    return Naive(snapshot, request, room_value(collapse(snapshot, request))).best()


def compare(snapshot: Snapshot, request: Request, truth: Truth) -> tuple[Status, bool]:
    """Asserts that the decision agrees with an exact method; (status, whether it is proven optimal)."""
    decision = place(snapshot, request, POLICY)
    if decision.status is not Status.INFEASIBLE:
        assert_right(snapshot, request, decision)
    best = truth(snapshot, request)
    if best is None:
        assert decision.status is Status.INFEASIBLE
        return decision.status, True
    assert decision.status is Status.PLACED
    assert decision.objective is not None
    assert decision.lower_bound is not None
    assert (decision.penalty, decision.objective) >= best
    assert decision.penalty_bound <= best[0]
    if decision.penalty == best[0]:
        assert decision.lower_bound <= best[1] <= decision.objective
    if decision.proof is Proof.OPTIMAL:
        assert (decision.penalty, decision.objective) == best
    return decision.status, decision.proof is Proof.OPTIMAL


def run(block: int, rules: bool, numa: bool, truth: Truth = by_brute, few: bool = False) -> None:
    seeds = range(block * BLOCK, (block + 1) * BLOCK)
    outcomes = [compare(*tiny(seed, rules, numa, few=few), truth) for seed in seeds]
    assert sum(status is Status.PLACED for status, _ in outcomes) >= BLOCK // 10, "too few could be placed"
    assert sum(proven for _, proven in outcomes) >= BLOCK * 97 // 100, "too few are proven"


@pytest.mark.parametrize("block", range(10))
def test_without_rules_the_optimum_is_found_and_bounded(block: int) -> None:
    run(block, rules=False, numa=False)


@pytest.mark.parametrize("block", range(12))
def test_with_every_rule_the_optimum_is_found_and_bounded(block: int) -> None:
    run(block, rules=True, numa=False)


@pytest.mark.parametrize("block", range(6))
def test_with_numa_cells_the_optimum_is_found_and_bounded(block: int) -> None:
    run(block, rules=True, numa=True)


@pytest.mark.parametrize("block", range(3))
def test_in_few_domains_the_optimum_is_found_and_bounded(block: int) -> None:
    run(block, rules=True, numa=block == 2, few=True)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(3, 23))
def test_thousands_more_in_few_domains_agree(block: int) -> None:
    run(block, rules=True, numa=block % 4 == 0, truth=by_naive_model if block % 2 else by_brute, few=True)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(28, 128))
def test_thousands_more_instances_agree(block: int) -> None:
    run(block, rules=block % 4 > 0, numa=block % 4 == 3)


@pytest.mark.parametrize("block", range(1000, 1004))
def test_the_naive_model_agrees_with_every_rule_and_numa_cells(block: int) -> None:
    run(block, rules=True, numa=block % 2 == 1, truth=by_naive_model)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(1004, 1030))
def test_the_naive_model_agrees_on_thousands_more(block: int) -> None:
    run(block, rules=block % 4 > 0, numa=block % 4 == 3, truth=by_naive_model)


@pytest.mark.parametrize("seed", range(2000, 2050))
def test_the_two_exact_methods_agree(seed: int) -> None:
    case = tiny(seed, numa=seed % 3 == 0)
    assert by_brute(*case) == by_naive_model(*case)


@pytest.mark.parametrize("block", range(4))
def test_the_most_that_can_be_placed_is_bounded_and_reached(block: int) -> None:
    proven = 0
    for seed in range(block * 50, (block + 1) * 50):
        snapshot, request = tiny(seed, rules=False)
        decision = place(snapshot, request, Policy(max_placed=True))
        assert_right(snapshot, request, decision)
        most = most_placeable(snapshot, request)
        assert decision.objective is not None
        assert decision.objective <= most <= (decision.upper_bound or 0)
        proven += decision.objective == most
    assert proven >= 45


def most_placeable(snapshot: Snapshot, request: Request) -> int:
    """How many of the nodes fit, by trying every sub-multiset of them."""
    wanted = [node.count for node in request.nodes]
    best = 0

    def grow(index: int, kept: list[int]) -> None:
        nonlocal best
        if sum(kept) + sum(wanted[index:]) <= best:
            return
        if index == len(wanted):
            nodes = tuple(
                type(node)(
                    node.id, node.demand, node.zone, count, node.labels, node.host_labels, node.exclusive, node.cells
                )
                for node, count in zip(request.nodes, kept, strict=True)
                if count
            )
            some = Request(nodes, Strategy.FEWEST_HOSTS, (), request.excluded_hosts, request.staying) if nodes else None
            if some is not None and next(iter(Brute(snapshot, some).placements()), None) is not None:
                best = sum(kept)
            return
        for count in range(wanted[index], -1, -1):
            grow(index + 1, [*kept, count])

    grow(0, [])
    return best
