"""Rebalances, planned, begun, listed and called off: live moves mend rules and even hosts out, or nothing is done."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import fleet_pb2, placement_pb2
from sqlalchemy import select

from service.domain.groups import MoveStage
from service.domain.rebalances import Rebalance, RebalanceWish
from service.drivers.base import HostRejected
from service.drivers.simulated import SimulatedDriver
from service.store import rebalances, schema
from service.store.claims import ClaimLost
from service.transactions.rebalancing import begin
from tests.service.rpc.lab import reason_of
from tests.service.rpc.test_evacuation import never_twice, soon
from tests.service.rpc.test_make_room import at_rest, stored
from tests.support.whole import GIB, ZONE, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

RULE, LOAD = fleet_pb2.REBALANCE_CAUSE_RULE, fleet_pb2.REBALANCE_CAUSE_LOAD
NOBODY = "ab" * 16


async def full_and_empty(lab: Whole) -> list[Any]:
    """Two groups of a member each, which together fill most of host-1; nobody is on host-2."""
    other = fleet_pb2.DisableHostRequest(uuid=lab.uuid_of("host-2"))
    await lab.fleet.DisableHost(other)
    groups = [await lab.up(1), await lab.up(1)]
    await lab.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=other.uuid))
    return groups


async def one_each(lab: Whole) -> tuple[list[Any], dict[str, str]]:
    """Two groups of a member each, one on host-1 and one on host-2; nobody is on host-3. And the hosts' UUIDs."""
    uuids = {name: lab.uuid_of(name) for name in ("host-1", "host-2", "host-3")}
    groups = []
    for name in ("host-1", "host-2"):
        others = [fleet_pb2.DisableHostRequest(uuid=uuid) for other, uuid in uuids.items() if other != name]
        for other in others:
            await lab.fleet.DisableHost(other)
        groups.append(await lab.up(1))
        for other in others:
            await lab.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=other.uuid))
    return groups, uuids


async def steps_of(lab: Whole, **fields: Any) -> list[Any]:
    return [step async for step in lab.fleet.RebalanceHosts(fleet_pb2.RebalanceHostsRequest(**fields))]


async def homes(lab: Whole, groups: list[Any]) -> list[list[str]]:
    return [[m.host_name for m in (await lab.get(group.uuid)).instances] for group in groups]


async def test_the_fuller_host_gives_one_to_the_emptier_as_it_runs_and_then_there_is_nothing_to_gain(
    tmp_path: Path,
) -> None:
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        groups = await full_and_empty(lab)
        plan = await lab.fleet.PlanRebalance(fleet_pb2.PlanRebalanceRequest(zone_uuid=ZONE))
        (move,) = plan.moves
        assert (move.cause, move.gain, move.move.move.live, move.move.memory_size) == (LOAD, 40.0, True, GIB)
        assert (move.move.source_host_name, move.move.target_host_name) == ("host-1", "host-2")
        (zone,) = plan.zones
        assert (zone.zone_uuid, zone.fullest_percent, zone.fullest_percent_after) == (ZONE, 80.0, 40.0)
        assert (zone.lower_bound_percent, plan.moved_bytes, plan.least_moves) == (40.0, GIB, 0)
        assert plan.proof == placement_pb2.PLACEMENT_PROOF_OPTIMAL
        assert [s.WhichOneof("change") for s in await steps_of(lab, validate_only=True)] == ["plan", "final"]
        assert await homes(lab, groups) == [["host-1"], ["host-1"]]
        async with never_twice(lab):
            steps = await steps_of(lab, request_id="evening")
        assert [steps[0].WhichOneof("change"), steps[-1].WhichOneof("change")] == ["plan", "final"]
        assert [one.state for one in steps[-1].final.outcomes] == ["moved"]
        assert sorted(await homes(lab, groups)) == [["host-1"], ["host-2"]]
        assert {m.attempt for g in groups for m in (await lab.get(g.uuid)).instances} == {1}
        await at_rest(lab, groups)
        again = await steps_of(lab, request_id="evening")
        assert [(s.WhichOneof("change"), s.uuid) for s in again] == [("final", steps[0].uuid)]
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await steps_of(lab, request_id="evening", most_moves=3)
        assert reason_of(error.value) == "REQUEST_ID_REUSED"
        (nothing, end) = await steps_of(lab)
        assert (list(nothing.plan.moves), nothing.uuid, end.final.uuid) == ([], "", "")
        one = await lab.fleet.GetRebalance(fleet_pb2.GetRebalanceRequest(uuid=steps[0].uuid))
        assert one.inventory == steps[-1].final
        listed = await lab.fleet.ListRebalances(fleet_pb2.ListRebalancesRequest())
        assert (list(listed.inventories), listed.next_page_token) == ([one.inventory], "")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await lab.fleet.GetRebalance(fleet_pb2.GetRebalanceRequest(uuid=NOBODY))
        assert reason_of(error.value) == "NOT_FOUND"
        metrics = lab.service.metrics
        assert metrics.rebalances.labels("begun")._value.get() == 1
        assert metrics.rebalance_moves.labels("load")._value.get() == 1


@pytest.mark.parametrize(
    "fields", [{"threshold_percent": 81}, {"least_gain_percent": 41}, {"cluster_uuid": "c1" * 16}], ids=str
)
async def test_what_is_asked_of_a_move_is_kept(tmp_path: Path, fields: dict[str, Any]) -> None:
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        await full_and_empty(lab)
        if "cluster_uuid" in fields:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await lab.fleet.PlanRebalance(fleet_pb2.PlanRebalanceRequest(**fields))
            assert reason_of(error.value) == "NOT_FOUND"
            created = fleet_pb2.CreateClusterRequest(name="c", zone_uuid=ZONE)
            fields = {"cluster_uuid": (await lab.fleet.CreateCluster(created)).inventory.uuid}
        plan = await lab.fleet.PlanRebalance(fleet_pb2.PlanRebalanceRequest(**fields))
        assert list(plan.moves) == []
        (told, _) = await steps_of(lab, validate_only=True, **fields)
        assert list(told.plan.moves) == []
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await lab.fleet.PlanRebalance(fleet_pb2.PlanRebalanceRequest(zone_uuid=NOBODY))
        assert reason_of(error.value) == "NOT_FOUND"
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await steps_of(lab, validate_only=True, zone_uuid=NOBODY)
        assert reason_of(error.value) == "NOT_FOUND"


async def test_a_host_becomes_free_by_as_few_live_moves_as_possible_and_then_none_can(tmp_path: Path) -> None:
    goal = fleet_pb2.REBALANCE_GOAL_FREE_HOSTS
    async with whole(tmp_path, config_text(hosts=3)) as lab:
        groups, uuids = await one_each(lab)
        plan = await lab.fleet.PlanRebalance(fleet_pb2.PlanRebalanceRequest(goal=goal))
        (move,) = plan.moves
        assert (move.cause, move.gain, move.rule) == (fleet_pb2.REBALANCE_CAUSE_FREE, 1.0, "")
        assert {move.move.source_host_name, move.move.target_host_name} == {"host-1", "host-2"}
        assert list(plan.freed_host_uuids) == [uuids[move.move.source_host_name]]
        assert (plan.most_freed, plan.proof) == (1, placement_pb2.PLACEMENT_PROOF_OPTIMAL)
        async with never_twice(lab):
            steps = await steps_of(lab, goal=goal)
        assert [one.state for one in steps[-1].final.outcomes] == ["moved"]
        assert await homes(lab, groups) == [[steps[0].plan.moves[0].move.target_host_name]] * 2
        await at_rest(lab, groups)
        (nothing, _) = await steps_of(lab, goal=goal)
        assert (list(nothing.plan.moves), nothing.plan.most_freed) == ([], 0)
        assert lab.service.metrics.rebalance_moves.labels("free")._value.get() == 1
        both: list[dict[str, Any]] = [{"threshold_percent": 10}, {"least_gain_percent": 10}]
        for wrong in both:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await lab.fleet.PlanRebalance(fleet_pb2.PlanRebalanceRequest(goal=goal, **wrong))
            assert reason_of(error.value) == "INVALID_ARGUMENT"
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await steps_of(lab, goal=goal, **wrong)
            assert reason_of(error.value) == "INVALID_ARGUMENT"


async def test_no_more_members_move_than_are_allowed(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2, cpu=2)) as lab:
        other = fleet_pb2.DisableHostRequest(uuid=lab.uuid_of("host-2"))
        await lab.fleet.DisableHost(other)
        await lab.up(5)
        await lab.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=other.uuid))
        for allowed, made in ((1, 1), (0, 2)):
            plan = await lab.fleet.PlanRebalance(fleet_pb2.PlanRebalanceRequest(most_moves=allowed))
            assert len(plan.moves) == made


async def test_what_a_change_of_a_host_has_broken_is_mended_first(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=3)) as lab:
        for name in ("host-1", "host-3"):
            labels = fleet_pb2.UpdateHostRequest(uuid=lab.uuid_of(name), labels={"disk": "ssd"})
            labels.update_mask.paths.append("labels")
            await lab.fleet.UpdateHost(labels)
        third = lab.uuid_of("host-3")
        await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=third))
        policy = {"required_host_labels": [{"key": "disk", "values": ["ssd"]}]}
        groups = [await lab.up(1, placement_policy=policy)]
        await lab.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=third))
        change = fleet_pb2.UpdateHostRequest(
            uuid=lab.uuid_of("host-1"), labels={"disk": "hdd"}, allow_broken_rules=True
        )
        change.update_mask.paths.append("labels")
        await lab.fleet.UpdateHost(change)
        (none,) = [await lab.fleet.PlanRebalance(fleet_pb2.PlanRebalanceRequest(zone_uuid=ZONE, most_moves=1))]
        assert [(r.rule, r.missed_by, list(r.instance_uuids)) for r in none.broken_rules] == [
            ("labels", 1, [groups[0].instances[0].uuid])
        ]
        steps = await steps_of(lab)
        plan = steps[0].plan
        assert [(m.cause, m.rule, m.gain) for m in plan.moves] == [(RULE, "labels", 1.0)]
        assert (plan.least_moves, list(plan.left_broken)) == (1, [])
        assert await homes(lab, groups) == [["host-3"]]
        await at_rest(lab, groups)


async def test_called_off_in_the_middle_nobody_is_left_moving_homeless_or_doubled(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2, migrate_ms=3_600_000)) as lab:
        groups = await full_and_empty(lab)
        async with never_twice(lab):
            task = asyncio.create_task(steps_of(lab))

            async def going() -> bool:
                there = [await stored(lab, g.uuid) for g in groups]
                return any(m.move is MoveStage.GOING for g in there for m in g.instances)

            await soon(going)
            (uuid,) = await lab.service.store.read(lambda c: c.scalars(select(schema.rebalances.c.uuid)).all())
            wrong = fleet_pb2.CallOffRebalanceRequest(uuid=NOBODY)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await lab.fleet.CallOffRebalance(wrong)
            assert reason_of(error.value) == "NOT_FOUND"
            only = fleet_pb2.CallOffRebalanceRequest(uuid=uuid, validate_only=True)
            await lab.fleet.CallOffRebalance(only)
            assert await going()
            answer = await lab.fleet.CallOffRebalance(fleet_pb2.CallOffRebalanceRequest(uuid=uuid))
            assert answer.inventory.called_off
            final = (await task)[-1].final
        assert (final.called_off, [one.state for one in final.outcomes]) == (True, ["stayed"])
        assert await homes(lab, groups) == [["host-1"], ["host-1"]]
        await at_rest(lab, groups)
        assert lab.service.metrics.rebalances.labels("called_off")._value.get() == 1


async def test_who_goes_already_is_asked_by_no_second_rebalance_that_was_planned_before(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2, migrate_ms=3_600_000)) as lab:
        groups = await full_and_empty(lab)
        rebalancing = lab.service.rebalancing
        plan = await rebalancing.plan(RebalanceWish())
        store = lab.service.store
        begun = [Rebalance(f"{n:032x}", plan.moves, 0, 1 << 60) for n in (1, 2)]
        await store.write(lambda c: begin(c, plan.groups, begun[0], 0))
        with pytest.raises(ClaimLost):
            await store.write(lambda c: begin(c, plan.groups, begun[1], 0))
        await lab.fleet.CallOffRebalance(fleet_pb2.CallOffRebalanceRequest(uuid=begun[0].uuid))
        await at_rest(lab, groups)


async def test_a_move_that_a_host_refuses_leaves_the_member_where_it_runs_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: Any) -> None:
        raise HostRejected("refused", "the host does not want to")

    async with whole(tmp_path, config_text(hosts=2)) as lab:
        groups = await full_and_empty(lab)
        monkeypatch.setattr(SimulatedDriver, "_move", refused)
        final = (await steps_of(lab))[-1].final
        assert [one.state for one in final.outcomes] == ["stayed"]
        assert "could not be moved live" in final.outcomes[0].reason
        assert await homes(lab, groups) == [["host-1"], ["host-1"]]
        await at_rest(lab, groups)


async def test_members_that_no_host_takes_as_they_run_are_no_part_of_a_plan(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2, live=False)) as lab:
        await full_and_empty(lab)
        plan = await lab.fleet.PlanRebalance(fleet_pb2.PlanRebalanceRequest())
        assert list(plan.moves) == []
        assert plan.proof == placement_pb2.PLACEMENT_PROOF_OPTIMAL


async def test_moves_go_on_without_the_client_and_end_with_their_time(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2, migrate_ms=300)) as lab:
        groups = await full_and_empty(lab)
        call = lab.fleet.RebalanceHosts(fleet_pb2.RebalanceHostsRequest())
        first = await call.read()
        assert first.plan.moves
        call.cancel()

        async def moved() -> bool:
            return sorted(await homes(lab, groups)) == [["host-1"], ["host-2"]]

        await soon(moved)
        await at_rest(lab, groups)


async def test_rebalances_are_listed_by_pages_the_newest_first(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=1)) as lab:

        def stored(connection: Any) -> None:
            for number in range(5):
                rebalances.add(connection, Rebalance(f"{number:032x}", (), 1000 + number // 2, 2000))

        await lab.service.store.write(stored)
        found: list[str] = []
        token = ""
        while True:
            ask = fleet_pb2.ListRebalancesRequest(page_size=2, page_token=token)
            page = await lab.fleet.ListRebalances(ask)
            found += [one.uuid for one in page.inventories]
            token = page.next_page_token
            if not token:
                break
        assert found == [f"{number:032x}" for number in (4, 3, 2, 1, 0)]
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await lab.fleet.ListRebalances(fleet_pb2.ListRebalancesRequest(page_token="eA"))
        assert reason_of(error.value) == "INVALID_ARGUMENT"
