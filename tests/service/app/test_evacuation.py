"""Which members of a group seek room when their host is emptied."""

from __future__ import annotations

from dataclasses import replace

from placement.model import Snapshot
from service.app import evacuation
from service.domain.groups import Group, GroupPhase, InstanceStatus
from tests.support.builders import group, host

S = InstanceStatus
HERE, THERE = host(1).uuid, host(2).uuid


def seated(*places: tuple[str, S]) -> Group:
    """A serving group whose members are on these hosts, in these statuses."""
    made = group(len(places))
    members = tuple(
        replace(m, host_uuid=place, status=status) for m, (place, status) in zip(made.instances, places, strict=True)
    )
    return replace(made, instances=members, phase=GroupPhase.RUNNING, go=True, served=True)


ALONE = evacuation._Situation(host(1), (), {}, Snapshot(()))


def test_only_members_of_this_host_seek_room_and_not_on_it() -> None:
    asked = evacuation._request(seated((HERE, S.RUNNING), (THERE, S.RUNNING)), HERE, 1, ALONE)
    assert asked is not None
    assert [node.id for node in asked.nodes] == [f"{0:032x}"]
    assert asked.excluded_hosts == {HERE}


def test_a_member_that_a_scaling_removes_seeks_no_room() -> None:
    assert evacuation._request(seated((THERE, S.RUNNING), (HERE, S.REMOVING)), HERE, 1, ALONE) is None


def test_a_member_that_waits_for_room_elsewhere_is_not_of_this_host() -> None:
    assert evacuation._request(seated((HERE, S.REMOVING), ("", S.PENDING)), HERE, 1, ALONE) is None
