"""No time of a group lies further ahead than its kind is ever set: whatever the clock was, nothing sleeps for it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from service.domain.groups import Group, GroupPhase, InstanceStatus, RoomWish
from service.lifecycle.effects import next_deadline
from service.lifecycle.facts import Ticked
from service.lifecycle.moving import longest_move
from service.lifecycle.present import SLACK_MS, held_to_present
from service.lifecycle.room import ASK_MOST_MS
from service.lifecycle.settling import RETRY_MOST_MS
from service.lifecycle.transitions import advance
from tests.support.builders import group

NOW = 1_800_000_000_000
HOUR = 3_600_000
times = st.sampled_from([0, NOW - HOUR, NOW, NOW + 10_000, NOW + HOUR, NOW + 100 * HOUR])


@st.composite
def groups(draw: st.DrawFn) -> Group:
    made = group(2, phase=draw(st.sampled_from(GroupPhase)))
    members = tuple(
        replace(
            m,
            status=draw(st.sampled_from(InstanceStatus)),
            deadline_at=draw(times),
            unknown_since=draw(times),
            move_deadline_at=draw(times),
            paused_at=draw(times),
            moved_at=draw(times),
            boot_timeout_ms=30_000,
        )
        for m in made.instances
    )
    return replace(
        made,
        instances=members,
        retry_at=draw(times),
        running_since=draw(times),
        deadline_at=draw(times),
        room=draw(st.sampled_from([None, RoomWish(asks_again_at=draw(times))])),
        spec=replace(made.spec, deadline_ms=draw(st.sampled_from([0, 60_000]))),
    )


@given(groups())
def test_held_to_the_present_nothing_is_waited_for_longer_than_ever(stored: Group) -> None:
    held = held_to_present(stored, NOW)
    assert held_to_present(held, NOW) is held
    assert held.retry_at <= NOW + RETRY_MOST_MS + SLACK_MS
    assert held.running_since <= NOW + SLACK_MS
    assert held.deadline_at <= NOW + held.spec.deadline_ms + SLACK_MS
    assert held.room is None or held.room.asks_again_at <= NOW + ASK_MOST_MS + SLACK_MS
    for before, member in zip(stored.instances, held.instances, strict=True):
        assert member.deadline_at <= NOW + max(member.boot_timeout_ms, member.stop_grace_ms) + SLACK_MS
        assert max(member.unknown_since, member.paused_at, member.moved_at) <= NOW + SLACK_MS
        assert member.move_deadline_at <= NOW + longest_move(member) + SLACK_MS
        for name in ("deadline_at", "unknown_since", "paused_at", "moved_at", "move_deadline_at"):
            assert getattr(member, name) <= getattr(before, name)
            assert bool(getattr(member, name)) == bool(getattr(before, name))


def test_a_group_whose_pause_was_stored_under_a_clock_that_was_ahead_goes_on() -> None:
    waiting = replace(group(1, phase=GroupPhase.PLANNING), retry_at=NOW + HOUR)
    assert next_deadline(waiting) == NOW + HOUR
    now_on = advance(waiting, Ticked(), NOW)
    assert next_deadline(now_on) == NOW + RETRY_MOST_MS
    assert advance(now_on, Ticked(), NOW + RETRY_MOST_MS).retry_at == 0


def test_what_can_be_is_left_as_it_is() -> None:
    stored = replace(group(1), retry_at=NOW + RETRY_MOST_MS + SLACK_MS)
    assert held_to_present(stored, NOW) is stored
