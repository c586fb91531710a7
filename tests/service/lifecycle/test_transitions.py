"""The story of the lifecycle, told by examples; its laws are in `test_laws`."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from service.domain.groups import Failure, Group, GroupPhase, GroupStatus, InstanceStatus, PlacementRecord
from service.domain.specs import CreationStrategy, FailurePolicy, PlacementStrategy
from service.lifecycle.effects import (
    Create,
    Dispatch,
    Observe,
    Plan,
    PowerOff,
    Remove,
    Resume,
    Shutdown,
    effects,
    next_deadline,
)
from service.lifecycle.facts import (
    DeleteRequested,
    Evicted,
    HostAnswers,
    HostSilent,
    LastLines,
    NotPlaced,
    Observation,
    Observed,
    Placed,
    StartRequested,
    StopAsked,
    StopRequested,
    Ticked,
)
from service.lifecycle.members import gives_up
from service.lifecycle.transitions import (
    MEMBER,
    advance,
    advance_all,
    released,
)
from tests.support.builders import group, seat

S = InstanceStatus
RECORD = PlacementRecord((), PlacementStrategy.FEWEST_HOSTS, 1, 1, 1, "optimal", "greedy")


def placed(subject: Group, host: str = "h") -> Placed:
    """Seats for every pending member, two hosts in turn."""
    pending = [m for m in subject.instances if m.status is S.PENDING]
    seats = tuple(
        replace(
            seat(m.uuid, f"{host}{m.rank % 2}", {"vcpu": 1}, attempt=m.attempt),
            machine_uuid=f"machine-{m.uuid}-{m.attempt}",
        )
        for m in pending
    )
    return Placed(replace(RECORD, assignments=seats))


def tell(
    subject: Group, rank: int, seen: Observation, now: int = 1, reason: str = "", *, barred: bool | None = None
) -> Group:
    """What is seen gone is barred where its attempt is given up, as the calls do it."""
    member = subject.instances[rank]
    barred = seen is Observation.GONE and gives_up(subject, member) if barred is None else barred
    return advance(subject, Observed(member.uuid, member.attempt, seen, reason, barred=barred), now)


def tell_all(subject: Group, seen: Observation, now: int = 1) -> Group:
    for rank in range(len(subject.instances)):
        subject = tell(subject, rank, seen, now)
    return subject


def created(**changes: object) -> Group:
    """A group whose members are all created, so that GO is committed."""
    start = group(**changes)  # type: ignore[arg-type]
    start = advance(start, placed(start), 1)
    return tell_all(tell_all(start, Observation.DISPATCHED), Observation.PAUSED)


def running(**changes: object) -> Group:
    return tell_all(tell_all(created(**changes), Observation.EXECUTING), Observation.READY)


@pytest.mark.parametrize("policy", FailurePolicy)
def test_who_was_seen_gone_before_the_attempt_was_given_up_is_looked_for_again_behind_a_tombstone(
    policy: FailurePolicy,
) -> None:
    """An observation may be on its way while a drain is stored, and a create of the attempt still under way."""
    before = advance(running(failure_policy=policy), Evicted("h0"), 10)
    subject = tell(before, 0, Observation.GONE, 11, barred=False)
    member = subject.instances[0]
    assert (member.status, member.attempt, member.host_uuid) == (S.EVICTING, 1, "h0")
    gone = Observed(member.uuid, 1, Observation.GONE)
    assert released(before, gone, subject) == ()
    assert isinstance(effects(subject, 11)[0], Remove)
    after = tell(subject, 0, Observation.GONE, 12, barred=True)
    assert (after.instances[0].status, after.instances[0].attempt) == (S.PENDING, 2)
    assert released(subject, gone, after) == ((member.uuid, 1, "h0"),)


def test_who_failed_and_is_seen_gone_without_a_tombstone_is_not_placed_anew() -> None:
    subject = tell(running(failure_policy=FailurePolicy.REPLACE_MEMBER, failure_budget=1), 0, Observation.GONE, 10)
    assert subject.instances[0].status is S.FAILING
    assert tell(subject, 0, Observation.GONE, 11, barred=False) == subject
    assert tell(subject, 0, Observation.GONE, 12, barred=True).instances[0].attempt == 2


def test_a_deploy_goes_through_zstacks_statuses_to_running() -> None:
    subject = group()
    statuses = [subject.status]
    for fact in (placed(subject),):
        subject = advance(subject, fact, 1)
    statuses.append(subject.status)
    subject = tell_all(tell_all(subject, Observation.DISPATCHED), Observation.PAUSED)
    statuses.append(subject.status)
    subject = tell_all(tell_all(subject, Observation.EXECUTING), Observation.READY)
    statuses.append(subject.status)
    assert statuses == [
        GroupStatus.DEPLOYING,
        GroupStatus.CONFIG_SETTING_UP,
        GroupStatus.SERVICE_BOOTING_UP,
        GroupStatus.RUNNING,
    ]
    assert subject.start_epoch == 1


def test_no_member_is_resumed_before_all_are_created() -> None:
    subject = group()
    subject = tell_all(advance(subject, placed(subject), 1), Observation.DISPATCHED)
    subject = tell(subject, 0, Observation.PAUSED)
    assert not any(isinstance(e, Resume) for e in effects(subject, 1))
    subject = tell(subject, 1, Observation.PAUSED)
    assert [type(e) for e in effects(subject, 1)] == [Resume, Resume]


def test_go_waits_for_all_facts_of_a_commit() -> None:
    """The last creates of a gang and the loss of a machine that stood already may be told together, in any order."""
    subject = group(size=3)
    subject = tell_all(advance(subject, placed(subject), 1), Observation.DISPATCHED)
    subject = tell(subject, 0, Observation.PAUSED)
    told = [Observed(subject.instances[rank].uuid, 1, Observation.PAUSED) for rank in (1, 2)]
    lost = Observed(subject.instances[0].uuid, 1, Observation.HALTED, "its machine is off")
    for facts in permutations([*told, lost]):
        after = advance_all(subject, facts, 2)
        assert not after.go
        assert [m.status for m in after.instances] == [S.FAILING, S.CREATED, S.CREATED]
    assert advance_all(subject, told, 2).go


def test_sequential_starts_each_member_when_its_forerunner_is_ready() -> None:
    subject = created(size=3, creation_strategy=CreationStrategy.SEQUENTIAL)
    order = []
    for _ in range(3):
        (resume,) = [e for e in effects(subject, 1) if isinstance(e, Resume)]
        rank = subject.instance(resume.instance_uuid).rank
        order.append(rank)
        subject = tell(tell(subject, rank, Observation.EXECUTING), rank, Observation.READY)
    assert order == [0, 1, 2]


def test_sequential_with_workers_first_starts_the_initial_node_last() -> None:
    subject = created(size=3, creation_strategy=CreationStrategy.SEQUENTIAL, workers_first=True)
    (resume,) = [e for e in effects(subject, 1) if isinstance(e, Resume)]
    assert subject.instance(resume.instance_uuid).rank == 1


def test_delete_during_a_deploy_removes_what_may_exist_and_releases_what_was_never_sent() -> None:
    before = group()
    before = advance(before, placed(before), 1)
    half = tell(before, 0, Observation.DISPATCHED)
    after = advance(half, DeleteRequested(), 2)
    assert [m.status for m in after.instances] == [S.REMOVING, S.REMOVED]
    assert released(half, DeleteRequested(), after) == ((after.instances[1].uuid, 1, "h1"),)
    gone = Observed(after.instances[0].uuid, 1, Observation.GONE)
    final = advance(after, gone, 3)
    assert final.phase is GroupPhase.DELETED
    assert released(after, gone, final) == ((after.instances[0].uuid, 1, "h0"),)


def test_a_member_that_served_is_asked_to_stop_before_it_is_destroyed() -> None:
    subject = advance(running(), DeleteRequested(), 10)
    assert [type(e) for e in effects(subject, 11)] == [Shutdown, Shutdown]
    member = subject.instances[0]
    subject = advance(subject, StopAsked(member.uuid, 1), 11)
    assert isinstance(effects(subject, 12)[0], Observe)
    subject = tell(subject, 0, Observation.HALTED, 13)
    assert isinstance(effects(subject, 14)[0], Remove)
    assert isinstance(effects(subject, 10 + member.stop_grace_ms)[1], Remove)


def test_fail_group_takes_everything_down_and_keeps_the_first_reason() -> None:
    subject = tell(
        running(failure_policy=FailurePolicy.FAIL_GROUP), 1, Observation.HALTED, reason="its machine crashed"
    )
    assert subject.phase is GroupPhase.CLEANING
    assert subject.failure is not None
    assert "its machine crashed" in subject.failure.message
    assert tell_all(subject, Observation.GONE).phase is GroupPhase.FAILED


def test_replace_member_plans_the_failed_member_alone_and_shuns_its_host() -> None:
    subject = tell(created(size=3), 2, Observation.HALTED)
    subject = tell(subject, 2, Observation.GONE)
    assert [m.status for m in subject.instances] == [S.CREATED, S.CREATED, S.PENDING]
    assert subject.instances[2].attempt == 2
    assert subject.excluded_hosts == ("h0",)
    assert Plan((subject.instances[2].uuid,)) in effects(subject, 1)
    assert subject.go, "GO stands: the others go on"


def test_restart_member_keeps_its_seat_and_attempt() -> None:
    subject = tell(running(failure_policy=FailurePolicy.RESTART_MEMBER), 1, Observation.HALTED)
    assert subject.status is GroupStatus.DEGRADED
    assert [e for e in effects(subject, 0) if isinstance(e, PowerOff | Remove)] == [
        PowerOff(subject.instances[1].uuid, 1)
    ]
    for seen in (Observation.GONE, Observation.HALTED):  # what is there still keeps its disks
        member = tell(subject, 1, seen).instances[1]
        assert (member.status, member.attempt, member.restarts, member.host_uuid) == (S.CLAIMED, 1, 1, "h1")


def test_who_starts_again_in_its_seat_has_a_machine_there_that_has_to_go_first() -> None:
    again = tell(
        tell(running(failure_policy=FailurePolicy.RESTART_MEMBER), 1, Observation.HALTED), 1, Observation.HALTED
    )
    assert again.instances[1].status is S.CLAIMED
    for fact, status in ((Evicted("h1"), S.EVICTING), (DeleteRequested(), S.REMOVING), (HostSilent("h1"), S.FAILING)):
        after = advance(again, fact, 5)
        assert (after.instances[1].status, after.instances[1].attempt) == (status, 1)
        assert released(again, fact, after) == (), "what it has there counts until it was seen gone"
    anew = tell(advance(again, Evicted("h1"), 5), 1, Observation.GONE, barred=True).instances[1]
    assert (anew.status, anew.attempt, anew.restarts) == (S.PENDING, 2, 0)


def test_the_grace_of_a_member_that_leaves_its_host_is_due_once() -> None:
    asked = advance(running(), Evicted("h0"), 10)
    due = next_deadline(asked)
    assert due == asked.instances[0].deadline_at > 10
    assert next_deadline(advance(asked, Ticked(), due)) == 0, "a deadline that stays due keeps its worker turning"


def test_past_the_failure_budget_the_group_fails() -> None:
    subject = created(failure_budget=0)
    assert tell(subject, 0, Observation.HALTED).phase is GroupPhase.CLEANING


def test_a_silent_host_makes_its_members_unknown_and_nothing_else() -> None:
    before = running()
    silent = advance(before, HostSilent("h1"), 5)
    assert silent.status is GroupStatus.UNKNOWN
    assert [m.unknown_since for m in silent.instances] == [0, 5]
    assert [m.status for m in silent.instances] == [S.RUNNING, S.RUNNING]
    assert advance(silent, HostAnswers("h1"), 9) == before


def test_a_member_on_a_silent_host_that_never_executed_is_placed_anew_and_keeps_its_old_claim() -> None:
    before = advance(tell_all(advance(g := group(), placed(g), 1), Observation.DISPATCHED), HostSilent("h1"), 5)
    assert before.instances[1].status is S.CREATING
    after = advance(before, Ticked(), next_deadline(before))
    assert (after.instances[1].status, after.instances[1].attempt) == (S.PENDING, 2)
    assert released(before, Ticked(), after) == ()


def test_a_member_that_its_host_can_neither_run_nor_remove_is_placed_anew_and_keeps_its_old_claim() -> None:
    before = tell_all(advance(g := group(), placed(g), 1), Observation.DISPATCHED)
    failing = tell(before, 1, Observation.BURNT)
    assert failing.instances[1].status is S.FAILING
    after = tell(failing, 1, Observation.BURNT)
    assert (after.instances[1].status, after.instances[1].attempt) == (S.PENDING, 2)
    assert after.excluded_hosts == ("h1",)
    fact = Observed(before.instances[1].uuid, 1, Observation.BURNT)
    assert released(failing, fact, after) == ()


def test_a_dispatch_that_a_stop_overtook_sends_nothing_and_a_start_sends_it_anew() -> None:
    claimed = advance(g := group(), placed(g), 1)
    stopped = advance(claimed, StopRequested(restart=False), 2)
    late = tell_all(stopped, Observation.DISPATCHED, 3)
    assert {m.status for m in late.instances} == {S.CLAIMED}
    assert late.phase is GroupPhase.STOPPED
    assert effects(late, 4) == ()
    again = advance(late, StartRequested(), 5)
    assert effects(again, 5) == (Dispatch(tuple(m.uuid for m in again.instances)),)


def test_a_group_that_finds_no_other_host_says_what_the_first_one_failed_of() -> None:
    before = tell_all(advance(g := group(), placed(g), 1), Observation.DISPATCHED)
    moved = tell(tell(before, 1, Observation.REJECTED, reason="no such image"), 1, Observation.GONE)
    assert moved.instances[1].status is S.PENDING
    after = advance(moved, NotPlaced(Failure("NO_CAPACITY", "all hosts are full")), 2)
    assert after.failure is not None
    assert after.failure.code == "NO_CAPACITY"
    assert after.failure.message == "all hosts are full; model_services[1] needed another host: no such image"
    assert after.reason == after.failure.message


def test_a_deletion_does_not_wait_for_what_its_host_can_not_remove_and_keeps_that_claim() -> None:
    before = advance(tell_all(advance(g := group(), placed(g), 1), Observation.DISPATCHED), DeleteRequested(), 2)
    after = tell(tell(before, 1, Observation.BURNT), 0, Observation.GONE)
    assert after.phase is GroupPhase.DELETED
    fact = Observed(before.instances[1].uuid, 1, Observation.BURNT)
    assert released(before, fact, tell(before, 1, Observation.BURNT)) == ()


def test_a_member_that_executed_is_never_left_behind_as_burnt() -> None:
    subject = tell(tell(running(), 1, Observation.HALTED), 1, Observation.BURNT)
    assert subject.instances[1].status is S.FAILING
    assert subject.instances[1].attempt == 1


def test_a_member_on_a_silent_host_that_executed_is_never_placed_anew() -> None:
    subject = advance(tell(running(), 1, Observation.EXECUTING), HostSilent("h1"), 5)
    subject = advance(subject, Ticked(), 10_000_000)
    assert subject.instances[1].attempt == 1
    assert not any(isinstance(e, Plan) for e in effects(subject, 10_000_000))


def test_a_member_that_does_not_serve_any_more_makes_its_group_degraded_until_it_does_or_its_time_is_over() -> None:
    subject = running()
    first = subject.instances[0]
    unready = advance(subject, Observed(first.uuid, first.attempt, Observation.UNREADY, "a wrong answer"), 100)
    assert (unready.status, unready.instances[0].status) == (GroupStatus.DEGRADED, S.BOOTING)
    assert unready.instances[0].reason == "a wrong answer"
    again = advance(unready, Observed(first.uuid, first.attempt, Observation.READY), 200)
    assert (again.status, again.instances[0].reason) == (GroupStatus.RUNNING, "")
    late = advance(unready, Ticked(), next_deadline(unready))
    assert late.instances[0].status is not S.BOOTING
    assert late.failures == 1


def test_a_boot_that_takes_too_long_fails_the_member() -> None:
    subject = tell_all(created(), Observation.EXECUTING, now=100)
    deadline = next_deadline(subject)
    assert deadline == 100 + 60_000
    assert advance(subject, Ticked(), deadline - 1) == subject
    assert {m.status for m in advance(subject, Ticked(), deadline).instances} == {S.FAILING}


def test_what_a_member_said_last_is_told_where_it_fails_and_kept_when_it_is_placed_anew() -> None:
    said = "[console]\nkernel\n[engine]\nno such model"
    subject = running()
    member = subject.instances[1]
    halted = Observed(member.uuid, member.attempt, Observation.HALTED, "its machine stopped by itself", last_lines=said)
    failed = advance(subject, halted, 1)
    assert "its machine stopped by itself; its last lines: kernel | no such model" in failed.reason
    assert failed.instances[1].last_lines == said
    anew = advance(failed, Observed(member.uuid, member.attempt, Observation.GONE, barred=True), 2)
    assert (anew.instances[1].attempt, anew.instances[1].last_lines) == (member.attempt + 1, said)


def test_what_a_member_said_last_is_told_where_its_time_is_over() -> None:
    subject = tell_all(created(failure_budget=0), Observation.EXECUTING)
    member = subject.instances[0]
    assert member.deadline_at
    for other in (LastLines(member.uuid, 7, "[engine]\nof another attempt"), LastLines("z", 1, "[engine]\nof nobody")):
        assert advance(subject, other, 2) == subject
    told = advance(subject, LastLines(member.uuid, member.attempt, "[engine]\nloading 3 of 9"), 2)
    late = advance(told, Ticked(), member.deadline_at)
    assert late.failure is not None
    assert "not ready within" in late.failure.message
    assert "its last lines: loading 3 of 9" in late.failure.message
    said = LastLines(member.uuid, member.attempt, "", "its guest says joining: a wrong answer: 5")
    late = advance(advance(subject, said, 2), Ticked(), member.deadline_at)
    assert "of its start: its guest says joining: a wrong answer: 5" in (late.failure or Failure("", "")).message


def test_the_groups_deadline_ends_a_deploy_that_is_not_running() -> None:
    subject = replace(created(), deadline_at=500)
    assert next_deadline(subject) == 500
    late = advance(subject, Ticked(), 500)
    assert late.phase is GroupPhase.CLEANING
    assert late.failure == Failure("TIMEOUT", "the group was not running at its deadline")


def test_facts_about_an_older_attempt_are_ignored() -> None:
    subject = tell(tell(created(), 1, Observation.HALTED), 1, Observation.GONE)
    assert advance(subject, Observed(subject.instances[1].uuid, 1, Observation.READY), 9) == subject


@pytest.mark.parametrize(("status", "seen"), sorted(MEMBER))
def test_the_transition_table_leads_from_every_status_to_another(status: InstanceStatus, seen: Observation) -> None:
    assert MEMBER[status, seen] is not status


def test_a_group_is_started_whose_member_somebody_had_started_by_hand_and_that_is_being_stopped_again() -> None:
    runs = tell_all(created(), Observation.READY)
    stopped = tell_all(advance(runs, StopRequested(restart=False), 2), Observation.HALTED)
    assert stopped.phase is GroupPhase.STOPPED
    by_hand = tell(stopped, 0, Observation.EXECUTING)
    assert by_hand.instances[0].status is S.STOPPING
    again = tell(advance(by_hand, StartRequested(), 3), 0, Observation.HALTED, 4)
    assert {m.status for m in again.instances} == {S.CREATING}
    assert len([e for e in effects(again, 5) if isinstance(e, Create)]) == len(again.instances)
