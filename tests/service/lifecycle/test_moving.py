"""Live moves in the lifecycle: where a member is on two hosts' books, and what ends that."""

from __future__ import annotations

from dataclasses import replace

from service.domain.groups import Group, GroupPhase, GroupStatus, InstanceStatus, MoveStage
from service.lifecycle.effects import AbortMove, FindTarget, Migrate, Observe, Remove, Shutdown, effects, next_deadline
from service.lifecycle.facts import (
    DeleteRequested,
    Evicted,
    Fenced,
    HostAnswers,
    HostSilent,
    MoveAborted,
    MoveClaimed,
    Moved,
    MoveImpossible,
    Observation,
    StopRequested,
    Ticked,
)
from service.lifecycle.moving import MOVE_BASE_MS
from service.lifecycle.transitions import advance, released
from tests.service.lifecycle.test_transitions import running, tell

S = InstanceStatus
SOURCE, TARGET = "h0", "t"


def wishing(size: int = 2) -> Group:
    """A running group whose members on SOURCE (every second one) are to be moved live."""
    return advance(running(size=size), Evicted(SOURCE, live=True), 10)


def going(size: int = 2) -> Group:
    subject = wishing(size)
    return advance(subject, MoveClaimed(subject.instances[0].uuid, 1, TARGET, "target"), 20)


def test_a_member_that_is_moved_live_stays_running_with_its_attempt_and_its_group_with_it() -> None:
    before = running()
    subject = going()
    member = subject.instances[0]
    assert (subject.phase, subject.status, member.status) == (GroupPhase.RUNNING, GroupStatus.RUNNING, S.RUNNING)
    assert (member.host_uuid, member.target_host_uuid, member.move) == (SOURCE, TARGET, MoveStage.GOING)
    assert effects(subject, 21)[0] == Migrate(member.uuid, 1)
    fact = Moved(member.uuid, 1)
    after = advance(subject, fact, 30)
    assert released(subject, fact, after) == ((member.uuid, 1, SOURCE),)
    moved = after.instances[0]
    assert (moved.host_uuid, moved.host_name, moved.target_host_uuid, moved.reason) == (TARGET, "target", "", "")
    assert moved.moved_at == 30
    assert replace(moved, host_uuid=SOURCE, host_name="host", moved_at=0) == before.instances[0]
    assert isinstance(effects(after, 31)[0], Observe)


def test_members_of_a_group_move_one_after_the_other() -> None:
    subject = wishing(3)
    assert [type(e) for e in effects(subject, 11)] == [FindTarget, Observe, Observe]
    subject = advance(subject, MoveClaimed(subject.instances[0].uuid, 1, TARGET, "target"), 20)
    assert [type(e) for e in effects(subject, 21)] == [Migrate, Observe, Observe]
    subject = advance(subject, Moved(subject.instances[0].uuid, 1), 30)
    assert [type(e) for e in effects(subject, 31)] == [Observe, Observe, FindTarget]


def test_only_what_runs_is_moved_live() -> None:
    silent = advance(advance(running(), HostSilent(SOURCE), 5), Evicted(SOURCE, live=True), 10)
    assert silent.instances[0].status is S.EVICTING
    paused = advance(tell(running(), 0, Observation.PAUSED), Evicted(SOURCE, live=True), 10)
    assert paused.instances[0].status is S.EVICTING


def test_a_member_that_no_host_takes_live_leaves_at_once_and_says_why() -> None:
    subject = wishing()
    subject = advance(subject, MoveImpossible(subject.instances[0].uuid, 1, "no room"), 20)
    member = subject.instances[0]
    assert (member.status, member.move, member.reason) == (
        S.EVICTING, MoveStage.NONE, "it could not be moved live: no room",
    )  # fmt: skip
    assert isinstance(effects(subject, 21)[0], Shutdown)


def test_a_member_that_stops_while_it_waits_for_a_target_is_placed_anew_and_counts_as_no_failure() -> None:
    for seen in (Observation.HALTED, Observation.GONE, Observation.PAUSED):
        subject = tell(wishing(), 0, seen, 15)
        assert (subject.instances[0].status, subject.instances[0].move) == (S.EVICTING, MoveStage.NONE)
        assert subject.failures == 0


def test_a_refused_move_ends_only_when_the_target_is_proven_to_be_without_the_member() -> None:
    subject = going()
    member = subject.instances[0]
    subject = advance(subject, MoveImpossible(member.uuid, 1, "refused"), 30)
    assert (subject.instances[0].status, subject.instances[0].move) == (S.RUNNING, MoveStage.ABORTING)
    assert effects(subject, 31)[0] == AbortMove(member.uuid, 1)
    fact = MoveAborted(member.uuid, 1, absent=True)
    after = advance(subject, fact, 40)
    assert released(subject, fact, after) == ((member.uuid, 1, TARGET),)
    assert (after.instances[0].status, after.instances[0].host_uuid, after.instances[0].attempt) == (
        S.EVICTING, SOURCE, 1,
    )  # fmt: skip
    assert "refused" in after.instances[0].reason
    unseen = MoveAborted(member.uuid, 1, absent=False)
    assert released(subject, unseen, advance(subject, unseen, 40)) == (), "the claim stands until the sweep saw it"


def test_a_move_that_was_aborted_may_have_arrived_before() -> None:
    subject = advance(going(), Ticked(), 10**9)
    assert subject.instances[0].move is MoveStage.ABORTING
    after = advance(subject, Moved(subject.instances[0].uuid, 1), 10**9 + 1)
    assert (after.instances[0].status, after.instances[0].host_uuid) == (S.RUNNING, TARGET)


def test_a_move_has_its_time_and_no_more() -> None:
    subject = going()
    deadline = next_deadline(subject)
    assert deadline >= 20 + MOVE_BASE_MS
    assert advance(subject, Ticked(), deadline - 1) == subject
    late = advance(subject, Ticked(), deadline)
    assert late.instances[0].move is MoveStage.ABORTING
    assert "too long" in late.instances[0].reason
    assert next_deadline(late) == 0


def test_one_hosts_word_alone_changes_nothing_while_the_member_is_on_its_way() -> None:
    subject = going()
    for seen in Observation:
        assert tell(subject, 0, seen, 30) == subject


def test_a_deletion_first_settles_on_which_host_the_member_is() -> None:
    subject = advance(going(), DeleteRequested(), 30)
    member = subject.instances[0]
    assert member.status is S.REMOVING
    assert effects(subject, 10**7)[0] == AbortMove(member.uuid, 1)
    arrived = advance(subject, Moved(member.uuid, 1), 40)
    assert (arrived.instances[0].status, arrived.instances[0].host_uuid) == (S.REMOVING, TARGET)
    assert effects(arrived, 10**7)[0] == Remove(member.uuid, 1)
    stayed = advance(subject, MoveAborted(member.uuid, 1, absent=True), 40)
    assert (stayed.instances[0].status, stayed.instances[0].host_uuid) == (S.REMOVING, SOURCE)


def test_a_stop_of_the_group_does_not_keep_the_member_on_the_host_that_is_emptied() -> None:
    for subject in (wishing(), going()):
        stopping = advance(subject, StopRequested(), 30)
        assert [m.status for m in stopping.instances] == [S.EVICTING, S.STOPPING]
        assert stopping.instances[0].target_host_uuid == subject.instances[0].target_host_uuid


def test_a_silent_source_leaves_the_member_where_it_was_and_unknown() -> None:
    silent = advance(going(), HostSilent(SOURCE), 30)
    assert silent.status is GroupStatus.UNKNOWN
    assert silent.instances[0].host_uuid == SOURCE
    assert advance(silent, HostAnswers(SOURCE), 31) == going()


def test_a_fenced_source_leaves_the_target_to_be_emptied_before_the_member_is_placed_anew() -> None:
    before = going()
    after = advance(before, Fenced(SOURCE), 30)
    member = after.instances[0]
    assert (member.status, member.host_uuid, member.target_host_uuid, member.attempt) == (S.EVICTING, TARGET, "", 1)
    assert released(before, Fenced(SOURCE), after) == ()
    assert effects(after, 31)[0] == Remove(member.uuid, 1)
    placed_anew = tell(after, 0, Observation.GONE, 40)
    assert (placed_anew.instances[0].status, placed_anew.instances[0].attempt) == (S.PENDING, 2)


def test_a_target_that_is_fenced_or_emptied_too_is_given_up() -> None:
    fenced = advance(going(), Fenced(TARGET), 30).instances[0]
    assert (fenced.status, fenced.host_uuid, fenced.target_host_uuid) == (S.EVICTING, SOURCE, "")
    emptied = advance(going(), Evicted(TARGET, live=True), 30).instances[0]
    assert (emptied.status, emptied.move, emptied.target_host_uuid) == (S.RUNNING, MoveStage.ABORTING, TARGET)


def test_facts_about_an_older_attempt_or_another_move_change_nothing() -> None:
    subject = running()
    uuid = subject.instances[0].uuid
    for fact in (MoveClaimed(uuid, 1, TARGET, "t"), MoveImpossible(uuid, 1, "x"), MoveAborted(uuid, 1, absent=True),
                 Moved(uuid, 1)):  # fmt: skip
        assert advance(subject, fact, 30) == subject
        assert released(subject, fact, subject) == ()
    assert advance(wishing(), MoveClaimed(uuid, 2, TARGET, "t"), 30) == wishing()


def test_a_pinned_member_has_the_cell_of_the_host_that_it_is_on() -> None:
    subject = wishing()
    first = replace(subject.instances[0], cells=(3,))
    subject = replace(subject, instances=(first, *subject.instances[1:]))
    under_way = advance(subject, MoveClaimed(first.uuid, 1, TARGET, "target", (8,)), 20)
    assert (under_way.instances[0].cells, under_way.instances[0].target_cells) == ((3,), (8,))
    arrived = advance(under_way, Moved(first.uuid, 1), 30).instances[0]
    assert (arrived.cells, arrived.target_cells) == ((8,), ())
    back = advance(
        advance(under_way, MoveImpossible(first.uuid, 1, "x"), 30), MoveAborted(first.uuid, 1, absent=True), 40
    )
    assert (back.instances[0].cells, back.instances[0].target_cells) == ((3,), ()), "it leaves from where it was"
    lost = advance(under_way, Fenced(SOURCE), 30).instances[0]
    assert (lost.host_uuid, lost.cells) == (TARGET, (8,)), "it may have arrived"
