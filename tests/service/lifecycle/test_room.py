"""Room in the lifecycle: members that make it stay where they are when it does not come to it; who it is for waits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.domain.groups import (
    Failure,
    Group,
    GroupPhase,
    InstanceStatus,
    MoveStage,
    PlacementRecord,
    RoomPlan,
    RoomWish,
    Waiting,
)
from service.domain.specs import PlacementStrategy
from service.lifecycle.effects import AbortMove, AwaitRoom, FindTarget, Plan, effects
from service.lifecycle.facts import (
    DeleteRequested,
    Evicted,
    Fact,
    MoveAborted,
    MoveClaimed,
    Moved,
    MoveImpossible,
    NotPlaced,
    RoomAsked,
    RoomBegun,
    RoomCalledOff,
    RoomClosed,
    StopRequested,
)
from service.lifecycle.room import ASK_FIRST_MS, ASK_MOST_MS
from service.lifecycle.transitions import advance
from tests.service.lifecycle.test_transitions import running
from tests.support.builders import group

S = InstanceStatus
ROOM = "f" * 32


def told(before: Group, *facts: Fact) -> Group:
    for fact in facts:
        before = advance(before, fact, 2_000)
    return before


def asked(live: bool = True) -> tuple[Group, Fact]:
    """A running group whose first member is asked, and the claim of where it goes."""
    whole = running()
    member = whole.instances[0]
    there = MoveClaimed(member.uuid, member.attempt, "t", "target")
    return told(whole, RoomAsked(member.uuid, member.attempt, ROOM, 0, live)), there


def test_who_is_asked_moves_to_the_seat_that_is_booked_and_then_makes_no_room_any_more() -> None:
    wanted, there = asked()
    member = wanted.instances[0]
    assert (member.move, member.room, member.status) == (MoveStage.WANTED, ROOM, S.RUNNING)
    assert FindTarget(member.uuid, 1) in effects(wanted, 2_000)
    arrived = told(wanted, there, Moved(member.uuid, 1)).instances[0]
    assert (arrived.host_uuid, arrived.room, arrived.move, arrived.attempt) == ("t", "", MoveStage.NONE, 1)


def test_who_cannot_be_moved_stays_and_runs_on() -> None:
    wanted, there = asked()
    member = wanted.instances[0]
    refused = told(wanted, MoveImpossible(member.uuid, 1, "no")).instances[0]
    assert (refused.status, refused.host_uuid, refused.room, refused.move) == (S.RUNNING, "h0", "", MoveStage.NONE)
    going = told(wanted, there, MoveImpossible(member.uuid, 1, "no"))
    assert AbortMove(member.uuid, 1) in effects(going, 2_000)
    back = told(going, MoveAborted(member.uuid, 1, absent=True)).instances[0]
    assert (back.status, back.host_uuid, back.room, back.attempt) == (S.RUNNING, "h0", "", 1)


@pytest.mark.parametrize("going", [False, True])
def test_what_nobody_wants_any_more_is_taken_back(going: bool) -> None:
    wanted, there = asked()
    uuid = wanted.instances[0].uuid
    closed = told(wanted, *([there] if going else []), RoomClosed(ROOM))
    if going:
        assert AbortMove(uuid, 1) in effects(closed, 2_000)
        closed = told(closed, MoveAborted(uuid, 1, absent=True))
    member = closed.instances[0]
    assert (member.status, member.host_uuid, member.room, member.move) == (S.RUNNING, "h0", "", MoveStage.NONE)
    assert told(wanted, RoomClosed("e" * 32)) == wanted, "another room is none of its business"


def test_a_host_that_is_emptied_is_left_whether_the_room_is_wanted_or_not() -> None:
    wanted, _ = asked()
    member = told(wanted, Evicted("h0", live=True), RoomClosed(ROOM)).instances[0]
    assert (member.move, member.room) == (MoveStage.WANTED, "")


def test_a_stop_in_the_middle_keeps_the_seat_that_the_member_is_in() -> None:
    wanted, there = asked()
    uuid = wanted.instances[0].uuid
    stopping = told(wanted, there, StopRequested())
    assert stopping.instances[0].status is S.STOPPING
    back = told(stopping, MoveAborted(uuid, 1, absent=True)).instances[0]
    assert (back.status, back.host_uuid, back.room) == (S.STOPPING, "h0", "")


def test_who_does_not_run_or_moves_already_is_not_asked() -> None:
    whole = running()
    member = replace(whole.instances[0], unknown_since=5)
    silent = replace(whole, instances=(member, *whole.instances[1:]))
    assert told(silent, RoomAsked(member.uuid, 1, ROOM, 0, True)).instances[0].room == ""
    drained = told(whole, Evicted("h0", live=True))
    assert told(drained, RoomAsked(member.uuid, 1, ROOM, 0, True)) == drained


def test_a_group_waits_for_its_room_and_plans_anew_when_that_is_called_off() -> None:
    record = PlacementRecord((), PlacementStrategy.LEAST_LOST_VALUE, 0, 0, 0, "gap", "")
    plan = RoomPlan(ROOM, (), record, {}, 0, 0, "optimal", 1)
    waiting = replace(group(2), phase=GroupPhase.PLANNING, room=RoomWish())
    assert isinstance(effects(waiting, 2_000)[0], Plan)
    begun = told(waiting, RoomBegun(plan))
    assert begun.room is not None
    assert (begun.room.tries, begun.room.plan) == (1, plan)
    assert [type(e) for e in effects(begun, 2_000)] == [AwaitRoom]
    off = told(begun, RoomCalledOff("no", ("m",)))
    assert off.room == RoomWish(tries=1, refused=("m",), refusals=1, asks_again_at=2_000 + ASK_FIRST_MS)
    assert isinstance(effects(off, 2_000)[0], Plan)
    assert told(begun, DeleteRequested()).room is None
    assert told(begun, NotPlaced(Failure("NO_CAPACITY", "no"))).room is None


def test_a_group_that_waits_asks_those_again_who_did_not_go_after_a_pause_that_grows_to_its_most() -> None:
    record = PlacementRecord((), PlacementStrategy.LEAST_LOST_VALUE, 0, 0, 0, "gap", "")
    plan = RoomPlan(ROOM, (), record, {}, 0, 0, "optimal", 1)
    waiting = Waiting(until=1 << 50)
    before = replace(group(2), phase=GroupPhase.PLANNING, room=RoomWish(), waiting=waiting)
    looked, now, pauses = NotPlaced(Failure("NO_CAPACITY", "no")), 2_000, []
    for _ in range(10):
        off = advance(advance(before, RoomBegun(plan), now), RoomCalledOff("no", ("m",)), now)
        assert off.room is not None
        again = off.room.asks_again_at
        pauses.append(again - now)
        sooner = advance(off, looked, again - 1).room
        assert sooner is not None
        assert (sooner.refused, sooner.tries, sooner.plan) == (("m",), 0, None)
        before = advance(off, looked, again)
        assert before.room is not None
        assert (before.room.refused, before.room.tries) == ((), 0)
        now = again
    assert pauses[:3] == [ASK_FIRST_MS, 2 * ASK_FIRST_MS, 4 * ASK_FIRST_MS]
    assert pauses == sorted(pauses)
    assert pauses[-1] == ASK_MOST_MS
    # What was called off for another cause is nobody's refusal.
    assert before.room is not None
    gone = advance(advance(before, RoomBegun(plan), now), RoomCalledOff("the room is gone"), now)
    assert gone.room == replace(before.room, tries=1)
