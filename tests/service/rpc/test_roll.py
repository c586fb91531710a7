"""Rolls, planned, begun, listed and called off: hosts are emptied some at a time, in an order that was found whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import fleet_pb2, placement_pb2

from service.domain.groups import MoveStage
from service.domain.rolls import Roll, RollHost, RollStage, RollWish
from service.store import rolls
from tests.service.rpc.lab import reason_of
from tests.service.rpc.test_evacuation import never_twice, soon
from tests.service.rpc.test_make_room import at_rest, stored
from tests.support.whole import GIB, ZONE, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

NOBODY = "ab" * 16
OPTIMAL = placement_pb2.PLACEMENT_PROOF_OPTIMAL


async def plan(lab: Whole, **fields: Any) -> Any:
    return await lab.fleet.PlanRoll(fleet_pb2.PlanRollRequest(**fields))


async def begin(lab: Whole, **fields: Any) -> Any:
    return await lab.fleet.RollHosts(fleet_pb2.RollHostsRequest(**fields))


async def refused(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return reason_of(error.value)


async def now(lab: Whole, uuid: str) -> Any:
    return (await lab.fleet.GetRoll(fleet_pb2.GetRollRequest(uuid=uuid))).inventory


async def enable(lab: Whole, uuid: str) -> None:
    await lab.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=uuid))


async def until_drained(lab: Whole, uuid: str, names: set[str]) -> None:
    async def drained() -> bool:
        return {h.host_name for h in (await now(lab, uuid)).hosts if h.stage == "drained"} == names

    await soon(drained)


async def until_over(lab: Whole, uuid: str) -> Any:
    async def over() -> bool:
        return bool((await now(lab, uuid)).HasField("end_date"))

    await soon(over)
    return await now(lab, uuid)


async def a_member_on_each(lab: Whole, names: tuple[str, ...]) -> list[Any]:
    """A group of one member on each of these hosts, one after the other; the others are closed meanwhile."""
    every = [h.name for h in lab.service.directory.hosts.values()]
    groups = []
    for name in names:
        for other in every:
            if other != name:
                await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=lab.uuid_of(other)))
        groups.append(await lab.up(1))
        for other in every:
            await enable(lab, lab.uuid_of(other))
    return groups


async def test_each_host_is_emptied_and_waits_for_the_word_before_the_next_is_begun(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=3)) as lab:
        groups = await a_member_on_each(lab, ("host-1", "host-2"))
        told = await plan(lab, zone_uuid=ZONE)
        names = {lab.uuid_of(f"host-{n}"): f"host-{n}" for n in (1, 2, 3)}
        assert [names[uuid] for uuid in told.batches[0].host_uuids] == ["host-3"]
        assert (told.proof, told.least_moves, list(told.left_host_uuids)) == (OPTIMAL, 2, [])
        moves = [m for batch in told.batches for m in batch.moves]
        assert [(m.move.live, m.memory_size) for m in moves] == [(True, GIB)] * 2
        only = await begin(lab, zone_uuid=ZONE, validate_only=True)
        assert list((await lab.fleet.ListRolls(fleet_pb2.ListRollsRequest())).inventories) == []
        assert [h.stage for h in only.inventory.hosts] == ["waiting"] * 3
        async with never_twice(lab):
            begun = await begin(lab, zone_uuid=ZONE, request_id="night")
            uuid, order = begun.inventory.uuid, [h.host_name for h in begun.inventory.hosts]
            assert begun.plan.batches == told.batches
            for number, name in enumerate(order):
                await until_drained(lab, uuid, {name})
                host = await lab.host(name)
                assert (host.state, lab.machines_on(name)) == ("Maintenance", [])
                stages = {h.host_name: h.stage for h in (await now(lab, uuid)).hosts}
                assert [stages[one] for one in order] == ["done"] * number + ["drained"] + ["waiting"] * (2 - number)
                await enable(lab, host.uuid)
            final = await until_over(lab, uuid)
        assert ([h.reason for h in final.hosts], final.called_off, final.reason) == ([""] * 3, False, "")
        assert [(await lab.host(name)).state for name in order] == ["Enabled"] * 3
        await at_rest(lab, groups)
        assert {m.attempt for g in groups for m in (await lab.get(g.uuid)).instances} == {1}
        again = await begin(lab, zone_uuid=ZONE, request_id="night")
        assert (again.inventory, again.HasField("plan")) == (final, False)
        assert await refused(begin(lab, zone_uuid=ZONE, request_id="night", at_once=2)) == "REQUEST_ID_REUSED"
        metrics = lab.service.metrics
        assert [metrics.rolls.outcomes.labels(one)._value.get() for one in ("begun", "done")] == [1, 1]
        assert [metrics.rolls.hosts.labels(one)._value.get() for one in ("moving", "drained", "done")] == [3, 3, 3]
        assert metrics.rolls.plans.labels("placed")._value.get() >= 3


async def test_so_many_hosts_at_a_time_as_are_asked_for(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=4, cpu=2)) as lab:
        await a_member_on_each(lab, ("host-1", "host-2", "host-3", "host-4"))
        hosts = [lab.uuid_of(f"host-{n}") for n in (1, 2)]
        told = await plan(lab, host_uuids=hosts, at_once=2)
        assert [sorted(batch.host_uuids) for batch in told.batches] == [sorted(hosts)]
        assert [len(batch.host_uuids) for batch in (await plan(lab, host_uuids=hosts)).batches] == [1, 1]
        begun = await begin(lab, host_uuids=hosts, at_once=2)
        assert begun.inventory.at_once == 2
        await until_drained(lab, begun.inventory.uuid, {"host-1", "host-2"})
        assert await refused(begin(lab, host_uuids=hosts[:1])) == "WRONG_STATE"
        for uuid in hosts:
            await enable(lab, uuid)
        await until_over(lab, begun.inventory.uuid)


async def test_a_host_that_was_started_anew_is_enabled_where_that_is_asked_for(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        groups = await a_member_on_each(lab, ("host-1",))
        uuid = lab.uuid_of("host-1")
        begun = await begin(lab, host_uuids=[uuid], enable=fleet_pb2.ROLL_ENABLE_RESTART)
        await until_drained(lab, begun.inventory.uuid, {"host-1"})
        lab.driver("host-1").host.reboot()
        final = await until_over(lab, begun.inventory.uuid)
        assert (final.enable, final.hosts[0].stage) == (fleet_pb2.ROLL_ENABLE_RESTART, "done")
        assert (await lab.host("host-1")).state == "Enabled"
        await at_rest(lab, groups)


async def test_members_that_no_host_takes_as_they_run_are_placed_anew(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2, live=False)) as lab:
        groups = await a_member_on_each(lab, ("host-1",))
        uuid = lab.uuid_of("host-1")
        told = await plan(lab, host_uuids=[uuid])
        assert [m.move.live for m in told.batches[0].moves] == [False]
        async with never_twice(lab):
            begun = await begin(lab, host_uuids=[uuid])
            await until_drained(lab, begun.inventory.uuid, {"host-1"})
        await at_rest(lab, groups)
        assert [(m.host_name, m.attempt) for m in (await lab.get(groups[0].uuid)).instances] == [("host-2", 2)]


async def test_what_cannot_be_emptied_is_refused_with_the_proof_and_nothing_is_begun(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        group = await lab.up(2, placement_policy={"max_per_host": 1})
        told = await plan(lab, zone_uuid=ZONE)
        assert (len(told.left_host_uuids), told.proof) == (2, placement_pb2.PLACEMENT_PROOF_INFEASIBLE)
        assert told.stuck_host_uuid in {lab.uuid_of("host-1"), lab.uuid_of("host-2")}
        assert told.reason
        assert await refused(begin(lab, zone_uuid=ZONE)) == "UNSATISFIABLE"
        assert list((await lab.fleet.ListRolls(fleet_pb2.ListRollsRequest())).inventories) == []
        await at_rest(lab, [group])


async def test_what_is_unknown_or_closed_is_refused_by_name(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        for fields in ({"zone_uuid": NOBODY}, {"cluster_uuid": NOBODY}, {"host_uuids": [NOBODY]}):
            assert await refused(plan(lab, **fields)) == "NOT_FOUND"
            assert await refused(begin(lab, **fields)) == "NOT_FOUND"
        created = fleet_pb2.CreateClusterRequest(name="c", zone_uuid=ZONE)
        cluster = (await lab.fleet.CreateCluster(created)).inventory.uuid
        both = {"cluster_uuid": cluster, "host_uuids": [lab.uuid_of("host-1")]}
        for fields in ({"cluster_uuid": cluster}, both):
            assert await refused(plan(lab, **fields)) == "INVALID_ARGUMENT"
            assert await refused(begin(lab, **fields)) == "INVALID_ARGUMENT"
        await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=lab.uuid_of("host-1")))
        assert [list(b.host_uuids) for b in (await plan(lab, zone_uuid=ZONE)).batches] == [[lab.uuid_of("host-2")]]
        assert await refused(begin(lab, host_uuids=[lab.uuid_of("host-1")])) == "WRONG_STATE"
        assert await refused(now(lab, NOBODY)) == "NOT_FOUND"
        assert await refused(lab.fleet.CallOffRoll(fleet_pb2.CallOffRollRequest(uuid=NOBODY))) == "NOT_FOUND"


async def test_a_roll_waits_where_the_rest_cannot_be_emptied_any_more_and_says_why(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=3)) as lab:
        await a_member_on_each(lab, ("host-1",))
        begun = await begin(lab, host_uuids=[lab.uuid_of("host-3"), lab.uuid_of("host-1")])
        uuid = begun.inventory.uuid
        await until_drained(lab, uuid, {"host-3"})
        await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=lab.uuid_of("host-1")))
        await enable(lab, lab.uuid_of("host-3"))

        async def waits() -> bool:
            return "host-1 is not enabled" in (await now(lab, uuid)).reason

        await soon(waits)
        assert [h.stage for h in (await now(lab, uuid)).hosts] == ["done", "waiting"]
        lab.service.roller._not_before.clear()
        await enable(lab, lab.uuid_of("host-1"))
        await until_drained(lab, uuid, {"host-1"})
        assert (await now(lab, uuid)).reason == ""


async def test_called_off_in_the_middle_nobody_is_left_moving_and_the_host_is_enabled_again(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2, migrate_ms=3_600_000)) as lab:
        groups = await a_member_on_each(lab, ("host-1",))
        begun = await begin(lab, host_uuids=[lab.uuid_of("host-1")])
        uuid = begun.inventory.uuid

        async def going() -> bool:
            return any(m.move is MoveStage.GOING for m in (await stored(lab, groups[0].uuid)).instances)

        await soon(going)
        await lab.fleet.CallOffRoll(fleet_pb2.CallOffRollRequest(uuid=uuid, validate_only=True))
        assert await going()
        assert (await lab.fleet.CallOffRoll(fleet_pb2.CallOffRollRequest(uuid=uuid))).inventory.called_off
        final = await until_over(lab, uuid)
        assert (final.hosts[0].stage, final.hosts[0].reason) == ("done", "the roll was called off before it was empty")
        assert (await lab.host("host-1")).state == "Enabled"
        await at_rest(lab, groups)
        assert [m.host_name for m in (await lab.get(groups[0].uuid)).instances] == ["host-1"]
        assert lab.service.metrics.rolls.outcomes.labels("called_off")._value.get() == 1


async def test_a_roll_goes_on_where_it_was_after_a_restart_of_the_service(tmp_path: Path) -> None:
    text = config_text(hosts=2, url=f"sqlite:///{tmp_path}/corral.db")
    async with whole(tmp_path, text) as lab:
        begun = await begin(lab, zone_uuid=ZONE)
        uuid, (first, second) = begun.inventory.uuid, [h.host_name for h in begun.inventory.hosts]
        await until_drained(lab, uuid, {first})
    async with whole(tmp_path, text) as lab:
        assert {h.host_name: h.stage for h in (await now(lab, uuid)).hosts} == {first: "drained", second: "waiting"}
        await enable(lab, lab.uuid_of(first))
        await until_drained(lab, uuid, {second})
        await enable(lab, lab.uuid_of(second))
        await until_over(lab, uuid)


async def test_rolls_are_listed_by_pages_the_newest_first(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=1)) as lab:

        def stored_rolls(connection: Any) -> None:
            for number in range(5):
                host = RollHost("a" * 32, "h", RollStage.DONE)
                rolls.add(connection, Roll(f"{number:032x}", RollWish(), (host,), 1000 + number // 2, 2000))

        await lab.service.store.write(stored_rolls)
        found: list[str] = []
        token = ""
        while True:
            page = await lab.fleet.ListRolls(fleet_pb2.ListRollsRequest(page_size=2, page_token=token))
            found += [one.uuid for one in page.inventories]
            token = page.next_page_token
            if not token:
                break
        assert found == [f"{number:032x}" for number in (4, 3, 2, 1, 0)]
        assert await refused(lab.fleet.ListRolls(fleet_pb2.ListRollsRequest(page_token="eA"))) == "INVALID_ARGUMENT"
