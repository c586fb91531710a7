"""What a host itself said of a failed create: administrators are told by every face, all others a class of cause."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from corral.v1 import deploy_pb2, secret_pb2

from service.drivers.base import HostRejected, MachineSpec
from service.drivers.simulated import SimulatedDriver
from tests.service.http.web.test_live import Page
from tests.service.http.zstack.lab import NODE, Lab, lab
from tests.service.rpc.test_projects import WHO, by, command, tokens
from tests.support.secrets import key_file, key_section
from tests.support.whole import ENTRY, GIB, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

CLASS = "the host does not have the network"
VALUE = "a value that nobody may read"
SAID = f"libvirt code 43 domain 19: no network lan-7 {VALUE}\nsecret,id=a password=hunter2 /srv/pools/x"
KEPT = "libvirt code 43 domain 19: no network lan-7 [secret] secret,id=a password=[secret] /srv/pools/x"
ROLES = {name: role for name, (role, _) in WHO.items() if name != "bob"}  # bob is another tenant


@pytest.fixture(autouse=True)
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No host makes a machine."""

    async def refuse(self: SimulatedDriver, spec: MachineSpec, **more: Any) -> Any:
        raise HostRejected("missing_network", CLASS, SAID)

    monkeypatch.setattr(SimulatedDriver, "create_paused", refuse)


def texts(role: str, *answers: str) -> None:
    """Every answer tells the class; what the host said is in it for administrators alone, and a secret in none."""
    for answer in answers:
        assert CLASS in answer
        assert (KEPT in answer) == (role == "admin"), answer
        for left in ("lan-7", "/srv/pools"):
            assert (left in answer) == (role == "admin"), answer
        assert VALUE not in answer
        assert "hunter2" not in answer


async def failed(lab: Whole, who: str, name: str) -> tuple[str, list[Any], Any]:
    """(uuid, events, how the stream ended) of a deploy that no host takes."""
    node = {"uuid": ENTRY, "cpu_num": 1, "memory_size": GIB, "environment_variables": {"T": "secret://t"}}
    wanted: dict[str, Any] = {"model_services": [node], "failure_policy": {"action": "FAILURE_ACTION_FAIL_GROUP"}}
    request = deploy_pb2.DeployDistributedModelServiceRequest(name=name, service_creation_strategy="parallel", **wanted)
    events: list[Any] = []

    async def read() -> None:
        async for answer in lab.deploy.DeployDistributedModelService(request, **by(who)):
            events.append(answer.event)

    with pytest.raises(grpc.aio.AioRpcError, match=CLASS) as ended:
        await read()
    return events[0].group_uuid, events, ended.value


async def test_each_role_is_told_its_part_by_grpc_json_the_page_and_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = key_section(key_file(tmp_path, "one"))
    async with whole(tmp_path, config_text(1, extra=tokens() + key)) as service:
        for who in ("ann", "root"):
            secret = secret_pb2.CreateSecretRequest(name="t", value=VALUE)
            await service.secrets.CreateSecret(secret, **by(who))
        uuid, events, ended = await failed(service, "ann", "of-red")
        own, told, _ = await failed(service, "root", "of-ops")
        texts("operator", str(events[-1].final), str(ended.details()), str(ended.debug_error_string()))
        texts("admin", str(told[-1].final))
        (final,) = [event.final for event in told if event.HasField("final")]
        assert final.cause == KEPT
        assert final.cause not in final.reason

        http = httpx.AsyncClient(base_url=f"http://{service.http_address}")
        async with http:
            for who, role in ROLES.items():
                got = (
                    await service.deploy.GetInstanceGroup(deploy_pb2.GetInstanceGroupRequest(uuid=uuid), **by(who))
                ).inventory
                page = await service.deploy.ListInstanceGroups(
                    deploy_pb2.ListInstanceGroupsRequest(name="of-red"), **by(who)
                )
                history = deploy_pb2.ListInstanceGroupEventsRequest(uuid=uuid, page_size=500)
                texts(
                    role,
                    str(got),
                    str(got.instances),
                    str(page),
                    str(await service.deploy.ListInstanceGroupEvents(history, **by(who))),
                )
                watch = deploy_pb2.WatchInstanceGroupsRequest(uuid=uuid, start_revision=events[0].revision)
                seen = ""
                async for answer in service.deploy.WatchInstanceGroups(watch, **by(who)):
                    seen += str(answer)
                    if answer.event.HasField("final"):
                        break
                texts(role, seen)

                shown = {"Authorization": f"Bearer {who}"}
                for path in ("", "/events"):
                    texts(role, (await http.get(f"/corral/v1/instance-groups/{uuid}{path}", headers=shown)).text)
                async with http.stream("GET", "/web/events", headers=shown) as stream:
                    live = Page(stream.aiter_lines())
                    await live.until(lambda page: page.ready)
                texts(role, json.dumps(live.groups[uuid], ensure_ascii=False))
                capsys.readouterr()
                await command(service, who, "group", "of-red")
                texts(role, " ".join(capsys.readouterr().out.split()))
        assert own != uuid


async def test_each_account_is_told_its_part_by_zstacks_faces(tmp_path: Path) -> None:
    async with lab(tmp_path) as service:
        for account, role in (("admin", "admin"), ("alice", "operator")):
            told = await refused(service, await service.log_in(account), f"of-{account}")
            assert CLASS in told["details"]
            assert ("cause" in told) == (role == "admin")
            assert "lan-7" not in json.dumps({**told, "cause": ""})
            if role == "admin":
                assert "lan-7" in told["cause"]["details"]
        for account, role in (("admin", "admin"), ("alice", "operator"), ("eve", "viewer")):
            session = await service.log_in(account)
            answer = await service.get("/ai/model-services/instances/groups", session, q="name=of-alice")
            (group,) = answer.json()["inventories"]
            assert CLASS in group["reason"]
            assert ("lan-7" in answer.text) == (role == "admin")


async def refused(service: Lab, session: str, name: str) -> dict[str, Any]:
    """The ErrorCode of a deploy that no host takes."""
    changes = {"name": name, "modelServices": [NODE], "failurePolicy": {"action": "FAILURE_ACTION_FAIL_GROUP"}}
    answer = await service.ended(await service.deploy(session, **changes))
    assert answer.status_code == 503, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error
