"""A rebalance that is only advised: what would be moved is kept, told as advice, and nobody moves."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest
from corral.v1 import fleet_pb2

from placement import codec
from placement.__main__ import main as offline
from service.cli import errors
from tests.service.cli.test_on_a_service import corral
from tests.service.planning.test_decisions import decisions, dump
from tests.service.rpc.lab import reason_of
from tests.service.rpc.test_make_room import at_rest
from tests.service.rpc.test_rebalance import full_and_empty, homes, steps_of
from tests.support.whole import Whole, config_text, whole

pytestmark = pytest.mark.asyncio


async def booked(lab: Whole) -> int:
    return await lab.service.store.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM bookings").scalar_one())


async def test_advice_is_kept_and_told_and_nobody_moves(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        groups = await full_and_empty(lab)
        before = [(await lab.get(group.uuid)).etag for group in groups]
        steps = await steps_of(lab, advise_only=True, request_id="nightly")
        assert [step.WhichOneof("change") for step in steps] == ["plan", "final"]
        advice = steps[-1].final
        assert (advice.uuid, advice.advised, advice.called_off) == (steps[0].uuid, True, False)
        assert [one.state for one in advice.outcomes] == ["advised"]
        assert [one.move for one in advice.outcomes] == list(steps[0].plan.moves)
        assert await homes(lab, groups) == [["host-1"], ["host-1"]]
        assert [(await lab.get(group.uuid)).etag for group in groups] == before
        assert await booked(lab) == 0
        one = await lab.fleet.GetRebalance(fleet_pb2.GetRebalanceRequest(uuid=advice.uuid))
        listed = await lab.fleet.ListRebalances(fleet_pb2.ListRebalancesRequest())
        assert [one.inventory] == list(listed.inventories) == [advice]
        metrics = lab.service.metrics
        assert metrics.rebalances.labels("advised")._value.get() == 1
        assert metrics.rebalance_advised_moves.labels("load")._value.get() == 1
        assert metrics.rebalance_moves.labels("load")._value.get() == 0
        again = await steps_of(lab, advise_only=True, request_id="nightly")
        assert [step.final for step in again] == [advice]
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await lab.fleet.CallOffRebalance(fleet_pb2.CallOffRebalanceRequest(uuid=advice.uuid))
        assert reason_of(error.value) == "WRONG_STATE"
        (only, _) = await steps_of(lab, advise_only=True, validate_only=True)
        assert (only.uuid, len(only.plan.moves)) == ("", 1)
        # What was advised stands in nobody's way: the same moves can be made.
        made = await steps_of(lab)
        assert [one.state for one in made[-1].final.outcomes] == ["moved"]
        await at_rest(lab, groups)
        assert sorted(await homes(lab, groups)) == [["host-1"], ["host-2"]]
        (nothing, end) = await steps_of(lab, advise_only=True)
        assert (list(nothing.plan.moves), nothing.uuid, end.final.uuid) == ([], "", "")
        listed = await lab.fleet.ListRebalances(fleet_pb2.ListRebalancesRequest())
        assert sorted(one.advised for one in listed.inventories) == [False, True]


async def test_what_a_rebalance_would_do_is_a_decision_that_is_planned_again_offline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        await full_and_empty(lab)
        await steps_of(lab, advise_only=True)
        one = (await decisions(lab))[0]
        assert (one.kind, one.status, one.moves, one.strategy) == ("rebalance", "moves", 1, "even_load")
        assert (one.nodes, one.hosts, one.proof, one.group_uuid) == (2, 2, "optimal", "")
        assert {other.kind for other in await decisions(lab)} == {"place", "rebalance"}
        path = tmp_path / "dump.json"
        path.write_text(await dump(lab, one.uuid))
        capsys.readouterr()
        assert offline(["replay", str(path)]) == 0
        told = json.loads(capsys.readouterr().out)
        assert [step["cause"] for step in told["steps"]] == ["load"]
        other = json.loads(path.read_text())
        other["rebalance"]["steps"] = []
        path.write_text(codec.dumps(other))
        assert offline(["replay", str(path)]) == 1
        del other["limits"]
        path.write_text(codec.dumps(other))
        assert offline(["replay", str(path)]) == 2
        assert "dump.limits: is missing" in capsys.readouterr().err


async def test_the_command_keeps_advice_and_lists_it_as_such(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        groups = await full_and_empty(lab)
        status, out, _ = await corral(lab, "rebalance", "--advise")
        assert status == errors.OK
        assert "1 member moves" in out
        assert "nobody moves; it is kept as " in out
        uuid = out.split()[-1]
        assert await homes(lab, groups) == [["host-1"], ["host-1"]]
        assert "advised" in (await corral(lab, "rebalance", "--list"))[1]
        assert "advised  " in (await corral(lab, "rebalance", "--show", uuid))[1]
        told = (await corral(lab, "decisions"))[1]
        assert "rebalance" in told
        assert "1 moves" in told
        assert (await corral(lab, "rebalance", "--advise", "--run"))[0] == errors.USAGE
