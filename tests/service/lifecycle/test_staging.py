"""What members and groups are while images are on their way to hosts."""

from __future__ import annotations

from dataclasses import replace

from service.domain.groups import Group, GroupPhase, InstanceStatus
from service.domain.staging import Staging
from service.lifecycle.facts import DeleteRequested, Fact, Observation, Observed, Staged, Ticked
from service.lifecycle.present import carried_on
from service.lifecycle.transitions import advance
from tests.service.lifecycle.test_transitions import placed, tell_all
from tests.support.builders import group

DEADLINE = 10_000


def creating() -> Group:
    """Two members that are being created, of a group with ten seconds."""
    fresh = replace(group(2), deadline_at=DEADLINE)
    seated = tell_all(advance(fresh, placed(fresh), 1), Observation.DISPATCHED)
    assert seated.phase is GroupPhase.CREATING
    return seated


def far(subject: Group, rank: int, done: int) -> Fact:
    member = subject.instances[rank]
    return Staged(member.uuid, member.attempt, Staging("model", done, 1000, 50))


def test_the_members_reason_says_how_far_it_is_and_goes_once_it_is_there() -> None:
    subject = creating()
    subject = advance(subject, far(subject, 0, 500), 1_000)
    member = subject.instances[0]
    assert member.reason == "its image model is being brought to its host: 500 B of 1000 B, 50 B/s, 10 s left"
    assert member.staging == Staging("model", 500, 1000, 50, at=1_000)
    subject = advance(subject, Observed(member.uuid, member.attempt, Observation.PAUSED), 2_000)
    assert (subject.instances[0].staging, subject.instances[0].reason) == (None, "")


def test_the_time_of_an_image_on_its_way_is_none_of_the_groups_and_counts_once_for_all_members() -> None:
    subject = creating()
    for now in range(1_000, 101_000, 5_000):
        for rank in (0, 1):
            subject = advance(subject, far(subject, rank, now // 1000), now + rank)
        subject = advance(subject, Ticked(), now + 4_999)
        assert subject.phase is GroupPhase.CREATING, now
    assert subject.deadline_at == DEADLINE + 95_001
    # From the last news on it runs.
    assert advance(subject, Ticked(), subject.deadline_at).phase is GroupPhase.CLEANING


def test_news_of_an_attempt_that_is_over_or_of_a_machine_that_is_there_change_nothing() -> None:
    subject = creating()
    late = far(subject, 0, 500)
    gone = replace(subject.instances[0], attempt=2)
    again = replace(subject, instances=(gone, subject.instances[1]))
    assert advance(again, late, 1_000) == again
    there = tell_all(subject, Observation.PAUSED)
    assert advance(there, late, 1_000) == there


def test_a_delete_ends_it_and_a_leap_of_the_clock_puts_nothing_on() -> None:
    subject = creating()
    subject = advance(subject, far(subject, 0, 500), 1_000)
    deleted = advance(subject, DeleteRequested(), 2_000)
    assert deleted.instances[0].status is InstanceStatus.REMOVING
    assert deleted.instances[0].staging is None
    leapt = carried_on(subject, 1_000_000)
    after = advance(leapt, far(leapt, 0, 600), 1_002_000)
    assert after.deadline_at == leapt.deadline_at + 1_000
