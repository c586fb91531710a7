"""Room for which a group ends and another one's member moves, where neither alone is enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, fleet_pb2, placement_pb2

from service.drivers.simulated import SimulatedDriver
from tests.service.rpc.test_evictions import EVICT, OTHER, URGENT, VICTIM, booked, deployed, group, policy
from tests.service.rpc.test_make_room import _refused
from tests.service.rpc.test_room import plan
from tests.support.whole import GIB, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

KEEPER = "a2" * 16
PRIORITY = 5


async def a_victim_between_two_keepers(lab: Whole, keeper_gib: int, other_gib: int) -> dict[str, str]:
    """On hosts of 10 vCPUs: a keeper of 5 on one, a victim of 6 and another keeper of 2 on the other; by group, its
    host. For 9 vCPUs the victim has to end, and one of the keepers to move to the other's host."""

    def of(uuid: str, cpu: int, gib: int, **more: Any) -> Any:
        request = group(uuid, cpu, **more)
        request.model_services[0].memory_size = gib * GIB
        return request

    apart = {"preferred_anti_affinity_groups": [{"group_uuid": KEEPER, "weight": 100}]}
    await deployed(lab, of(KEEPER, 5, keeper_gib, priority=PRIORITY))
    await deployed(lab, of(VICTIM, 6, 1))
    await deployed(lab, of(OTHER, 2, other_gib, priority=PRIORITY, placement_policy=apart))
    hosts = {uuid: (await lab.get(uuid)).instances[0].host_uuid for uuid in (KEEPER, VICTIM, OTHER)}
    assert hosts[OTHER] == hosts[VICTIM] != hosts[KEEPER]
    return hosts


def urgent() -> Any:
    return group(URGENT, 9, priority=PRIORITY, make_room=EVICT)


@pytest.mark.parametrize(("keeper_gib", "other_gib"), [(1, 2), (2, 1)], ids=["to the victim's seat", "before it ends"])
async def test_a_group_ends_and_the_cheaper_member_moves(keeper_gib: int, other_gib: int, tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2, extra=policy())) as lab:
        hosts = await a_victim_between_two_keepers(lab, keeper_gib, other_gib)
        events = await deployed(lab, urgent())
        assert events[-1].final.status == "Running"
        (room, *_) = [e.group.room for e in events if e.WhichOneof("change") == "group" and e.group.HasField("room")]
        moves, stays = (KEEPER, OTHER) if keeper_gib < other_gib else (OTHER, KEEPER)
        assert [move.group_uuid for move in room.moves] == [moves]
        assert [one.group_uuid for one in room.evictions] == [VICTIM]
        assert (room.moved_bytes, room.lower_bound_bytes) == (GIB, GIB)
        assert room.proof == placement_pb2.PLACEMENT_PROOF_OPTIMAL
        seats = {uuid: (await lab.get(uuid)).instances[0] for uuid in (KEEPER, OTHER, URGENT)}
        assert seats[URGENT].host_uuid == hosts[moves]
        assert seats[moves].host_uuid == seats[stays].host_uuid == hosts[stays]
        assert (seats[moves].attempt, seats[stays].attempt) == (1, 1)
        assert (await lab.get(VICTIM)).status == "Stopped"
        assert await booked(lab) == 0


async def test_nobody_ends_for_a_move_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first plan's move needs nobody's end, and is refused before; another's goes to the victim's seat."""
    async with whole(tmp_path, config_text(hosts=2, extra=policy())) as lab:
        hosts = await a_victim_between_two_keepers(lab, 2, 1)
        monkeypatch.setattr(SimulatedDriver, "_move", _refused)
        with pytest.raises(grpc.aio.AioRpcError):
            await deployed(lab, urgent())
        metrics = lab.service.metrics.evictions
        told, begun, made = (metrics.labels(word)._value.get() for word in ("told", "begun", "made"))
        assert told >= 1
        assert begun <= told - 1
        assert made == 0
        for uuid in (KEEPER, OTHER):
            seat = (await lab.get(uuid)).instances[0]
            assert (seat.host_uuid, seat.attempt) == (hosts[uuid], 1)
        assert await booked(lab) == 0


async def test_a_plan_tells_who_ends_and_who_moves(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2, extra=policy(delay=60))) as lab:
        await a_victim_between_two_keepers(lab, 1, 2)
        request = deploy_pb2.PlanDistributedModelServiceRequest(
            model_services=urgent().model_services, service_creation_strategy="parallel", name="x",
            priority=PRIORITY, make_room=EVICT,
        )  # fmt: skip
        answer = await lab.fleet.PlanRoom(fleet_pb2.PlanRoomRequest(group=request))
        assert [one.group_uuid for one in answer.evictions] == [VICTIM]
        assert [one.group_uuid for one in answer.moves] == [KEEPER]
        assert (answer.moved_bytes, answer.lower_bound_bytes) == (GIB, GIB)
        told = await plan(lab, "--name", "x", "--model-service", "default", "--cpu", "9", "--priority", "5",
                          "--make-room", "evict")  # fmt: skip
        assert told.startswith("1 group ends, 1 GiB of memory (proven the least), and then 1 member moves, 1 GiB:\n")
        assert f"group-a0 ({VICTIM}) of priority 0" in told
        assert f" of {KEEPER}: " in told
        assert (await lab.get(VICTIM)).status == "Running"
