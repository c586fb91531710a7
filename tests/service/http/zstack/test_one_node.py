"""The calls that say one node beside their own arguments, a single deploy and a match: what each argument does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.http.zstack import nodes

from .lab import CLUSTER, ENTRY, GROUPS, ZONE, Lab, node

pytestmark = pytest.mark.asyncio(loop_scope="module")

OF_GROUP = {
    "name": "alone", "description": "d", "resourceUuid": "6" * 32, "tagUuids": ["a" * 32], "systemTags": ["s"],
    "userTags": ["u"],
}  # fmt: skip
OF_NODE = {
    "type": "VirtualMachine", "zoneUuid": ZONE, "clusterUuid": CLUSTER, "cpuNum": 3, "memorySize": 3 << 30,
    "timeout": 500_000, "modelUuid": "9" * 32, "role": "decode", "startOrder": 2, "rootDiskSize": 2 << 30,
    "tensorParallelSize": 1, "startupParameters": "--port 1",
}  # fmt: skip
# What is refused by a rule of its own field, whatever else is said.
WRONG: dict[str, Any] = {
    "description": ["x"], "resourceUuid": "x", "tagUuids": ["x"], "systemTags": [f"affinityGroupUuid::{'a' * 32}"],
    "userTags": [""], "name": "n" * 256, "type": "Container", "modelUuid": "x", "timeout": -2, "serviceBootUptime": "x",
    "startupParameters": ["x"], "environmentVariables": {"a b": "x"}, "labels": 3, "role": "a b", "startOrder": 101,
    "tensorParallelSize": -1, "rootDiskSize": -1, "nodeRank": 7, "isInitialNode": 3, "cpuNum": 0, "gpus": [{}],
}  # fmt: skip


async def alone(zstack: Lab, **arguments: Any) -> dict[str, Any]:
    """What a single deploy ends with."""
    body = {"deployModelService": {"name": "alone", "type": "VirtualMachine", **arguments}}
    ended: dict[str, Any] = (await zstack.ended(await zstack.put(f"/ai/model-services/{ENTRY}", body))).json()
    return ended


async def match(zstack: Lab, **arguments: Any) -> dict[str, Any]:
    """What a match of the configured entry with two nodes ends with."""
    who = {"Authorization": f"OAuth {zstack.session}"}
    asked = {"modelUuids": ["d" * 32], "modelServiceUuids": [ENTRY], "instanceNumber": 2, **arguments}
    answer = await zstack.http.post("/zstack/v1/ai/model-services/templates", json={"param": asked}, headers=who)
    ended: dict[str, Any] = (await zstack.ended(answer)).json()
    return ended


async def planned(zstack: Lab, **arguments: Any) -> list[tuple[Any, ...]]:
    """Name, rank and size of each node that a match plans."""
    found = (await match(zstack, **arguments))["result"][ENTRY]
    assert found["success"], found
    return [tuple(node[name] for name in ("name", "nodeRank", "cpuNum", "memorySize")) for node in found["instances"]]


async def test_what_a_single_deploy_says_is_its_groups_and_its_only_nodes(zstack: Lab) -> None:
    more = {"environmentVariables": {"WORD": "b"}, "labels": {"disk": "ssd"}}
    group = (await alone(zstack, **OF_GROUP, **OF_NODE, **more))["inventory"]
    assert {name: group["uuid" if name == "resourceUuid" else name] for name in OF_GROUP} == OF_GROUP
    lines = {line.strip(" -") for line in group["yaml"].splitlines()}
    said = {f"{name}: {json.dumps(value)}" for name, value in OF_NODE.items()}
    assert {*said, '"WORD"', 'disk: "ssd"'} - lines == set()
    (member,) = group["instances"]
    assert [member[name] for name in ("name", "cpuNum", "memorySize", "role")] == ["alone", 3, 3 << 30, "decode"]
    assert member["vm"]["clusterUuid"] == CLUSTER


async def test_a_single_deploy_may_make_alike_nodes_and_say_how_long_they_boot_in_seconds(zstack: Lab) -> None:
    group = (await alone(zstack, count=2, serviceBootUptime=700))["inventory"]
    assert [member["name"] for member in group["instances"]] == ["alone-0", "alone-1"]
    assert group["yaml"].count("timeout: 700000\n") == 2
    assert "field[count]" in (await alone(zstack, count=2, isInitialNode=True))["error"]["details"]


async def test_the_only_node_has_rank_0_whatever_is_said_of_it(zstack: Lab) -> None:
    for said in ({}, {"isInitialNode": False}, {"isInitialNode": True}, {"nodeRank": 0}):
        group = (await alone(zstack, **said))["inventory"]
        (member,) = group["instances"]
        assert (member["nodeRank"], member["isInitialNode"]) == (0, True)
        assert "isInitialNode: true\n" in group["yaml"]


@pytest.mark.parametrize("call", [alone, match])
async def test_what_is_wrong_with_the_one_node_is_told_once_by_its_own_name(zstack: Lab, call: Any) -> None:
    before = (await zstack.get(GROUPS.removeprefix("/zstack/v1"), count="true")).json()
    for name, value in WRONG.items():
        error = (await call(zstack, **{name: value}))["error"]
        assert error["code"] == "SYS.1007", (name, error)
        assert f"field[{name}" in error["details"], (name, error)
        assert "modelServices[" not in error["details"]
        assert error["details"].count("field[") == 1 or name == "nodeRank"
    assert (await zstack.get(GROUPS.removeprefix("/zstack/v1"), count="true")).json() == before


@pytest.mark.parametrize(
    ("said", "code", "field"),
    [
        ({"zoneUuid": "1" * 32}, "SYS.1003", "field[zoneUuid]"),
        ({"clusterUuid": "1" * 32}, "SYS.1003", "field[clusterUuid]"),
        ({"type": "BareMetal"}, "HOST_ALLOCATION.1000", ""),
        ({"memorySize": 5 << 40}, "HOST_ALLOCATION.1000", ""),
        ({"gpus": [{"count": 1}]}, "HOST_ALLOCATION.1000", ""),
    ],
)
async def test_the_one_node_is_placed_as_it_says(zstack: Lab, said: dict[str, Any], code: str, field: str) -> None:
    found = (await match(zstack, **said))["result"][ENTRY]
    for error in (found["error"], (await alone(zstack, **said))["error"]):
        assert error["code"] == code, error
        assert field in error["details"]
    if code != "SYS.1003":
        assert (await zstack.refused(modelServices=[node(), node(**said)]))["code"] == code


async def test_a_match_plans_nodes_as_they_are_said_and_as_many(zstack: Lab) -> None:
    said = {"name": "n", "cpuNum": 3, "memorySize": 3 << 30}
    assert await planned(zstack, **said) == [("n", 0, 3, 3 << 30), ("n", 1, 3, 3 << 30)]
    assert await planned(zstack, **said, instanceNumber=1) == [("n", 0, 3, 3 << 30)]
    assert [name for name, *_ in await planned(zstack, name="n", count=2)] == ["n-0", "n-1", "n-0", "n-1"]


async def test_what_a_match_only_checks_changes_no_plan_and_makes_nothing(zstack: Lab) -> None:
    groups = GROUPS.removeprefix("/zstack/v1")
    before = (await zstack.get(groups)).json()
    plain = await planned(zstack)
    assert [name for name, *_ in plain] == ["match", "match"]
    harmless = {**OF_GROUP, "name": "match", "resourceUuid": "8" * 32, "uuid": "1" * 32, "isInitialNode": True}
    checked = {name: OF_NODE[name] for name in ("timeout", "modelUuid", "role", "startOrder", "startupParameters")}
    more = {"environmentVariables": {"WORD": "b"}, "labels": {"disk": "ssd"}, "rootDiskSize": 2 << 30}
    assert await planned(zstack, **harmless, **checked, **more, tensorParallelSize=1) == plain
    assert await planned(zstack, serviceBootUptime=700) == plain
    assert (await zstack.get(groups)).json() == before


async def test_what_cannot_be_served_of_a_node_is_refused_by_each_call_that_says_one(zstack: Lab) -> None:
    everything = {**dict.fromkeys(nodes.REFUSED, "x"), "serviceReadyz": "/x", "serviceLivez": "/x"}
    everywhere = (
        ((await alone(zstack, **everything))["error"], ""),
        ((await match(zstack, **everything))["error"], ""),
        (await zstack.refused(modelServices=[node(), node(**everything)]), "modelServices[1]."),
    )
    for error, path in everywhere:
        assert error["code"] == "SYS.1007"
        assert [name for name in everything if f"field[{path}{name}]" not in error["details"]] == []
