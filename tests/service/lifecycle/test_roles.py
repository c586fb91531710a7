"""A role starts when the roles before it are running: whatever the states are in which a group is found."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from service.domain.groups import Group, GroupPhase, InstanceStatus
from service.domain.specs import CreationStrategy
from service.lifecycle.effects import Resume, effects, start_order
from tests.support.builders import group

S = InstanceStatus


@st.composite
def booting(draw: st.DrawFn) -> Group:
    """A group whose GO is committed, with members of any order in any state of a start."""
    size = draw(st.integers(1, 6))
    made = group(
        size,
        phase=GroupPhase.BOOTING,
        go=True,
        workers_first=draw(st.booleans()),
        creation_strategy=draw(st.sampled_from(CreationStrategy)),
    )

    def state() -> InstanceStatus:
        return draw(st.sampled_from([S.CREATED, S.BOOTING, S.RUNNING, S.FAILING, S.EVICTING, S.REMOVING]))

    return replace(
        made,
        instances=tuple(
            replace(
                m,
                status=state(),
                leaving=draw(st.integers(0, 9)) == 0,
                host_uuid="a" * 32,
                spec=replace(m.spec, role="r", start_order=draw(st.integers(0, 3))),
            )
            for m in made.instances
        ),
    )


@given(booting())
def test_no_member_is_let_run_before_all_of_a_lower_order_are_running(found: Group) -> None:
    by_uuid = {m.uuid: m for m in found.instances}
    resumed = [by_uuid[e.instance_uuid] for e in effects(found, 10**12) if isinstance(e, Resume)]
    before = {m.uuid: [o for o in found.instances if o.spec.start_order < m.spec.start_order] for m in resumed}
    assert all(o.status is S.RUNNING or o.leaving for others in before.values() for o in others)
    if found.spec.creation_strategy is CreationStrategy.SEQUENTIAL:
        assert sum(not m.leaving for m in resumed) <= 1
    # Nobody waits for nothing: the first that is not running is let run where it can be.
    waiting = [m for m in start_order(found) if m.status is not S.RUNNING and not m.leaving]
    if waiting and waiting[0].status is S.CREATED:
        assert waiting[0] in resumed


def test_without_roles_all_start_at_once() -> None:
    made = group(4, phase=GroupPhase.BOOTING, go=True)
    made = replace(made, instances=tuple(replace(m, status=S.CREATED, host_uuid="a" * 32) for m in made.instances))
    assert sum(isinstance(effect, Resume) for effect in effects(made, 10**12)) == 4
