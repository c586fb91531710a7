"""AddModelService with the arguments of ZStack's own clients, over both protocols."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.domain.catalog import configured_image_uuid

from .lab import Lab, details, node

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGE = "org.zstack.ai.message.APIAddModelServiceMsg"
# What ZStack's clients must send, and what they may.
MANDATORY = {
    "name": "served",
    "yaml": "apiVersion: v1",
    "modelCenterUuid": "c" * 32,
    "requestCpu": 3,
    "requestMemory": 1 << 30,
    "installPath": "guest",
    "startCommand": "serve --port 8080",
}


async def add(zstack: Lab, session: str | None = None, **changes: Any) -> Any:
    arguments = {name: value for name, value in {**MANDATORY, **changes}.items() if value is not None}
    who = {"Authorization": f"OAuth {session or zstack.session}"}
    answer = await zstack.http.post("/zstack/v1/ai/model-services", json={"param": arguments}, headers=who)
    return (await zstack.ended(answer)).json()


async def test_an_added_model_service_is_in_the_catalogue_and_can_be_deployed(zstack: Lab) -> None:
    said: dict[str, Any] = {
        "description": "d",
        "type": "FineTune",
        "framework": "custom",
        "requestMemory": 2 << 30,
    }
    entry = (await add(zstack, **said, modelUuids=["b" * 32]))["inventory"]
    assert {name: entry[name] for name in ("name", "modelUuid", *said)} == {
        "name": "served",
        "modelUuid": "b" * 32,
        **said,
    }
    assert (entry["requestCpu"], entry["startCommand"]) == (3, "serve --port 8080")
    queried = (await zstack.get(f"/ai/model-services/{entry['uuid']}")).json()["inventories"]
    assert queried == [entry]
    group = await zstack.deployed(modelServices=[node(uuid=entry["uuid"], cpuNum=None, memorySize=None)])
    assert (group["modelServiceUuid"], group["modelServiceType"]) == (entry["uuid"], "FineTune")
    assert (group["instances"][0]["cpuNum"], group["instances"][0]["memorySize"]) == (3, 2 << 30)
    engine = (await add(zstack, name="engine", framework="vllm"))["inventory"]
    assert engine["framework"] == "vllm"
    # The zone plans no addresses, and this framework's commands name them.
    assert "members of vllm" in (await zstack.refused(modelServices=[node(uuid=engine["uuid"])]))["details"]


async def test_numbers_may_come_as_text_and_the_image_by_its_uuid(zstack: Lab) -> None:
    image = configured_image_uuid("guest")
    entry = (await add(zstack, requestCpu="2", requestMemory=str(1 << 30), installPath=image, resourceUuid="f" * 32))[
        "inventory"
    ]
    assert (entry["uuid"], entry["requestCpu"]) == ("f" * 32, 2)
    again = (await add(zstack, resourceUuid="f" * 32))["error"]
    assert (again["code"], "exists already" in again["details"]) == ("SYS.1007", True)


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"name": None}, "SYS.1007", "field[name]"),
        ({"installPath": None}, "SYS.1007", "field[installPath]"),
        ({"installPath": "nowhere"}, "SYS.1003", "field[installPath]"),
        ({"installPath": "1" * 32}, "SYS.1003", "field[installPath]"),
        ({"requestCpu": "many"}, "SYS.1007", "field[requestCpu]"),
        ({"requestMemory": -1}, "SYS.1007", "field[requestMemory]"),
        ({"startCommand": "x" * 100_000}, "SYS.1007", "field[startCommand]"),
        ({"type": "Container"}, "SYS.1007", "field[type]"),
        ({"framework": "cobol"}, "SYS.1007", "field[framework]"),
        ({"modelUuids": ["a" * 32, "b" * 32]}, "SYS.1007", "field[modelUuids]"),
        ({"modelUuids": ["x"]}, "SYS.1007", "field[modelUuids]"),
        ({"resourceUuid": "x"}, "SYS.1007", "field[resourceUuid]"),
        ({"containerCommand": "run"}, "SYS.1007", "field[containerCommand]"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
async def test_what_is_wrong_is_told_by_zstacks_name_of_the_argument(
    zstack: Lab, changes: dict[str, Any], code: str, said: str
) -> None:
    before = (await zstack.get("/ai/model-services")).json()
    error = (await add(zstack, **changes))["error"]
    assert error["code"] == code, error
    assert said in error["details"]
    assert (await zstack.get("/ai/model-services")).json() == before


async def test_only_administrators_add_model_services(zstack: Lab) -> None:
    error = (await add(zstack, session=await zstack.log_in("alice")))["error"]
    assert error["code"] == "ID.1002"


async def test_the_older_protocol_does_the_same(zstack: Lab) -> None:
    message = {MESSAGE: {**MANDATORY, "name": "older", "session": {"uuid": zstack.session}}}
    accepted = (await zstack.http.post("/zstack/api", json=message)).json()
    while (answer := await zstack.http.get(f"/zstack/api/result/{accepted['uuid']}")).json()["state"] != "Done":
        pass
    event = details(answer.text)
    assert (event["success"], event["inventory"]["name"]) == (True, "older")
    assert list(json.loads(answer.json()["result"])) == ["org.zstack.ai.message.APIAddModelServiceEvent"]
