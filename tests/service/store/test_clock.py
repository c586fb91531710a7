"""The database's clock as a process has it, carried on by a monotonic one."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from service.store.clock import JUMP_MS, UNSEEN_SECONDS, StoreClock

NOW = 1_800_000_000_000
LEASE = 45_000
HOUR = 3_600_000


@dataclass
class Seconds:
    """A monotonic clock that is moved by hand."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def watched(seconds: Seconds, wall: int = NOW) -> StoreClock:
    """By a process that began more than a lease's time ago; it is NOW."""
    clock = StoreClock(LEASE, wall=lambda: wall, monotonic=seconds)
    already = LEASE // 1000 + 1
    seconds.now -= already
    assert clock.read(NOW - already * 1000, seconds.now) == 0
    go_on(clock, seconds, already)
    return clock


def go_on(clock: StoreClock, seconds: Seconds, by: float) -> None:
    """So many whole seconds, with a look at the clock in each."""
    for _ in range(int(by)):
        seconds.now += 1
        assert clock.read(clock.now(), seconds.now) == 0


def assert_no_lease_ends_for_a_leases_time(clock: StoreClock, seconds: Seconds) -> None:
    go_on(clock, seconds, LEASE / 1000 - 1)
    assert clock.leases_as_of() == 0
    assert clock.lease_time(clock.now(), seconds.now) == 0
    go_on(clock, seconds, 2)
    assert clock.leases_as_of() == clock.now()
    assert clock.lease_time(clock.now(), seconds.now) == clock.now()


def test_it_goes_on_between_two_looks_whatever_the_own_clock_says() -> None:
    seconds = Seconds()
    clock = watched(seconds, wall=NOW + HOUR)
    seconds.now += 7.5
    assert clock.now() == NOW + 7_500
    assert clock.differs_by() == HOUR - 7_500
    assert StoreClock(LEASE, wall=lambda: 5, monotonic=seconds).now() == 5


@pytest.mark.parametrize("late", [0.0, 12.0])
@pytest.mark.parametrize(("set_by", "told"), [(0, 0), (JUMP_MS - 1, 0), (HOUR, HOUR), (-HOUR, -HOUR)])
def test_a_clock_that_was_set_is_told_from_one_that_went_on_and_from_a_slow_answer(
    late: float, set_by: int, told: int
) -> None:
    seconds = Seconds()
    clock = watched(seconds)
    seconds.now += 10
    asked_at = seconds.now
    seconds.now += late
    read = NOW + 10_000 + set_by
    assert abs(clock.read(read, asked_at) - told) <= late * 1000


def test_for_a_leases_time_after_a_leap_leases_are_judged_without_it() -> None:
    seconds = Seconds()
    clock = watched(seconds)
    seconds.now += 1
    leapt = NOW + 1_000 + HOUR
    assert clock.lease_time(leapt, seconds.now) == NOW + 1_000
    assert clock.read(leapt, seconds.now) == HOUR
    go_on(clock, seconds, LEASE / 1000 - 1)
    assert clock.leases_as_of() == clock.now() - HOUR
    assert clock.lease_time(clock.now(), seconds.now) == clock.now() - HOUR
    go_on(clock, seconds, 2)
    assert clock.leases_as_of() == clock.now()
    assert clock.lease_time(clock.now(), seconds.now) == clock.now()


def test_for_a_leases_time_after_a_process_began_no_lease_has_ended() -> None:
    """The clock may have leapt ahead just before, and its owner, who lives, may not have heard of that yet."""
    seconds = Seconds()
    clock = StoreClock(LEASE, wall=lambda: NOW, monotonic=seconds)
    assert clock.lease_time(NOW, seconds.now) == 0
    assert clock.read(NOW, seconds.now) == 0
    assert_no_lease_ends_for_a_leases_time(clock, seconds)


def test_leaps_within_a_leases_time_count_together() -> None:
    seconds = Seconds()
    clock = watched(seconds)
    clock.read(NOW + HOUR, seconds.now)
    clock.read(NOW + 3 * HOUR, seconds.now)
    assert clock.leases_as_of() == NOW
    assert clock.lease_time(NOW + 3 * HOUR, seconds.now) == NOW


def test_for_a_leases_time_after_it_was_set_back_no_lease_has_ended() -> None:
    """Another may have taken one while the clock was further back than anybody here saw."""
    seconds = Seconds()
    clock = watched(seconds)
    clock.read(NOW + HOUR, seconds.now)
    assert clock.lease_time(NOW, seconds.now) == 0
    assert clock.read(NOW, seconds.now) == -HOUR
    assert_no_lease_ends_for_a_leases_time(clock, seconds)


@pytest.mark.parametrize(("unseen", "free"), [(UNSEEN_SECONDS, True), (UNSEEN_SECONDS + 1, False)])
def test_after_a_time_in_which_nobody_looked_no_lease_has_ended_for_a_leases_time(unseen: float, free: bool) -> None:
    """It may have been set back meanwhile and set right again: who worked then wrote leases that seem long over."""
    seconds = Seconds()
    clock = watched(seconds)
    go_on(clock, seconds, 60)
    seconds.now += unseen
    assert clock.leases_as_of() == (clock.now() if free else 0)
    assert clock.lease_time(clock.now(), seconds.now) == (clock.now() if free else 0)
    assert clock.read(clock.now(), seconds.now) == 0
    assert clock.leases_as_of() == (clock.now() if free else 0)
    go_on(clock, seconds, LEASE / 1000 - 1)
    assert clock.leases_as_of() == (clock.now() if free else 0)
    go_on(clock, seconds, 2)
    assert clock.leases_as_of() == clock.now()
