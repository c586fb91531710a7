"""Where everything is asked at once of a large fleet, the deadline is kept, and what is answered is right."""

from __future__ import annotations

import pytest

from placement.engine import place
from placement.model import Status, Strategy
from placement.problem.index import index_of
from tests.placement.test_deadlines import Deadline, decided
from tests.placement.wild import FAMILIES, Build, all_differ, everything, sockets, ten_resources


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Solvers are loaded once a process, which is nobody's plan's time."""
    place(*all_differ(20, Strategy.CLOSE, 0), stop=Deadline(1.0))
    place(*FAMILIES["ruled"](100, Strategy.FEWEST_HOSTS, 0), stop=Deadline(0.5))


@pytest.mark.parametrize("strategy", [Strategy.LEAST_LOST_VALUE, Strategy.SPREAD])
def test_a_thousand_hosts_are_answered_in_time(strategy: Strategy) -> None:
    snapshot, request = everything(1000, strategy, 1)
    index_of(snapshot).parts()
    # Where so much speaks against each other no answer may be there by then; a wrong one may not come.
    assert decided(snapshot, request, 0.4).status in (Status.PLACED, Status.UNKNOWN)


def test_four_hundred_hosts_are_answered_with_a_placement() -> None:
    snapshot, request = everything(400, Strategy.LEAST_LOST_VALUE, 1)
    index_of(snapshot).parts()
    assert decided(snapshot, request, 4.0).status is Status.PLACED


@pytest.mark.parametrize("strategy", [Strategy.LEAST_LOST_VALUE, Strategy.FEWEST_HOSTS])
@pytest.mark.parametrize("size", [1000, 10_000])
def test_where_all_hosts_differ_the_bound_is_within_two_percent(size: int, strategy: Strategy) -> None:
    for seed in range(2):
        decision = decided(*all_differ(size, strategy, seed), 2.0)
        assert decision.gap is not None
        assert decision.gap <= 0.02


@pytest.mark.parametrize(
    ("build", "strategy"),
    [
        (everything, Strategy.LEAST_LOST_VALUE),
        (everything, Strategy.CLOSE),
        (sockets, Strategy.FEWEST_HOSTS),
        (ten_resources, Strategy.SPREAD),
    ],
)
@pytest.mark.parametrize("seconds", [0.05, 0.2])
def test_little_time_for_ten_thousand_hosts_is_kept_as_well(build: Build, strategy: Strategy, seconds: float) -> None:
    snapshot, request = build(10_000, strategy, 1)
    index_of(snapshot).parts()
    index_of(snapshot).table()
    assert decided(snapshot, request, seconds).status in (Status.PLACED, Status.UNKNOWN)
