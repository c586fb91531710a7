"""Every parameter and every reply field of the documented API, a test named after each."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from .lab import ACTION, ENTRY, GROUPS, MESSAGE, NODE, ZONE, Lab, node

DATE = re.compile(r"(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{1,2}, \d{4} \d{1,2}:\d\d:\d\d [AP]M")
HEX = re.compile(r"[0-9a-f]{32}")

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def mandatory(zstack: Lab, name: str) -> None:
    error = await zstack.refused(**{name: None})
    assert (error["code"], error["details"]) == (
        "SYS.1007",
        f"field[{name}] of message[{MESSAGE}] is mandatory, can not be null",
    )


# --- parameters ----------------------------------------------------------------------------------------------------


async def test_parameter_model_services_is_mandatory_and_every_entry_becomes_an_instance(zstack: Lab) -> None:
    await mandatory(zstack, "modelServices")
    assert (await zstack.refused(modelServices=[]))["details"] == "field[modelServices] must be a nonempty list"
    inventory = await zstack.deployed(modelServices=[node(name="a"), node(name="b"), node(name="c")])
    assert [instance["name"] for instance in inventory["instances"]] == ["a", "b", "c"]


async def test_parameter_model_services_is_initial_node_decides_who_has_rank_0(zstack: Lab) -> None:
    inventory = await zstack.deployed(modelServices=[node(name="w"), node(name="i", isInitialNode=True)])
    first, second = inventory["instances"]
    assert (first["name"], first["nodeRank"], first["isInitialNode"]) == ("i", 0, True)
    assert (second["name"], second["nodeRank"], second["isInitialNode"]) == ("w", 1, False)


async def test_parameter_model_services_is_initial_node_may_be_true_once(zstack: Lab) -> None:
    error = await zstack.refused(modelServices=[node(isInitialNode=True), node(isInitialNode=True)])
    assert error["code"] == "SYS.1007"
    assert "field[modelServices[1].isInitialNode]" in error["details"]


async def test_parameter_model_services_uuid_names_a_catalogue_entry(zstack: Lab) -> None:
    assert (await zstack.deployed())["modelServiceUuid"] == ENTRY
    missing = await zstack.refused(modelServices=[node(uuid=None)])
    assert missing["details"] == f"field[modelServices[0].uuid] of message[{MESSAGE}] is mandatory, can not be null"
    unknown = await zstack.refused(modelServices=[node(), node(uuid="1" * 32)])
    assert (unknown["code"], unknown["details"]) == (
        "SYS.1003",
        f"invalid field[modelServices[1].uuid], resource[uuid:{'1' * 32}, type:ModelServiceVO] not found",
    )


async def test_parameter_model_services_zone_uuid_places_the_node_there(zstack: Lab) -> None:
    assert {i["zoneUuid"] for i in (await zstack.deployed())["instances"]} == {ZONE}
    unknown = await zstack.refused(modelServices=[node(zoneUuid="2" * 32)])
    assert (unknown["code"], unknown["details"]) == (
        "SYS.1003",
        f"invalid field[modelServices[0].zoneUuid], resource[uuid:{'2' * 32}, type:ZoneVO] not found",
    )


async def test_parameter_model_services_cpu_num_is_claimed_and_has_a_range(zstack: Lab) -> None:
    before = await zstack.used()
    inventory = await zstack.deployed(modelServices=[node(cpuNum=3)])
    assert inventory["instances"][0]["cpuNum"] == 3
    assert await zstack.used() == before + 3
    assert (await zstack.refused(modelServices=[node(cpuNum=0)]))["details"] == (
        "field[modelServices[0].cpuNum] must be in range of [1, 4096]"
    )


async def test_parameter_model_services_name_is_the_instances_name(zstack: Lab) -> None:
    assert (await zstack.deployed(modelServices=[node(name=" leader ")]))["instances"][0]["name"] == "leader"


async def test_parameter_model_services_type_is_virtual_machine_or_bare_metal(zstack: Lab) -> None:
    assert (await zstack.deployed())["type"] == "VirtualMachine"
    error = await zstack.refused(modelServices=[node(type="Container")])
    assert (error["code"], error["details"]) == (
        "SYS.1007",
        f"valid value for field[modelServices[0].type] of message[{MESSAGE}] are [VirtualMachine, BareMetal],"
        " but Container found",
    )


async def test_parameter_model_services_memory_size_is_in_bytes(zstack: Lab) -> None:
    inventory = await zstack.deployed(modelServices=[node(memorySize=1 << 30)])
    assert inventory["instances"][0]["memorySize"] == 1 << 30
    assert "must be in range of" in (await zstack.refused(modelServices=[node(memorySize=1)]))["details"]


async def test_parameter_model_services_timeout_0_means_the_default_and_negative_is_refused(zstack: Lab) -> None:
    assert "timeout: 300000" in (await zstack.deployed())["yaml"]
    assert "timeout: 500000" in (await zstack.deployed(modelServices=[node(timeout=500_000)]))["yaml"]
    assert "timeout: 300000" in (await zstack.deployed(modelServices=[node(timeout=-1)]))["yaml"]  # "not set"
    error = await zstack.refused(modelServices=[node(timeout=-2)])
    assert error["details"] == "field[modelServices[0].timeout] must be in range of [0, 604800000]"


async def test_parameter_service_creation_strategy_is_parallel_or_sequential(zstack: Lab) -> None:
    await mandatory(zstack, "serviceCreationStrategy")
    for strategy in ("parallel", "sequential"):
        made = await zstack.deployed(serviceCreationStrategy=strategy)
        assert (made["status"], made["serviceCreationStrategy"]) == ("Running", strategy)
    error = await zstack.refused(serviceCreationStrategy="random")
    assert (error["code"], error["details"]) == (
        "SYS.1007",
        f"valid value for field[serviceCreationStrategy] of message[{MESSAGE}] are [parallel, sequential],"
        " but random found",
    )


async def test_parameter_name_is_mandatory_and_has_at_most_255_characters(zstack: Lab) -> None:
    await mandatory(zstack, "name")
    assert (await zstack.deployed(name=" n "))["name"] == "n"
    assert (await zstack.refused(name="n" * 256))["details"] == (
        f"field[name] of message[{MESSAGE}] exceeds max length of string. expected was <= 255, actual was 256"
    )


async def test_parameter_description_is_optional(zstack: Lab) -> None:
    assert (await zstack.deployed(description="for two"))["description"] == "for two"
    assert "description" not in await zstack.deployed()


async def test_parameter_system_tags_beside_the_action_or_in_it(zstack: Lab) -> None:
    body = {"deployDistributedModelService": {**ACTION, "systemTags": ["inner"]}, "systemTags": ["outer", "inner"]}
    answer = await zstack.ended(await zstack.put("/ai/model-services", body))
    assert answer.json()["inventory"]["systemTags"] == ["inner", "outer"]
    assert (await zstack.deployed())["systemTags"] == []


async def test_parameter_user_tags_beside_the_action_or_in_it(zstack: Lab) -> None:
    body = {"deployDistributedModelService": ACTION, "userTags": ["mine"]}
    answer = await zstack.ended(await zstack.put("/ai/model-services", body))
    assert answer.json()["inventory"]["userTags"] == ["mine"]
    assert (await zstack.deployed(userTags=["in"]))["userTags"] == ["in"]


async def test_parameter_resource_uuid_becomes_the_groups_uuid(zstack: Lab) -> None:
    assert (await zstack.deployed(resourceUuid="ABCDEF00-1111-2222-3333-444444444444"))["uuid"] == (
        "abcdef00111122223333444444444444"
    )
    again = await zstack.refused(resourceUuid="abcdef00111122223333444444444444")
    assert again["code"] == "SYS.1007"
    assert "exists already" in again["details"]
    assert "resourceUuid" in (await zstack.refused(resourceUuid="x"))["details"]


async def test_parameter_resource_uuid_of_a_deleted_group_can_be_used_again(zstack: Lab) -> None:
    first = await zstack.deployed(resourceUuid="5" * 32)
    gone = await zstack.http.delete(f"{GROUPS}/{'5' * 32}", headers={"Authorization": f"OAuth {zstack.session}"})
    assert (await zstack.ended(gone)).json() == {}
    second = await zstack.deployed(resourceUuid="5" * 32)
    assert second["uuid"] == first["uuid"]
    assert second["instances"][0]["vmInstanceUuid"] != first["instances"][0]["vmInstanceUuid"]


async def test_parameter_tag_uuids_are_kept(zstack: Lab) -> None:
    assert (await zstack.deployed(tagUuids=["a" * 32, "b" * 32]))["tagUuids"] == ["a" * 32, "b" * 32]


# --- reply ---------------------------------------------------------------------------------------------------------


async def older(zstack: Lab, **changes: Any) -> dict[str, Any]:
    """The event by the older protocol, which is where `success` stands."""
    body = {MESSAGE: {**ACTION, **changes, "session": {"uuid": zstack.session}}}
    accepted = (await zstack.http.post("/zstack/api", json=body)).json()
    while True:
        answer = (await zstack.http.get(f"/zstack/api/result/{accepted['uuid']}")).json()
        if answer["state"] == "Done":
            event: dict[str, Any] = json.loads(answer["result"])[
                "org.zstack.ai.message.APIDeployDistributedModelServiceEvent"
            ]
            return event


async def test_reply_success_says_whether_it_worked(zstack: Lab) -> None:
    assert (await older(zstack))["success"] is True
    assert (await older(zstack, name=""))["success"] is False


async def test_reply_error_is_absent_on_success_and_an_error_code_on_failure(zstack: Lab) -> None:
    assert "error" not in await older(zstack)
    error = (await older(zstack, name=""))["error"]
    assert {"code", "description", "details"} <= set(error)
    assert None not in error.values()


async def test_reply_inventory_is_the_group(zstack: Lab) -> None:
    inventory = (await older(zstack))["inventory"]
    assert (inventory["name"], inventory["status"]) == ("distributed-model-service", "Running")


async def test_reply_inventory_uuid_identifies_the_group(zstack: Lab) -> None:
    inventory = await zstack.deployed()
    assert HEX.fullmatch(inventory["uuid"])
    found = await zstack.http.get(f"{GROUPS}/{inventory['uuid']}", headers={"Authorization": f"OAuth {zstack.session}"})
    assert found.json()["inventories"][0]["uuid"] == inventory["uuid"]


async def test_reply_inventory_model_service_uuid_is_the_initial_nodes_entry(zstack: Lab) -> None:
    assert (await zstack.deployed())["modelServiceUuid"] == NODE["uuid"]


async def test_reply_inventory_model_uuid_is_the_catalogues(zstack: Lab) -> None:
    assert (await zstack.deployed())["modelUuid"] == "d" * 32
    assert (await zstack.deployed(modelServices=[node(modelUuid="e" * 32)]))["modelUuid"] == "e" * 32


async def test_reply_inventory_instances_tell_where_each_member_runs(zstack: Lab) -> None:
    inventory = await zstack.deployed(modelServices=[node(), node()])
    hosts = {host["uuid"] for host in (await zstack.get("/hosts")).json()["inventories"]}
    for rank, instance in enumerate(inventory["instances"]):
        assert instance["nodeRank"] == rank
        assert instance["status"] == "Running"
        assert instance["hostUuid"] in hosts
        assert instance["modelServiceGroupUuid"] == inventory["uuid"]
        assert HEX.fullmatch(instance["vmInstanceUuid"])


async def test_reply_inventory_dataset_ref_inventories_is_a_list(zstack: Lab) -> None:
    assert (await zstack.deployed())["datasetRefInventories"] == []


async def test_reply_inventory_status_is_running_at_the_end(zstack: Lab) -> None:
    assert (await zstack.deployed())["status"] == "Running"


async def test_reply_inventory_model_service_type_is_the_catalogues(zstack: Lab) -> None:
    entry = (await zstack.get(f"/ai/model-services/{ENTRY}")).json()["inventories"][0]
    assert (await zstack.deployed())["modelServiceType"] == entry["type"] == "Endpoint"


async def test_reply_inventory_type_is_the_nodes(zstack: Lab) -> None:
    assert (await zstack.deployed())["type"] == NODE["type"]


async def test_reply_inventory_name_is_the_requests(zstack: Lab) -> None:
    assert (await zstack.deployed())["name"] == ACTION["name"]


async def test_reply_inventory_description_is_the_requests(zstack: Lab) -> None:
    assert (await zstack.deployed(description="d\ne"))["description"] == "d\ne"


async def test_reply_inventory_yaml_is_the_specification(zstack: Lab) -> None:
    yaml = (await zstack.deployed())["yaml"]
    assert 'name: "distributed-model-service"\n' in yaml
    assert "    memorySize: 17179869184\n" in yaml


async def test_reply_inventory_support_metrics_are_the_catalogues(zstack: Lab) -> None:
    assert (await zstack.deployed())["supportMetrics"] == ["tokens_per_second"]


async def test_reply_inventory_export_path_is_null_because_nothing_is_exported(zstack: Lab) -> None:
    assert "exportPath" not in await zstack.deployed()


async def test_reply_inventory_create_date_is_zstacks_date(zstack: Lab) -> None:
    assert DATE.fullmatch((await zstack.deployed())["createDate"])


async def test_reply_inventory_last_op_date_is_zstacks_date(zstack: Lab) -> None:
    assert DATE.fullmatch((await zstack.deployed())["lastOpDate"])
