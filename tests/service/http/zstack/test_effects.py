"""`protos/ZSTACK.md` has a row for every parameter of ZStack's calls, and what it says shows the effect exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

import pytest
from corral.v1 import deploy_pb2, fleet_pb2, group_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from service.http.zstack import body, model_services, nodes
from service.http.zstack.apis import APIS
from tests.support import ROOT

from .lab import ZONE, Lab

TESTS = ROOT / "tests"
ROWS = re.findall(
    r"^\| `([\w-]+)` \| (?:`(\w+)`)? ?\| (.+?) \| `([^`]+)` \|$", (ROOT / "protos/ZSTACK.md").read_text(), re.M
)
SOURCE = ROOT / "service/http/zstack"
HEADERS = {"Authorization", "Date", "X-Job-UUID", "X-Web-Hook", "X-JSON-Schema", "X-API-Timeout"}
BY_URL = {"q", "limit", "start", "count", "replyWithCount", "sort", "groupBy", "fields"}
BY_MESSAGE = {"conditions", "limit", "start", "count", "replyWithCount", "sortBy", "sortDirection", "groupBy", "fields"}
SINGLE = {*nodes.REFUSED, *nodes._PROBES, "serviceBootUptime", "resourceUuid", "tagUuids", "systemTags", "userTags"}
# What handlers read themselves, and not by a descriptor.
OWN: dict[str, set[str]] = {
    "LogInByAccount": {"accountName", "password"},
    "LogOut": {"sessionUuid"},
    "ValidateSession": {"sessionUuid"},
    "RenewSession": {"sessionUuid", "duration"},
    "DeployModelService": SINGLE,
    "MatchModelServiceTemplateWithModel": {*SINGLE, "modelServiceUuids", "modelUuids", "instanceNumber"},
    "DeleteModelServiceInstanceGroup": {"uuid", "deleteMode"},
    "DeleteModelServiceInstanceGroups": {"uuids", "deleteMode"},
    "UpdateModelServiceInstanceGroup": {
        "environmentVariables", "startupParameters", "serviceLivez", "serviceReadyz", "serviceBootupTime", "yaml",
        "inferenceParams", "servicePorts",
    },
    "RestartModelServiceGroups": {"uuids"},
    "AddModelService": {
        *model_services._FIELDS, *model_services.REFUSED, *model_services.TAKEN, "type", "supportDistributed",
    },
    "UpdateModelService": {
        "uuid", *model_services._CHANGEABLE, *model_services.NOT_CHANGEABLE, "type", "supportDistributed",
    },
    "DeleteModelService": {"uuid", "deleteMode"},
    "DeleteModelServices": {"uuids", "deleteMode"},
    "DeleteZone": {"uuid", "deleteMode"},
    "ChangeHostState": {"uuid", "stateEvent"},
    "GetCpuMemoryCapacity": {"zoneUuids", "hostUuids", "clusterUuids"},
    "GetVersion": set(),
}  # fmt: skip


def parameters() -> Iterator[tuple[str, str]]:
    """(parameter, call) of everything that a client can say; of a node's fields the call is `node`."""
    for api in APIS.values():
        names = set(OWN.get(api.name, ()))
        if api.descriptor is not None:
            names |= {field.json_name for field in api.descriptor.fields}
        if api.query:
            names |= {"uuid", *BY_URL, *BY_MESSAGE}
        yield from ((name, api.name) for name in names)
    of_nodes = {field.json_name for field in group_pb2.NodeSpec.DESCRIPTOR.fields}
    yield from ((name, "node") for name in {*of_nodes, *nodes.REFUSED, *nodes._PROBES, "serviceBootUptime"})
    yield from ((name, "header") for name in HEADERS)


def of_the_contract() -> Iterator[tuple[str, str]]:
    """Fields that the contract has and ZStack does not: `EFFECTS.md` has their rows, and bodies can say them all."""
    effects = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "protos/EFFECTS.md").read_text(), re.M))
    for api in APIS.values():
        for field in api.descriptor.fields if api.descriptor is not None else ():
            if field.name in effects:
                yield field.json_name, api.name
    yield from ((f.json_name, "node") for f in group_pb2.NodeSpec.DESCRIPTOR.fields if f.name in effects)


def test_every_parameter_of_every_call_has_a_row_and_no_row_is_of_none() -> None:
    known = set(parameters())
    rows = {(name, of) for name, of, _, _ in ROWS}
    assert len(rows) == len(ROWS) > 90
    missing = {pair for pair in known if pair not in rows and (pair[0], "") not in rows}
    assert sorted(missing - set(of_the_contract())) == []
    names = {name for name, _ in known}
    assert [row for row in sorted(rows) if (row if row[1] else row[0]) not in (known | names)] == []
    assert {api for api in APIS if not APIS[api].query} == {api for api in APIS if api in OWN or APIS[api].descriptor}


def test_what_the_code_reads_of_a_call_is_one_of_its_parameters() -> None:
    """An argument that a handler comes to read has to be named above, and so to have a row."""
    read = set()
    for path in SOURCE.glob("*_apis.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                on = ast.unparse(node.func.value)
                reads = on == "call" and node.func.attr in ("text", "uuid", "uuids", "refuse")
                if reads or (node.func.attr == "get" and on.endswith("arguments")):
                    read |= {
                        arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
                    }
    assert {"stateEvent", "password", "requestId"} <= read
    assert read - {name for name, _ in parameters()} == set()


def test_what_shows_an_effect_exists() -> None:
    gone = []
    for _, _, _, shown in ROWS:
        file, _, name = shown.partition("::")
        path = TESTS / file
        if not path.is_file() or not re.search(rf"^(async )?def {name}\(", path.read_text(), re.M):
            gone.append(shown)
    assert gone == []


def sample(message: Message, depth: int = 0) -> None:
    """Set every field, messages in messages too."""
    for field in message.DESCRIPTOR.fields:
        kind = field.message_type
        target: Any = getattr(message, field.name)
        if kind is not None and kind.GetOptions().map_entry:
            target["key"] = "value"
        elif kind is not None and kind.full_name.startswith("corral."):
            sample(target.add() if field.is_repeated else target, depth + 1)
        elif kind is None:
            value = _value(field)
            if field.is_repeated:
                target.append(value)
            else:
                setattr(message, field.name, value)


def _value(field: Any) -> Any:
    if field.enum_type is not None:
        return field.enum_type.values[-1].number
    return {FieldDescriptor.CPPTYPE_STRING: "text", FieldDescriptor.CPPTYPE_BOOL: True}.get(field.cpp_type, 7)


@pytest.mark.parametrize(
    "kind", [deploy_pb2.DeployDistributedModelServiceRequest, group_pb2.NodeSpec, fleet_pb2.CreateZoneRequest]
)
def test_every_field_of_the_contract_can_be_said_in_zstacks_bodies(kind: type[Message]) -> None:
    wanted, made = kind(), kind()
    sample(wanted)
    body.fill(made, MessageToDict(wanted))
    assert made == wanted


@pytest.mark.asyncio(loop_scope="module")
async def test_what_the_job_decides_is_refused_and_what_is_left_to_the_caller_counts(zstack: Lab) -> None:
    group = await zstack.deployed(name="counted")
    path = f"/model-service-instance-groups/{group['uuid']}"

    async def update(**changes: Any) -> Any:
        body = {"updateModelServiceInstanceGroup": {"name": "other", **changes}}
        return (await zstack.ended(await zstack.put(path, body))).json()

    for name in ("requestId", "updateMask"):
        error = (await update(**{name: "x"}))["error"]
        assert (error["code"], name in error["details"]) == ("SYS.1007", True)
    assert (await zstack.refused(requestId="x"))["code"] == "SYS.1007"
    assert (await update(etag="old"))["error"]["code"] == "SYS.1006"
    assert "error" not in await update(validateOnly=True)
    (kept,) = (await zstack.get("/ai/model-services/instances/groups", q=f"uuid={group['uuid']}")).json()["inventories"]
    assert kept["name"] == "counted"
    assert (await update(etag=kept["etag"]))["inventory"]["name"] == "other"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_zone_is_made_as_its_call_says(zstack: Lab) -> None:
    who = {"Authorization": f"OAuth {zstack.session}"}

    async def make(**fields: Any) -> Any:
        answer = await zstack.http.post("/zstack/v1/zones", json={"params": {"name": "zone-3", **fields}}, headers=who)
        return (await zstack.ended(answer)).json()

    assert (await make(requestId="x"))["error"]["code"] == "SYS.1007"
    assert (await make(validateOnly=True))["inventory"]["name"] == "zone-3"
    assert [zone["uuid"] for zone in (await zstack.get("/zones")).json()["inventories"]] == [ZONE]
    assert "network" in (await make(network={"kind": "bridge"}))["error"]["details"]
    network = {"kind": "bridge", "source": "br7", "subnet": "10.77.0.0/24"}
    made = (await make(description="d", resourceUuid="7" * 32, network=network))["inventory"]
    assert (made["uuid"], made["description"]) == ("7" * 32, "d")
    shown = (await zstack.http.get("/corral/v1/zones")).json()["inventories"]
    assert [zone["network"]["source"] for zone in shown if zone["uuid"] == made["uuid"]] == ["br7"]
    deleted = await zstack.http.delete(f"/zstack/v1/zones/{made['uuid']}", headers=who)
    assert (await zstack.ended(deleted)).json() == {}


@pytest.mark.asyncio(loop_scope="module")
async def test_what_nothing_would_follow_of_a_model_service_is_refused(zstack: Lab) -> None:
    who = {"Authorization": f"OAuth {zstack.session}"}
    entry = {"name": "odd", "requestCpu": 1, "requestMemory": 1 << 30, "installPath": "guest", "startCommand": "serve"}

    async def add(**more: Any) -> Any:
        answer = await zstack.http.post("/zstack/v1/ai/model-services", json={"param": {**entry, **more}}, headers=who)
        return (await zstack.ended(answer)).json()

    for name, value in {**dict.fromkeys(model_services.REFUSED, "x"), "supportDistributed": False}.items():
        error = (await add(**{name: value}))["error"]
        assert (error["code"], f"field[{name}]" in error["details"]) == ("SYS.1007", True)
    taken = (await add(**dict.fromkeys(model_services.TAKEN, "x"), supportDistributed=True))["inventory"]
    assert not set(taken) & set(model_services.TAKEN)
    path = f"/ai/model-services/{taken['uuid']}"
    for name in model_services.NOT_CHANGEABLE:
        error = (await zstack.ended(await zstack.put(path, {"updateModelService": {name: "x"}}))).json()["error"]
        assert f"field[{name}]" in error["details"]
    assert (await zstack.ended(await zstack.http.delete(f"/zstack/v1{path}", headers=who))).json() == {}


@pytest.mark.asyncio(loop_scope="module")
async def test_a_mode_of_deletion_is_one_of_zstacks(zstack: Lab) -> None:
    who = {"Authorization": f"OAuth {zstack.session}"}
    for path in ("zones", "ai/model-services", "ai/model-services/instances/groups"):
        for mode, refused in (("Enforcing", False), ("Permissive", False), ("Twice", True)):
            answer = await zstack.http.delete(f"/zstack/v1/{path}/{'0' * 32}?deleteMode={mode}", headers=who)
            assert ("error" in (await zstack.ended(answer)).json()) == refused, (path, mode)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_deploy_that_is_only_to_be_checked_makes_nothing(zstack: Lab) -> None:
    groups = "/ai/model-services/instances/groups"
    before = (await zstack.get(groups, count="true")).json()
    assert "uuid" not in await zstack.deployed(validateOnly=True)
    assert (await zstack.get(groups, count="true")).json() == before


@pytest.mark.asyncio(loop_scope="module")
async def test_tags_of_a_group_are_changed_where_they_are_given(zstack: Lab) -> None:
    group = await zstack.deployed(userTags=["old"], systemTags=["a::b"])
    path = f"/model-service-instance-groups/{group['uuid']}"
    for name in ("userTags", "systemTags"):
        body = {"updateModelServiceInstanceGroup": {name: ["new::tag"]}}
        changed = (await zstack.ended(await zstack.put(path, body))).json()["inventory"]
        assert changed[name] == ["new::tag"]
    assert (changed["name"], changed["userTags"]) == (group["name"], ["new::tag"])


@pytest.mark.asyncio(loop_scope="module")
async def test_how_members_were_made_is_not_changed(zstack: Lab) -> None:
    path = f"/model-service-instance-groups/{(await zstack.deployed())['uuid']}"
    for name in OWN["UpdateModelServiceInstanceGroup"]:
        ended = await zstack.ended(await zstack.put(path, {"updateModelServiceInstanceGroup": {name: "x"}}))
        assert name in ended.json()["error"]["details"]


@pytest.mark.asyncio(loop_scope="module")
async def test_an_entry_is_changed_in_what_is_given(zstack: Lab) -> None:
    who = {"Authorization": f"OAuth {zstack.session}"}
    entry = {
        "name": "first",
        "requestCpu": 1,
        "requestMemory": 1 << 30,
        "installPath": "guest",
        "startCommand": "serve",
    }
    answer = await zstack.http.post("/zstack/v1/ai/model-services", json={"param": entry}, headers=who)
    made = (await zstack.ended(answer)).json()["inventory"]
    path = f"/ai/model-services/{made['uuid']}"
    changes = {"description": "d", "requestMemory": 2 << 30, "installPath": made["installPath"], "framework": "vllm"}
    ended = (await zstack.ended(await zstack.put(path, {"updateModelService": changes}))).json()["inventory"]
    assert {name: ended[name] for name in changes} == changes
    assert (ended["name"], made["framework"]) == ("first", "custom")
    unknown = await zstack.ended(await zstack.put(path, {"updateModelService": {"installPath": "nowhere"}}))
    assert unknown.json()["error"]["code"] == "SYS.1003"
    assert (await zstack.ended(await zstack.http.delete(f"/zstack/v1{path}", headers=who))).json() == {}


@pytest.mark.asyncio(loop_scope="module")
async def test_capacity_can_be_asked_for_by_cluster(zstack: Lab) -> None:
    (cluster,) = (await zstack.get("/clusters")).json()["inventories"]
    hosts = (await zstack.get("/hosts", q=f"clusterUuid={cluster['uuid']}")).json()["inventories"]
    told = (await zstack.get("/hosts/capacities/cpu-memory", clusterUuids=cluster["uuid"])).json()
    assert told["totalCpu"] == sum(host["totalCpuCapacity"] for host in hosts) > 0
    assert (told["resourceType"], [part["resourceUuid"] for part in told["capacityData"]]) == (
        "ClusterVO",
        [cluster["uuid"]],
    )
