"""The hold of a rebalance: who has moved a short while ago, by whatever, is moved again for a broken rule alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import fleet_pb2
from sqlalchemy import select, update

from service.cli import errors
from service.drivers.base import MachineState
from service.store import schema
from tests.service.cli.test_on_a_service import corral
from tests.service.rpc.lab import reason_of
from tests.service.rpc.test_make_room import at_rest
from tests.service.rpc.test_rebalance import RULE, full_and_empty, homes, steps_of
from tests.support.whole import ZONE, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

EVEN, FREE = fleet_pb2.REBALANCE_GOAL_EVEN_LOAD, fleet_pb2.REBALANCE_GOAL_FREE_HOSTS
HOLD = 600


async def moved_at(lab: Whole) -> dict[str, int]:
    columns = schema.instances.c
    rows = await lab.service.store.read(lambda c: c.execute(select(columns.uuid, columns.moved_at)).all())
    return {row.uuid: row.moved_at for row in rows}


async def rested(lab: Whole, groups: list[Any]) -> None:
    """All is over, and hosts that were left take the same machines again, as they do two minutes later."""
    await at_rest(lab, groups)
    for monitor in lab.service.reconciler.monitors.values():
        host = monitor.driver.host  # type: ignore[attr-defined]
        for machine in [m for m in host.machines.values() if m.state is MachineState.TOMBSTONE]:
            host.clear_tombstone(machine.identity)


async def swung(lab: Whole, groups: list[Any], **fields: Any) -> Counter[str]:
    """How often each member moved while hosts were to be evenly full, free, evenly full, …"""
    moves = Counter[str]()
    for goal in (EVEN, FREE, EVEN, FREE, EVEN):
        final = (await steps_of(lab, goal=goal, **fields))[-1].final
        assert {one.state for one in final.outcomes} <= {"moved"}
        moves += Counter(one.move.move.move.instance_uuid for one in final.outcomes)
        await rested(lab, groups)
    return moves


async def test_a_load_that_swings_moves_nobody_twice_within_the_hold(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        groups = await full_and_empty(lab)
        assert set((await moved_at(lab)).values()) == {0}
        moves = await swung(lab, groups, hold_seconds=HOLD)
        assert max(moves.values()) == 1
        times = await moved_at(lab)
        assert {uuid for uuid, at in times.items() if at} == set(moves)
        held = (await lab.fleet.PlanRebalance(fleet_pb2.PlanRebalanceRequest(hold_seconds=HOLD))).held
        untils = sorted(times[uuid] + 1000 * HOLD for uuid in moves)
        assert held.count == len(untils)
        assert [held.first_until.ToMilliseconds(), held.last_until.ToMilliseconds()] == [untils[0], untils[-1]]
        assert lab.service.metrics.rebalance_held_members._value.get() > 0
        swinging = await swung(lab, groups, hold_seconds=0)
        assert max(swinging.values()) > 1
        free = await lab.fleet.PlanRebalance(fleet_pb2.PlanRebalanceRequest(hold_seconds=0))
        assert not free.HasField("held")


async def test_the_configuration_says_how_long_members_are_held_where_the_request_does_not(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        groups = await full_and_empty(lab)
        assert max((await swung(lab, groups)).values()) == 1
    async with whole(tmp_path / "other", config_text(hosts=2, extra="[rebalance]\nhold_seconds = 0\n")) as lab:
        groups = await full_and_empty(lab)
        assert max((await swung(lab, groups)).values()) > 1


async def one_that_moved(lab: Whole, groups: list[Any]) -> str:
    """Even hosts out; the member that moved for it."""
    assert [one.state for one in (await steps_of(lab))[-1].final.outcomes] == ["moved"]
    await rested(lab, groups)
    (mover,) = [uuid for uuid, at in (await moved_at(lab)).items() if at]
    return mover


async def planned(lab: Whole, **fields: Any) -> tuple[list[tuple[str, int]], int]:
    """Who would move and what for, and how many are held."""
    plan = await lab.fleet.PlanRebalance(fleet_pb2.PlanRebalanceRequest(**fields))
    return [(one.move.move.instance_uuid, one.cause) for one in plan.moves], plan.held.count


async def test_once_the_hold_is_over_a_member_may_move_again(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        groups = await full_and_empty(lab)
        mover = await one_that_moved(lab, groups)
        moves, held = await planned(lab, goal=FREE)
        assert held == 1
        assert mover not in [uuid for uuid, _ in moves]
        elsewhere = fleet_pb2.CreateClusterRequest(name="elsewhere", zone_uuid=ZONE)
        cluster = (await lab.fleet.CreateCluster(elsewhere)).inventory.uuid
        assert await planned(lab, cluster_uuid=cluster) == ([], 0)
        earlier = schema.instances.c.moved_at - 1000 * HOLD
        moved = schema.instances.c.uuid == mover
        await lab.service.store.write(
            lambda c: c.execute(update(schema.instances).where(moved).values(moved_at=earlier))
        )
        assert (await planned(lab, goal=FREE))[1] == 0
        assert (await planned(lab, goal=FREE, hold_seconds=100 * HOLD))[1] == 1


async def test_whoever_is_held_moves_all_the_same_where_a_rule_is_broken(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        ssd = {"disk": "ssd"}

        async def labelled(name: str, labels: dict[str, str]) -> None:
            change = fleet_pb2.UpdateHostRequest(uuid=lab.uuid_of(name), labels=labels, allow_broken_rules=True)
            change.update_mask.paths.append("labels")
            await lab.fleet.UpdateHost(change)

        await labelled("host-1", ssd)
        await labelled("host-2", ssd)
        other = fleet_pb2.DisableHostRequest(uuid=lab.uuid_of("host-2"))
        await lab.fleet.DisableHost(other)
        policy = {"required_host_labels": [{"key": "disk", "values": ["ssd"]}]}
        groups = [await lab.up(1, placement_policy=policy) for _ in range(2)]
        await lab.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=other.uuid))
        mover = await one_that_moved(lab, groups)
        await labelled("host-2", {})
        assert await planned(lab) == ([(mover, RULE)], 0)
        assert [one.state for one in (await steps_of(lab))[-1].final.outcomes] == ["moved"]
        await rested(lab, groups)
        assert await homes(lab, groups) == [["host-1"], ["host-1"]]


async def test_whoever_was_placed_anew_is_held_as_one_that_has_moved_live(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2, live=False)) as lab:
        group = await lab.up(1)
        assert set((await moved_at(lab)).values()) == {0}
        drained = fleet_pb2.DrainHostRequest(uuid=lab.uuid_of(group.instances[0].host_name))
        async for _ in lab.fleet.DrainHost(drained):
            pass
        await at_rest(lab, [group])
        assert (await lab.get(group.uuid)).instances[0].attempt == 2
        assert min((await moved_at(lab)).values()) > 0


async def test_a_hold_of_less_than_nothing_or_more_than_thirty_days_is_refused_by_its_name(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=1)) as lab:
        for wrong in (-1, 30 * 86_400 + 1):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await lab.fleet.PlanRebalance(fleet_pb2.PlanRebalanceRequest(hold_seconds=wrong))
            assert reason_of(error.value) == "INVALID_ARGUMENT"
            assert "hold_seconds" in (error.value.details() or "")
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await steps_of(lab, hold_seconds=wrong)
            assert reason_of(error.value) == "INVALID_ARGUMENT"


async def test_the_command_tells_who_is_held_and_asks_for_another_hold(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        groups = await full_and_empty(lab)
        await one_that_moved(lab, groups)
        assert "1 member has moved lately and is held until " in (await corral(lab, "rebalance"))[1]
        assert "held" not in (await corral(lab, "rebalance", "--hold-seconds", "0"))[1]
        status, out, _ = await corral(lab, "rebalance", "--goal", "free-hosts", "--hold-seconds", "60", "--run")
        assert status == errors.OK
        assert "is held until " in out
