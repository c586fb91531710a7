"""Room on real libvirtds: a group of a lower priority ends, and another one's guest moves to its seat as it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from corral.v1 import fleet_pb2, group_pb2, placement_pb2

from tests.integration.test_live_migration import corral_group, executing, joined_soon, with_routes
from tests.integration.test_service_on_hypervisors import ENTRY, SMALL, ZONE, domains, rows, serving
from tests.lab.fixtures import GuestImage, guest_image, lab
from tests.lab.fleet import Lab
from tests.support.process import CorralProcess

__all__ = ["guest_image", "lab"]

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900)]

FOUR_A_HOST = """
[overcommit]
cpu = 1.0
[[priorities]]
most = 10
preempts = ["*"]
least_run = 0
eviction_delay = 0
"""
PRIORITY = 5


@pytest.fixture
def corral(lab: Lab, guest_image: GuestImage, tmp_path: Path) -> Iterator[CorralProcess]:
    with serving(tmp_path, with_routes(lab, guest_image) + FOUR_A_HOST, lab) as process:
        yield process


def one(cpu: int, memory: int = SMALL) -> list[group_pb2.NodeSpec]:
    return [group_pb2.NodeSpec(uuid=ENTRY, zone_uuid=ZONE, cpu_num=cpu, memory_size=memory)]


def hosts_by_name(corral: CorralProcess) -> dict[str, str]:
    """Name -> uuid."""
    return {host.name: host.uuid for host in corral.fleet.ListHosts(fleet_pb2.ListHostsRequest()).inventories}


def test_a_group_ends_and_anothers_guest_moves_to_its_seat_as_it_runs(corral: CorralProcess, lab: Lab) -> None:
    first, second = sorted(hosts_by_name(corral).values())
    corral.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=second))
    keeper = corral.follow(corral.deploy("keeper", one(2), priority=PRIORITY))
    corral.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=second))
    corral.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=first))
    victim = corral.follow(corral.deploy("victim", one(2)))
    other = corral.follow(corral.deploy("other", one(1, 2 * SMALL), priority=PRIORITY))
    corral.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=first))

    # Something that only the memory of this boot knows.
    path = f"/cgi-bin/join?group={keeper.uuid}&epoch=1&rank=7"
    assert lab.get_json(keeper.instances[0].addresses[0], path=path)["accepted"]
    assert joined_soon(lab, keeper, 1) == 1

    rooms, final = [], None
    for message in corral.deploy("urgent", one(4), priority=PRIORITY, make_room=group_pb2.MAKE_ROOM_EVICT):
        event = message.event
        kind = event.WhichOneof("change")
        if kind == "group" and event.group.HasField("room"):
            rooms.append(event.group.room)
        elif kind == "final":
            final = event.final
    assert final is not None
    assert (final.status, final.instances[0].host_uuid) == ("Running", first)
    room = rooms[0]
    assert [move.group_uuid for move in room.moves] == [keeper.uuid]
    assert [end.group_uuid for end in room.evictions] == [victim.uuid]
    assert (room.moved_bytes, room.proof) == (SMALL, placement_pb2.PLACEMENT_PROOF_OPTIMAL)

    moved = corral_group(corral, keeper.uuid).instances[0]
    assert (moved.host_uuid, moved.attempt, moved.status) == (second, 1, "Running")
    assert executing(lab, f"corral-{moved.uuid}-1") == [moved.host_name]
    assert joined_soon(lab, keeper, 1) == 1, "the guest was not booted again"
    assert corral_group(corral, other.uuid).instances[0].host_uuid == second
    assert corral_group(corral, victim.uuid).status == "Stopped"
    assert executing(lab, f"corral-{victim.instances[0].uuid}-1") == []
    for uuid in (final.uuid, keeper.uuid, victim.uuid, other.uuid):
        corral.delete(uuid)
    assert domains(lab) == {}
    assert (rows(corral, "claims"), rows(corral, "bookings"), rows(corral, "addresses")) == (0, 0, 0)
