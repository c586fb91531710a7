"""What holds on every family: the optimum, the most that fits, and that each cure cures, each conflict conflicts."""

from __future__ import annotations

import pytest

from placement.engine import place
from placement.model import CureKind, Policy, Proof, Status
from placement.reasons import Family
from tests.placement.brute import assert_right
from tests.placement.exact.test_exactness import by_brute, compare
from tests.placement.families import FAMILIES, Case, cured, fits, most_that_fit, relaxed

SEEDS = 40


def cases(family: str, block: int) -> list[Case]:
    return [FAMILIES[family](seed) for seed in range(block * SEEDS, (block + 1) * SEEDS)]


every_family = pytest.mark.parametrize("family", FAMILIES)
blocks = pytest.mark.parametrize("block", range(2))
many_blocks = pytest.mark.parametrize("block", range(2, 60))


def optimum(family: str, block: int) -> None:
    for case in cases(family, block):
        compare(*case, by_brute)


def most(family: str, block: int) -> None:
    for snapshot, request in cases(family, block):
        decision = place(snapshot, request, Policy(max_placed=True))
        assert_right(snapshot, request, decision)
        truth = most_that_fit((snapshot, request))
        if truth is None:
            assert decision.status is Status.INFEASIBLE
            continue
        assert decision.status is Status.PLACED
        assert decision.objective == truth
        assert decision.upper_bound == truth or decision.proof is Proof.GAP
        assert (decision.upper_bound or 0) >= truth


def explained(family: str, block: int) -> None:
    for case in cases(family, block):
        snapshot, request = case
        explanation = place(snapshot, request).explanation
        if explanation is None:
            continue
        truth = most_that_fit(case) or 0
        assert explanation.placeable is not None
        assert explanation.placeable_bound is not None
        assert explanation.placeable <= truth <= explanation.placeable_bound
        assert explanation.conflict, "a small case is proven, so something conflicts"
        assert not fits(relaxed(case, set(Family) - set(explanation.conflict))), "what conflicts cannot hold together"
        for family_kept in explanation.conflict if len(explanation.conflict) > 1 else ():
            rest = set(Family) - set(explanation.conflict) | {family_kept}
            assert fits(relaxed(case, rest)), "each is needed for the conflict"
        for cure in explanation.cures:
            if cure.kind is CureKind.SHRINK:
                assert 0 < cure.count <= truth
            else:
                assert fits(cured(case, cure)), cure
            if cure.kind is CureKind.ADD_HOSTS and cure.count > 1:
                fewer = type(cure)(cure.kind, None, cure.host, cure.count - 1)
                assert not fits(cured(case, fewer)), "no fewer hosts do"
        assert any(host.members or any(host.used.values()) for host in snapshot.hosts) or all(
            cure.kind is not CureKind.WAIT for cure in explanation.cures
        )


@every_family
@blocks
def test_the_optimum_is_found_and_bounded(family: str, block: int) -> None:
    optimum(family, block)


@every_family
@blocks
def test_as_many_as_fit_are_placed(family: str, block: int) -> None:
    most(family, block)


@every_family
@blocks
def test_every_cure_cures_and_every_conflict_conflicts(family: str, block: int) -> None:
    explained(family, block)


@pytest.mark.slow
@every_family
@many_blocks
def test_thousands_more_of_each_family(family: str, block: int) -> None:
    optimum(family, block)
    most(family, block)
    explained(family, block)
