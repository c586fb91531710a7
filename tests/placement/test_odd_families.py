"""What holds on every family holds where everything speaks against itself as well."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.placement import test_families
from tests.placement.exact.test_exactness import by_brute, compare
from tests.placement.families import FAMILIES
from tests.placement.odd_families import ODD_FAMILIES

SEEDS = 15


@pytest.mark.parametrize("family", ODD_FAMILIES)
@pytest.mark.parametrize(
    "law",
    [test_families.optimum, test_families.most, test_families.explained],
    ids=["optimum", "most", "explained"],
)
def test_the_laws_of_families_hold(
    law: Callable[[str, int], None], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, family, ODD_FAMILIES[family])
    monkeypatch.setattr(test_families, "SEEDS", SEEDS)
    law(family, 0)


def test_a_room_of_more_than_a_thousand_units_has_its_optimum() -> None:
    compare(*ODD_FAMILIES["odd_amounts"](1796067214529), by_brute)
