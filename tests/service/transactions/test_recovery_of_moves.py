"""What a recovery makes of members that were in the middle of a live move by the database that it finds."""

from __future__ import annotations

from dataclasses import replace

from service.domain.groups import Group, GroupPhase, MoveStage
from service.drivers.base import MachineState as M
from service.lifecycle.members import S
from tests.service.transactions.test_recovery_plan import decide, knowing, only, running, shown, surveys
from tests.support.builders import host


def moving_to_host_3(was: Group) -> Group:
    """The group stopping, with its member of rank 0 on its way from host 1 to host 3."""
    first = replace(was.instances[0], move=MoveStage.ABORTING, target_host_uuid=host(3).uuid, target_host_name="host-3")
    return replace(was, phase=GroupPhase.STOPPING, instances=(first, *was.instances[1:]))


def test_who_has_arrived_by_a_live_move_stays_there_where_its_group_is_put_right() -> None:
    """Its move forgotten, it would be looked for where it was, and made again beside itself."""
    was = moving_to_host_3(running(2))
    found = decide(knowing(was, generation=1), surveys([], [shown(was, 1)], [shown(was, 0)], generation=9))
    change = only(found)
    first, second = change.group.instances
    assert (change.group.phase, first.status, second.status) == (GroupPhase.RUNNING, S.RUNNING, S.RUNNING)
    assert (first.host_uuid, first.attempt, first.target_host_uuid) == (host(3).uuid, was.instances[0].attempt, "")
    assert first.uuid in change.changed


def test_who_may_have_arrived_where_nobody_can_look_is_not_put_right() -> None:
    was = moving_to_host_3(running(2))
    there = surveys([shown(was, 0, M.STOPPED)], [shown(was, 1)], generation=9)
    found = decide(knowing(was, generation=1), there, {"host-3": "it does not answer"})
    assert not found.changes
    assert "may have moved to host-3" in found.problems[0].why
