"""How fast something arrives, and how long the rest takes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.pace import WINDOW_SECONDS, Pace


def test_what_came_of_late_decides() -> None:
    pace = Pace(2000).at(0.0, 0).at(1.0, 1000)
    assert (pace.rate(1.0), pace.remaining_ms(1.0)) == (1000, 1000)
    for second in range(2, 30):
        pace = pace.at(float(second), 1000 + second)
    assert pace.rate(29.0) == 1
    assert pace.remaining_ms(29.0) == 971_000


def test_nobody_can_say_before_anything_came_and_nothing_remains_at_the_end() -> None:
    assert (Pace(10).rate(5.0), Pace(10).remaining_ms(5.0)) == (0, None)
    assert Pace(10).at(0.0, 5).at(100.0, 5).remaining_ms(100.0) is None
    assert Pace(10).at(0.0, 10).remaining_ms(0.0) == 0
    assert Pace(10).at(0.0, 0).at(5e-324, 1).remaining_ms(5e-324) is None, "two moments that are as good as one"
    assert Pace(10).at(0.0, 9).at(1.0, 2).rate(1.0) == 0, "it began anew"


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 1 << 40)), max_size=50))
def test_it_remembers_little_and_is_never_negative(steps: list[tuple[float, int]]) -> None:
    pace, now, done = Pace(1 << 45), 0.0, 0
    for apart, count in steps:
        now, done = now + apart, done + count
        pace = pace.at(now, done)
        assert len(pace.points) <= 2 * WINDOW_SECONDS + 3
        assert pace.rate(now) >= 0
        left = pace.remaining_ms(now)
        assert left is None or left >= 0
