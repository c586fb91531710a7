"""A member that its hypervisor pauses in the middle of its work: counted, let run again after a growing pause, told."""

from __future__ import annotations

from dataclasses import replace

from service.domain.groups import Group, GroupPhase, GroupStatus, InstanceStatus
from service.lifecycle.effects import Observe, Resume, effects, next_deadline
from service.lifecycle.facts import Observation, Observed, Ticked
from service.lifecycle.members import PAUSE_MOST_MS, PAUSES_FORGOTTEN_MS, runs_from
from service.lifecycle.transitions import advance
from tests.support.builders import group

S = InstanceStatus


def running(boot_timeout_ms: int = 300_000) -> Group:
    """A group of one that runs."""
    made = group(1)
    member = replace(made.instances[0], status=S.RUNNING, host_uuid="h", boot_timeout_ms=boot_timeout_ms)
    return replace(
        made, phase=GroupPhase.RUNNING, status=GroupStatus.RUNNING, go=True, served=True, start_epoch=1,
        instances=(member,),
    )  # fmt: skip


def saw(state: Group, observation: Observation, now: int, reason: str = "") -> Group:
    (member,) = state.instances
    return advance(state, Observed(member.uuid, member.attempt, observation, reason), now)


def wants(state: Group, now: int) -> type:
    (effect,) = effects(state, now)
    return type(effect)


def test_the_pause_before_it_runs_again_grows_and_ends_growing() -> None:
    state, now, waited = running(1 << 40), 1_000_000, []
    for _ in range(12):
        state = saw(state, Observation.PAUSED, now, "no space is left for its disk")
        (member,) = state.instances
        waited.append(runs_from(member) - now)
        if waited[-1]:
            assert wants(state, runs_from(member) - 1) is Observe
        now = runs_from(member)
        assert wants(state, now) is Resume
        state = saw(state, Observation.EXECUTING, now)
    assert waited == [0, 1000, 2000, 4000, 8000, 16_000, 32_000, *[PAUSE_MOST_MS] * 5]
    assert state.instances[0].pauses == 12


def test_what_stops_again_before_it_is_looked_at_counts_as_well() -> None:
    state = saw(running(), Observation.PAUSED, 1000, "no space is left for its disk")
    for count in (2, 3):
        state = saw(state, Observation.RELAPSED, 1000 + count, "no space is left for its disk")
        assert state.instances[0].pauses == count
        assert wants(state, 1000 + count) is Observe


def test_the_reason_and_the_count_are_told_until_it_is_ready_again() -> None:
    state = saw(running(), Observation.PAUSED, 1000, "no space is left for its disk")
    assert state.status is GroupStatus.DEGRADED
    assert state.instances[0].reason == "its hypervisor paused it: no space is left for its disk"
    state = saw(saw(state, Observation.EXECUTING, 1001), Observation.PAUSED, 1002, "no space is left for its disk")
    assert state.instances[0].reason == "its hypervisor paused it (2 times): no space is left for its disk"
    state = saw(state, Observation.EXECUTING, 3000)
    assert "2 times" in state.instances[0].reason
    state = saw(state, Observation.READY, 3001)
    assert (state.instances[0].reason, state.status) == ("", GroupStatus.RUNNING)


def test_a_pause_without_a_word_is_told_as_one() -> None:
    state = saw(running(), Observation.PAUSED, 1000)
    assert state.instances[0].reason == "its hypervisor paused it: it does not say why"


def test_what_ran_for_long_begins_to_count_anew() -> None:
    state = running()
    for now in (1000, 1001, 1002):
        state = saw(saw(state, Observation.PAUSED, now), Observation.READY, now)
    assert state.instances[0].pauses == 3
    state = saw(state, Observation.PAUSED, 1002 + PAUSES_FORGOTTEN_MS)
    assert state.instances[0].pauses == 1


def test_what_does_not_come_back_in_its_boots_time_has_failed_with_that_reason() -> None:
    state = saw(running(10_000), Observation.PAUSED, 1000, "its disk had an input or output error")
    for now in (1001, 4000, 8000):
        state = saw(
            saw(state, Observation.EXECUTING, now), Observation.PAUSED, now, "its disk had an input or output error"
        )
    assert next_deadline(state) == 11_000, "each resume does not begin the time anew"
    assert advance(state, Ticked(), 10_999) == state
    (failed,) = advance(state, Ticked(), 11_000).instances
    assert failed.status in (S.FAILING, S.CREATING, S.CLAIMED)
    assert "not ready within 10 s of its start: its hypervisor paused it (4 times)" in failed.reason


def test_of_a_host_that_is_silent_nothing_is_judged() -> None:
    state = saw(running(10_000), Observation.PAUSED, 1000)
    state = replace(state, instances=(replace(state.instances[0], unknown_since=2000),))
    assert next_deadline(state) == 0
    assert advance(state, Ticked(), 50_000).instances[0].status is S.CREATED
