"""JSON and server-sent events by an ordinary HTTP client, on the real service with simulated hosts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.contract.status import _TABLE
from service.http import openapi
from service.http.reply import HTTP_STATUS
from tests.support.builders import ENTRY, ZONE
from tests.support.process import CONFIGURATION, CorralProcess

DOCUMENTED: dict[str, Any] = {
    "modelServices": [
        {
            "isInitialNode": False,
            "uuid": ENTRY,
            "zoneUuid": ZONE,
            "cpuNum": 1,
            "name": "model-service",
            "type": "VirtualMachine",
            "memorySize": 1073741824,
            "timeout": 0,
        }
    ],
    "serviceCreationStrategy": "parallel",
    "name": "distributed-model-service",
}


@pytest.fixture(scope="module")
def corral(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CorralProcess]:
    process = CorralProcess(tmp_path_factory.mktemp("corral"), CONFIGURATION)
    process.start()
    yield process
    process.stop()


@pytest.fixture
def client(corral: CorralProcess) -> Iterator[httpx.Client]:
    headers = {"content-type": "application/json"}
    with httpx.Client(base_url=f"{corral.http}/corral/v1", headers=headers, timeout=30) as made:
        yield made


def events(response: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    """(event name, data) of a whole stream."""
    found = []
    for block in response.text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((lines.get("event", "message"), json.loads(lines["data"])))
    return found


def test_the_documented_json_deploys_and_streams_to_running(client: httpx.Client) -> None:
    answer = client.post("/instance-groups", json=DOCUMENTED)
    assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "text/event-stream")
    told = events(answer)
    assert told[-1][0] == "end"
    final = told[-2][1]["event"]["final"]
    assert final["status"] == "Running"
    read = client.get(f"/instance-groups/{final['uuid']}")
    assert read.json()["inventory"] == final
    listed = client.get("/instance-groups", params={"statuses": "Running", "pageSize": 1}).json()
    assert final["uuid"] in {g["uuid"] for g in listed["inventories"]}
    renamed = client.patch(f"/instance-groups/{final['uuid']}", json={"name": "renamed"})
    assert renamed.json()["inventory"]["name"] == "renamed"
    restarted = events(client.post(f"/instance-groups/{final['uuid']}:restart", json={}))
    assert restarted[-2][1]["event"]["final"]["status"] == "Running"
    gone = events(client.delete(f"/instance-groups/{final['uuid']}"))
    assert gone[-2][1]["event"]["final"]["status"] == "Deleted"
    missing = client.get(f"/instance-groups/{final['uuid']}")
    assert (missing.status_code, missing.json()["error"]["status"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**DOCUMENTED, "serviceCreationStrategy": "x"}, "service_creation_strategy"),
        ({**DOCUMENTED, "modelServices": []}, "model_services"),
        ({**DOCUMENTED, "nonsense": 1}, "nonsense"),
        ({**DOCUMENTED, "modelServices": "x"}, "modelServices"),
        ([], ""),
    ],
)
def test_a_bad_request_is_refused_with_its_field_before_a_stream_begins(
    client: httpx.Client, body: object, field: str
) -> None:
    answer = client.post("/instance-groups", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["status"] == "INVALID_ARGUMENT"
    violations = [v for detail in error["details"] for v in detail.get("fieldViolations", ())]
    assert field in {v.get("field", "") for v in violations}, error


def test_what_is_not_json_and_what_is_too_big_is_refused(client: httpx.Client) -> None:
    assert client.post("/instance-groups", content=b"{").status_code == 400
    assert client.post("/instance-groups", content=b"[" * 100_000).status_code == 400
    assert client.post("/instance-groups", content=b" " * (8 << 20)).status_code == 429
    assert client.get("/instance-groups", params={"nonsense": "1"}).status_code == 400
    assert client.get("/instance-groups", params={"pageSize": "x"}).status_code == 400


def test_unknown_paths_and_verbs_are_told_in_json_with_what_is_allowed(client: httpx.Client) -> None:
    for path in ("/nothing", "/instance-groups/x/y", "/"):
        missing = client.get(path)
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, 404)
        assert "allow" not in missing.headers
    for path, allowed in (
        ("/instance-groups", "GET, HEAD, POST"),
        (f"/instance-groups/{'0' * 32}", "DELETE, GET, HEAD, PATCH"),
        (f"/instance-groups/{'0' * 32}:restart", "POST"),
    ):
        refused = client.put(path, json={})
        assert (refused.status_code, refused.json()["error"]["status"]) == (405, "UNIMPLEMENTED")
        assert refused.headers["allow"] == allowed


def test_a_group_that_does_not_fit_ends_its_stream_with_the_explanation(client: httpx.Client) -> None:
    body = {**DOCUMENTED, "modelServices": [{**DOCUMENTED["modelServices"][0], "cpuNum": 4000}]}
    told = events(client.post("/instance-groups", json=body))
    name, problem = told[-1]
    assert name == "error"
    assert problem["error"]["status"] in ("FAILED_PRECONDITION", "RESOURCE_EXHAUSTED")
    kinds = {detail["@type"].rsplit(".", 1)[-1] for detail in problem["error"]["details"]}
    assert "PlacementFailure" in kinds


def test_a_watch_goes_on_after_the_last_event_id(client: httpx.Client) -> None:
    told = events(client.post("/instance-groups", json=DOCUMENTED))
    first = int(told[0][1]["event"]["revision"])
    with client.stream("GET", "/instance-groups:watch", headers={"last-event-id": str(first)}) as stream:
        line = next(line for line in stream.iter_lines() if line.startswith("id: "))
    assert int(line[4:]) == first + 1


def test_every_annotated_method_is_described_and_answers(corral: CorralProcess) -> None:
    with httpx.Client(base_url=corral.http, timeout=60) as client:
        described = client.get("/openapi.json").json()
        operations = {o["operationId"] for path in described["paths"].values() for o in path.values()}
        assert {"DeployDistributedModelService", "ListHosts", "RegisterImage", "WatchFleet"} <= operations
        for path, verbs in described["paths"].items():
            for verb in verbs:
                url = path.replace("{uuid}", "0" * 32)
                if "watch" in url:
                    continue
                answer = client.request(verb, url, json={} if verb in ("post", "patch") else None)
                assert answer.status_code in (200, 400, 404), (verb, url, answer.text)
    references = json.dumps(described)
    for name in described["components"]["schemas"]:
        assert described["components"]["schemas"][name], name
    for reference in {part.split('"')[0] for part in references.split("#/components/schemas/")[1:]}:
        assert reference in described["components"]["schemas"]


def test_every_code_of_the_error_table_has_an_http_status() -> None:
    assert {row.code for row in _TABLE.values()} <= set(HTTP_STATUS)
    assert openapi.document((), "1")["openapi"] == "3.1.0"
