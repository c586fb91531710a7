"""Any decision that the service made lately can be dumped by an administrator and comes out the same offline."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from corral.v1 import deploy_pb2, fleet_pb2, group_pb2

from placement import codec
from placement.__main__ import main as offline
from placement.model import Host, Node, Policy, Request, Snapshot, Status
from service.errors import NotFound
from service.planning.decisions import DecisionLog, KeptDecision, RecordingPlanner
from service.planning.planner import InlinePlanner, place_verified
from service.telemetry.metrics import Metrics
from tests.support.process import ENVIRONMENT
from tests.support.whole import ENTRY, GIB, ZONE, Whole, config_text, whole


def node(cpu: int = 1) -> group_pb2.NodeSpec:
    return group_pb2.NodeSpec(uuid=ENTRY, zone_uuid=ZONE, cpu_num=cpu, memory_size=GIB, type="VirtualMachine")


PLAN = deploy_pb2.PlanDistributedModelServiceRequest(
    model_services=[node(), node()], service_creation_strategy="parallel", name="group"
)
TOO_MUCH = deploy_pb2.PlanDistributedModelServiceRequest(
    model_services=[node(4000)], service_creation_strategy="parallel", name="group"
)


async def dump(lab: Whole, uuid: str) -> str:
    return "".join([part.text async for part in lab.fleet.DumpDecision(fleet_pb2.DumpDecisionRequest(uuid=uuid))])


async def decisions(lab: Whole, group: str = "") -> list[fleet_pb2.Decision]:
    return list((await lab.fleet.ListDecisions(fleet_pb2.ListDecisionsRequest(group_uuid=group))).inventories)


@pytest.mark.asyncio
async def test_every_decision_is_dumped_and_replayed_to_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with whole(tmp_path) as lab:
        await lab.deploy.PlanDistributedModelService(PLAN)
        group = await lab.up(size=2)
        with pytest.raises(grpc.aio.AioRpcError):
            await lab.deploy.PlanDistributedModelService(TOO_MUCH)
        made = await decisions(lab)
        assert (made[0].status, made[0].nodes, made[0].hosts) == ("infeasible", 1, 2)
        assert (made[-1].status, made[-1].nodes, made[-1].hosts) == ("placed", 2, 2)
        of_group = await decisions(lab, group.uuid)
        assert of_group == made[1:-1]  # more than one where a host was not seen yet
        assert of_group[0].status == "placed"
        assert made[0].create_date.ToMilliseconds() >= made[-1].create_date.ToMilliseconds() > 0
        texts = [await dump(lab, one.uuid) for one in made]
        found = [lab.service.decisions.get(one.uuid) for one in made]
        kept = [one.decision for one in found if isinstance(one, KeptDecision)]
    for number, (text, decision) in enumerate(zip(texts, kept, strict=True)):
        file = tmp_path / f"{number}.json"
        file.write_text(text)
        capsys.readouterr()
        assert offline(["replay", str(file)]) == 0
        assert capsys.readouterr().out == codec.dumps(codec.write_decision(decision)) + "\n"
        assert codec.dumps(json.loads(text)["decision"]) == codec.dumps(codec.write_decision(decision))


@pytest.mark.asyncio
async def test_a_decision_that_is_not_kept_is_not_found(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        assert await decisions(lab) == []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await dump(lab, "ab" * 16)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.asyncio
async def test_only_an_administrator_sees_decisions(tmp_path: Path) -> None:
    tokens = "".join(
        f'[[tokens]]\nname = "{role}"\nproject = "p"\nrole = "{role}"\nsha256 = "{digest(role)}"\n'
        for role in ("operator", "admin")
    )
    async with whole(tmp_path, config_text(extra=tokens)) as lab:
        as_operator, as_admin = ((("authorization", f"Bearer {role}"),) for role in ("operator", "admin"))
        await lab.deploy.PlanDistributedModelService(PLAN, metadata=as_operator)
        listing = fleet_pb2.ListDecisionsRequest()
        (made,) = (await lab.fleet.ListDecisions(listing, metadata=as_admin)).inventories
        asked = fleet_pb2.DumpDecisionRequest(uuid=made.uuid)
        for call in (
            lab.fleet.ListDecisions(listing, metadata=as_operator),
            lab.fleet.DumpDecision(asked, metadata=as_operator).read(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


@pytest.mark.asyncio
async def test_the_command_lists_and_writes_them(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        group = await lab.up(size=1)
        code, out = await command(lab, "decisions", "--group", group.uuid)
        assert code == 0
        made = (await decisions(lab))[0]
        assert out.splitlines()[1].startswith(f"{made.uuid}  ")
        file = tmp_path / "DUMP.json"
        assert await command(lab, "dump", "--group", group.uuid, "-o", str(file)) == (0, "")
        assert file.read_text() == await dump(lab, made.uuid)
        assert await command(lab, "dump", made.uuid) == (0, file.read_text())
        assert (await command(lab, "dump", "--group", "cd" * 16))[0] == 4
        assert (await command(lab, "dump", "cd" * 16))[0] == 4
    assert offline(["replay", str(file)]) == 0


async def command(lab: Whole, *arguments: str) -> tuple[int, str]:
    """The `corral` command's exit code and output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service.cli", "--server", str(lab.service.rpc.address), *arguments,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **ENVIRONMENT},
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


@pytest.mark.asyncio
async def test_every_plan_is_measured_by_what_was_proven(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        await lab.deploy.PlanDistributedModelService(PLAN)
        (made,) = await decisions(lab)
        registry = lab.service.metrics.registry
        labels = {"stage": made.stage, "proof": made.proof}
        assert registry.get_sample_value("corral_plan_duration_seconds_count", labels) == 1
        assert registry.get_sample_value("corral_plan_duration_seconds_sum", labels) == pytest.approx(
            made.duration_ms / 1000
        )
        assert registry.get_sample_value("corral_plan_gap_ratio_count") == 1
        assert registry.get_sample_value("corral_plan_gap_ratio_bucket", {"le": "0.0"}) == 1


# --- the log itself -------------------------------------------------------------------------------------------------


def kept(number: int, snapshot: Snapshot) -> KeptDecision:
    request = Request((Node("n", {"vcpu": 1}),))
    decision = place_verified(snapshot, request, Policy(), lambda: False)
    return KeptDecision(f"{number:032x}", "", number, 1.0, snapshot, request, Policy(), decision)


def fleet(size: int) -> Snapshot:
    return Snapshot(tuple(Host(f"h{n}", "z", {"vcpu": 8}) for n in range(size)))


def test_the_oldest_is_forgotten_first() -> None:
    log, snapshot = DecisionLog(most=3), fleet(2)
    for number in range(5):
        log.add(kept(number, snapshot))
    assert [one.created_at for one in log.list()] == [4, 3, 2]
    with pytest.raises(NotFound):
        log.get(f"{1:032x}")
    assert log.get(f"{2:032x}").created_at == 2


def test_hosts_that_decisions_share_are_counted_once() -> None:
    log, snapshot = DecisionLog(), fleet(100)
    log.add(kept(0, snapshot))
    first = log.bytes
    for number in range(1, 5):
        snapshot = snapshot.updated([Host("h7", "z", {"vcpu": 8}, {"vcpu": number})])
        log.add(kept(number, snapshot))
    assert first < log.bytes < 1.5 * first
    log.add(kept(5, fleet(100)))  # the same hosts, other objects
    assert log.bytes > 1.9 * first


def test_memory_is_bounded_whatever_the_fleet() -> None:
    alone = DecisionLog()
    alone.add(kept(0, fleet(50)))
    bound = 3 * alone.bytes
    log = DecisionLog(most_bytes=bound)
    for number in range(10):
        log.add(kept(number, fleet(50)))
        assert 0 < log.bytes <= bound
    assert log.list()[0].created_at == 9
    assert 2 <= len(log.list()) <= 3
    log.add(kept(10, fleet(1000)))  # too large by itself
    assert (list(log.list()), log.bytes) == ([], 0)
    log.add(kept(11, fleet(50)))
    assert log.bytes == alone.bytes


@pytest.mark.asyncio
async def test_a_decision_without_a_bound_is_measured_without_a_gap() -> None:
    metrics, log = Metrics(), DecisionLog()
    planner: Any = RecordingPlanner(InlinePlanner(), log, metrics, lambda: 5)
    request = Request((Node("n", {"vcpu": 9}),))
    planned = await planner.place(fleet(2), request, Policy(), budget_seconds=60)
    assert planned.decision.status is Status.INFEASIBLE
    assert metrics.registry.get_sample_value("corral_plan_gap_ratio_count") == 0
    (one,) = log.list()
    assert isinstance(one, KeptDecision)
    assert (one.decision, one.created_at, one.group_uuid) == (planned.decision, 5, "")
