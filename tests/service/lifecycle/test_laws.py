"""Laws of the lifecycle: what holds in every history of facts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.groups import Failure, Group, GroupPhase, GroupStatus, Instance
from service.domain.specs import CreationStrategy, FailurePolicy
from service.lifecycle.effects import (
    Create,
    Dispatch,
    Observe,
    Plan,
    PowerOff,
    Remove,
    Resume,
    effects,
    next_deadline,
)
from service.lifecycle.facts import (
    DeleteRequested,
    Evicted,
    Fact,
    Fenced,
    HostAnswers,
    HostSilent,
    NotDecided,
    NotPlaced,
    Observation,
    Observed,
    Placed,
    ScaleRequested,
    StartRequested,
    StopAsked,
    StopRequested,
    Ticked,
)
from service.lifecycle.members import gives_up
from service.lifecycle.transitions import (
    AT_REST,
    FINAL,
    LAUNCHING,
    UP,
    advance,
    advance_all,
    public_status,
)
from tests.service.lifecycle.test_transitions import S, placed, tell_all
from tests.support.builders import group, node

HOST_NAMES = st.sampled_from(["h0", "h1"])
OBSERVATIONS = st.sampled_from(Observation)
# What may be told at a step of a history, as often as it stands here; None: all that a perfect world answers to what
# the group asks for, without which few would ever run. Strategies are made once and values alone are drawn step by
# step, which takes a tenth of the time.
TOLD = st.sampled_from(
    [*[Observed] * 6, *[None] * 6, HostSilent, HostAnswers, Placed, Ticked, StopAsked, NotPlaced, NotDecided,
     DeleteRequested, Evicted, Fenced, StopRequested, StartRequested, ScaleRequested]
)  # fmt: skip
SIZES, BUDGETS, STEPS = st.integers(1, 3), st.integers(0, 3), st.integers(1, 30)
POLICIES, STRATEGIES = st.sampled_from(FailurePolicy), st.sampled_from(CreationStrategy)
DEADLINES, WAITS, LATE = st.sampled_from([0, 40]), st.sampled_from([0, 1, 100, 70_000]), st.sampled_from([0, 0, 0, 1])


@st.composite
def histories(draw: st.DrawFn) -> list[Group]:
    """A group and what a random sequence of facts makes of it."""
    subject = group(
        size=draw(SIZES),
        failure_policy=draw(POLICIES),
        creation_strategy=draw(STRATEGIES),
        failure_budget=draw(BUDGETS),
        deadline_at=draw(DEADLINES),
    )
    history = [subject]
    now = 0
    for _ in range(draw(STEPS)):
        now += draw(WAITS)
        kind = draw(TOLD)
        for effect in effects(subject, now) if kind is None else ():
            subject = perfectly(subject, effect, now)
            history.append(subject)
        if kind is not None:
            subject = advance(subject, some_fact(kind, subject, draw), now)
            history.append(subject)
    return history


def some_fact(kind: Any, subject: Group, draw: st.DrawFn) -> Fact:
    if kind in (Observed, StopAsked):
        member = subject.instances[draw(st.integers(0, len(subject.instances) - 1))]
        attempt = member.attempt - draw(LATE)
        if kind is StopAsked:
            return StopAsked(member.uuid, attempt)
        return Observed(member.uuid, attempt, draw(OBSERVATIONS))
    if kind in (HostSilent, HostAnswers, Evicted, Fenced):
        about: Fact = kind(draw(HOST_NAMES))
        return about
    if kind is StopRequested:
        return StopRequested(draw(st.booleans()))
    if kind is Placed:
        return placed(subject)
    if kind is NotPlaced:
        return NotPlaced(Failure("NO_CAPACITY", "full"))
    fact: Fact = scaling(subject, draw) if kind is ScaleRequested else kind()
    return fact


def scaling(subject: Group, draw: st.DrawFn) -> ScaleRequested:
    """One member more, perhaps one less."""
    rank = max(m.rank for m in subject.instances) + 1
    more = Instance(f"{100 + rank + subject.start_epoch:032x}", subject.uuid, node(rank), joining=True)
    less = [m.uuid for m in subject.instances if m.rank and draw(st.booleans())][:1]
    return ScaleRequested((more,) if draw(st.booleans()) or not less else (), frozenset(less))


@st.composite
def commits(draw: st.DrawFn) -> tuple[Group, list[Fact], int]:
    """Where some history ends, what one commit tells of it, and when."""
    subject = draw(histories())[-1]
    kinds = draw(st.lists(st.sampled_from([Observed, Observed, Observed, HostAnswers, Ticked, StopAsked]), max_size=8))
    return subject, [some_fact(kind, subject, draw) for kind in kinds], draw(WAITS) * 31


@given(commits())
@settings(max_examples=100, deadline=None)
def test_facts_of_one_commit_are_as_one_after_the_other_whatever_was_settled_between(
    told: tuple[Group, list[Fact], int],
) -> None:
    subject, facts, now = told
    one_by_one = subject
    for left, fact in zip(reversed(range(len(facts))), facts, strict=True):
        one_by_one = advance(one_by_one, fact, now, more=left > 0)
    assert advance_all(subject, facts, now) == one_by_one


def test_who_is_as_told_already_is_the_very_same_group() -> None:
    subject = group(size=3, go=True, phase=GroupPhase.RUNNING, status=GroupStatus.RUNNING, served=True)
    subject = replace(subject, instances=tuple(replace(m, status=S.RUNNING) for m in subject.instances))
    facts = [Observed(m.uuid, m.attempt, Observation.READY) for m in subject.instances]
    assert advance_all(subject, [*facts, Ticked()], 1) is subject


@given(histories())
@settings(max_examples=150, deadline=None)
def test_laws_of_every_history(history: list[Group]) -> None:
    for before, after in pairwise(history):
        assert after.status is public_status(after)
        assert after.start_epoch >= before.start_epoch
        if before.phase in FINAL:
            assert after == before
        if after.phase in (GroupPhase.STOPPING, GroupPhase.STOPPED):
            up = [m for m in after.instances if m.status in (S.CREATING, S.CREATED, S.BOOTING, S.RUNNING)]
            assert not up, "nobody would ever stop them"
        if before.phase is GroupPhase.DELETING:
            assert after.phase in (GroupPhase.DELETING, GroupPhase.DELETED)
        now_there = {m.uuid: m for m in after.instances}
        for old in before.instances:
            new = now_there.get(old.uuid)
            if new is None:
                assert old.leaving or old.joining, "only a scaling takes members away"
                continue
            assert new.attempt >= old.attempt
            if old.status is S.REMOVED:
                assert new.status is S.REMOVED
            if new.status in (S.BOOTING, S.RUNNING):
                assert after.go, "a member runs before GO"
            if new.attempt > old.attempt:
                assert new.status in (S.PENDING, S.REMOVED)


@given(histories())
@settings(max_examples=100, deadline=None)
def test_once_a_deadline_was_looked_at_it_does_not_come_again(history: list[Group]) -> None:
    """A deadline that stays due would keep a worker turning without end."""
    subject = history[-1]
    for _ in range(8):
        deadline = next_deadline(subject)
        if not deadline:
            return
        after = advance(subject, Ticked(), deadline)
        assert next_deadline(after) == 0 or next_deadline(after) > deadline, (subject, after)
        subject = after


@given(histories())
@settings(max_examples=100, deadline=None)
def test_effects_follow_from_the_stored_group_alone_and_never_touch_two_things_at_once(history: list[Group]) -> None:
    for subject in history:
        wanted = effects(subject, 50)
        assert wanted == effects(subject, 50)
        keys = [getattr(e, "instance_uuid", "gang") for e in wanted]
        assert len([k for k in keys if k != "gang"]) == len({k for k in keys if k != "gang"})
        for effect in wanted:
            if isinstance(effect, Resume):
                assert subject.go
                assert subject.phase is GroupPhase.BOOTING
            if isinstance(effect, Create):
                assert subject.instance(effect.instance_uuid).status is S.CREATING
        if subject.phase in FINAL:
            assert wanted == ()
        elif subject.phase is not GroupPhase.STOPPED:
            assert wanted or next_deadline(subject) or subject.phase in LAUNCHING


@given(histories())
@settings(max_examples=100, deadline=None)
def test_a_group_that_is_helped_always_settles(history: list[Group]) -> None:
    """From any reachable state, a perfect world brings the group to rest: nothing waits for ever."""
    subject, now = history[-1], 1_000_000
    for _ in range(200):
        now += 400_000
        subject = advance_all(subject, [HostAnswers("h0"), HostAnswers("h1"), Ticked()], now)
        wanted = effects(subject, now)
        if subject.phase in AT_REST:
            return
        for effect in wanted:
            subject = perfectly(subject, effect, now)
    raise AssertionError(f"does not settle: {subject}")


def perfectly(subject: Group, effect: object, now: int) -> Group:
    if isinstance(effect, Plan):
        return advance(subject, placed(subject), now)
    if isinstance(effect, Dispatch):
        facts = [Observed(u, subject.instance(u).attempt, Observation.DISPATCHED) for u in effect.instance_uuids]
        return advance_all(subject, facts, now)
    outcome = {
        Create: Observation.PAUSED,
        Resume: Observation.EXECUTING,
        Observe: Observation.READY,
        Remove: Observation.GONE,
        PowerOff: Observation.HALTED,
    }.get(type(effect))
    uuid, attempt = effect.instance_uuid, effect.attempt  # type: ignore[attr-defined]
    if outcome is None:
        return advance(subject, StopAsked(uuid, attempt), now)
    barred = isinstance(effect, Remove) and gives_up(subject, subject.instance(uuid))
    return advance(subject, Observed(uuid, attempt, outcome, barred=barred), now)


_OF_A_CREATE = (
    Observation.PAUSED,
    Observation.PAUSED,
    Observation.PAUSED,
    Observation.EXECUTING,
    Observation.HALTED,
    Observation.GONE,
    Observation.REJECTED,
)


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(_OF_A_CREATE)), min_size=2, max_size=6))
@settings(max_examples=200, deadline=None)
def test_go_is_committed_only_with_every_member_up(told: list[tuple[int, Observation]]) -> None:
    """Whatever is told together in one commit."""
    subject = group()
    subject = tell_all(advance(subject, placed(subject), 1), Observation.DISPATCHED)
    facts = [Observed(subject.instances[rank].uuid, 1, seen) for rank, seen in told]
    after = advance_all(subject, facts, 50)
    assert not after.go or all(m.status in UP for m in after.instances)
