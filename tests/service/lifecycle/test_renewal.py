"""A group whose engines cannot do without each other: a member that is made anew means a new start for all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.domain.groups import Group, GroupPhase, GroupStatus, Instance, InstanceStatus
from service.lifecycle.effects import Observe, Tell, effects, next_deadline
from service.lifecycle.facts import Observation, Observed, Ticked
from service.lifecycle.renewal import FURTHEST, RESET
from service.lifecycle.silence import HANGS_MS
from service.lifecycle.transitions import advance
from tests.support.builders import node, spec

S = InstanceStatus
NOW = 1_000_000


def member(rank: int, **changes: object) -> Instance:
    made = Instance(
        f"{rank:032x}",
        "a" * 32,
        node(rank),
        status=S.RUNNING,
        host_uuid=f"{rank + 9:032x}",
        was_resumed=True,
        told_epoch=1,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def group(scope: str = "group", **changes: object) -> Group:
    made = Group(
        "a" * 32, replace(spec(3), scope=scope), phase=GroupPhase.RUNNING, status=GroupStatus.RUNNING, go=True,
        served=True, starts=1, start_epoch=1, running_since=NOW, instances=tuple(member(r) for r in range(3)),
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def seen(subject: Group, rank: int, observation: Observation, **more: object) -> Group:
    found = subject.instances[rank]
    return advance(subject, Observed(found.uuid, found.attempt, observation, **more), NOW)  # type: ignore[arg-type]


def lost(subject: Group, rank: int) -> Group:
    """The member's machine crashed, and was seen gone."""
    return seen(
        seen(subject, rank, Observation.HALTED, reason="its machine crashed"), rank, Observation.GONE, barred=True
    )


def test_members_that_go_on_running_are_told_of_the_start_and_serve_again_once_they_know_it() -> None:
    after = lost(group(), 1)
    assert (after.start_epoch, after.starts, after.status) == (2, 1, GroupStatus.DEGRADED)
    assert [m.status for m in after.instances] == [S.BOOTING, S.PENDING, S.BOOTING]
    assert all(
        isinstance(e, Tell) for e in effects(after, NOW) if getattr(e, "instance_uuid", "") == after.instances[0].uuid
    )
    old = seen(after, 0, Observation.READY, epoch=1)
    assert old.instances[0].status is S.BOOTING, "what it serves is the start before"
    knows = seen(old, 0, Observation.EXECUTING, epoch=2).instances[0]
    assert (knows.status, knows.reason) == (S.BOOTING, ""), "it was told, and that is not why it does not serve"
    new = seen(old, 0, Observation.READY, epoch=2)
    assert new.instances[0].status is S.RUNNING
    assert isinstance(
        next(e for e in effects(new, NOW) if getattr(e, "instance_uuid", "") == new.instances[0].uuid), Observe
    )


@pytest.mark.parametrize("scope", ["", "member"])
def test_members_that_need_no_peer_go_on_as_they_are(scope: str) -> None:
    after = lost(group(scope), 1)
    assert after.start_epoch == 1
    assert [m.status for m in after.instances] == [S.RUNNING, S.PENDING, S.RUNNING]


@pytest.mark.parametrize(("before", "after"), [(S.CREATED, S.BOOTING), (S.STOPPED, S.STOPPING)])
def test_one_that_serves_an_older_start_is_seen_to_execute_all_the_same(
    before: InstanceStatus, after: InstanceStatus
) -> None:
    """Otherwise it would be let run, or left running, for ever."""
    of = group(start_epoch=2, phase=GroupPhase.BOOTING if before is S.CREATED else GroupPhase.STOPPING)
    of = replace(of, instances=(replace(of.instances[0], status=before), *of.instances[1:]))
    assert seen(of, 0, Observation.READY, epoch=1).instances[0].status is after


def test_each_further_loss_is_another_start() -> None:
    after = lost(lost(group(), 1), 2)
    assert after.start_epoch == 3
    knows_second = seen(after, 0, Observation.READY, epoch=2)
    assert knows_second.instances[0].status is S.BOOTING


def test_a_database_that_is_behind_takes_the_start_from_a_guest_within_bounds() -> None:
    assert seen(group(), 0, Observation.READY, epoch=4).start_epoch == 4
    assert seen(group(), 0, Observation.READY, epoch=2 + FURTHEST).start_epoch == 1
    stale = replace(group().instances[0], attempt=0)
    assert advance(group(), Observed(stale.uuid, 0, Observation.READY, epoch=4), NOW).start_epoch == 1


def test_right_answers_and_restarts_of_the_engine_are_kept() -> None:
    after = seen(group(), 0, Observation.READY, epoch=1, answered_ms=3_000, engine_restarts=2)
    assert (after.instances[0].last_answer_at, after.instances[0].engine_restarts) == (NOW - 3_000, 2)
    older = seen(after, 0, Observation.READY, epoch=1, answered_ms=9_000, engine_restarts=2)
    assert older.instances[0].last_answer_at == NOW - 3_000


def test_a_guest_that_served_and_falls_silent_is_taken_to_hang_and_one_that_speaks_again_is_not() -> None:
    quiet = seen(group(), 1, Observation.UNREADY, reason="its guest has said nothing for 15 s", silent=True, epoch=1)
    assert quiet.status is GroupStatus.DEGRADED
    assert "said nothing" in quiet.reason
    assert next_deadline(quiet) == NOW + HANGS_MS
    assert advance(quiet, Ticked(), NOW + HANGS_MS - 1).instances[1].status is S.BOOTING
    assert advance(quiet, Ticked(), NOW + HANGS_MS).instances[1].status is S.FAILING
    again = seen(quiet, 1, Observation.EXECUTING, epoch=1)
    assert advance(again, Ticked(), NOW + HANGS_MS).instances[1].status is S.BOOTING
    first = seen(group(served=False), 1, Observation.UNREADY, silent=True, epoch=1)
    assert advance(first, Ticked(), NOW + HANGS_MS).instances[1].status is S.BOOTING, (
        "it never served: it may be loading"
    )


def test_a_boot_that_nobody_saw_is_told_once() -> None:
    first = seen(group(), 1, Observation.READY, epoch=1, boot_id="b-1")
    assert first.status is GroupStatus.RUNNING, "which boot it is in was not known before"
    assert seen(first, 1, Observation.READY, epoch=1, boot_id="b-1") == first
    assert seen(first, 1, Observation.READY, epoch=1) == first, "what is not heard now says nothing"
    reset = seen(first, 1, Observation.READY, epoch=1, boot_id="b-2")
    assert (reset.instances[1].status, reset.instances[1].reason) == (S.BOOTING, RESET)
    again = seen(reset, 1, Observation.READY, epoch=1, boot_id="b-2")
    assert (again.instances[1].status, again.instances[1].reason) == (S.RUNNING, "")
    assert again.start_epoch == group().start_epoch, "its peers' supervisors see to their engines"


def test_a_boot_that_was_seen_is_not_told_again() -> None:
    first = seen(group(), 1, Observation.READY, epoch=1, boot_id="b-1")
    boots = seen(first, 1, Observation.UNREADY, reason="its guest says booting", epoch=1, boot_id="b-2")
    assert boots.instances[1].reason == f"{RESET}: its guest says booting"
    assert seen(boots, 1, Observation.READY, epoch=1, boot_id="b-2").instances[1].status is S.RUNNING
    made_anew = lost(first, 1).instances[1]
    assert made_anew.guest_boot == "", "that is a new run, whose boot is news to nobody"


def test_a_reset_that_its_host_tells_of_is_told_once_whether_its_guest_is_heard_or_not() -> None:
    runs = replace(group(), instances=tuple(member(r, updated_at=NOW - 5_000) for r in range(3)))
    for observation in (Observation.EXECUTING, Observation.READY):
        reset = seen(runs, 1, observation, reset_ms=1_000)
        assert (reset.instances[1].status, reset.instances[1].reason) == (S.BOOTING, RESET)
    again = replace(runs, instances=tuple(member(r, updated_at=NOW) for r in range(3)))
    assert seen(again, 1, Observation.READY, epoch=1, reset_ms=1_000).status is GroupStatus.RUNNING, "told before"
    assert seen(runs, 1, Observation.READY, epoch=1).status is GroupStatus.RUNNING


def test_while_one_member_does_not_serve_its_fellows_are_looked_at_as_often() -> None:
    """What they wait for may be one that hangs, and says nothing by which it would be noticed."""
    calm = [e.every_ms for e in effects(group(), NOW) if isinstance(e, Observe)]
    worried = seen(group(), 0, Observation.UNREADY, reason="its guest says degraded", epoch=1)
    often = [e.every_ms for e in effects(worried, NOW) if isinstance(e, Observe)]
    assert (len(calm), len(often)) == (3, 3)
    assert max(often) < min(calm)
