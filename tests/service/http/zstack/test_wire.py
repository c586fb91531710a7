"""Requests byte for byte as the vendor's clients put them on the wire, and the curl line of ZStack's documentation."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import uuid as uuids
from dataclasses import dataclass

import pytest

from .lab import ENTRY, ZONE, Lab

pytestmark = pytest.mark.asyncio(loop_scope="module")

# The documentation's line, word for word; only the session and the address are what a running service has.
DOCUMENTED_LINE = r"""curl -H "Content-Type: application/json;charset=UTF-8" \
-H "Authorization: OAuth b86c9016b4f24953a9edefb53ca0678c" \
-X PUT -d '{"deployDistributedModelService":{"modelServices":[{"isInitialNode":false,"uuid":"f1e135835fee363c9f57ed8232023886","zoneUuid":"7a007a391d483c9f843bf1df4b7e5d8f","cpuNum":8,"name":"model-service","type":"VirtualMachine","memorySize":17179869184,"timeout":0}],"serviceCreationStrategy":"parallel","name":"distributed-model-service"}}' \
http://localhost:8080/zstack/v1/ai/model-services"""  # noqa: E501
DOCUMENTED_SESSION = "b86c9016b4f24953a9edefb53ca0678c"
DOCUMENTED_ADDRESS = "localhost:8080"


@dataclass
class Answer:
    """What came back on the socket."""

    status: int
    headers: dict[str, str]
    body: bytes


async def exchange(zstack: Lab, request: str) -> Answer:
    """Send exactly these bytes (lines end with CRLF) and read one answer."""
    host, _, port = zstack.http_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        head, _, body = request.partition("\n\n")
        writer.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body.encode())
        status = int((await reader.readline()).split()[1])
        headers = {}
        while line := (await reader.readline()).strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return Answer(status, headers, await reader.readexactly(int(headers["content-length"])))
    finally:
        writer.close()
        await writer.wait_closed()


def java_put(address: str, session: str, job: str, body: str, extra: str = "") -> str:
    """A PUT of the vendor's Java SDK: OkHttp's order of headers, its own three first."""
    return (
        f"PUT /zstack/v1/ai/model-services HTTP/1.1\nX-Job-UUID: {job}\nX-JSON-Schema: true\n{extra}"
        f"Authorization: OAuth {session}\nContent-Type: application/json; charset=utf-8\n"
        f"Content-Length: {len(body.encode())}\nHost: {address}\nConnection: Keep-Alive\nAccept-Encoding: gzip\n"
        f"User-Agent: okhttp/3.9.1\n\n{body}"
    )


# The SDK's Gson writes tags inside the action, leaves out what is null and keeps no order of names.
JAVA_BODY = (
    '{"deployDistributedModelService":{"serviceCreationStrategy":"parallel","userTags":["u"],"name":'
    '"distributed-model-service","modelServices":[{"zoneUuid":"' + ZONE + '","memorySize":17179869184,"isInitialNode":'
    'false,"name":"model-service","cpuNum":8,"type":"VirtualMachine","uuid":"' + ENTRY + '","timeout":0}],'
    '"systemTags":["s"]}}'
)


async def poll(zstack: Lab, location: str, session: str) -> Answer:
    """Poll as the Java SDK does, until the answer is not 202."""
    address = zstack.http_address
    path = location.removeprefix(f"http://{address}")
    assert path.startswith("/zstack/v1/api-jobs/")
    request = (
        f"GET {path} HTTP/1.1\nAuthorization: OAuth {session}\nX-JSON-Schema: true\nHost: {address}\n"
        "Connection: Keep-Alive\nAccept-Encoding: gzip\nUser-Agent: okhttp/3.9.1\n\n"
    )
    while (answer := await exchange(zstack, request)).status == 202:
        assert json.loads(answer.body) == {}
        await asyncio.sleep(0.02)
    return answer


async def test_the_java_sdks_deploy_is_accepted_polled_and_answered(zstack: Lab) -> None:
    address, job = zstack.http_address, uuids.uuid4().hex
    accepted = await exchange(zstack, java_put(address, zstack.session, job, JAVA_BODY))
    assert accepted.status == 202
    told = json.loads(accepted.body)
    assert told["location"] == f"http://{address}/zstack/v1/api-jobs/{job}"
    assert told["apiTimeout"] == 10_800_000
    done = await poll(zstack, told["location"], zstack.session)
    assert done.status == 200
    inventory = json.loads(done.body)["inventory"]
    assert (inventory["status"], inventory["systemTags"], inventory["userTags"]) == ("Running", ["s"], ["u"])
    assert json.loads(done.body)["schema"]["inventory"] == "org.zstack.ai.entity.ModelServiceInstanceGroupInventory"


async def test_the_java_sdk_gets_every_failure_by_polling(zstack: Lab) -> None:
    address = zstack.http_address
    for session, body, code in (
        (DOCUMENTED_SESSION, JAVA_BODY, "ID.1001"),
        (zstack.session, JAVA_BODY.replace('"parallel"', '"random"'), "SYS.1007"),
        (zstack.session, JAVA_BODY.replace(ZONE, "9" * 32), "SYS.1003"),
        (zstack.session, JAVA_BODY.replace("17179869184", "35184372088832"), "HOST_ALLOCATION.1000"),
    ):
        accepted = await exchange(zstack, java_put(address, session, uuids.uuid4().hex, body))
        assert accepted.status == 202, accepted.body
        failed = await poll(zstack, json.loads(accepted.body)["location"], session)
        assert failed.status == 503
        assert json.loads(failed.body)["error"]["code"] == code


async def test_the_java_sdks_query_finds_the_group(zstack: Lab) -> None:
    uuid = (await zstack.deployed())["uuid"]
    request = (
        f"GET /zstack/v1/ai/model-services/instances/groups?q=uuid%3D{uuid}&replyWithCount=true HTTP/1.1\n"
        f"X-Job-UUID: {uuids.uuid4().hex}\nX-JSON-Schema: true\nAuthorization: OAuth {zstack.session}\n"
        f"Host: {zstack.http_address}\nConnection: Keep-Alive\nAccept-Encoding: gzip\n"
        "User-Agent: okhttp/3.9.1\n\n"
    )
    answer = await exchange(zstack, request)
    assert answer.status == 200
    found = json.loads(answer.body)
    assert (found["total"], found["inventories"][0]["uuid"]) == (1, uuid)


async def test_the_java_sdk_logs_in_and_out_without_an_authorization_header(zstack: Lab) -> None:
    address, session = zstack.http_address, await zstack.log_in("bob")
    request = (
        f"DELETE /zstack/v1/accounts/sessions/{session} HTTP/1.1\nX-Job-UUID: {uuids.uuid4().hex}\n"
        f"X-JSON-Schema: true\nHost: {address}\nConnection: Keep-Alive\nAccept-Encoding: gzip\n"
        "User-Agent: okhttp/3.9.1\n\n"
    )
    answer = await exchange(zstack, request)
    assert (answer.status, json.loads(answer.body)) == (200, {})
    valid = await zstack.http.get(f"/zstack/v1/accounts/sessions/{session}/valid")
    assert valid.json() == {"valid": False}


async def test_the_go_sdks_envelope_params_is_accepted(zstack: Lab) -> None:
    action = json.loads(JAVA_BODY)["deployDistributedModelService"]
    answer = await zstack.ended(await zstack.put("/ai/model-services", {"params": action, "systemTags": ["outer"]}))
    assert answer.json()["inventory"]["systemTags"] == ["s", "outer"]


async def test_the_documented_curl_line_word_for_word(zstack: Lab) -> None:
    if shutil.which("curl") is None:
        pytest.fail("curl is not installed")
    line = DOCUMENTED_LINE.replace(DOCUMENTED_SESSION, zstack.session).replace(DOCUMENTED_ADDRESS, zstack.http_address)
    ran = await asyncio.to_thread(
        subprocess.run, ["sh", "-c", line + " -sS -w '\\n%{http_code}'"], capture_output=True, text=True, timeout=30
    )
    body, _, status = ran.stdout.rpartition("\n")
    assert (ran.returncode, status) == (0, "202"), ran.stderr
    done = await poll(zstack, json.loads(body)["location"], zstack.session)
    assert json.loads(done.body)["inventory"]["status"] == "Running"


async def test_the_same_calls_work_without_the_context_path(zstack: Lab) -> None:
    answer = await zstack.http.put(
        "/v1/ai/model-services",
        content=JAVA_BODY,
        headers={"Authorization": f"OAuth {zstack.session}"},
    )
    assert "/zstack/v1/api-jobs/" in answer.json()["location"]
    assert (await zstack.ended(answer)).status_code == 200
    job = answer.json()["location"].rpartition("/")[2]
    assert (await zstack.http.get(f"/v1/api-jobs/{job}")).status_code == 200
