"""The older protocol: by hand, and by the vendor's own client from the package index, unmodified."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from tests.support import ROOT

from .lab import ACTION, ENTRY, MESSAGE, PASSWORD, Lab, action, details, node

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLIENTS = ROOT / ".cache" / "tools" / "clients"
_AI = "org.zstack.ai.message"
_IDENTITY = "org.zstack.header.identity"


@pytest.fixture(scope="module")
def vendor() -> Iterator[Any]:
    """The module of the vendor's client, from where `make dev` puts it."""
    if not (CLIENTS / "zstack_mcp").is_dir():
        pytest.fail("the ZStack client is not installed: make dev")
    sys.path.insert(0, str(CLIENTS))
    try:
        yield import_module("zstack_mcp.zstack_client")
    finally:
        sys.path.remove(str(CLIENTS))


@pytest.fixture
def client(zstack: Lab, vendor: Any) -> Any:
    made = vendor.ZStackClient(f"http://{zstack.http_address}", "admin", PASSWORD)
    made.JOB_POLL_INTERVAL = 0.02
    return made


async def test_the_vendors_client_logs_in_deploys_queries_and_deletes(client: Any) -> None:
    session = await client.login()
    assert (len(session.uuid), len(session.account_uuid)) == (32, 32)
    event = await client.execute("DeployDistributedModelService", MESSAGE, dict(ACTION), is_async=True)
    uuid = event["inventory"]["uuid"]
    assert event["inventory"]["status"] == "Running"
    reply = await client.execute(
        "QueryModelServiceInstanceGroup",
        f"{_AI}.APIQueryModelServiceInstanceGroupMsg",
        {"conditions": [{"name": "uuid", "op": "=", "value": uuid}], "replyWithCount": True, "limit": 50},
    )
    assert (reply["total"], reply["inventories"][0]["name"]) == (1, ACTION["name"])
    await client.execute(
        "DeleteModelServiceInstanceGroup", f"{_AI}.APIDeleteModelServiceInstanceGroupMsg", {"uuid": uuid}, is_async=True
    )
    await client.logout()


async def test_the_vendors_client_sees_errors_with_their_code(client: Any, vendor: Any) -> None:
    for parameters, code in (
        (action(name=None), "SYS.1007"),
        (action(modelServices=[node(zoneUuid="9" * 32)]), "SYS.1003"),
        (action(modelServices=[node(cpuNum=4096)]), "HOST_ALLOCATION.1000"),
    ):
        with pytest.raises(vendor.ZStackApiError) as failed:
            await client.execute("DeployDistributedModelService", MESSAGE, parameters, is_async=True)
        assert failed.value.code == code
    await client.logout()


async def test_the_vendors_client_logs_in_again_by_itself_after_its_session_ended(client: Any, zstack: Lab) -> None:
    session = (await client.login()).uuid
    await zstack.http.delete(f"/zstack/v1/accounts/sessions/{session}")
    reply = await client.execute("QueryZone", "org.zstack.header.zone.APIQueryZoneMsg", {"conditions": []})
    assert len(reply["inventories"]) == 1
    assert client.session.uuid != session
    await client.logout()


async def test_the_vendors_client_gets_a_wrong_password_told(zstack: Lab, vendor: Any) -> None:
    made = vendor.ZStackClient(f"http://{zstack.http_address}", "bob", "wrong")
    with pytest.raises(vendor.ZStackApiError) as failed:
        await made.login()
    assert failed.value.code == "ID.1000"
    await made.close()


@pytest.mark.parametrize("path", ["/zstack/api", "/zstack/api/"])
async def test_sessions_by_the_older_protocol(zstack: Lab, path: str) -> None:
    session = await zstack.log_in("alice")
    validate = {f"{_IDENTITY}.APIValidateSessionMsg": {"sessionUuid": session}}
    assert details((await zstack.http.post(path, json=validate)).text)["valid"] is True
    out = {f"{_IDENTITY}.APILogOutMsg": {"sessionUuid": session, "session": {"uuid": session}}}
    assert details((await zstack.http.post(path, json=out)).text)["success"] is True
    assert details((await zstack.http.post(path, json=validate)).text)["valid"] is False


async def test_a_message_of_another_api_is_400(zstack: Lab) -> None:
    answer = await zstack.http.post("/zstack/api", json={"org.zstack.header.volume.APIQueryVolumeMsg": {}})
    assert (answer.status_code, answer.text) == (
        400,
        "no API is served for the message[org.zstack.header.volume.APIQueryVolumeMsg]",
    )


async def test_conditions_may_be_objects_or_texts_and_operators_spelled_out(zstack: Lab) -> None:
    for condition in (
        {"name": "uuid", "op": "in", "value": [ENTRY]},
        {"name": "name", "op": "like", "value": "def%"},
        {"name": "requestCpu", "op": ">=", "value": 1},
        {"name": "description", "op": "is null"},
        f"uuid={ENTRY}",
    ):
        body = {f"{_AI}.APIQueryModelServiceMsg": {"conditions": [condition], "session": {"uuid": zstack.session}}}
        found = details((await zstack.http.post("/zstack/api", json=body)).text)["inventories"]
        assert [entry["uuid"] for entry in found] == [ENTRY], condition


async def test_an_unknown_result_is_404(zstack: Lab) -> None:
    assert (await zstack.http.get(f"/zstack/api/result/{'0' * 32}")).status_code == 404
