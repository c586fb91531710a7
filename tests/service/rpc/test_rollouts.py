"""Changing what a group runs, over gRPC on the whole service: by surge, in place, and taken back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, group_pb2

from service.drivers.simulated.host import SimulatedHost
from service.store import groups
from tests.service.rpc.lab import reason_of
from tests.service.rpc.test_devices import HOST, nodes
from tests.support.whole import ENTRY, GIB, ZONE, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

SURGE, IN_PLACE = group_pb2.UPDATE_MODE_SURGE, group_pb2.UPDATE_MODE_IN_PLACE


async def rolled(lab: Whole, uuid: str, *changes: Any, **fields: Any) -> list[group_pb2.InstanceGroupEvent]:
    request = deploy_pb2.RolloutInstanceGroupRequest(uuid=uuid, changes=changes, **fields)
    return [answer.event async for answer in lab.deploy.RolloutInstanceGroup(request)]


async def taken_back(lab: Whole, uuid: str, **fields: Any) -> list[group_pb2.InstanceGroupEvent]:
    request = deploy_pb2.RollBackInstanceGroupRequest(uuid=uuid, **fields)
    return [answer.event async for answer in lab.deploy.RollBackInstanceGroup(request)]


async def refused(lab: Whole, uuid: str, reason: str, words: str, *changes: Any, **fields: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await rolled(lab, uuid, *changes, **fields)
    assert reason_of(error.value) == reason, error.value.details()
    assert words in (error.value.details() or "")


async def state(lab: Whole, uuid: str) -> Any:
    return (await lab.deploy.GetInstanceGroup(deploy_pb2.GetInstanceGroupRequest(uuid=uuid))).inventory


async def claimed(lab: Whole) -> int:
    """vCPUs, over all hosts."""
    hosts = [await lab.host(name) for name in ("host-1", "host-2")]
    return sum(r.claimed for host in hosts for r in host.capacities if r.resource == "vcpu")


async def test_a_second_gang_serves_before_the_first_one_ends(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(2)) as lab:
        old = await lab.up(2)
        change = {
            "environment_variables": {"LEVEL": "2"},
            "startup_parameters": "--fast",
            "cpu_num": 5,
            "timeout": 90_000,
        }
        events = await rolled(lab, old.uuid, change)
        final = events[-1].final
        assert final.status == "Running"
        assert (final.update.stage, final.update.number, final.update.mode) == ("done", 1, SURGE)
        first = next(e.group for e in events if e.WhichOneof("change") == "group")
        assert (first.update.stage, dict(first.update.needs)) == ("coming", {"vcpu": 10, "memory": 2 * GIB}), (
            "stated first"
        )
        assert not {m.uuid for m in old.instances} & {m.uuid for m in final.instances}
        assert [m.cpu_num for m in final.instances] == [5, 5]
        assert "--fast" in final.yaml
        was, new = {m.uuid for m in old.instances}, {m.uuid for m in final.instances}
        told = [e.instance for e in events if e.WhichOneof("change") == "instance"]
        ready = [n for n, m in enumerate(told) if m.status == "Running" and m.uuid in new]
        left = [n for n, m in enumerate(told) if m.status in ("Removing", "Removed") and m.uuid in was]
        assert ready
        assert max(ready) < min(left)
        stood = [(e.group.status, e.group.reason) for e in events if e.WhichOneof("change") == "group"]
        assert {status for status, _ in stood} == {"Running"}, stood
        assert not [m for i in old.instances for m in lab.machines(i.uuid)]
        assert await claimed(lab) == 10


async def test_an_update_that_is_done_is_taken_back_by_another(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(2)) as lab:
        old = await lab.up(2)
        await rolled(lab, old.uuid, {"startup_parameters": "--fast"})
        back = (await taken_back(lab, old.uuid))[-1].final
        assert (back.update.number, back.update.undoes, back.update.stage) == (2, 1, "done")
        assert "--fast" not in back.yaml
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await taken_back(lab, (await lab.up(1)).uuid)
        assert reason_of(error.value) == "WRONG_STATE"


async def test_in_place_members_keep_their_machines_and_grow_by_what_their_hosts_have(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(2)) as lab:
        old = await lab.up(2)
        change = {"environment_variables": {"LEVEL": "2"}, "cpu_num": 6}
        events = await rolled(lab, old.uuid, change, mode=IN_PLACE)
        final = events[-1].final
        assert (final.status, final.update.stage, dict(final.update.needs)) == ("Running", "done", {"vcpu": 4})
        kept = [(m.uuid, m.host_uuid, m.vm_instance_uuid) for m in old.instances]
        assert [(m.uuid, m.host_uuid, m.vm_instance_uuid) for m in final.instances] == kept
        assert [m.cpu_num for m in final.instances] == [6, 6]
        assert await claimed(lab) == 12
        for wrong, words in (
            ({"root_disk_size": 8 * GIB}, "disk of another size"),
            ({"gpus": [{"model": "a100", "count": 1}]}, "other devices"),
        ):
            await refused(lab, old.uuid, "INVALID_ARGUMENT", words, wrong, mode=IN_PLACE)
        await refused(lab, old.uuid, "NO_CAPACITY", "a surge", {"cpu_num": 11}, mode=IN_PLACE)
        back = (await taken_back(lab, old.uuid))[-1].final
        assert ([m.cpu_num for m in back.instances], back.update.undoes) == ([4, 4], 1)
        assert [(m.uuid, m.host_uuid, m.vm_instance_uuid) for m in back.instances] == kept
        assert await claimed(lab) == 8, "what it gave up is given back in the end"


async def test_what_finds_no_room_is_refused_before_anything_begins(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1)) as lab:
        old = await lab.up(2)
        await refused(lab, old.uuid, "NO_CAPACITY", "a second gang needs 8 vCPUs", {"startup_parameters": "--fast"})
        stands = await state(lab, old.uuid)
        assert stands.etag == old.etag
        assert not stands.HasField("update")
        await refused(lab, old.uuid, "INVALID_ARGUMENT", "would change nothing")
        await refused(lab, old.uuid, "NOT_FOUND", "changes[0].model_service_uuid", {"model_service_uuid": "e" * 32})
        await refused(lab, old.uuid, "INVALID_ARGUMENT", "changes[0].role", {"role": "router"})
        await refused(lab, old.uuid, "INVALID_ARGUMENT", "no_gpus", {"gpus": [{"count": 1}], "no_gpus": True})
        twice = {"environment_variables": {"A": "1"}, "removed_environment_variables": ["A"]}
        await refused(lab, old.uuid, "INVALID_ARGUMENT", "is set by the same change", twice)


async def test_a_plan_of_an_update_writes_nothing(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(2)) as lab:
        old = await lab.up(2)
        (planned,) = await rolled(lab, old.uuid, {"startup_parameters": "--fast"}, validate_only=True)
        assert len(planned.planned.assignments) == 2
        (checked,) = await rolled(lab, old.uuid, {"cpu_num": 6}, validate_only=True, mode=IN_PLACE)
        assert checked.group.uuid == old.uuid
        assert (await state(lab, old.uuid)).etag == old.etag


def _nobody_but(members: set[str], seen: Any) -> Any:
    """The guests of these members report; others do not get ready."""

    def as_seen(host: SimulatedHost, machine: Any) -> Any:
        found = seen(host, machine)
        quiet = found.report is None or machine.identity.instance in members
        return found if quiet else replace(found, report=replace(found.report, stage="booting"))

    return as_seen


async def test_while_an_update_goes_on_others_are_refused_and_it_is_called_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path, config_text(2)) as lab:
        old = await lab.up(2)
        members = {m.uuid for m in old.instances}
        monkeypatch.setattr(SimulatedHost, "seen", _nobody_but(members, SimulatedHost.seen))
        request = deploy_pb2.RolloutInstanceGroupRequest(
            uuid=old.uuid, changes=[deploy_pb2.MemberChange(startup_parameters="--fast")], request_id="once"
        )
        stream = lab.deploy.RolloutInstanceGroup(request)
        async for answer in stream:
            if answer.event.instance.beside and answer.event.instance.status == "Booting":
                break
        stands = await state(lab, old.uuid)
        assert (stands.status, stands.update.stage, len(stands.update.instances)) == ("Running", "coming", 2)
        assert [m.uuid for m in stands.instances] == [m.uuid for m in old.instances]
        await refused(lab, old.uuid, "WRONG_STATE", "update 1 (coming)", {"startup_parameters": "--other"})
        with pytest.raises(grpc.aio.AioRpcError) as error:
            [a async for a in lab.deploy.StopInstanceGroup(deploy_pb2.StopInstanceGroupRequest(uuid=old.uuid))]
        assert "wait for its end, or take it back" in (error.value.details() or "")
        again = lab.deploy.RolloutInstanceGroup(request)
        assert (await anext(aiter(again))).event.group_uuid in ("", old.uuid), "the same request is the same update"
        back = (await taken_back(lab, old.uuid))[-1].final
        assert (back.status, back.update.stage, back.update.reason) == ("Running", "taken_back", "it was taken back")
        assert [(m.uuid, m.attempt) for m in back.instances] == [(m.uuid, m.attempt) for m in old.instances]
        assert len(lab.machines_on("host-1")) + len(lab.machines_on("host-2")) == 2


async def test_while_members_start_nothing_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with whole(tmp_path, config_text(2)) as lab:
        old = await lab.up(2)
        monkeypatch.setattr(SimulatedHost, "seen", _nobody_but({m.uuid for m in old.instances}, SimulatedHost.seen))
        one: Any = {"uuid": ENTRY, "zone_uuid": ZONE, "cpu_num": 1, "memory_size": GIB}
        more = deploy_pb2.ScaleInstanceGroupRequest(uuid=old.uuid, model_services=[one])
        async for answer in lab.deploy.ScaleInstanceGroup(more):
            if answer.event.instance.status == "Booting":
                break
        assert (await state(lab, old.uuid)).status == "Running", "it serves as before"
        with pytest.raises(grpc.aio.AioRpcError) as error:
            [answer async for answer in lab.deploy.ScaleInstanceGroup(more)]
        assert reason_of(error.value) == "WRONG_STATE"
        for mode in (SURGE, IN_PLACE):
            await refused(lab, old.uuid, "WRONG_STATE", "wait until those that start do", {"cpu_num": 3}, mode=mode)


async def test_a_change_says_all_that_members_are_made_from(tmp_path: Path) -> None:
    """Each field through the wire, to what the next gang's members are."""
    async with whole(tmp_path, config_text(2)) as lab:
        old = await lab.up(1)
        await rolled(lab, old.uuid, {"environment_variables": {"KEPT": "1", "GONE": "2"}})
        change = {
            "environment_variables": {"NEW": "3"},
            "removed_environment_variables": ["GONE"],
            "memory_size": 2 * GIB,
            "timeout": 91_000,
        }
        await rolled(lab, old.uuid, change)
        (member,) = (await lab.service.store.read(lambda c: groups.load(c, old.uuid))).instances
        assert dict(member.spec.environment_variables) == {"KEPT": "1", "NEW": "3"}
        assert (member.spec.memory_size, member.spec.timeout_ms) == (2 * GIB, 91_000)


async def test_members_can_be_made_without_the_gpus_that_they_had(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1, extra=HOST)) as lab:
        old = await lab.up(model_services=nodes(1))
        await rolled(lab, old.uuid, {"no_gpus": True})
        (member,) = (await lab.service.store.read(lambda c: groups.load(c, old.uuid))).instances
        assert (member.spec.gpus, member.devices) == ((), ())
        both = {"gpus": [{"model": "h100", "count": 1}], "no_gpus": True}
        await refused(lab, old.uuid, "INVALID_ARGUMENT", "no_gpus", both)
