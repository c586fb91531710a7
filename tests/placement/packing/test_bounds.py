"""The volume bound is the same however it is shared out, and a stop leaves a bound that holds."""

from __future__ import annotations

import pytest

from placement.model import Strategy
from placement.packing import bounds
from placement.packing.instance import Packing
from placement.problem.feasibility import fits_nowhere
from placement.problem.gang import collapse
from placement.search.reduce import reduce
from tests.placement.wild import models, ten_resources


def packing(seed: int) -> Packing:
    return reduce(collapse(*ten_resources(300, Strategy.FEWEST_HOSTS, seed))).packing


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_is_the_same_in_one_piece_and_in_many(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bound, weights = bounds.volume(packing(seed))
    assert bound > 1
    monkeypatch.setattr(bounds, "AT_ONCE", 1)
    again, same = bounds.volume(packing(seed))
    assert (again, same.tolist()) == (bound, weights.tolist())


def test_a_stop_leaves_a_bound_that_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "AT_ONCE", 1)
    whole, _ = bounds.volume(packing(0))
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return True

    bound, weights = bounds.volume(packing(0), stop)
    assert 1 <= asked <= 2
    assert 1 <= bound <= whole
    assert weights.any()


def test_what_fits_nowhere_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    gang = collapse(*models(60, Strategy.FEWEST_HOSTS, 1))
    stuck = fits_nowhere(gang)
    assert stuck is not None
    assert gang.kinds[stuck].sample.id == "stuck"
    monkeypatch.setattr("placement.problem.feasibility._fits_nowhere", lambda _: pytest.fail("looked for again"))
    assert fits_nowhere(gang) == stuck
