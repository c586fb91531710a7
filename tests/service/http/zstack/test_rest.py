"""The HTTP protocol: what is answered at once, what by a job, who may call what, and the siblings of the deploy."""

from __future__ import annotations

import json
import uuid as uuids
from typing import Any

import pytest

from service.http.zstack import dates, placing_tags

from .lab import ACTION, ENTRY, GROUPS, PASSWORD_SHA512, ZONE, Lab, action, node

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/zstack/v1/ai/model-services"


def plain(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"].startswith("text/plain")
    return answer.status_code, answer.text


async def raw(zstack: Lab, content: str | bytes, **headers: str) -> Any:
    who = {"Authorization": f"OAuth {zstack.session}"} if "Authorization" not in headers else {}
    return await zstack.http.put(PATH, content=content, headers={**who, **headers})


# --- at once -------------------------------------------------------------------------------------------------------


async def test_without_an_authorization_header_the_answer_is_400(zstack: Lab) -> None:
    answer = await zstack.http.put(PATH, json={"deployDistributedModelService": ACTION})
    assert plain(answer) == (400, "missing header 'Authorization'")


async def test_another_authorization_type_is_400(zstack: Lab) -> None:
    answer = await raw(zstack, json.dumps({"deployDistributedModelService": ACTION}), Authorization="Bearer x")
    assert plain(answer) == (400, "Authorization type must be 'OAuth'")


async def test_a_body_without_a_known_action_key_is_400(zstack: Lab) -> None:
    answer = await raw(zstack, '{"someAction":{}}')
    assert plain(answer) == (400, f"the body doesn't contain action mapping to the URL[{PATH}]")


@pytest.mark.parametrize(
    "content", ["{", "[1]", "NaN", '{"deployDistributedModelService":1}', b"\xff\xfe{}", "[" * 99999, '{"a":"\\ud800"}']
)
async def test_what_is_no_json_object_is_400(zstack: Lab, content: str | bytes) -> None:
    assert (await raw(zstack, content)).status_code == 400


async def test_a_body_above_the_limit_is_413(zstack: Lab) -> None:
    assert (await raw(zstack, b" " * (5 << 20))).status_code == 413


async def test_a_job_uuid_can_be_used_once(zstack: Lab) -> None:
    body, job = json.dumps({"deployDistributedModelService": action()}), uuids.uuid4().hex
    first = await raw(zstack, body, **{"X-Job-UUID": job})
    again = await raw(zstack, body, **{"X-Job-UUID": job})
    assert first.status_code == 202
    assert plain(again) == (400, f"Duplicate job uuid[{job}]")
    assert (await zstack.ended(first)).status_code == 200


async def test_a_job_uuid_that_is_none_is_400(zstack: Lab) -> None:
    answer = await raw(zstack, json.dumps({"deployDistributedModelService": ACTION}), **{"X-Job-UUID": "7"})
    assert plain(answer) == (400, "Invalid header[X-Job-UUID], it must be a UUID with '-' stripped")


async def test_unknown_paths_are_404_and_wrong_methods_405(zstack: Lab) -> None:
    assert (await zstack.http.get("/zstack/v1/volumes")).status_code == 404
    assert (await zstack.http.patch(PATH)).status_code == 405


async def test_an_unknown_job_is_404_in_the_words_that_clients_know(zstack: Lab) -> None:
    assert plain(await zstack.http.get(f"/zstack/v1/api-jobs/{'0' * 32}")) == (404, "the job has been expired")


async def test_a_webhook_to_an_address_that_is_not_allowed_is_400(zstack: Lab) -> None:
    body = json.dumps({"deployDistributedModelService": ACTION})
    for url in ("http://192.0.2.7/hook", "http://127.0.0.2/", "ftp://127.0.0.1/", "http://u:p@127.0.0.1/", "::"):
        answer = await raw(zstack, body, **{"X-Web-Hook": url})
        assert answer.status_code == 400
        assert "web hook" in answer.text


# --- JSON ----------------------------------------------------------------------------------------------------------


async def test_whole_floats_digits_in_texts_nulls_and_unknown_fields_are_borne(zstack: Lab) -> None:
    made = await zstack.deployed(
        modelServices=[node(cpuNum=8.0, memorySize="17179869184", isInitialNode="true", gpus=None, whatever={"x": 1})],
        description=None,
        unknown=[None],
    )
    assert (made["instances"][0]["cpuNum"], made["instances"][0]["memorySize"]) == (8, 17179869184)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cpuNum": 1.5}, "must be an integer"),
        ({"cpuNum": True}, "must be an integer"),
        ({"cpuNum": 1e300}, "must be in range of [1, 4096]"),
        ({"memorySize": 2**70}, "must be in range of"),
        ({"name": ["n"]}, "must be a text"),
        ({"isInitialNode": 3}, "must be true or false"),
        ({"environmentVariables": 3}, "must be an object"),
        ({"gpus": {}}, "must be a list"),
        ({"zoneUuid": "x"}, "must be a uuid"),
        ({"name": "a\nb"}, "must be one line"),
    ],
)
async def test_a_wrong_value_is_sys_1007_with_its_path(zstack: Lab, changes: dict[str, Any], sentence: str) -> None:
    error = await zstack.refused(modelServices=[node(), node(**changes)])
    assert error["code"] == "SYS.1007"
    assert error["description"] == "One or more API argument is invalid"
    assert f"field[modelServices[1].{next(iter(changes))}]" in error["details"]
    assert sentence in error["details"]


async def test_null_in_a_list_is_refused_in_zstacks_words(zstack: Lab) -> None:
    error = await zstack.refused(modelServices=[node(), None])
    assert error["details"] == "field[modelServices] cannot contain a NULL element"


async def test_several_wrong_fields_are_told_together(zstack: Lab) -> None:
    details = (await zstack.refused(name=None, serviceCreationStrategy="x"))["details"]
    assert "field[name]" in details
    assert "field[serviceCreationStrategy]" in details


# --- by the job ----------------------------------------------------------------------------------------------------


async def test_no_capacity_is_told_with_the_planners_explanation(zstack: Lab) -> None:
    error = await zstack.refused(modelServices=[node(cpuNum=4096)])
    assert error["code"] == "HOST_ALLOCATION.1000"
    assert error["opaque"]["placementFailure"]["requested"] == 1
    assert error["opaque"]["placementFailure"]["funnels"][0]["field"] == "modelServices[0]"


async def test_a_wrong_session_fails_by_the_job_and_leaves_no_row(zstack: Lab) -> None:
    answer = await zstack.ended(await zstack.deploy(session="1" * 32))
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "ID.1001"


async def test_a_deploy_above_the_projects_quota_is_refused(zstack: Lab) -> None:
    bob = await zstack.log_in("bob")
    answer = await zstack.ended(await zstack.deploy(session=bob, modelServices=[node(cpuNum=17)]))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ID.1003")


async def test_a_viewer_may_look_and_not_deploy(zstack: Lab) -> None:
    eve = await zstack.log_in("eve")
    assert (await zstack.get("/ai/model-services", session=eve)).status_code == 200
    assert (await zstack.get("/hosts", session=eve)).json()["error"]["code"] == "ID.1002"
    answer = await zstack.ended(await zstack.deploy(session=eve))
    assert answer.json()["error"]["code"] == "ID.1002"


async def test_an_operator_may_not_touch_the_fleet(zstack: Lab) -> None:
    alice = await zstack.log_in("alice")
    host = (await zstack.get("/hosts")).json()["inventories"][0]["uuid"]
    body = {"changeHostState": {"stateEvent": "disable"}}
    answer = await zstack.ended(await zstack.put(f"/hosts/{host}/actions", body, session=alice))
    assert answer.json()["error"]["code"] == "ID.1002"


async def test_another_tenants_group_is_as_if_it_were_not_there(zstack: Lab) -> None:
    alice, bob = await zstack.log_in("alice"), await zstack.log_in("bob")
    mine = (await zstack.ended(await zstack.deploy(session=alice))).json()["inventory"]["uuid"]
    groups = GROUPS.removeprefix("/zstack/v1")
    assert (await zstack.get(f"{groups}/{mine}", session=bob)).json() == {"inventories": []}
    assert mine not in (await zstack.get(groups, session=bob)).text
    assert len((await zstack.get(f"{groups}/{mine}", session=alice)).json()["inventories"]) == 1
    deleted = await zstack.http.delete(f"{GROUPS}/{mine}", headers={"Authorization": f"OAuth {bob}"})
    assert (await zstack.ended(deleted)).json() == {}
    assert len((await zstack.get(f"{groups}/{mine}", session=alice)).json()["inventories"]) == 1


async def test_a_policy_is_said_in_the_body_and_tags_that_name_zstacks_own_groups_are_refused(zstack: Lab) -> None:
    policy = {"minHosts": 2, "preferredHostLabels": [{"key": "disk", "values": ["ssd"], "weight": 2}]}
    nodes = [node(), node()]
    found = await zstack.deployed(systemTags=["validationOnly"], modelServices=nodes, placementPolicy=policy)
    assert len({instance["hostUuid"] for instance in found["instances"]}) == 2
    for name in placing_tags.REFUSED:
        error = await zstack.refused(systemTags=["validationOnly", f"{name}::{'a' * 32}"], placementPolicy=policy)
        assert error["code"] == "SYS.1007"
        assert name in error["details"]
    error = await zstack.refused(modelServices=nodes, placementPolicy={"minRacks": 3})
    assert (error["code"], "minRacks" in error["details"] or "min_racks" in error["details"]) == ("SYS.1007", True)


@pytest.mark.parametrize(
    ("tag", "instead"),
    [
        (f"pciDevice::{'a' * 32}", "gpus"),
        (f"mdevDevice::{'a' * 32}", "gpus"),
        (f"pciDeviceSpec::{'a' * 32}::4", "gpus"),
        (f"mdevDeviceSpec::{'a' * 32}::4", "gpus"),
        ("autoReleaseSpecReleatedPhysicalPciDevice", "until it is placed anew"),
        ("autoReleaseSpecReleatedVirtualPciDevice", "until it is placed anew"),
        ("vmCpuPinning::1:3;1-3:4-7,^6", "dedicatedCpus"),
        ("vmNumaEnable::true", "numaCells"),
    ],
)
async def test_what_zstacks_tags_say_of_devices_and_processors_is_refused_with_what_is_said_instead(
    zstack: Lab, tag: str, instead: str
) -> None:
    error = await zstack.refused(systemTags=[tag], name="devices")
    assert (error["code"], instead in error["details"]) == ("SYS.1007", True), error
    assert (await zstack.get(GROUPS.removeprefix("/zstack/v1"), q="name=devices")).json()["inventories"] == []


async def test_a_tag_that_binds_to_a_cluster_is_kept_to(zstack: Lab) -> None:
    (cluster,) = (await zstack.get("/clusters")).json()["inventories"]
    inside = [h["uuid"] for h in (await zstack.get("/hosts", q=f"clusterUuid={cluster['uuid']}")).json()["inventories"]]
    tag = f"resourceBindings::Cluster:{cluster['uuid']}"
    found = await zstack.deployed(systemTags=["validationOnly", tag], modelServices=[node(), node()])
    assert {instance["hostUuid"] for instance in found["instances"]} <= set(inside)
    kept = await zstack.deployed(systemTags=[tag], name="bound")
    assert kept["systemTags"] == [tag]
    assert kept["instances"][0]["hostUuid"] in inside
    for bad in ("Cluster:" + "d" * 32 + ",Cluster:" + cluster["uuid"], "Host:" + inside[0], "Cluster:x", ""):
        error = await zstack.refused(systemTags=["validationOnly", f"resourceBindings::{bad}"])
        assert (error["code"], "resourceBindings" in error["details"]) == ("SYS.1007", True)
    other = node(clusterUuid="d" * 32)
    error = await zstack.refused(systemTags=["validationOnly", tag], modelServices=[other])
    assert "another cluster" in error["details"]
    unknown = f"resourceBindings::Cluster:{'d' * 32}"
    assert (await zstack.refused(systemTags=["validationOnly", unknown]))["code"] == "SYS.1003"


async def test_the_dry_run_tells_where_and_makes_nothing(zstack: Lab) -> None:
    before = (await zstack.get(GROUPS.removeprefix("/zstack/v1"), count="true")).json()["total"]
    inventory = await zstack.deployed(systemTags=["validationOnly"], modelServices=[node(), node()])
    assert [instance["nodeRank"] for instance in inventory["instances"]] == [0, 1]
    assert all(instance["hostUuid"] for instance in inventory["instances"])
    assert not {"uuid", "status", "createDate"} & set(inventory)
    assert (await zstack.get(GROUPS.removeprefix("/zstack/v1"), count="true")).json()["total"] == before
    assert (await zstack.refused(systemTags=["validationOnly"], modelServices=[node(cpuNum=4096)]))["code"] == (
        "HOST_ALLOCATION.1000"
    )


async def test_a_bug_tells_nothing_but_a_request_id(zstack: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(zstack.service.groups, "deploy", broken)
    error = await zstack.refused()
    assert error["code"] == "SYS.1000"
    assert "secret" not in json.dumps(error)
    assert error["opaque"]["requestId"] in error["details"]


# --- siblings ------------------------------------------------------------------------------------------------------


async def test_a_deleted_group_is_gone_and_deleting_it_again_is_success(zstack: Lab) -> None:
    uuid = (await zstack.deployed())["uuid"]
    for _ in range(2):
        answer = await zstack.http.delete(
            f"{GROUPS}/{uuid}?deleteMode=Permissive", headers={"Authorization": f"OAuth {zstack.session}"}
        )
        ended = await zstack.ended(answer)
        assert (ended.status_code, ended.json()) == (200, {})
    assert (await zstack.get(f"/ai/model-services/instances/groups/{uuid}")).json() == {"inventories": []}


async def test_several_groups_are_deleted_in_one_call(zstack: Lab) -> None:
    uuids_made = [(await zstack.deployed())["uuid"] for _ in range(2)]
    answer = await zstack.http.delete(
        GROUPS, params={"uuids": uuids_made}, headers={"Authorization": f"OAuth {zstack.session}"}
    )
    ended = await zstack.ended(answer)
    assert (ended.status_code, ended.json()) == (
        200,
        {"results": [{"uuid": uuid, "success": True} for uuid in uuids_made]},
    )
    found = await zstack.get("/ai/model-services/instances/groups", q=f"uuid?={','.join(uuids_made)}")
    assert found.json() == {"inventories": []}


async def test_an_update_changes_name_and_description(zstack: Lab) -> None:
    uuid = (await zstack.deployed(description="old"))["uuid"]
    body = {"updateModelServiceInstanceGroup": {"name": "renamed", "description": "new"}}
    ended = await zstack.ended(await zstack.put(f"/model-service-instance-groups/{uuid}", body))
    assert (ended.json()["inventory"]["name"], ended.json()["inventory"]["description"]) == ("renamed", "new")
    refused = {"updateModelServiceInstanceGroup": {"startupParameters": {"a": "b"}}}
    ended = await zstack.ended(await zstack.put(f"/model-service-instance-groups/{uuid}", refused))
    assert ended.json()["error"]["code"] == "SYS.1007"


async def test_a_restart_brings_groups_up_again(zstack: Lab) -> None:
    made = await zstack.deployed()
    body = {"restartModelServiceGroups": {"uuids": ["0" * 32, made["uuid"]]}}
    ended = await zstack.ended(await zstack.put("/model-service-instance-groups", body))
    assert ended.status_code == 200, ended.text
    missing, again = ended.json()["results"]
    assert (missing["uuid"], missing["success"], missing["error"]["code"]) == ("0" * 32, False, "SYS.1003")
    assert (again["uuid"], again["success"], again["inventory"]["status"]) == (made["uuid"], True, "Running")
    assert again["inventory"]["revision"] > made["revision"]


async def test_zones_hosts_capacity_and_catalogue_are_the_fleets(zstack: Lab) -> None:
    assert [zone["uuid"] for zone in (await zstack.get("/zones")).json()["inventories"]] == [ZONE]
    hosts = (await zstack.get("/hosts", sort="+name")).json()["inventories"]
    assert [host["name"] for host in hosts] == ["host-1", "host-2"]
    capacity = (await zstack.get("/hosts/capacities/cpu-memory", zoneUuids=ZONE)).json()
    assert capacity["totalCpu"] == sum(host["totalCpuCapacity"] for host in hosts)
    assert capacity["availableMemory"] == sum(host["availableMemoryCapacity"] for host in hosts)
    one = (await zstack.get("/hosts/capacities/cpu-memory", hostUuids=hosts[0]["uuid"])).json()
    assert one["managedCpuNum"] == hosts[0]["cpuNum"]
    sums = ("totalCpu", "availableCpu", "totalMemory", "availableMemory", "managedCpuNum")
    assert (one["resourceType"], one["capacityData"]) == (
        "HostVO",
        [{"resourceUuid": hosts[0]["uuid"], **{name: one[name] for name in sums}}],
    )
    assert (capacity["resourceType"], [part["resourceUuid"] for part in capacity["capacityData"]]) == ("ZoneVO", [ZONE])
    nowhere = (await zstack.get("/hosts/capacities/cpu-memory", zoneUuids="0" * 32)).json()
    assert (nowhere["totalCpu"], nowhere["capacityData"]) == (0, [])
    every = (await zstack.get("/hosts/capacities/cpu-memory")).json()
    assert every["capacityData"] == capacity["capacityData"]
    assert [entry["uuid"] for entry in (await zstack.get("/ai/model-services")).json()["inventories"]] == [ENTRY]


async def test_a_host_is_disabled_and_enabled_again(zstack: Lab) -> None:
    host = (await zstack.get("/hosts", q="name=host-2")).json()["inventories"][0]["uuid"]
    for event, state in (("disable", "Disabled"), ("enable", "Enabled")):
        ended = await zstack.ended(
            await zstack.put(f"/hosts/{host}/actions", {"changeHostState": {"stateEvent": event}})
        )
        assert ended.json()["inventory"]["state"] == state
    ended = await zstack.ended(await zstack.put(f"/hosts/{host}/actions", {"changeHostState": {"stateEvent": "x"}}))
    assert ended.json()["error"]["code"] == "SYS.1007"


async def test_a_zone_is_made_and_deleted(zstack: Lab) -> None:
    who = {"Authorization": f"OAuth {zstack.session}"}
    made = await zstack.http.post("/zstack/v1/zones", json={"params": {"name": "zone-2"}}, headers=who)
    zone = (await zstack.ended(made)).json()["inventory"]
    assert (await zstack.get(f"/zones/{zone['uuid']}")).json()["inventories"][0]["name"] == "zone-2"
    assert (await zstack.ended(await zstack.http.delete(f"/zstack/v1/zones/{zone['uuid']}", headers=who))).json() == {}
    assert (await zstack.get(f"/zones/{zone['uuid']}")).json() == {"inventories": []}


async def test_the_version_needs_no_session(zstack: Lab) -> None:
    answer = await zstack.http.put("/zstack/v1/management-nodes/actions", json={"getVersion": {}})
    assert answer.json() == {"version": "5.3.46"}


# --- sessions ------------------------------------------------------------------------------------------------------


async def test_a_login_answers_with_a_session_that_is_valid_until_it_is_ended(zstack: Lab) -> None:
    body = {"logInByAccount": {"accountName": "admin", "password": PASSWORD_SHA512}}
    session = (await zstack.http.put("/zstack/v1/accounts/login", json=body)).json()["inventory"]
    assert set(session) == {"uuid", "accountUuid", "userUuid", "expiredDate", "createDate"}
    path = f"/zstack/v1/accounts/sessions/{session['uuid']}"
    assert (await zstack.http.get(f"{path}/valid")).json() == {"valid": True}
    for duration in ("0", '"60"', "true", "1e400", "31536001"):
        refused = await zstack.http.put(f"{path}/renew", content=f'{{"renewSession":{{"duration":{duration}}}}}')
        assert refused.json()["error"]["code"] == "SYS.1007"
    renewed = await zstack.http.put(f"{path}/renew", json={"renewSession": {"duration": 31536000}})
    assert dates.read(renewed.json()["inventory"]["expiredDate"]) > dates.read(session["expiredDate"]) + 300 * 86400_000
    assert renewed.json()["inventory"]["uuid"] == session["uuid"]
    assert (await zstack.http.delete(path)).json() == {}
    assert (await zstack.http.get(f"{path}/valid")).json() == {"valid": False}
    error = (await zstack.get("/zones", session=session["uuid"])).json()["error"]
    assert error["code"] == "ID.1001"


@pytest.mark.parametrize("name", ["admin", "nobody"])
async def test_a_wrong_password_and_an_unknown_name_are_told_alike(zstack: Lab, name: str) -> None:
    body = {"logInByAccount": {"accountName": name, "password": "0" * 128}}
    answer = await zstack.http.put("/zstack/v1/accounts/login", json=body)
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert (error["code"], error["details"]) == ("ID.1000", "wrong account name or password")
