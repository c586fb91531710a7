"""The service as strangers see it: the real grpcurl and buf against a whole process on simulated hosts."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.outside import SCRIPTS, SERVICE, Outside, documents, outside

DOCUMENTED = json.loads("""{"modelServices":[{"isInitialNode":false,"uuid":"f1e135835fee363c9f57ed8232023886",
"zoneUuid":"7a007a391d483c9f843bf1df4b7e5d8f","cpuNum":8,"name":"model-service","type":"VirtualMachine",
"memorySize":17179869184,"timeout":0}],"serviceCreationStrategy":"parallel","name":"distributed-model-service"}""")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    with outside(tmp_path_factory.mktemp("outside")) as process:
        yield process


def test_grpcurl_lists_the_services_and_describes_a_method_and_a_message(service: Outside) -> None:
    listed = service.grpcurl("list").stdout.split()
    assert {SERVICE, "corral.v1.FleetService", "corral.v1.CatalogService", "grpc.health.v1.Health"} <= set(listed)
    for name in (*listed, f"{SERVICE}.DeployDistributedModelService", "corral.v1.NodeSpec", "corral.v1.limits"):
        result = service.grpcurl("describe", name)
        assert result.returncode == 0, (name, result.stderr)
    described = service.grpcurl("describe", f"{SERVICE}.DeployDistributedModelService").stdout
    assert "returns ( stream .corral.v1.DeployDistributedModelServiceResponse )" in described


def test_grpcurl_deploys_the_documented_request_word_for_word_and_deletes_it(service: Outside) -> None:
    answers = [answer["event"] for answer in service.call("DeployDistributedModelService", DOCUMENTED)]
    assert [next(kind for kind in ("accepted", "final") if kind in answers[i]) for i in (0, -1)] == [
        "accepted",
        "final",
    ]
    final = answers[-1]["final"]
    assert (final["status"], final["name"]) == ("Running", "distributed-model-service")
    assert [int(event["sequence"]) for event in answers] == list(range(1, len(answers) + 1))
    assert answers[0]["groupUuid"] == final["uuid"]
    assert final["instances"][0]["cpuNum"] == 8
    (stored,) = service.call("GetInstanceGroup", {"uuid": final["uuid"]})
    assert stored["inventory"] == final
    (page,) = service.call("ListInstanceGroups", {"statuses": ["Running"], "name": final["name"]})
    assert [group["uuid"] for group in page["inventories"]] == [final["uuid"]]
    deleted = service.call("DeleteInstanceGroup", {"uuid": final["uuid"], "etag": final["etag"]})
    assert deleted[-1]["event"]["final"]["status"] == "Deleted"


def test_grpcurl_plans_and_is_told_why_something_does_not_fit(service: Outside) -> None:
    (plan,) = service.call("PlanDistributedModelService", DOCUMENTED)
    assert plan["placement"]["assignments"][0]["hostName"] in ("one", "two")
    giant = {**DOCUMENTED, "modelServices": [{**DOCUMENTED["modelServices"][0], "memorySize": 1 << 40}]}
    result = service.grpcurl(f"{SERVICE}/PlanDistributedModelService", body=giant)
    assert result.returncode == 64 + 9
    assert "Code: FailedPrecondition" in result.stderr
    for word in ("UNSATISFIABLE", "corral.v1.PlacementFailure", "model_services[0]", "resource_total"):
        assert word in result.stderr


def test_grpcurl_follows_a_sequential_group_of_three(service: Outside) -> None:
    node = {"uuid": DOCUMENTED["modelServices"][0]["uuid"], "cpuNum": 2, "memorySize": 1 << 30}
    nodes = [{**node, "name": "w1"}, {**node, "name": "leader", "isInitialNode": True}, {**node, "name": "w2"}]
    request = {"name": "three", "serviceCreationStrategy": "sequential", "modelServices": nodes, "requestId": "three-1"}
    events = [answer["event"] for answer in service.call("DeployDistributedModelService", request)]
    running = [e["instance"]["name"] for e in events if e.get("instance", {}).get("status") == "Running"]
    assert running == ["leader", "w1", "w2"]
    again = [answer["event"] for answer in service.call("DeployDistributedModelService", request)]
    assert again[-1]["final"]["uuid"] == events[-1]["final"]["uuid"]
    service.call("DeleteInstanceGroup", {"uuid": events[-1]["groupUuid"]})


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"modelServices": []}, "InvalidArgument", "model_services"),
        ({"serviceCreationStrategy": "random"}, "InvalidArgument", "service_creation_strategy"),
        ({"name": "a\u000bb"}, "InvalidArgument", "U+000B"),
        ({"modelServices": [{**DOCUMENTED["modelServices"][0], "cpuNum": 100_000}]}, "InvalidArgument", "[0].cpu_num"),
        (
            {"modelServices": [{**DOCUMENTED["modelServices"][0], "memorySize": 1 << 50}]},
            "InvalidArgument",
            "[0].memory_size",
        ),
        ({"modelServices": [{**DOCUMENTED["modelServices"][0], "type": "Container"}]}, "InvalidArgument", "BareMetal"),
        ({"modelServices": [{**DOCUMENTED["modelServices"][0], "zoneUuid": "e" * 32}]}, "NotFound", "[0].zone_uuid"),
        ({"modelServices": [{**DOCUMENTED["modelServices"][0], "uuid": "e" * 32}]}, "NotFound", "[0].uuid"),
        ({"description": "d" * 200_000}, "ResourceExhausted", "MESSAGE_TOO_LARGE"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value),
)
def test_grpcurl_is_told_which_field_is_wrong(service: Outside, change: Any, code: str, says: str) -> None:
    result = service.grpcurl(f"{SERVICE}/DeployDistributedModelService", body={**DOCUMENTED, **change})
    assert result.returncode != 0
    assert f"Code: {code}" in result.stderr
    assert says in result.stderr
    assert "google.rpc.ErrorInfo" in result.stderr


def test_grpcurl_sees_the_hosts_and_what_is_free_of_them(service: Outside) -> None:
    (hosts,) = documents(service.grpcurl("corral.v1.FleetService/ListHosts", body={}).stdout)
    assert [(host["name"], host["driver"], host["state"]) for host in hosts["inventories"]] == [
        ("one", "simulated", "Enabled"),
        ("two", "simulated", "Enabled"),
    ]
    (capacity,) = documents(service.grpcurl("corral.v1.FleetService/GetCapacity", body={}).stdout)
    amounts = {entry["resource"]: entry for entry in capacity["capacities"]}
    assert (capacity["hosts"], amounts["vcpu"]["total"], amounts["vcpu"]["allocatable"]) == (2, "32", "320")


def test_health_answers_to_grpcurl(service: Outside) -> None:
    result = service.grpcurl("grpc.health.v1.Health/Check", body={"service": SERVICE})
    assert json.loads(result.stdout) == {"status": "SERVING"}


def test_buf_curl_deploys_and_reads_by_reflection(service: Outside) -> None:
    def curl(method: str, body: Any) -> subprocess.CompletedProcess[str]:
        url = f"http://{service.grpc}/{SERVICE}/{method}"
        command = [str(SCRIPTS / "buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "-d", "@-", url]
        environment = {**os.environ, "XDG_CACHE_HOME": str(service.log.parent / "cache")}
        return subprocess.run(
            command, input=json.dumps(body), capture_output=True, text=True, timeout=60, check=False, env=environment
        )

    deployed = curl("DeployDistributedModelService", {**DOCUMENTED, "name": "by buf"})
    assert deployed.returncode == 0, deployed.stderr
    final = documents(deployed.stdout)[-1]["event"]["final"]
    assert (final["status"], final["name"]) == ("Running", "by buf")
    read = curl("GetInstanceGroup", {"uuid": final["uuid"]})
    assert documents(read.stdout)[0]["inventory"] == final
    refused = curl("DeployDistributedModelService", {**DOCUMENTED, "serviceCreationStrategy": "x"})
    error = json.loads(refused.stderr)
    assert error["code"] == "invalid_argument"
    assert {detail["type"] for detail in error["details"]} == {"google.rpc.ErrorInfo", "google.rpc.BadRequest"}
    assert curl("DeleteInstanceGroup", {"uuid": final["uuid"]}).returncode == 0


def test_the_calls_show_up_in_the_metrics(service: Outside) -> None:
    service.call("ListInstanceGroups", {})
    handled = 'grpc_server_handled_total{grpc_code="OK",grpc_method="ListInstanceGroups",'
    assert any(line.startswith(handled) and not line.endswith(" 0.0") for line in service.metrics().splitlines())
