"""The buckets of the rate limits, by a clock that the test moves."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.app.rates import RateLimits
from service.domain.tenants import Caller, Rate
from service.errors import RateLimited

RED, BLUE = Caller("ann", "red", "operator"), Caller("bob", "blue", "operator")


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def admitted(limits: RateLimits, caller: Caller, calls: int) -> int:
    """How many of `calls` calls are let in."""
    count = 0
    for _ in range(calls):
        try:
            limits.admit(caller)
        except RateLimited:
            continue
        count += 1
    return count


def test_a_burst_is_let_in_and_then_the_steady_rate() -> None:
    clock = Clock()
    limits = RateLimits(Rate(2, 5), {}, clock)
    assert admitted(limits, RED, 10) == 5
    clock.seconds += 1
    assert admitted(limits, RED, 10) == 2
    clock.seconds += 3600
    assert admitted(limits, RED, 10) == 5, "what was not used for an hour is not saved up beyond the burst"


def test_a_refusal_says_how_long_until_the_next_call_is_let_in() -> None:
    clock = Clock()
    limits = RateLimits(Rate(0.5, 1), {}, clock)
    limits.admit(RED)
    clock.seconds += 0.5
    with pytest.raises(RateLimited) as refused:
        limits.admit(RED)
    assert refused.value.retry_after_ms == 1500
    clock.seconds += 1.5
    limits.admit(RED)


def test_a_project_has_its_own_bucket_and_its_own_rate_before_the_one_of_all() -> None:
    told: Counter[str] = Counter()
    limits = RateLimits(Rate(1, 3), {"blue": Rate(1, 1)}, Clock(), lambda project: told.update([project]))
    assert admitted(limits, RED, 10) == 3
    assert admitted(limits, BLUE, 10) == 1
    assert told == {"red": 7, "blue": 9}


def test_all_callers_of_a_project_share_its_bucket() -> None:
    limits = RateLimits(Rate(1, 3), {}, Clock())
    assert admitted(limits, RED, 2) + admitted(limits, Caller("eve", "red", "viewer"), 2) == 3


def test_without_a_rate_nothing_is_refused() -> None:
    limits = RateLimits(None, {"blue": Rate(1, 1)}, Clock())
    assert admitted(limits, RED, 1000) == 1000


@given(
    rate=st.floats(0.1, 100),
    burst=st.integers(1, 50),
    pauses=st.lists(st.floats(0, 2), min_size=1, max_size=100),
)
def test_over_any_time_no_more_than_the_burst_and_the_rate_are_let_in(
    rate: float, burst: int, pauses: list[float]
) -> None:
    clock = Clock()
    limits = RateLimits(Rate(rate, burst), {}, clock)
    begin, count = clock.seconds, 0
    for pause in pauses:
        clock.seconds += pause
        count += admitted(limits, RED, 1)
        assert count <= burst + rate * (clock.seconds - begin) + 1e-6
