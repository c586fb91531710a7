"""PlanRoom: who has to move so that a group fits, seen by an administrator; nothing is moved or written."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, fleet_pb2, placement_pb2
from google.protobuf import json_format
from google.rpc import error_details_pb2

from tests.service.rpc.lab import detail, reason_of, status_of
from tests.support import ROOT
from tests.support.process import ENVIRONMENT
from tests.support.whole import ENTRY, GIB, ZONE, Whole, config_text, whole

pytestmark = pytest.mark.asyncio


def wanted(cpu: int, count: int = 1, **more: Any) -> fleet_pb2.PlanRoomRequest:
    node: Any = {"uuid": ENTRY, "zone_uuid": ZONE, "cpu_num": cpu, "memory_size": GIB, "type": "VirtualMachine"}
    group = deploy_pb2.PlanDistributedModelServiceRequest(
        model_services=[node] * count, service_creation_strategy="parallel", name="large", **more
    )
    return fleet_pb2.PlanRoomRequest(group=group)


async def one_on_each(lab: Whole) -> list[Any]:
    """A group of one member of 4 vCPUs on each host, which leaves 6 of 10."""
    hosts = [host.uuid for host in lab.service.directory.hosts.values()]
    groups = []
    for here in hosts:
        for other in hosts:
            call = lab.fleet.EnableHost if other == here else lab.fleet.DisableHost
            kind = fleet_pb2.EnableHostRequest if other == here else fleet_pb2.DisableHostRequest
            await call(kind(uuid=other))
        groups.append(await lab.up(1))
    for host in hosts:
        await lab.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=host))
    return groups


async def test_the_fewest_bytes_move_and_nothing_is_done(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=3)) as lab:
        groups = await one_on_each(lab)
        refused = deploy_pb2.PlanDistributedModelServiceRequest()
        refused.CopyFrom(wanted(10).group)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await lab.deploy.PlanDistributedModelService(refused)
        assert reason_of(error.value) == "NO_CAPACITY"

        answer = await lab.fleet.PlanRoom(wanted(10))
        (one,) = answer.moves
        (moved,) = [g for g in groups if g.uuid == one.group_uuid]
        assert one.move.instance_uuid == moved.instances[0].uuid
        assert one.move.source_host_uuid == moved.instances[0].host_uuid
        assert one.move.source_host_uuid != one.move.target_host_uuid
        assert (one.source_host_name, one.move.live) == (moved.instances[0].host_name, True)
        assert (answer.moved_bytes, answer.lower_bound_bytes, one.memory_size) == (GIB, GIB, GIB)
        assert answer.proof == placement_pb2.PLACEMENT_PROOF_OPTIMAL
        assert [a.host_uuid for a in answer.placement.assignments] == [one.move.source_host_uuid]
        assert not answer.placement.assignments[0].instance_uuid, "nothing was stored"
        for group in groups:
            assert await lab.get(group.uuid) == group


async def test_members_that_cannot_move_as_they_run_are_told_apart(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=3, live=False)) as lab:
        await one_on_each(lab)
        answer = await lab.fleet.PlanRoom(wanted(10))
        assert [one.move.live for one in answer.moves] == [False]


async def test_what_fits_needs_no_moves(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        answer = await lab.fleet.PlanRoom(wanted(4, 2))
        assert (len(answer.moves), answer.moved_bytes, len(answer.placement.assignments)) == (0, 0, 2)
        assert answer.proof == placement_pb2.PLACEMENT_PROOF_OPTIMAL


async def test_what_no_moves_can_do_is_no_capacity_and_what_was_not_found_is_undecided(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        await one_on_each(lab)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await lab.fleet.PlanRoom(wanted(11))
        assert (error.value.code(), reason_of(error.value)) == (grpc.StatusCode.FAILED_PRECONDITION, "UNSATISFIABLE")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await lab.fleet.PlanRoom(wanted(10, 2))  # both members would have to leave both hosts
        assert (error.value.code(), reason_of(error.value)) == (grpc.StatusCode.ABORTED, "UNDECIDED")
        assert "no other host was found for 2 of those that would move" in (error.value.details() or "")


async def test_a_wrong_group_is_refused_by_its_field(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        rows = [
            (fleet_pb2.PlanRoomRequest(), "group"),
            (wanted(4, document_ranks=[0]), "group.document_ranks"),
            (wanted(-1), "group.model_services[0].cpu_num"),
        ]
        for request, path in rows:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await lab.fleet.PlanRoom(request)
            assert reason_of(error.value) == "INVALID_ARGUMENT"
            told = detail(status_of(error.value), error_details_pb2.BadRequest)
            assert [violation.field for violation in told.field_violations] == [path]


async def plan(lab: Whole, *arguments: str) -> str:
    """What `corral plan` prints."""
    command = [sys.executable, "-m", "service.cli", "--server", str(lab.service.rpc.address), "plan", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env={**os.environ, **ENVIRONMENT}, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out
    return out.decode()


async def test_the_command_shows_the_moves(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=3)) as lab:
        await one_on_each(lab)
        file = tmp_path / "large.json"
        file.write_text(json_format.MessageToJson(wanted(10).group))
        out = await plan(lab, str(file), "--make-room")
        assert "1 member moves, 1 GiB of memory (proven the least):" in out
        assert "(1 GiB, as it runs)" in out
        assert json.loads(await plan(lab, str(file), "--make-room", "--output", "json"))["movedBytes"] == str(GIB)
