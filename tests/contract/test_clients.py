"""Every outside client does its part of the main job: `make contract` tells a line for each.

The documented request is the call in ZStack's documentation of DeployDistributedModelService: a line for curl.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.service.http.zstack.lab import ACTION, MESSAGE, PASSWORD, PASSWORD_SHA512
from tests.service.http.zstack.test_wire import DOCUMENTED_ADDRESS, DOCUMENTED_LINE, DOCUMENTED_SESSION
from tests.support import ROOT
from tests.support.process import ServiceProcess

DOCUMENTED_DIGEST = "744882201e6e218d95c2fd10f77677b7bdc9a67f8d9d2c6078bdeb45f55d44b1"
SERVICE = "corral.v1.DistributedModelService"
SCRIPTS = Path(sys.executable).parent
TOOLS = ROOT / ".cache" / "tools"
Passed = Callable[[str], None]


def run(*command: str | Path, stdin: str = "", timeout: float = 60, **environment: str) -> str:
    """The standard output of a program that must succeed."""
    done = subprocess.run(
        [str(part) for part in command],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def find(name: str, *places: Path) -> str:
    """A program by its name: in the given places, else on the path. Without it the test fails."""
    for place in places:
        if (place / name).exists():
            return str(place / name)
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not installed: make dev")
    return found


def objects(text: str) -> list[Any]:
    """JSON objects that stand one after the other."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        found.append(value)
        at += len(text[at:]) - len(text[at:].lstrip())
    return found


def test_grpcurl(service: ServiceProcess, passed: Passed) -> None:
    grpcurl = find("grpcurl", SCRIPTS)
    listed = run(grpcurl, "-plaintext", service.grpc, "list").split()
    assert SERVICE in listed
    assert "returns ( stream" in run(
        grpcurl, "-plaintext", service.grpc, "describe", f"{SERVICE}.DeployDistributedModelService"
    )
    method = f"{SERVICE}/DeployDistributedModelService"
    answers = objects(run(grpcurl, "-plaintext", "-d", json.dumps(ACTION), service.grpc, method))
    final = answers[-1]["event"]["final"]
    assert final["status"] == "Running"
    asked = json.dumps({"uuid": final["uuid"]})
    gone = objects(run(grpcurl, "-plaintext", "-d", asked, service.grpc, f"{SERVICE}/DeleteInstanceGroup"))
    assert gone[-1]["event"]["final"]["status"] == "Deleted"
    passed(f"grpcurl: {len(listed)} services by reflection, the documented deploy in {len(answers)} events, delete")


def common_protos() -> Path:
    """Where Google's own .proto files are."""
    import google.api

    return Path(next(iter(google.api.__path__))).parents[1]


def test_buf_curl(service: ServiceProcess, passed: Passed, tmp_path: Path) -> None:
    buf = find("buf", SCRIPTS)
    common = (buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge")
    url = f"http://{service.grpc}/{SERVICE}"
    for source in (*(ROOT / "protos").glob("corral/v1/*.proto"), *common_protos().glob("google/api/*.proto")):
        target = tmp_path / source.parent.parent.name / source.parent.name / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    # Once by reflection, once by the .proto files as they are.
    for schema in ("--reflect", f"--schema={tmp_path}"):
        answers = objects(run(*common, schema, "-d", json.dumps(ACTION), f"{url}/DeployDistributedModelService"))
        final = answers[-1]["event"]["final"]
        assert final["status"] == "Running"
        run(*common, schema, "-d", json.dumps({"uuid": final["uuid"]}), f"{url}/DeleteInstanceGroup")
    passed("buf curl: the documented deploy and delete, by reflection and by the protos")


def test_grpc_js(service: ServiceProcess, passed: Passed) -> None:
    modules = TOOLS / "grpc-js" / "node_modules"
    node = shutil.which("node")
    if node is None or not modules.is_dir():
        pytest.skip("grpc-js needs node and npm, which are not here")
    told: dict[str, Any] = {}
    script = ROOT / "tests" / "contract" / "grpc_js" / "client.js"
    for line in run(node, script, service.grpc, ROOT / "protos", common_protos(), NODE_PATH=str(modules)).splitlines():
        told |= json.loads(line)
    assert told["events"][0] == "accepted"
    assert told["events"][-1] == "final"
    assert told["final"] == {"status": "Running", "name": ACTION["name"]}
    assert told["read"] == {"uuid": True, "memorySize": 17179869184}
    assert told["deleted"] == "Deleted"
    assert told["error"] == {"code": "NOT_FOUND", "details": 1}
    passed(f"grpc-js: deploy in {len(told['events'])} events, read, delete, NOT_FOUND with details")


def curl(service: ServiceProcess, method: str, path: str, body: Any = None, session: str = "") -> tuple[int, Any]:
    """One call by the real curl: status and JSON."""
    data = ("-d", json.dumps(body)) if body is not None else ()
    who = ("-H", f"Authorization: OAuth {session}") if session else ()
    url = path if path.startswith("http://") else f"{service.http}/zstack/v1{path}"
    told = run(find("curl"), "-sS", "-X", method, *data, *who, "-w", "\n%{http_code}", url)
    text, _, status = told.rpartition("\n")
    return int(status), json.loads(text)


def log_in(service: ServiceProcess) -> str:
    body = {"logInByAccount": {"accountName": "admin", "password": PASSWORD_SHA512}}
    status, answer = curl(service, "PUT", "/accounts/login", body)
    assert status == 200
    return str(answer["inventory"]["uuid"])


def poll(service: ServiceProcess, location: str) -> tuple[int, Any]:
    patience = time.monotonic() + 60
    while (answer := curl(service, "GET", location))[0] == 202:
        assert time.monotonic() < patience
        time.sleep(0.05)
    return answer


def test_curl_with_the_documented_line(service: ServiceProcess, passed: Passed) -> None:
    session = log_in(service)
    line = DOCUMENTED_LINE.replace(DOCUMENTED_SESSION, session).replace(
        DOCUMENTED_ADDRESS, service.http.removeprefix("http://")
    )
    accepted = json.loads(run("sh", "-c", f"{line} -sS"))
    status, done = poll(service, accepted["location"])
    assert (status, done["inventory"]["status"]) == (200, "Running")
    deletion = curl(
        service, "DELETE", f"/ai/model-services/instances/groups/{done['inventory']['uuid']}", None, session
    )
    assert poll(service, deletion[1]["location"]) == (200, {})
    passed("curl: the documented line word for word, 202, polled to Running, deleted")


def test_the_vendors_zstack_client(service: ServiceProcess, passed: Passed) -> None:
    if not (TOOLS / "clients" / "zstack_mcp").is_dir():
        pytest.fail("the ZStack client is not installed: make dev")
    # In an interpreter of its own, so that nothing of this project is near it.
    script = f"""
import asyncio, json, sys
from zstack_mcp.zstack_client import ZStackClient

async def main():
    client = ZStackClient("{service.http}", "admin", {PASSWORD!r})
    client.JOB_POLL_INTERVAL = 0.05
    event = await client.execute("DeployDistributedModelService", {MESSAGE!r}, json.load(sys.stdin), is_async=True)
    uuid = event["inventory"]["uuid"]
    ai = "org.zstack.ai.message."
    query = {{"conditions": [{{"name": "uuid", "op": "=", "value": uuid}}], "replyWithCount": True}}
    found = await client.execute("QueryModelServiceInstanceGroup", ai + "APIQueryModelServiceInstanceGroupMsg", query)
    await client.execute("DeleteModelServiceInstanceGroup", ai + "APIDeleteModelServiceInstanceGroupMsg",
                         {{"uuid": uuid}}, is_async=True)
    await client.logout()
    print(json.dumps([event["inventory"]["status"], found["total"]]))

asyncio.run(main())
"""
    told = run(sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(TOOLS / 'clients')!r})\n{script}",
               stdin=json.dumps(ACTION))  # fmt: skip
    assert json.loads(told) == ["Running", 1]
    passed("zstack-mcp-server's ZStackClient: login, deploy, query, delete, logout, unmodified")


def test_prometheus(service: ServiceProcess, passed: Passed) -> None:
    text = run(find("curl"), "-sS", f"{service.http}/metrics")
    run(find("promtool", TOOLS), "check", "metrics", stdin=text)
    hosts = re.findall(r"^corral_hosts\{.*\} (\d+)", text, re.MULTILINE)
    assert sum(map(int, hosts)) == 2
    families = len(re.findall(r"^# TYPE ", text, re.MULTILINE))
    passed(f"Prometheus: a scrape of {families} families, which promtool finds nothing wrong with")


def test_the_documented_line_is_the_documented_one() -> None:
    # A slip of the hand in the line would make it a proof of something else.
    assert hashlib.sha256(DOCUMENTED_LINE.encode()).hexdigest() == DOCUMENTED_DIGEST
