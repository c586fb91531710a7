"""What waits to be written with others, for how long, and what never waits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.domain.groups import Group, GroupPhase, GroupStatus, InstanceStatus
from service.lifecycle.facts import Fact, HostSilent, Observation, Observed
from service.reconcile.gathering import GATHER_MS, Gathering
from tests.support.builders import group

S = InstanceStatus


def gang(status: S, phase: GroupPhase, *, size: int = 3, go: bool = True) -> Group:
    made = group(size=size, phase=phase, go=go, start_epoch=int(go), status=GroupStatus.DEPLOYING)
    members = tuple(replace(m, status=status, host_uuid="h0", was_resumed=go) for m in made.instances)
    return replace(made, instances=members)


def seen(subject: Group, rank: int, observation: Observation) -> Observed:
    member = subject.instances[rank]
    return Observed(member.uuid, member.attempt, observation)


def written(
    gathering: Gathering, subject: Group, *facts: Fact, at: int = 0, calls: bool = True, urgent: bool = False
) -> list[Fact]:
    return gathering.to_write(facts, subject, 5, at, calls=calls, urgent=urgent)


def test_the_first_members_that_are_ready_wait_for_the_last_which_brings_the_group_to_rest() -> None:
    subject, gathering = gang(S.BOOTING, GroupPhase.BOOTING), Gathering()
    one, two, three = (seen(subject, rank, Observation.READY) for rank in range(3))
    assert written(gathering, subject, one, calls=False) == []
    assert gathering.holds(subject.instances[0].uuid)
    assert not gathering.holds(subject.instances[1].uuid)
    assert written(gathering, subject, two, at=1) == []
    assert written(gathering, subject, three, at=2) == [one, two, three]
    assert not gathering
    assert not gathering.holds(subject.instances[0].uuid)


def test_go_waits_for_nothing() -> None:
    subject, gathering = gang(S.CREATING, GroupPhase.CREATING, size=2, go=False), Gathering()
    one, two = (seen(subject, rank, Observation.PAUSED) for rank in range(2))
    assert written(gathering, subject, one) == []
    assert written(gathering, subject, two, calls=False) == [one, two]


def test_nothing_waits_longer_than_its_time() -> None:
    subject, gathering = gang(S.BOOTING, GroupPhase.BOOTING), Gathering()
    one, two = (seen(subject, rank, Observation.READY) for rank in range(2))
    assert written(gathering, subject, one, at=7) == []
    assert gathering.until == 7 + GATHER_MS
    assert written(gathering, subject, at=6 + GATHER_MS) == []
    assert written(gathering, subject, two, at=7 + GATHER_MS) == [one, two]


def test_what_was_made_or_let_run_waits_only_for_calls_under_way() -> None:
    for status, phase, go, what in (
        (S.CREATING, GroupPhase.CREATING, False, Observation.PAUSED),
        (S.CREATED, GroupPhase.BOOTING, True, Observation.EXECUTING),
    ):
        subject = gang(status, phase, go=go)
        fact = seen(subject, 0, what)
        assert written(Gathering(), subject, fact, calls=True) == []
        assert written(Gathering(), subject, fact, calls=False) == [fact]


@pytest.mark.parametrize("observation", [Observation.HALTED, Observation.GONE, Observation.UNREADY])
def test_what_goes_wrong_waits_for_nothing_and_takes_along_what_is_held(observation: Observation) -> None:
    subject, gathering = gang(S.BOOTING, GroupPhase.BOOTING), Gathering()
    ready, wrong = seen(subject, 0, Observation.READY), seen(subject, 1, observation)
    assert written(gathering, subject, ready) == []
    assert written(gathering, subject, wrong) == [ready, wrong]


def test_where_it_is_urgent_and_where_something_else_is_told_nothing_is_held() -> None:
    subject = gang(S.BOOTING, GroupPhase.BOOTING)
    ready = seen(subject, 0, Observation.READY)
    assert written(Gathering(), subject, ready, urgent=True) == [ready]
    assert written(Gathering(), subject, ready, HostSilent("h0")) == [ready, HostSilent("h0")]
    assert written(Gathering(), subject) == []
