"""Members that come on by one commit are taken in one pass, which comes out as fact after fact does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.groups import Group, GroupPhase, GroupStatus
from service.domain.staging import Staging
from service.lifecycle import transitions
from service.lifecycle.facts import Fact, HostSilent, Observation, Observed, Ticked
from service.lifecycle.members import S
from service.lifecycle.progress import progress
from service.lifecycle.transitions import advance, advance_all
from tests.support.builders import group

ON = [S.CLAIMED, S.CREATING, S.CREATED, S.BOOTING, S.RUNNING]
SEEN = [Observation.DISPATCHED, Observation.PAUSED, Observation.EXECUTING, Observation.READY]
STRANGE: list[dict[str, Any]] = [
    *[{}] * 3,
    {"leaving": True},
    {"joining": True},
    {"status": S.FAILING},
    {"stop_asked": True},
]
MIDDLE = [GroupPhase.CREATING, GroupPhase.BOOTING, GroupPhase.RUNNING]


def gang(size: int, phase: GroupPhase, status: S, *, go: bool) -> Group:
    made = group(size=size, go=go, phase=phase, status=GroupStatus.DEPLOYING, start_epoch=int(go))
    members = tuple(replace(m, status=status, host_uuid="h0", was_resumed=go) for m in made.instances)
    return replace(made, instances=members)


def each_alone(subject: Group, facts: list[Fact], now: int) -> Group:
    for left, fact in zip(reversed(range(len(facts))), facts, strict=True):
        subject = advance(subject, fact, now, more=left > 0)
    return subject


@st.composite
def commits(draw: st.DrawFn) -> tuple[Group, list[Fact]]:
    """A gang that comes up, runs, or is stranger than that, and what one commit tells of it."""
    subject = gang(draw(st.integers(2, 5)), draw(st.sampled_from(MIDDLE)), S.CLAIMED, go=draw(st.booleans()))
    spread = st.sampled_from(draw(st.lists(st.sampled_from(ON), min_size=1, max_size=2)))
    told = st.sampled_from([0, 1])
    members = [
        replace(m, status=draw(spread), told_epoch=draw(told), unknown_since=draw(told)) for m in subject.instances
    ]
    strange: dict[str, Any] = draw(st.sampled_from(STRANGE))
    subject = replace(subject, instances=(*members[:-1], replace(members[-1], **strange)), served=draw(st.booleans()))
    looks = st.builds(
        Observed,
        st.sampled_from([m.uuid for m in members]),
        st.sampled_from([members[0].attempt] * 5 + [members[0].attempt + 1]),
        st.sampled_from(SEEN * 4 + list(Observation)),
        reason=st.sampled_from(["", "", "loading"]),
        epoch=st.sampled_from([0, 1, 1, 2]),
        boot_id=st.sampled_from(["", "a", "b"]),
        silent=st.sampled_from([False, False, True]),
        detail=st.sampled_from(["", "", "", "loading"]),
        staging=st.sampled_from([None] * 6 + [Staging("weights", 1, 2)]),
    )
    facts: list[Fact] = draw(st.lists(looks, min_size=2, max_size=8))
    last = draw(st.sampled_from([None, Ticked(), HostSilent("h0")]))
    return subject, [*facts, *([last] if last is not None else [])]


@given(commits(), st.sampled_from([5, 70_000]))
@settings(max_examples=400, deadline=None)
def test_in_one_pass_or_one_by_one_the_group_is_the_same(told: tuple[Group, list[Fact]], now: int) -> None:
    subject, facts = told
    assert advance_all(subject, facts, now) == each_alone(subject, facts, now)


@pytest.mark.parametrize(
    ("phase", "status", "go", "seen", "comes_to"),
    [
        (GroupPhase.CREATING, S.CLAIMED, False, Observation.DISPATCHED, S.CREATING),
        (GroupPhase.CREATING, S.CREATING, False, Observation.PAUSED, S.CREATED),
        (GroupPhase.BOOTING, S.CREATED, True, Observation.EXECUTING, S.BOOTING),
        (GroupPhase.BOOTING, S.BOOTING, True, Observation.READY, S.RUNNING),
    ],
)
def test_a_gang_that_comes_up_takes_one_pass_for_all_of_its_members(
    phase: GroupPhase, status: S, go: bool, seen: Observation, comes_to: S
) -> None:
    subject = gang(16, phase, status, go=go)
    facts = [Observed(m.uuid, m.attempt, seen, epoch=int(go)) for m in subject.instances]
    together = progress(subject, facts, 5, transitions._seen)
    assert together is not None
    assert {m.status for m in together.instances} == {comes_to}
    looked = []

    def counting(*asked: object) -> object:
        looked.append(asked[1])
        return transitions._seen(*asked)  # type: ignore[arg-type]

    assert progress(subject, facts, 5, counting) == together  # type: ignore[arg-type]
    assert len(looked) == 16, "one look a fact, however many members there are"


def test_what_ends_anything_is_taken_fact_by_fact() -> None:
    subject = gang(3, GroupPhase.BOOTING, S.RUNNING, go=True)
    halted = [Observed(m.uuid, m.attempt, Observation.HALTED) for m in subject.instances]
    assert progress(subject, halted, 5, transitions._seen) is None
    relapsed = [Observed(m.uuid, m.attempt, Observation.PAUSED) for m in subject.instances]
    assert progress(subject, relapsed, 5, transitions._seen) is None
