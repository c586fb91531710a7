"""Where a request has a thousand rules, the deadline is kept whatever it falls into."""

from __future__ import annotations

import pytest

from placement.engine import place
from placement.model import Strategy
from tests.placement.hostile import near_chain
from tests.placement.test_deadlines import Deadline, decided
from tests.placement.wild import FAMILIES


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Solvers are loaded once a process, which is nobody's plan's time."""
    place(*FAMILIES["ruled"](100, Strategy.FEWEST_HOSTS, 0), stop=Deadline(0.5))


@pytest.mark.parametrize("strategy", [Strategy.LEAST_LOST_VALUE, Strategy.FEWEST_HOSTS])
@pytest.mark.parametrize("seconds", [0.4, 0.8])
def test_a_thousand_rules_are_answered_in_time(strategy: Strategy, seconds: float) -> None:
    decided(*near_chain(strategy), seconds)
