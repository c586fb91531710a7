"""What members and groups are while images are on their way to hosts."""

from __future__ import annotations

from dataclasses import replace

from service.domain.groups import Group, GroupPhase, InstanceStatus
from service.domain.staging import WEIGHTS_MISMATCH, Staging
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


def booting() -> Group:
    """Two members that were let run, with ten seconds, of a group with ten seconds."""
    made = tell_all(creating(), Observation.PAUSED)
    members = tuple(replace(m, boot_timeout_ms=10_000) for m in made.instances)
    up = tell_all(replace(made, instances=members, deadline_at=DEADLINE), Observation.EXECUTING)
    assert {m.status for m in up.instances} == {InstanceStatus.BOOTING}
    return up


def fetches(subject: Group, rank: int, done: int, total: int = 1000) -> Fact:
    member = subject.instances[rank]
    weights = Staging("", done, total, 50)
    return Observed(member.uuid, member.attempt, Observation.EXECUTING, staging=weights)


def test_a_member_says_how_far_its_weights_have_come_until_they_are_there() -> None:
    subject = advance(booting(), fetches(booting(), 0, 500), 1_000)
    member = subject.instances[0]
    assert member.reason == "its weights are being brought to it: 500 B of 1000 B, 50 B/s, 10 s left"
    assert member.staging == Staging("", 500, 1000, 50, at=1_000)
    unsized = advance(subject, fetches(subject, 0, 600, 0), 1_000).instances[0]
    assert unsized.reason == "its weights are being brought to it: 600 B"
    subject = advance(subject, Observed(member.uuid, member.attempt, Observation.EXECUTING), 2_000)
    assert (subject.instances[0].staging, subject.instances[0].reason) == (None, "")


def test_while_the_weights_of_one_come_no_members_time_to_boot_runs_and_where_none_come_it_does() -> None:
    subject = booting()
    for now in range(1_000, 101_000, 5_000):
        subject = advance(subject, fetches(subject, 0, now), now)
        subject = advance(subject, Ticked(), now + 4_999)
        assert subject.phase is GroupPhase.BOOTING, now
        assert {m.status for m in subject.instances} == {InstanceStatus.BOOTING}
    for now in range(101_000, 121_000, 5_000):
        subject = advance(subject, fetches(subject, 0, 96_000), now)
        subject = advance(subject, Ticked(), now)
    assert subject.phase is GroupPhase.CLEANING, "it stands still"


def test_weights_with_another_digest_end_the_group_at_once_by_a_word_for_machines() -> None:
    subject = booting()
    member = subject.instances[1]
    fact = Observed(member.uuid, member.attempt, Observation.GIVEN_UP, "they differ", fault=WEIGHTS_MISMATCH)
    over = advance(subject, fact, 1_000)
    assert over.phase is GroupPhase.CLEANING
    assert over.failure is not None
    assert (over.failure.code, over.failure.message) == (
        WEIGHTS_MISMATCH,
        f"member {member.spec.name} (rank 1): they differ",
    )
    serving = advance(replace(subject, served=True), fact, 1_000)
    assert serving.phase is not GroupPhase.CLEANING, "what has served is not given up for one member"
    assert serving.instances[1].status is InstanceStatus.FAILING
    older = replace(fact, attempt=9)
    assert advance(subject, older, 1_000) == subject
