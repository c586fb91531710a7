"""A gang that was counted by what changed in it is counted as one that was counted whole, and so is what follows."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.groups import Group, GroupPhase, GroupStatus, Instance, InstanceStatus
from service.domain.specs import FailurePolicy
from service.lifecycle import census as counting
from service.lifecycle import settling
from service.lifecycle.census import census, counted
from service.lifecycle.facts import Evicted, Fact, HostAnswers, HostSilent, Observation, Observed, StopAsked, Ticked
from service.lifecycle.transitions import advance
from tests.support.builders import ZONE, group

S = InstanceStatus
MANY = 48
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(S),
        "joining": st.booleans(),
        "leaving": st.booleans(),
        "stop_asked": st.booleans(),
        "unknown_since": st.integers(0, 2),
        "told_epoch": st.integers(0, 2),
        "reason": st.sampled_from(["", "because"]),
    },
)


def running(count: int) -> Group:
    """A gang that runs on two hosts, and may lose any of its members."""
    made = group(count, phase=GroupPhase.RUNNING, status=GroupStatus.RUNNING, go=True, served=True, start_epoch=1)
    spec = replace(made.spec, failure_policy=FailurePolicy.REPLACE_MEMBER, failure_budget=9, scope="group")
    members = (
        replace(m, status=S.RUNNING, host_uuid=f"h{n % 2}", zone_uuid=ZONE, was_resumed=True, told_epoch=1)
        for n, m in enumerate(made.instances)
    )
    return replace(made, spec=spec, instances=tuple(members))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, MANY - 1), CHANGES), max_size=30))
def test_a_count_by_what_changed_is_a_count_of_all(changes: list[tuple[int, int, dict[str, object]]]) -> None:
    gangs: list[tuple[Instance, ...]] = [running(MANY).instances, running(MANY).instances]
    for which, place, values in changes:
        members = list(gangs[which])
        members[place] = replace(members[place], **values)  # type: ignore[arg-type]
        gangs[which] = tuple(members)
        assert census(gangs[which]) == counted(gangs[which])
    for members_now in (gangs[0][:-1], gangs[0][1:], (*gangs[1], gangs[0][0])):
        assert census(members_now) == counted(members_now)


def facts(members: tuple[Instance, ...]) -> st.SearchStrategy[Fact]:
    some = st.sampled_from(members[:6])
    return st.one_of(
        st.builds(
            lambda m, seen, epoch: Observed(m.uuid, 1, seen, epoch=epoch), some, st.sampled_from(Observation),
            st.integers(0, 2),
        ),
        st.builds(lambda m: StopAsked(m.uuid, 1), some),
        st.sampled_from([Ticked(), HostSilent("h0"), HostAnswers("h0"), Evicted("h1")]),
    )  # fmt: skip


@settings(max_examples=60)
@given(st.data())
def test_what_follows_for_a_group_is_what_follows_from_a_look_at_all_of_its_members(data: st.DataObject) -> None:
    now, stands = 1000, running(MANY)
    strategy = facts(stands.instances)
    for fact in data.draw(st.lists(strategy, max_size=20)):
        now += 50
        after = advance(stands, fact, now)
        with patch.object(settling, "census", counted):
            assert advance(stands, fact, now) == after
        stands = after


def test_a_fact_is_worked_out_without_a_count_of_the_others() -> None:
    stands = running(1024)
    fact = Observed(stands.instances[500].uuid, 1, Observation.UNREADY)
    again = Observed(stands.instances[500].uuid, 1, Observation.READY, epoch=1)
    looked: list[Instance] = []
    stand = counting._stand
    census(stands.instances)
    with patch.object(counting, "_stand", lambda member: looked.append(member) or stand(member)):  # type: ignore[func-returns-value]
        after = advance(advance(stands, fact, 1000), again, 2000)
    assert after.status is GroupStatus.RUNNING
    assert len(looked) <= 16
