"""What groups and refusals say at the end of ordinary operations, on the whole service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2

from tests.service.rpc.lab import reason_of, soon
from tests.support.whole import Whole, config_text, whole

pytestmark = pytest.mark.asyncio
TOKEN = """
[[tokens]]
name = "ci"
sha256 = "{digest}"
role = "operator"
"""


async def events(lab: Whole, method: str, uuid: str) -> list[Any]:
    request = getattr(deploy_pb2, f"{method}Request")(uuid=uuid)
    return [answer.event async for answer in getattr(lab.deploy, method)(request)]


async def test_a_stop_that_somebody_asked_for_is_nobodys_fault(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        group = await lab.up(2)
        for method in ("StopInstanceGroup", "StartInstanceGroup", "RestartInstanceGroup"):
            told = await events(lab, method, group.uuid)
            reasons = [e.instance.reason for e in told if e.WhichOneof("change") == "instance"]
            assert reasons
            assert not [reason for reason in reasons if "by itself" in reason or "crashed" in reason], method
            assert (told[-1].final.reason, [m.reason for m in told[-1].final.instances]) == ("", ["", ""])


async def test_a_deleted_group_does_not_tell_what_was_wrong_with_it_before(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1)) as lab:
        group = await lab.up(1, failure_policy={"action": "FAILURE_ACTION_FAIL_GROUP"})
        host = lab.driver("host-1").host
        for machine in list(host.machines):
            del host.machines[machine]
        lab.service.reconciler.monitors[group.instances[0].host_uuid].suspect()

        async def failed() -> bool:
            now = await lab.get(group.uuid)
            return now.status == "Failed" and "its machine is gone" in now.reason

        await soon(failed)
        final = (await events(lab, "DeleteInstanceGroup", group.uuid))[-1].final
        assert (final.status, final.reason) == ("Deleted", "")


async def test_a_wrong_bearer_token_is_called_unknown_and_no_expired_session(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1, extra=TOKEN.format(digest="a" * 64))) as lab:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await lab.deploy.ListInstanceGroups(
                deploy_pb2.ListInstanceGroupsRequest(), metadata=[("authorization", "Bearer wrong")]
            )
        assert reason_of(error.value) == "UNAUTHENTICATED"
        words = error.value.details() or ""
        assert "the bearer token is unknown" in words
        assert "expired" not in words
