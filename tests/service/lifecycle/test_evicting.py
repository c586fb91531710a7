"""A group that ends for a more important one: not before its time, called off until then, and what becomes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.domain.groups import Group, GroupPhase, GroupStatus, InstanceStatus, MoveStage
from service.domain.leaving import EvictedTo, Eviction
from service.domain.preemption import PriorityPolicy, Victims, becomes, may_evict
from service.domain.specs import MayWait
from service.lifecycle.effects import GiveWay, effects
from service.lifecycle.evicting import MADE_ROOM
from service.lifecycle.facts import (
    ClockLeapt,
    DeleteRequested,
    EvictionAsked,
    EvictionBegun,
    Observation,
    Observed,
    RoomClosed,
    StopRequested,
)
from service.lifecycle.present import held_to_present
from service.lifecycle.transitions import advance
from tests.service.lifecycle.test_transitions import running as of_two

NOW, AT = 1_000_000, 1_060_000
S = InstanceStatus


def running(size: int) -> Group:
    group = of_two()
    return replace(group, instances=group.instances[:size])


def asked(to: EvictedTo = EvictedTo.STOPPED) -> Eviction:
    return Eviction("r" * 32, AT, AT - NOW, to, "b" * 32, "urgent", "default", 5)


def told(group: Group, to: EvictedTo = EvictedTo.STOPPED) -> Group:
    return advance(group, EvictionAsked(asked(to)), NOW)


def gone(group: Group, now: int = AT) -> Group:
    """The group once every machine of it was seen gone."""
    for member in group.instances:
        fact = Observed(member.uuid, member.attempt, Observation.GONE, barred=True)
        group = advance(group, fact, now)
    return group


def test_until_its_time_it_runs_and_nothing_is_done() -> None:
    group = told(running(2))
    assert (group.phase, group.status) == (GroupPhase.RUNNING, GroupStatus.RUNNING)
    assert "priority 5" in group.reason
    early = advance(group, EvictionBegun("r" * 32), AT - 1)
    assert early == group
    assert GiveWay() not in effects(group, AT - 1)
    assert GiveWay() in effects(group, AT)
    assert advance(group, EvictionBegun("s" * 32), AT) == group, "of another room"


def test_called_off_before_its_time_it_stays_and_after_it_goes_on_to_leave() -> None:
    before = running(2)
    assert advance(told(before), RoomClosed("r" * 32), NOW) == replace(before, reason="")
    leaving = advance(told(before), EvictionBegun("r" * 32), AT)
    assert advance(leaving, RoomClosed("r" * 32), AT) == leaving


def test_stopped_it_has_no_seat() -> None:
    leaving = advance(told(running(2)), EvictionBegun("r" * 32), AT)
    assert {m.status for m in leaving.instances} == {S.EVICTING}
    stopped = gone(leaving)
    assert (stopped.phase, stopped.reason, stopped.eviction) == (GroupPhase.STOPPED, MADE_ROOM, None)
    assert {(m.status, m.host_uuid, m.attempt) for m in stopped.instances} == {(S.PENDING, "", 2)}


@pytest.mark.parametrize(("may", "until"), [(MayWait(for_ms=5_000), AT + 5_000), (MayWait(until=AT + 9), AT + 9)])
def test_who_may_wait_stands_in_line_again(may: MayWait, until: int) -> None:
    group = replace(running(2), may_wait=may)
    back = gone(advance(told(group, EvictedTo.WAITING), EvictionBegun("r" * 32), AT))
    assert (back.phase, back.eviction) == (GroupPhase.PLANNING, None)
    assert back.waiting is not None
    assert (back.waiting.until, back.served, back.go) == (until, False, False)


def test_who_was_stopped_meanwhile_stays_so_whatever_it_might_do() -> None:
    group = replace(running(1), may_wait=MayWait(for_ms=5_000))
    stopping = advance(told(group, EvictedTo.WAITING), StopRequested(), NOW)
    halted = advance(stopping, Observed(group.instances[0].uuid, 1, Observation.HALTED), NOW)
    assert (halted.phase, halted.eviction is not None) == (GroupPhase.STOPPED, True)
    assert GiveWay() in effects(halted, AT), "a seat that is kept is no room"
    left = gone(advance(halted, EvictionBegun("r" * 32), AT))
    assert (left.phase, left.waiting, left.instances[0].host_uuid) == (GroupPhase.STOPPED, None, "")


def test_deleted_and_failed_groups_are_evicted_no_more() -> None:
    assert advance(told(running(1)), DeleteRequested(), NOW).eviction is None
    deleting = advance(told(running(1), EvictedTo.DELETED), EvictionBegun("r" * 32), AT)
    assert (deleting.phase, deleting.reason) == (GroupPhase.DELETING, MADE_ROOM)


def test_a_clock_that_leaps_takes_nothing_of_the_notice_and_one_set_back_adds_nothing() -> None:
    group = told(running(1))
    leapt = advance(group, ClockLeapt(50_000), NOW + 50_000)
    assert leapt.eviction is not None
    assert leapt.eviction.at == AT + 50_000
    back = held_to_present(group, NOW - 500_000)
    assert back.eviction is not None
    assert back.eviction.at == NOW - 500_000 + (AT - NOW)


def test_who_ends_for_whom() -> None:
    policies = {"": PriorityPolicy(10, ("*",), least_run_ms=100), "spared": PriorityPolicy(preemptible=False)}
    urgent = replace(running(1), uuid="b" * 32, priority=5)
    victim = replace(running(1), running_since=NOW - 100)
    assert may_evict(policies, urgent, victim, NOW)
    member = victim.instances[0]
    for other in (
        replace(victim, priority=5),
        replace(victim, priority=9),
        replace(victim, running_since=NOW - 99),
        replace(victim, project="spared"),
        replace(victim, phase=GroupPhase.BOOTING),
        replace(victim, eviction=asked()),
        replace(victim, uuid=urgent.uuid),
        replace(victim, instances=(replace(member, unknown_since=1),)),
        replace(victim, instances=(replace(member, room="r" * 32),)),
        replace(victim, instances=(replace(member, move=MoveStage.WANTED),)),
    ):
        assert not may_evict(policies, urgent, other, NOW)
    assert not may_evict({"": PriorityPolicy(10)}, urgent, victim, NOW)
    assert not may_evict({"": PriorityPolicy(10, ("another",), least_run_ms=0)}, urgent, victim, NOW)


def test_what_becomes_of_it_says_its_project_and_how_it_was_deployed() -> None:
    waits = replace(running(1), may_wait=MayWait(for_ms=1))
    for wish, group, to in (
        (Victims.WAIT, waits, EvictedTo.WAITING),
        (Victims.WAIT, running(1), EvictedTo.STOPPED),
        (Victims.WAIT, replace(waits, may_wait=MayWait(until=AT)), EvictedTo.STOPPED),
        (Victims.STOP, waits, EvictedTo.STOPPED),
        (Victims.DELETE, waits, EvictedTo.DELETED),
    ):
        assert becomes({"": PriorityPolicy(victims=wish)}, group, AT) is to
