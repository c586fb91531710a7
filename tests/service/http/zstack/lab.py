"""The whole service on simulated hosts, in this process, called over its real HTTP listener as ZStack's clients do."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx

from service.config.file import parse
from service.planning.planner import InlinePlanner
from service.process import Process
from service.wiring import Service
from tests.support.schema import migrated

CLUSTER = "c0ffee00c0ffee00c0ffee00c0ffee00"
KEY_ID, KEY_SECRET = "AdminKey1", "what-programs-sign-with"
PASSWORD = "correct horse"
PASSWORD_SHA512 = hashlib.sha512(PASSWORD.encode()).hexdigest()
ZONE = "7a007a391d483c9f843bf1df4b7e5d8f"
ENTRY = "f1e135835fee363c9f57ed8232023886"
ACCOUNTS = (
    ("admin", "default", "admin"),
    ("alice", "red", "operator"),
    ("bob", "blue", "operator"),
    ("eve", "red", "viewer"),
)
# The node and the body of the documented request, value for value.
NODE: Mapping[str, Any] = {
    "isInitialNode": False,
    "uuid": ENTRY,
    "zoneUuid": ZONE,
    "cpuNum": 8,
    "name": "model-service",
    "type": "VirtualMachine",
    "memorySize": 17179869184,
    "timeout": 0,
}
ACTION: Mapping[str, Any] = {
    "modelServices": [NODE],
    "serviceCreationStrategy": "parallel",
    "name": "distributed-model-service",
}
MESSAGE = "org.zstack.ai.message.APIDeployDistributedModelServiceMsg"
GROUPS = "/zstack/v1/ai/model-services/instances/groups"


@dataclass
class Lab:
    """The parts, by name, and calls in few words."""

    service: Service
    http_address: str
    http: httpx.AsyncClient
    session: str = ""

    async def used(self) -> int:
        """Claimed vCPUs of all hosts."""
        hosts = (await self.get("/hosts")).json()["inventories"]
        return sum(host["totalCpuCapacity"] - host["availableCpuCapacity"] for host in hosts)

    async def log_in(self, account: str) -> str:
        """A new session of the account."""
        body = {"logInByAccount": {"accountName": account, "password": PASSWORD_SHA512}}
        answer = await self.http.put("/zstack/v1/accounts/login", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["inventory"]["uuid"])

    async def put(self, path: str, body: Any, session: str | None = None, **headers: str) -> httpx.Response:
        """PUT under /zstack/v1 with a session."""
        who = {"Authorization": f"OAuth {self.session if session is None else session}"}
        return await self.http.put(f"/zstack/v1{path}", json=body, headers=who | headers)

    async def get(self, path: str, session: str | None = None, **parameters: Any) -> httpx.Response:
        """GET under /zstack/v1 with a session."""
        who = {"Authorization": f"OAuth {self.session if session is None else session}"}
        return await self.http.get(f"/zstack/v1{path}", params=parameters or None, headers=who)

    async def deploy(self, session: str | None = None, **changes: Any) -> httpx.Response:
        """PUT the documented request with changes; the 202. A change to None takes the field out."""
        return await self.put("/ai/model-services", {"deployDistributedModelService": action(**changes)}, session)

    async def ended(self, accepted: httpx.Response, location: str = "") -> httpx.Response:
        """The answer of the job that a 202 told of, as soon as it is no longer 202."""
        assert accepted.status_code == 202, (accepted.status_code, accepted.text)
        async with asyncio.timeout(120):
            while True:
                answer = await self.http.get(location or accepted.json()["location"])
                if answer.status_code != 202:
                    return answer
                await asyncio.sleep(0.02)

    async def deployed(self, **changes: Any) -> dict[str, Any]:
        """The inventory of a deploy that must succeed."""
        answer = await self.ended(await self.deploy(**changes))
        assert answer.status_code == 200, answer.text
        inventory: dict[str, Any] = answer.json()["inventory"]
        return inventory

    async def refused(self, **changes: Any) -> dict[str, Any]:
        """The ErrorCode of a deploy that must fail, and by its job."""
        answer = await self.ended(await self.deploy(**changes))
        assert answer.status_code == 503, answer.text
        assert list(answer.json()) == ["error"]
        error: dict[str, Any] = answer.json()["error"]
        return error


def action(**changes: Any) -> dict[str, Any]:
    """The documented action with changes; None takes a field out."""
    return {name: value for name, value in {**ACTION, **changes}.items() if value is not None}


def node(**changes: Any) -> dict[str, Any]:
    """The documented node with changes; None takes a field out."""
    return {name: value for name, value in {**NODE, **changes}.items() if value is not None}


def configuration(
    directory: Path,
    *,
    database: str = "",
    boot_ms: int = 10,
    http_port: int = 0,
    network: str = "",
    second: str = "4TiB",
) -> str:
    """A configuration file: two hosts of 64 CPUs and 4 TiB in the documented zone, catalogue entry, accounts, a quota.

    Without `database` (a file's name) all is kept in memory. `network`: TOML of the zone's. `second`: the second host's
    memory.
    """

    def host(memory: str) -> str:
        return f"""
zone = "zone-1"
driver = "simulated"
transport = "test"
options = {{ boot_ms = {boot_ms}, call_ms = 0, memory = "{memory}" }}
"""

    accounts = "".join(
        f"""
[[accounts]]
name = "{name}"
password_sha512 = "{PASSWORD_SHA512}"
role = "{role}"
project = "{project}"
"""
        for name, project, role in ACCOUNTS
    )
    url = f"sqlite:///{directory / database}" if database else "sqlite://"
    return f"""
[server]
grpc = "127.0.0.1:0"
http = "127.0.0.1:{http_port}"
drain_grace_ms = 1000
[identity]
anonymous = "loopback"
[log]
format = "json"
[store]
url = "{url}"
[[quotas]]
project = "blue"
cpu = 16
[[access_keys]]
name = "programs"
id = "{KEY_ID}"
secret = "{KEY_SECRET}"
role = "operator"
project = "red"
[webhooks]
allow = ["127.0.0.1/32"]
[[zones]]
uuid = "{ZONE}"
name = "zone-1"
{network}
[[clusters]]
uuid = "{CLUSTER}"
name = "rows"
zone = "zone-1"
[[hosts]]
name = "host-1"
cluster_uuid = "{CLUSTER}"{host("4TiB")}
[[hosts]]
name = "host-2"{host(second)}
[[images]]
name = "guest"
kernel = "vmlinuz"
[[model_services]]
uuid = "{ENTRY}"
name = "default"
image = "guest"
model_uuid = "{"d" * 32}"
supported_metrics = ["tokens_per_second"]
{accounts}"""


def recorded(directory: Path, database: str = "") -> str:
    """The configuration that recorded SDKs talk to: all machines go to the first host, and have addresses.

    So the same requests are answered by the same words.
    """
    network = """
[zones.network]
kind = "bridge"
source = "br0"
subnet = "10.9.0.0/24"
gateway = "10.9.0.1"
"""
    return configuration(directory, database=database, network=network, second="1536MiB")


@asynccontextmanager
async def lab(
    directory: Path = Path("/nonexistent"), *, database: str = "", boot_ms: int = 10, text: str = ""
) -> AsyncIterator[Lab]:
    """A running service, logged in as admin. See `configuration`; `text`: another one."""
    config = parse(text or configuration(directory, database=database, boot_ms=boot_ms), directory)
    with patch("service.wiring.upgrade", migrated):
        service = Service(config, planner=InlinePlanner())
    process = Process(service)
    await process.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://{process.http_address}", trust_env=False, timeout=120) as http:
            made = Lab(service, process.http_address, http)
            made.session = await made.log_in("admin")
            yield made
    finally:
        await process.stop()


def details(text: str) -> Any:
    """The result inside the older protocol's answer."""
    answer = json.loads(text)
    return next(iter(json.loads(answer["result"]).values()))
