"""ZStack's other APIs of model services and of what they run on, its access keys, timeouts and paths."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from service.http.zstack import fields
from service.http.zstack.paths import normal
from tests.service.rpc.lab import soon

from .lab import CLUSTER, ENTRY, GROUPS, KEY_ID, KEY_SECRET, ZONE, Lab, lab, node

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/ai/model-services"


async def template(zstack: Lab, **changes: Any) -> dict[str, Any]:
    """A catalogue entry of its own."""
    arguments = {"name": "template", "installPath": "guest", "requestCpu": 2, "requestMemory": 1 << 30, **changes}
    who = {"Authorization": f"OAuth {zstack.session}"}
    answer = await zstack.http.post(f"/zstack/v1{PATH}", json={"param": arguments}, headers=who)
    entry: dict[str, Any] = (await zstack.ended(answer)).json()["inventory"]
    return entry


# --- model services ------------------------------------------------------------------------------------------------


async def test_deploy_model_service_makes_a_group_of_one(zstack: Lab) -> None:
    arguments = {"name": "one", "zoneUuid": ZONE, "type": "VirtualMachine", "cpuNum": 3, "memorySize": 1 << 30,
                 "modelUuid": "9" * 32, "startupParameters": {"port": "1"}, "tagUuids": ["a" * 32]}  # fmt: skip
    body = {"deployModelService": arguments, "userTags": ["mine"]}
    ended = await zstack.ended(await zstack.put(f"{PATH}/{ENTRY}", body))
    assert ended.status_code == 200, ended.text
    group = ended.json()["inventory"]
    assert (group["name"], group["modelServiceUuid"], group["modelUuid"]) == ("one", ENTRY, "9" * 32)
    assert (group["userTags"], group["tagUuids"]) == (["mine"], ["a" * 32])
    assert [(i["name"], i["cpuNum"]) for i in group["instances"]] == [("one", 3)]
    assert 'startupParameters: "--port 1"' in group["yaml"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": None}, "field[name]"),
        ({"cpuNum": 0}, "field[cpuNum] must be in range of [1, 4096]"),
        ({"type": "Container"}, "valid value for field[type]"),
        ({"vmImageUuid": "1" * 32}, "field[vmImageUuid]"),
        ({"zoneUuid": "1" * 32}, "field[zoneUuid]"),
    ],
)
async def test_what_is_wrong_with_a_single_deploy_is_told_by_its_own_names(
    zstack: Lab, changes: dict[str, Any], said: str
) -> None:
    arguments = {"name": "one", "type": "VirtualMachine", **changes}
    ended = await zstack.ended(await zstack.put(f"{PATH}/{ENTRY}", {"deployModelService": arguments}))
    assert said in ended.json()["error"]["details"], ended.text


async def test_a_model_service_is_updated_and_deleted_alone_or_with_others(zstack: Lab) -> None:
    first, second = await template(zstack), await template(zstack)
    changes = {"name": "renamed", "requestCpu": 5, "startCommand": "serve", "type": "FineTune", "framework": "Other"}
    ended = await zstack.ended(await zstack.put(f"{PATH}/{first['uuid']}", {"updateModelService": changes}))
    told = ended.json()["inventory"]
    assert {name: told[name] for name in changes} == {**changes, "framework": "custom"}
    refused = await zstack.ended(await zstack.put(f"{PATH}/{first['uuid']}", {"updateModelService": {"yaml": "x"}}))
    assert "field[yaml]" in refused.json()["error"]["details"]
    who = {"Authorization": f"OAuth {zstack.session}"}
    for _ in range(2):
        gone = await zstack.http.delete(f"/zstack/v1{PATH}/{first['uuid']}", headers=who)
        assert (await zstack.ended(gone)).json() == {}
    several = {"uuids": [ENTRY, second["uuid"]]}
    results = (await zstack.ended(await zstack.http.delete(f"/zstack/v1{PATH}", params=several, headers=who))).json()
    assert [(r["uuid"], r["success"]) for r in results["results"]] == [(ENTRY, False), (second["uuid"], True)]
    assert results["results"][0]["error"]["code"] == "SYS.1006"  # the configuration file has it


async def test_templates_are_matched_by_what_could_be_placed_now(zstack: Lab) -> None:
    large = await template(zstack, requestCpu=4000)
    other = await template(zstack, modelUuids=["4" * 32])
    asked = {"modelUuids": ["d" * 32], "modelServiceUuids": [ENTRY, large["uuid"], other["uuid"], "0" * 32],
             "instanceNumber": 2, "zoneUuid": ZONE, "name": "n", "type": "VirtualMachine"}  # fmt: skip
    who = {"Authorization": f"OAuth {zstack.session}"}
    answer = await zstack.http.post(f"/zstack/v1{PATH}/templates", json={"param": asked}, headers=who)
    result = (await zstack.ended(answer)).json()["result"]
    assert (result[ENTRY]["success"], result[ENTRY]["modelUuids"]) == (True, ["d" * 32])
    assert len(result[ENTRY]["instances"]) == 2
    codes = [result[uuid]["error"]["code"] for uuid in (large["uuid"], other["uuid"], "0" * 32)]
    assert codes == ["HOST_ALLOCATION.1000", "SYS.1003", "SYS.1003"]


# --- what they run on ----------------------------------------------------------------------------------------------


async def test_machines_clusters_and_images_can_be_queried(zstack: Lab) -> None:
    made = await zstack.deployed(modelServices=[node(clusterUuid=CLUSTER), node()])
    shown = made["instances"][0]["vm"]
    assert (shown["uuid"], shown["state"], shown["clusterUuid"]) == (
        made["instances"][0]["vmInstanceUuid"], "Running", CLUSTER,
    )  # fmt: skip
    queried = (await zstack.get("/vm-instances", q=f"uuid={shown['uuid']}")).json()
    assert queried["inventories"] == [shown]
    assert queried["schema"] == {"inventories[0]": "org.zstack.header.vm.VmInstanceInventory"}
    clusters = (await zstack.get("/clusters")).json()["inventories"]
    assert [(c["uuid"], c["name"], c["zoneUuid"]) for c in clusters] == [(CLUSTER, "rows", ZONE)]
    images = (await zstack.get("/images", q="name=guest")).json()["inventories"]
    assert [(i["format"], i["uuid"]) for i in images] == [("kernel", shown["imageUuid"])]
    one = (await zstack.get(f"/clusters/{CLUSTER}")).json()["inventories"]
    assert one == clusters


async def test_another_tenants_machines_are_not_told(zstack: Lab) -> None:
    made = await zstack.deployed()
    bob = await zstack.log_in("bob")
    assert made["instances"][0]["vmInstanceUuid"] not in (await zstack.get("/vm-instances", session=bob)).text


@pytest.mark.parametrize(
    ("path", "known"),
    [
        (GROUPS.removeprefix("/zstack/v1"), fields.GROUP),
        (PATH, fields.MODEL_SERVICE),
        ("/zones", fields.ZONE),
        ("/clusters", fields.CLUSTER),
        ("/hosts", fields.HOST),
        ("/images", fields.IMAGE),
        ("/vm-instances", fields.VM),
    ],
)
async def test_every_field_of_the_sdks_classes_can_be_asked_for(zstack: Lab, path: str, known: tuple[str, ...]) -> None:
    answer = await zstack.get(path, q=[f"{name} not null" for name in known[:60]], limit=1)
    assert "inventories" in answer.json(), answer.text
    told = (await zstack.get(path)).json()["inventories"]
    assert {name for inventory in told for name in inventory} <= set(known)


# --- access keys, timeouts, paths ----------------------------------------------------------------------------------


def signature(verb: str, path: str, secret: str = KEY_SECRET) -> dict[str, str]:
    date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S UTC")
    digest = hmac.new(secret.encode(), f"{verb}\n{date}\n{path}".encode(), hashlib.sha1).digest()
    return {"Authorization": f"ZStack {KEY_ID}:{base64.b64encode(digest).decode()}", "Date": date}


async def test_a_call_may_be_signed_with_an_access_key_instead(zstack: Lab) -> None:
    body = {"deployDistributedModelService": {"modelServices": [node()], "name": "n",
                                              "serviceCreationStrategy": "parallel"}}  # fmt: skip
    put = await zstack.http.put(f"/zstack/v1{PATH}", json=body, headers=signature("PUT", f"/v1{PATH}"))
    group = (await zstack.ended(put)).json()["inventory"]
    # The path as the SDK's table has it, with a slash at its end that the URL may have or not.
    for url in (GROUPS, f"{GROUPS}/", f"//zstack/v1/{GROUPS.removeprefix('/zstack/v1')}"):
        asked = signature("GET", f"{GROUPS.removeprefix('/zstack')}/")
        found = await zstack.http.get(f"http://{zstack.http_address}{url}?q=uuid={group['uuid']}", headers=asked)
        assert found.json()["inventories"][0]["uuid"] == group["uuid"], url
    hosts = await zstack.http.get("/zstack/v1/hosts", headers=signature("GET", "/v1/hosts"))
    assert hosts.json()["error"]["code"] == "ID.1002"  # its role is an operator's
    wrong = await zstack.http.get("/zstack/v1/zones", headers=signature("GET", "/v1/zones", "wrong-wrong-wrong"))
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (503, "ID.1001")
    bare = await zstack.http.get("/zstack/v1/zones", headers={"Authorization": "ZStack x"})
    assert bare.status_code == 400


async def test_the_callers_timeout_is_echoed_and_kept(zstack: Lab) -> None:
    body = {"deployDistributedModelService": {"modelServices": [node()], "name": "n",
                                              "serviceCreationStrategy": "parallel"}}  # fmt: skip
    accepted = await zstack.put(PATH, body, **{"X-API-Timeout": "90"})
    assert accepted.json()["apiTimeout"] == 90_000
    assert (await zstack.ended(accepted)).status_code == 200
    for wrong in ("0", "-1", "x", "1.5", "999999999999999999999"):
        assert (await zstack.put(PATH, body, **{"X-API-Timeout": wrong})).status_code == 400


async def test_a_deploy_that_takes_longer_than_its_caller_waits_ends_with_a_timeout_and_holds_nothing() -> None:
    async with lab(boot_ms=2500) as slow:
        body = {"deployDistributedModelService": {"modelServices": [node()], "name": "slow",
                                                  "serviceCreationStrategy": "parallel"}}  # fmt: skip
        accepted = await slow.put(PATH, body, **{"X-API-Timeout": "1"})
        assert accepted.json()["apiTimeout"] == 1000
        ended = await slow.ended(accepted)
        assert (ended.status_code, ended.json()["error"]["code"]) == (503, "SYS.1001")

        async def over() -> bool:
            (group,) = (await slow.get("/ai/model-services/instances/groups", q="name=slow")).json()["inventories"]
            return group["status"] == "Failed" and await slow.used() == 0

        await soon(over)


async def test_empty_segments_of_a_path_are_nothing(zstack: Lab) -> None:
    for path in (f"/zones//{ZONE}", f"/zones/{ZONE}/", f"//zones/{ZONE}"):
        answer = await zstack.http.get(
            f"http://{zstack.http_address}/zstack/v1{path}", headers={"Authorization": f"OAuth {zstack.session}"}
        )
        assert [zone["uuid"] for zone in answer.json()["inventories"]] == [ZONE], path
    assert [normal(path) for path in ("//v1//zones/", "/corral/v1//x", "/zstack/v1", "/")] == [
        "/v1/zones", "/corral/v1//x", "/zstack/v1", "/",
    ]  # fmt: skip


async def test_what_cannot_be_served_of_a_node_is_refused_and_not_dropped(zstack: Lab) -> None:
    error = await zstack.refused(modelServices=[node(), node(l3NetworkUuids=["1" * 32], dockerImage="x")])
    assert error["code"] == "SYS.1007"
    for name in ("l3NetworkUuids", "dockerImage"):
        assert f"field[modelServices[1].{name}]" in error["details"]
    made = await zstack.deployed(modelServices=[node(serviceReadyz="/health", datasetUuids=[], vmImageUuid=None)])
    assert made["status"] == "Running"
    assert json.dumps(await zstack.refused(modelServices=[node(serviceReadyz="/x")])).count("/health")
