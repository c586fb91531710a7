"""Whose members make room for whom: one's own project's; for administrators everybody's, told without names."""

from __future__ import annotations

import pytest

from service.contract.convert import inventory
from service.domain.events import Event
from service.domain.groups import GroupStatus
from service.domain.specs import DeployRequest, PlacementPolicy, PreferredGroup, RoomMoves
from service.domain.tenants import Caller
from service.errors import NoCapacity, Undecided
from tests.support.builders import node, spec
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
