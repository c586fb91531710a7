"""A real Envoy in front: gRPC, gRPC-Web and transcoded JSON, with an idle timeout that is shorter than a boot.

deploy/envoy/ is a whole installation behind one, and tests/contract/test_two_replicas.py runs it.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from corral.v1 import deploy_pb2, deploy_pb2_grpc, fleet_pb2, group_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor

from service.app import feed
from tests.support import ROOT
from tests.support.ports import own_port
from tests.support.whole import ENTRY, GIB, ZONE, config_text, whole

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENVOY = ROOT / ".cache" / "tools" / "clients" / "envoy" / "_bin" / "envoy"
IDLE_SECONDS, BOOT_MS = 3, 6000
SERVICE, FLEET = "corral.v1.DistributedModelService", "corral.v1.FleetService"
SLOW, FAST = "a" * 32, "f" * 32
HOSTS = "".join(
    f"""
[[clusters]]
uuid = "{cluster}"
name = "cluster-{cluster[0]}"
zone = "zone-1"

[[hosts]]
name = "host-{cluster[0]}"
zone = "zone-1"
cluster_uuid = "{cluster}"
driver = "simulated"
transport = "test"
options = {{ cpu = 64, memory = "64GiB", boot_ms = {boot_ms}, call_ms = 0 }}
"""
    for cluster, boot_ms in ((SLOW, BOOT_MS), (FAST, 1))
)


def request(cluster: str) -> deploy_pb2.DeployDistributedModelServiceRequest:
    """A deploy on the slow host or the fast one."""
    node = group_pb2.NodeSpec(uuid=ENTRY, zone_uuid=ZONE, cluster_uuid=cluster, cpu_num=1, memory_size=GIB)
    return deploy_pb2.DeployDistributedModelServiceRequest(
        name="through-envoy", service_creation_strategy="parallel", model_services=[node]
    )


def descriptors() -> bytes:
    """The contract with all that it imports, as Envoy's transcoder reads it."""
    found: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def add(file: FileDescriptor) -> None:
        for needed in file.dependencies:
            add(needed)
        if file.name not in found:
            found[file.name] = descriptor_pb2.FileDescriptorProto()
            file.CopyToProto(found[file.name])

    add(deploy_pb2.DESCRIPTOR)
    add(fleet_pb2.DESCRIPTOR)
    return descriptor_pb2.FileDescriptorSet(file=found.values()).SerializeToString()


def configuration(directory: Path, listen: int, upstream: int) -> Path:
    """Envoy's configuration file: one listener, one cluster that speaks HTTP/2."""
    contract = directory / "corral.binpb"
    contract.write_bytes(descriptors())
    filters = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{filters}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "corral",
        "stream_idle_timeout": f"{IDLE_SECONDS}s",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "corral",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "corral", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [
            {"name": "web", "typed_config": {"@type": f"{filters}.http.grpc_web.v3.GrpcWeb"}},
            {
                "name": "json",
                "typed_config": {
                    "@type": f"{filters}.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
                    "proto_descriptor": str(contract),
                    "services": [SERVICE, FLEET],
                    "convert_grpc_status": True,
                },
            },
            {"name": "router", "typed_config": {"@type": f"{filters}.http.router.v3.Router"}},
        ],
    }
    http2 = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    made = {
        "static_resources": {
            "listeners": [
                {
                    "name": "public",
                    "address": address(listen),
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ],
            "clusters": [
                {
                    "name": "corral",
                    "type": "STATIC",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2
                    },
                    "load_assignment": {
                        "cluster_name": "corral",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(upstream)}}]}],
                    },
                }
            ],
        }
    }
    file = directory / "envoy.json"
    file.write_text(json.dumps(made))
    return file


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


@asynccontextmanager
async def envoy(directory: Path, upstream: int) -> AsyncIterator[int]:
    """A running Envoy; its port."""
    port = own_port()
    log = (directory / "envoy.log").open("wb")
    process = await asyncio.create_subprocess_exec(
        ENVOY, "-c", configuration(directory, port, upstream), "--concurrency", "1", "--disable-hot-restart",
        "-l", "error", stdout=log, stderr=log, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            while True:
                assert process.returncode is None, (directory / "envoy.log").read_text()
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                except OSError:
                    await asyncio.sleep(0.05)
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        log.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def port(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[int]:
    if not ENVOY.exists():
        pytest.fail("Envoy is not installed: make dev")
    directory = tmp_path_factory.mktemp("envoy")
    async with whole(directory, config_text(0, extra=HOSTS)) as lab:
        service = lab.service.rpc.address
        async with envoy(directory, service.port) as found:
            # The first plan loads the planner, which takes its time on a busy machine; the tests are about streams.
            await lab.up(model_services=[{"uuid": ENTRY, "cluster_uuid": FAST, "cpu_num": 1, "memory_size": GIB}])
            yield found


@pytest.fixture(autouse=True)
def _heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "BOOKMARK_SECONDS", 0.2)


async def deployed(port: int) -> list[str]:
    """The kinds of the events of a deploy by gRPC."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Callable[..., Any] = deploy_pb2_grpc.DistributedModelServiceStub
        stream = stub(channel).DeployDistributedModelService(request(SLOW))
        return [answer.event.WhichOneof("change") async for answer in stream]


async def test_a_boot_outlasts_the_idle_timeout(port: int, passed: Callable[[str], None]) -> None:
    told = await deployed(port)
    assert (told[0], told[-1]) == ("accepted", "final")
    passed(f"Envoy: gRPC, a boot of {BOOT_MS} ms through an idle timeout of {IDLE_SECONDS} s")


async def test_without_signs_of_life_the_proxy_ends_it(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "BOOKMARK_SECONDS", 60.0)
    with pytest.raises(grpc.aio.AioRpcError):
        await deployed(port)


def frames(body: bytes) -> Iterator[tuple[int, bytes]]:
    """(flags, message) of each frame of gRPC-Web."""
    while body:
        flags, length = struct.unpack(">BI", body[:5])
        yield flags, body[5 : 5 + length]
        body = body[5 + length :]


async def test_grpc_web(port: int, passed: Callable[[str], None]) -> None:
    message = request(FAST).SerializeToString()
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        answer = await client.post(
            f"http://127.0.0.1:{port}/{SERVICE}/DeployDistributedModelService",
            content=struct.pack(">BI", 0, len(message)) + message,
            headers={"content-type": "application/grpc-web+proto", "x-grpc-web": "1"},
        )
    *events, (flags, trailers) = frames(answer.content)
    final = deploy_pb2.DeployDistributedModelServiceResponse.FromString(events[-1][1]).event.final
    assert final.status == "Running"
    assert flags & 0x80
    assert b"grpc-status:0" in trailers.replace(b" ", b"")
    passed("Envoy: gRPC-Web, the deploy and its status in the last frame")


async def test_transcoded_json(port: int, passed: Callable[[str], None]) -> None:
    body = {"name": "json", "serviceCreationStrategy": "parallel",
            "modelServices": [{"uuid": ENTRY, "clusterUuid": FAST, "cpuNum": 1, "memorySize": str(GIB)}]}  # fmt: skip
    url = f"http://127.0.0.1:{port}/corral/v1/instance-groups"
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        events = (await client.post(url, json=body)).json()
        final = events[-1]["event"]["final"]
        found = (await client.get(f"{url}/{final['uuid']}")).json()
        missing = await client.get(f"{url}/{'0' * 32}")
    assert (final["status"], found["inventory"]["uuid"], missing.status_code) == ("Running", final["uuid"], 404)
    passed("Envoy: transcoded JSON, the deploy, a read and NOT_FOUND as 404")
