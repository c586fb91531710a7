"""A group that becomes something else: a second gang beside the first, or in place. Laws first."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.groups import Failure, Group, GroupPhase, GroupStatus, Instance, Update
from service.domain.specs import FailurePolicy, NodeSpec
from service.domain.updates import UpdateMode, UpdateStage
from service.lifecycle.effects import Dispatch, Observe, Plan, effects
from service.lifecycle.facts import (
    DeleteRequested,
    Evicted,
    Fact,
    Fenced,
    HostAnswers,
    HostSilent,
    NotPlaced,
    Observation,
    Observed,
    ScaleRequested,
    StopRequested,
    TakeBackRequested,
    Ticked,
    UpdateRequested,
)
from service.lifecycle.invariants import check
from service.lifecycle.transitions import AT_REST, advance, advance_all, released
from service.lifecycle.updating import first, gang_of, second
from tests.service.lifecycle.test_laws import perfectly as alone
from tests.service.lifecycle.test_transitions import S, placed
from tests.support.builders import group

CREATED = (Observation.DISPATCHED, Observation.PAUSED)
SURGE, IN_PLACE = UpdateMode.SURGE, UpdateMode.IN_PLACE


def as_new(node: NodeSpec) -> NodeSpec:
    """What it is to be."""
    return replace(node, startup_parameters="--new")


def wanted(subject: Group, mode: UpdateMode = SURGE, number: int = 1) -> UpdateRequested:
    """All members with another command."""
    after = replace(subject.spec, nodes=tuple(as_new(m.spec) for m in subject.serving))
    added = tuple(
        Instance(f"{1000 * number + node.node_rank:032x}", subject.uuid, node, boot_timeout_ms=60_000)
        for node in after.nodes
    )
    update = Update(number, mode, first_stage(mode), subject.spec, after)
    return UpdateRequested(update, added if mode is SURGE else ())


def first_stage(mode: UpdateMode) -> UpdateStage:
    """Where it begins."""
    return UpdateStage.COMING if mode is SURGE else UpdateStage.CHANGING


def perfectly(subject: Group, effect: object, now: int) -> Group:
    """As a perfect world answers; each gang's plan is its own."""
    if isinstance(effect, Plan):
        gang = gang_of(subject, effect.instance_uuids[0])
        return advance(subject, placed(gang), now)
    return alone(subject, effect, now)


def told_epochs(subject: Group, now: int) -> Group:
    """Every guest says that it is ready and knows its group's start."""
    facts: list[Fact] = []
    for gang in (first(subject), second(subject)):
        for m in gang.instances if gang is not None else ():
            if m.status in (S.BOOTING, S.RUNNING):
                facts.append(Observed(m.uuid, m.attempt, Observation.READY, epoch=gang.start_epoch))  # type: ignore[union-attr]
    return advance_all(subject, facts, now)


def helped(subject: Group, now: int = 1_000_000, *, until: object = None, rounds: int = 120) -> Group:
    """A perfect world goes on until the group is at rest with nothing of an update left, or in this stage."""
    for _ in range(rounds):
        now += 400_000
        subject = advance_all(subject, [HostAnswers("h0"), HostAnswers("h1"), Ticked()], now)
        if subject.update is not None and subject.update.stage is until:
            return subject
        if subject.phase in AT_REST and not subject.updating:
            return subject
        for effect in effects(subject, now):
            if subject.update is not None and subject.update.stage is until:
                return subject
            subject = perfectly(subject, effect, now)
        subject = told_epochs(subject, now)
    stands = [(m.rank, m.beside, m.status.value, m.attempt, m.told_epoch, m.deadline_at) for m in subject.instances]
    stage = subject.update.stage if subject.update is not None else ""
    raise AssertionError(
        f"does not settle: {subject.phase}, {stage}, {stands}, {subject.retry_at} {effects(subject, now)}"
    )


def running(**changes: object) -> Group:
    """A group that serves."""
    return helped(group(**{"scope": "group", **changes}))  # type: ignore[arg-type]


MODES = st.sampled_from(UpdateMode)
FACTS: st.SearchStrategy[Any] = st.sampled_from(
    [None, None, None, None, None, Observed, Observed, HostSilent, HostAnswers, NotPlaced, Ticked, Evicted, Fenced,
     StopRequested, ScaleRequested, UpdateRequested, TakeBackRequested, DeleteRequested]
)  # fmt: skip
OBSERVATIONS, HOSTS = st.sampled_from(Observation), st.sampled_from(["h0", "h1"])
WAITS, STEPS, SIZES = st.sampled_from([0, 1, 100, 70_000]), st.integers(1, 25), st.integers(1, 2)
POLICIES, SCOPES = st.sampled_from(FailurePolicy), st.sampled_from(["group", "member"])


@st.composite
def histories(draw: st.DrawFn) -> list[Group]:
    """A group that runs, an update of it, and what a random sequence of facts makes of both."""
    subject = running(
        size=draw(SIZES), failure_policy=draw(POLICIES), scope=draw(SCOPES), failure_budget=draw(st.integers(0, 2))
    )
    now = 1_000_000_000
    history = [subject, advance(subject, wanted(subject, draw(MODES)), now)]
    for _ in range(draw(STEPS)):
        subject, now = history[-1], now + draw(WAITS)
        kind = draw(FACTS)
        if kind is None:
            for effect in effects(subject, now):
                subject = perfectly(subject, effect, now)
                history.append(subject)
            subject = told_epochs(subject, now)
        elif kind is Observed:
            member = subject.instances[draw(st.integers(0, len(subject.instances) - 1))]
            subject = advance(subject, Observed(member.uuid, member.attempt, draw(OBSERVATIONS)), now)
        elif kind in (HostSilent, HostAnswers, Evicted, Fenced):
            subject = advance(subject, kind(draw(HOSTS)), now)
        elif kind is NotPlaced:
            subject = advance(subject, NotPlaced(Failure("NO_CAPACITY", "full"), beside=draw(st.booleans())), now)
        elif kind is ScaleRequested:
            subject = advance(subject, ScaleRequested((), frozenset()), now)
        elif kind is UpdateRequested:
            number = subject.update.number + 1 if subject.update is not None else 1
            subject = advance(subject, wanted(subject, draw(MODES), number), now)
        else:
            subject = advance(subject, kind(), now)
        history.append(subject)
    return history


@given(histories())
@settings(max_examples=150, deadline=None)
def test_the_old_gang_is_ended_only_once_the_new_one_runs(history: list[Group]) -> None:
    for before, after in pairwise(history):
        if before.update is None or after.update is None or before.update.stage is not UpdateStage.COMING:
            continue
        if after.update.stage in (UpdateStage.SWITCHED, UpdateStage.DONE):  # at once, where nothing is left to be ended
            assert all(m.status is S.RUNNING for m in after.serving)
            assert after.phase is GroupPhase.RUNNING
            assert after.status is GroupStatus.RUNNING
            assert {m.uuid for m in after.serving} == {m.uuid for m in before.instances if m.beside}
        else:
            assert {m.uuid for m in after.serving} == {m.uuid for m in before.serving}


@given(histories())
@settings(max_examples=150, deadline=None)
def test_a_group_with_an_update_always_settles_and_leaves_one_gang(history: list[Group]) -> None:
    rest = helped(history[-1], 2_000_000_000)
    assert not any(m.beside for m in rest.instances) or rest.phase in (GroupPhase.FAILED, GroupPhase.DELETED)
    if rest.phase is GroupPhase.RUNNING:
        assert rest.update is not None
        assert rest.update.gang is None
        update = rest.update
        made = update.after if update.stage is UpdateStage.DONE else update.before
        assert [m.spec.startup_parameters for m in rest.instances] == [n.startup_parameters for n in made.nodes]
        assert [n.startup_parameters for n in rest.spec.nodes] == [n.startup_parameters for n in made.nodes]


@given(histories())
@settings(max_examples=100, deadline=None)
def test_invariants_hold_in_every_history(history: list[Group]) -> None:
    for before, after in pairwise(history):
        seats = {
            (m.uuid, m.attempt): frozenset({m.host_uuid} if m.status is not S.PENDING else ()) for m in after.instances
        }
        check(before, after, seats)
        assert len({m.uuid for m in after.instances}) == len(after.instances)
        assert len({m.rank for m in after.serving}) == len(after.serving)
        if before.update is not None and after.update is not None and before.updating:
            assert after.update.number == before.update.number, "an update during an update"
        members = {m.uuid for m in after.instances}
        for old in before.instances:
            assert old.uuid in members or old.status is S.REMOVED or after.updating != before.updating


def test_a_surge_goes_from_one_gang_to_the_next() -> None:
    old = running()
    asked = advance(old, wanted(old), 1)
    assert asked.phase is GroupPhase.RUNNING
    assert asked.status is GroupStatus.RUNNING
    assert len(asked.instances) == 4
    switched = helped(asked, until=UpdateStage.SWITCHED)
    assert {m.spec.startup_parameters for m in switched.serving} == {"--new"}
    assert [m.status for m in switched.instances if m.beside] == [S.REMOVING, S.REMOVING]
    assert switched.start_epoch > old.start_epoch
    done = helped(switched)
    assert done.update is not None
    assert done.update.stage is UpdateStage.DONE
    assert len(done.instances) == 2
    assert done.failure is None


def test_before_the_switch_it_is_taken_back_and_the_old_gang_has_noticed_nothing() -> None:
    old = running()
    asked = advance(old, wanted(old), 1)
    booting = advance(asked, placed(second(asked)), 2)  # type: ignore[arg-type]
    booting = advance_all(
        booting,
        [Observed(m.uuid, 1, seen) for seen in CREATED for m in booting.instances if m.beside],
        3,
    )
    called_off = advance(booting, TakeBackRequested(), 4)
    assert {m.status for m in called_off.instances if m.beside} == {S.REMOVING}
    back = helped(called_off)
    assert back.update is not None
    assert back.update.stage is UpdateStage.TAKEN_BACK
    assert back.instances == old.instances
    assert back.start_epoch == old.start_epoch
    assert back.failure is None


def test_what_finds_no_room_is_taken_back_with_the_planner_s_reason() -> None:
    old = running()
    asked = advance(old, wanted(old), 1)
    back = advance(asked, NotPlaced(Failure("NO_CAPACITY", "full"), beside=True), 2)
    assert back.update is not None
    assert back.update.stage is UpdateStage.TAKEN_BACK
    assert back.failure == Failure("NO_CAPACITY", "full")
    assert back.instances == old.instances
    assert back.phase is GroupPhase.RUNNING


def test_a_new_gang_that_never_answers_costs_the_old_one_nothing() -> None:
    old = running(failure_policy=FailurePolicy.FAIL_GROUP)
    asked = advance(old, wanted(old), 1)
    booting = helped_to_boot(asked)
    failed = advance(booting, Ticked(), 10_000_000_000)
    assert failed.update is not None
    assert failed.update.stage is UpdateStage.TAKING_BACK
    assert "not ready within" in failed.update.reason
    assert {m.status for m in failed.serving} == {S.RUNNING}
    back = helped(failed, 20_000_000_000)
    assert back.phase is GroupPhase.RUNNING
    assert back.failure is not None


def helped_to_boot(asked: Group) -> Group:
    """The second gang executes, and says nothing."""
    booting = advance(asked, placed(second(asked)), 2)  # type: ignore[arg-type]
    for seen in (*CREATED, Observation.EXECUTING):
        booting = advance_all(booting, [Observed(m.uuid, 1, seen) for m in booting.instances if m.beside], 3)
    return booting


def test_a_group_that_is_deleted_in_an_update_takes_both_gangs_with_it() -> None:
    old = running()
    asked = helped_to_boot(advance(old, wanted(old), 1))
    gone = advance(asked, DeleteRequested(), 4)
    assert {m.status for m in gone.instances} == {S.REMOVING}
    half = advance_all(gone, [Observed(m.uuid, 1, Observation.GONE) for m in gone.serving], 5)
    assert half.phase is GroupPhase.DELETING, "the second gang is still there"
    assert helped(half).phase is GroupPhase.DELETED


def test_in_place_a_gang_stops_as_a_whole_and_starts_as_what_it_is_to_be() -> None:
    old = running()
    asked = advance(old, wanted(old, IN_PLACE), 1)
    assert asked.phase is GroupPhase.STOPPING
    assert {m.spec.startup_parameters for m in asked.instances} == {""}, "what still runs is what it was"
    done = helped(asked)
    assert done.update is not None
    assert done.update.stage is UpdateStage.DONE
    assert {m.spec.startup_parameters for m in done.instances} == {"--new"}
    assert [(m.uuid, m.attempt, m.host_uuid) for m in done.instances] == [
        (m.uuid, m.attempt, m.host_uuid) for m in old.instances
    ], "the same machines, on the same disks"
    assert done.start_epoch == old.start_epoch + 1


def test_in_place_members_that_need_no_other_change_one_after_the_other() -> None:
    old = running(scope="member", size=3)
    subject, now, least = advance(old, wanted(old, IN_PLACE), 1), 10, 3
    assert subject.updating
    for _ in range(60):
        now += 10_000
        for effect in effects(subject, now):
            subject = perfectly(subject, effect, now)
            least = min(least, sum(m.status is S.RUNNING for m in subject.instances))
        subject = told_epochs(subject, now)
        if not subject.updating:
            break
    assert subject.update is not None
    assert subject.update.stage is UpdateStage.DONE
    assert least == 2, "the others serve"
    assert {m.spec.startup_parameters for m in subject.instances} == {"--new"}


def test_in_place_what_does_not_come_up_becomes_again_what_it_was() -> None:
    old = running(failure_policy=FailurePolicy.FAIL_GROUP)
    subject = advance(old, wanted(old, IN_PLACE), 1)
    for now in range(10_000, 400_000, 10_000):
        for effect in effects(subject, now):
            if not isinstance(effect, Observe) or subject.phase is GroupPhase.STOPPING:
                subject = perfectly(subject, effect, now)
        if all(m.status is S.BOOTING for m in subject.instances):
            break
    failed = advance(subject, Ticked(), 10_000_000_000)
    assert failed.update is not None
    assert failed.update.stage is UpdateStage.TAKING_BACK
    back = helped(failed, 20_000_000_000)
    assert back.phase is GroupPhase.RUNNING
    assert back.update is not None
    assert back.update.stage is UpdateStage.TAKEN_BACK
    assert back.failure is not None
    assert {m.spec.startup_parameters for m in back.instances} == {""}


def test_nothing_is_released_by_the_switch_itself() -> None:
    """Claims of the old gang end where its machines are seen gone."""
    old = running()
    subject, now = advance(old, wanted(old), 1), 1_000_000
    while subject.update is not None and subject.update.stage is UpdateStage.COMING:
        now += 10
        for effect in effects(subject, now):
            if isinstance(effect, Plan):
                subject = perfectly(subject, effect, now)
                continue
            members = [effect.instance_uuid] if not isinstance(effect, Dispatch) else effect.instance_uuids  # type: ignore[union-attr]
            assert members
            before = subject
            subject = perfectly(subject, effect, now)
            if subject.update is not None and subject.update.stage is UpdateStage.SWITCHED:
                fact = Observed(members[0], 1, Observation.READY)
                assert released(before, fact, subject) == ()
        subject = told_epochs(subject, now)


def test_in_place_a_member_that_finds_no_seat_any_more_is_looked_for_as_what_it_was() -> None:
    old = running(size=1)
    subject = advance(old, wanted(old, IN_PLACE), 1)
    gone = advance(subject, Fenced(old.instances[0].host_uuid), 2)
    assert gone.instances[0].status is S.PENDING
    back = advance(gone, NotPlaced(Failure("NO_CAPACITY", "full")), 3)
    assert back.update is not None
    assert back.update.stage is UpdateStage.TAKING_BACK
    assert [m.status for m in back.instances] == [S.PENDING]
    assert helped(back).phase is GroupPhase.RUNNING


def test_a_deletion_is_not_taken_back_with_the_update() -> None:
    old = running()
    gone = advance(advance(old, wanted(old, IN_PLACE), 1), DeleteRequested(), 2)
    assert advance(gone, TakeBackRequested(), 3) == gone


def test_a_new_gang_on_a_silent_host_does_not_take_over() -> None:
    old = running()
    booting = helped_to_boot(advance(old, wanted(old), 1))
    new = [m for m in booting.instances if m.beside]
    epoch = second(booting).start_epoch  # type: ignore[union-attr]
    one = advance(booting, Observed(new[0].uuid, 1, Observation.READY, epoch=epoch), 4)
    silent = advance(one, HostSilent(new[0].host_uuid), 5)
    both = advance(silent, Observed(new[1].uuid, 1, Observation.READY, epoch=epoch), 6)
    assert both.update is not None
    assert both.update.stage is UpdateStage.COMING
    heard = advance(both, HostAnswers(new[0].host_uuid), 7)
    assert heard.update is not None
    assert heard.update.stage is UpdateStage.SWITCHED
