"""`schema`: paths and classes by which the Java SDK of ZStack reads typed lists, byte for byte, and read as it does."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from service.http.zstack import schema
from service.http.zstack.apis import APIS

from .lab import GROUPS, Lab, action, node

# Fields of the SDK's classes that hold objects of others; it asks for no property that is not in its class.
PROPERTIES: Mapping[str, Mapping[str, str]] = {
    "ModelServiceInstanceGroupInventory": {"instances": "ModelServiceInstanceInventory"},
    "ModelServiceInstanceInventory": {"vm": "VmInstanceInventory"},
    "VmInstanceInventory": {"vmNics": "VmNicInventory"},
}
_SEGMENT = re.compile(r"(\w+)(?:\[(\d+)\])?")


def read_as_the_sdk_does(body: Mapping[str, Any]) -> dict[str, str]:
    """Each path -> the SDK's class of what stands there. Fails where the SDK would throw."""
    typed: dict[str, str] = {}
    for path, name in body.get("schema", {}).items():
        value: Any = body
        walked = ""
        for segment in path.split("."):
            match = _SEGMENT.fullmatch(segment)
            assert match is not None, path
            if walked:
                # Parents are typed before their children, and their class has the property.
                assert match[1] in PROPERTIES[typed[walked]], path
            value = value[match[1]] if match[2] is None else value[match[1]][int(match[2])]
            walked = f"{walked}.{segment}" if walked else segment
        assert isinstance(value, dict), path
        typed[path] = name.rpartition(".")[2]
    return typed


def test_the_paths_of_a_group_stand_behind_its_body_byte_for_byte() -> None:
    text = '{"inventory":{"uuid":"a","instances":[{"uuid":"b"},{"uuid":"c"}]}}'
    assert schema.with_schema(text, APIS["DeployDistributedModelService"].holds) == (
        '{"inventory":{"uuid":"a","instances":[{"uuid":"b"},{"uuid":"c"}]},"schema":{'
        '"inventory":"org.zstack.ai.entity.ModelServiceInstanceGroupInventory",'
        '"inventory.instances[0]":"org.zstack.ai.entity.ModelServiceInstanceInventory",'
        '"inventory.instances[1]":"org.zstack.ai.entity.ModelServiceInstanceInventory"}}'
    )


@pytest.mark.parametrize(
    ("api", "name"),
    [
        ("QueryZone", "org.zstack.header.zone.ZoneInventory"),
        ("QueryHost", "org.zstack.kvm.KVMHostInventory"),
        ("QueryModelService", "org.zstack.ai.entity.ModelServiceInventory"),
        ("QueryModelServiceInstanceGroup", "org.zstack.ai.entity.ModelServiceInstanceGroupInventory"),
    ],
)
def test_each_inventory_of_a_query_has_its_class(api: str, name: str) -> None:
    text = schema.with_schema('{"inventories":[{"uuid":"a"},{"uuid":"b"}]}', APIS[api].holds)
    assert text == (
        '{"inventories":[{"uuid":"a"},{"uuid":"b"}],'
        f'"schema":{{"inventories[0]":"{name}","inventories[1]":"{name}"}}}}'
    )


def test_a_path_that_is_not_in_the_body_is_not_told() -> None:
    holds = APIS["QueryModelServiceInstanceGroup"].holds
    for text in ('{"inventories":[]}', '{"total":3}', "{}", '{"results":[{"uuid":"a"}]}'):
        assert schema.with_schema(text, holds) == text
    assert list(json.loads(schema.with_schema('{"inventories":[{"name":"n"}]}', holds))["schema"]) == ["inventories[0]"]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_jobs_answer_is_typed_for_who_asks_so_and_a_query_always(zstack: Lab) -> None:
    accepted = await zstack.put(
        "/ai/model-services", {"deployDistributedModelService": action(modelServices=[node(), node()])}
    )
    plain = await zstack.ended(accepted)
    assert "schema" not in plain.json()
    typed = (await zstack.http.get(accepted.json()["location"], headers={"X-JSON-Schema": "true"})).json()
    read = read_as_the_sdk_does(typed)
    assert read["inventory"] == "ModelServiceInstanceGroupInventory"
    assert read["inventory.instances[1]"] == "ModelServiceInstanceInventory"
    assert {name: value for name, value in typed.items() if name != "schema"} == plain.json()
    found = (await zstack.get(GROUPS.removeprefix("/zstack/v1"), q=f"uuid={typed['inventory']['uuid']}")).json()
    assert read_as_the_sdk_does(found)["inventories[0].instances[1]"] == "ModelServiceInstanceInventory"
    for path in ("/zones", "/hosts", "/ai/model-services"):
        assert read_as_the_sdk_does((await zstack.get(path)).json())["inventories[0]"]


@pytest.mark.asyncio(loop_scope="module")
async def test_an_error_has_no_schema(zstack: Lab) -> None:
    accepted = await zstack.deploy(name=None)
    await zstack.ended(accepted)
    asked = await zstack.http.get(accepted.json()["location"], headers={"X-JSON-Schema": "true"})
    assert list(asked.json()) == ["error"]
