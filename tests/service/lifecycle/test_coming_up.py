"""What a guest says while it boots is its member's reason, where the boot takes long, and not too often."""

from __future__ import annotations

from dataclasses import replace

from service.domain.groups import Group, InstanceStatus
from service.lifecycle.facts import LastLines, Observation, Observed
from service.lifecycle.last_words import TOLD_EVERY_MS
from service.lifecycle.transitions import advance
from tests.service.lifecycle.test_transitions import created, tell_all

GATE, CANARY = "its guest says gate: waiting for ring-1", "its guest says joining: a wrong answer: 5"


def heard(group: Group, reason: str, now: int, observation: Observation = Observation.EXECUTING) -> Group:
    """After a look at its first member at that time, which is stored where it changed something."""
    member = group.instances[0]
    after = advance(group, Observed(member.uuid, member.attempt, observation, reason), now)
    if after is group:
        return group
    return replace(after, instances=(replace(after.instances[0], updated_at=now), *after.instances[1:]))


def test_what_a_member_waits_for_is_told_where_its_boot_takes_long_and_now_and_then() -> None:
    subject = tell_all(created(), Observation.EXECUTING)
    assert {m.status for m in subject.instances} == {InstanceStatus.BOOTING}
    assert heard(subject, GATE, TOLD_EVERY_MS - 1) == subject, "most are ready before"
    told = heard(subject, GATE, TOLD_EVERY_MS)
    assert (told.instances[0].reason, told.instances[0].status) == (GATE, InstanceStatus.BOOTING)
    assert heard(told, CANARY, 2 * TOLD_EVERY_MS - 1) == told, "a guest may say something else all the time"
    again = heard(told, CANARY, 2 * TOLD_EVERY_MS)
    assert again.instances[0].reason == CANARY
    assert heard(again, CANARY, 9 * TOLD_EVERY_MS) == again, "nothing new"
    ready = heard(again, "", 9 * TOLD_EVERY_MS, Observation.READY)
    assert (ready.instances[0].reason, ready.instances[0].status) == ("", InstanceStatus.RUNNING)


def test_why_a_group_that_served_does_not_stays_its_reason() -> None:
    subject = tell_all(created(), Observation.EXECUTING)
    served = replace(subject, served=True)
    assert heard(served, GATE, 5 * TOLD_EVERY_MS).instances[0].reason == ""
    (first, *others) = subject.instances
    paused = replace(subject, instances=(replace(first, reason="its hypervisor paused it"), *others))
    assert heard(paused, GATE, 5 * TOLD_EVERY_MS) == paused


def test_what_it_says_last_of_all_stands_in_its_failure() -> None:
    told = heard(tell_all(created(), Observation.EXECUTING), GATE, TOLD_EVERY_MS)
    member = told.instances[0]
    after = advance(told, LastLines(member.uuid, member.attempt, "[engine]\nloading 3 of 9", CANARY), TOLD_EVERY_MS + 1)
    assert after.instances[0].reason == f"{CANARY}; its last lines: loading 3 of 9"
