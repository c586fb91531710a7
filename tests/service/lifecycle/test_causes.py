"""What a host said goes with the reason that it is behind, to the group that quotes it, and ends with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.domain.groups import Group, GroupPhase, InstanceStatus, MoveStage
from service.domain.specs import FailurePolicy
from service.lifecycle.facts import MoveImpossible, Observation, Observed, StopRequested
from service.lifecycle.transitions import advance
from tests.support.builders import group, host

S = InstanceStatus
REASON, SAID = "the host's storage pool is full", "libvirt code 1 domain 18: No space left on device"


def creating(policy: FailurePolicy) -> Group:
    made = group(2, phase=GroupPhase.CREATING)
    first, second = (replace(m, status=S.CREATING, host_uuid=host(1).uuid) for m in made.instances)
    return replace(made, instances=(first, second), spec=replace(made.spec, failure_policy=policy))


def rejected(of: Group, detail: str = SAID, reason: str = REASON) -> Observed:
    member = of.instances[0]
    return Observed(member.uuid, member.attempt, Observation.REJECTED, reason, detail=detail)


@pytest.mark.parametrize("policy", list(FailurePolicy))
def test_a_refused_create_is_told_of_the_member_and_of_its_group(policy: FailurePolicy) -> None:
    before = creating(policy)
    after = advance(before, rejected(before), 1000)
    assert (after.instances[0].told_cause, after.told_cause) == (SAID, SAID)
    assert SAID not in after.reason
    assert SAID not in after.instances[0].reason
    assert after.failure is None or SAID not in after.failure.message
    assert after.instances[1].cause == ""
    # That its machine is seen gone is no new reason.
    leaving = after.instances[0]
    gone = Observed(leaving.uuid, leaving.attempt, Observation.GONE, leaving.reason)
    assert advance(after, gone, 2000).told_cause == SAID


def test_another_reason_ends_it() -> None:
    before = creating(FailurePolicy.RESTART_MEMBER)
    failed = advance(before, rejected(before), 1000)
    again = replace(failed, instances=(replace(failed.instances[0], status=S.CREATING), failed.instances[1]))
    other = advance(again, rejected(again, detail="", reason="its catalogue entry is gone"), 2000)
    assert (other.instances[0].told_cause, other.instances[0].cause) == ("", "")
    assert (other.told_cause, other.cause) == ("", "")
    stopped = advance(failed, StopRequested(), 2000)
    assert (stopped.reason, stopped.told_cause, stopped.cause) == ("", "", "")


def test_why_a_member_could_not_be_moved_live_has_its_cause() -> None:
    before = group(1, phase=GroupPhase.RUNNING, go=True, served=True)
    (member,) = before.instances
    before = replace(before, instances=(replace(member, status=S.RUNNING, host_uuid=host(1).uuid),))
    wished = replace(before, instances=(replace(before.instances[0], move=MoveStage.WANTED),))
    after = advance(wished, MoveImpossible(member.uuid, member.attempt, "no route", SAID), 1000)
    assert after.instances[0].reason == "it could not be moved live: no route"
    assert after.instances[0].told_cause == SAID
