"""Whose members make room for whom: one's own project's; for administrators everybody's, told without names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.contract.convert import inventory
from service.domain.events import Event
from service.domain.groups import GroupStatus
from service.domain.preemption import PriorityPolicy
from service.domain.specs import DeployRequest, PlacementPolicy, PreferredGroup, RoomMoves
from service.domain.tenants import Caller
from service.errors import NoCapacity, Undecided
from tests.support.builders import host, node, spec
from tests.support.control_plane import ControlPlane, control_plane

pytestmark = pytest.mark.asyncio

OWN, OTHER = Caller("o", "own", "operator"), Caller("p", "other", "operator")


def wanted(cpu: int, moves: RoomMoves | None = None) -> DeployRequest:
    return DeployRequest(spec(1, nodes=(node(cpu_num=cpu),)), make_room=moves)


async def up(plane: ControlPlane, caller: Caller, request: DeployRequest) -> list[Event]:
    started = await plane.groups.deploy(caller, request)
    return [event async for event in plane.groups.follow(started.group.uuid, started.after_revision)]


async def one_on_each(plane: ControlPlane, caller: Caller) -> None:
    """A group of 5 vCPUs on each of two hosts of 10: the second would rather be apart from the first."""
    events = await up(plane, caller, wanted(5))
    apart = PlacementPolicy(preferred_anti_affinity=(PreferredGroup(events[-1].group_uuid),))
    await up(plane, caller, DeployRequest(spec(1, nodes=(node(cpu_num=5),), placement=apart)))
    assert sorted((await plane.used()).values()) == [5, 5]


async def test_another_projects_members_stay_unless_an_administrator_asks() -> None:
    async with control_plane(size={"cpu": "10", "memory": "64GiB"}) as plane:
        await one_on_each(plane, OTHER)
        with pytest.raises((NoCapacity, Undecided)):
            await up(plane, OWN, wanted(10, RoomMoves.LIVE))
        assert sorted((await plane.used()).values()) == [5, 5]
        events = await up(plane, Caller("admin", "own", "admin"), wanted(10, RoomMoves.LIVE))
        assert events[-1].group is not None
        assert events[-1].group.status is GroupStatus.RUNNING
        assert sorted((await plane.used()).values()) == [10, 10]
        told = [e.group for e in events if e.group is not None and e.group.room and e.group.room.plan]
        (move,) = inventory.group(told[0], lambda _zone: True).room.moves
        assert (move.instance_uuid, move.group_uuid, move.instance_name) == ("", "", "")
        assert move.memory_size == 1 << 30


async def test_ones_own_projects_members_move() -> None:
    async with control_plane(size={"cpu": "10", "memory": "64GiB"}) as plane:
        await one_on_each(plane, OWN)
        events = await up(plane, OWN, wanted(10, RoomMoves.LIVE))
        assert events[-1].group is not None
        assert events[-1].group.status is GroupStatus.RUNNING
        assert sorted((await plane.used()).values()) == [10, 10]


async def test_neither_side_of_an_eviction_is_told_of_another_projects_group() -> None:
    policies = {"": PriorityPolicy(9, ("*",), least_run_ms=0, delay_ms=0)}
    async with control_plane(hosts=(host(1),), size={"cpu": "10", "memory": "64GiB"}, priorities=policies) as plane:
        victim = (await up(plane, OTHER, wanted(10)))[-1].group_uuid
        urgent = replace(wanted(10, RoomMoves.EVICT), priority=3)
        events = await up(plane, OWN, urgent)
        assert events[-1].group is not None
        assert events[-1].group.status is GroupStatus.RUNNING
        told = next(e.group for e in events if e.group is not None and e.group.room and e.group.room.plan)
        (one,) = inventory.group(told, lambda _zone: True).room.evictions
        assert (one.group_uuid, one.group_name, one.memory_size, one.priority) == ("", "", 1 << 30, 0)
        page = await plane.groups.history(OTHER, victim, 100, "")
        (notice, *_) = [
            inventory.group(e.group, lambda _zone: True).eviction for e in page.items if e.group and e.group.eviction
        ]
        assert (notice.by_group_uuid, notice.by_name, notice.by_priority) == ("", "", 3)
        secrets = {events[-1].group_uuid, "own"}
        told_victim = [str(inventory.group(e.group, lambda _zone: True)) for e in page.items if e.group]
        assert not [text for text in told_victim for word in secrets if word in text]
