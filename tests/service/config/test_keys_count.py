"""What the file says counts in the service that is started with it: each key by what follows from it in the end.

`python -m tests.service.config.dropped` takes each key away once, and tells which rows of `deploy/CONFIGURATION.md`
name a test that does not notice.
"""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from corral.v1 import catalog_pb2, fleet_pb2, fleet_pb2_grpc
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.__main__ import main
from service.config.file import parse
from service.domain.tenants import Caller
from service.drivers.base import MachineSpec
from service.drivers.libvirt.addressing import connection_uri
from service.telemetry import logs
from tests.service.rpc.lab import reason_of, soon
from tests.support.certificates import certificate
from tests.support.whole import ENTRY, GIB, Whole, config_text, whole

OTHER, THIRD, FOURTH, HOST = "d" * 32, "b" * 32, "f" * 32, "5b3a4f4e1f0b4b7f9b0c6a1d2e3f4a5b"
CATALOGUE = f"""
[[images]]
name = "cloud"
disk = "disk.qcow2"
disk_format = "qcow2"
sha256 = {{ disk = "{"1" * 64}" }}
delivery = "nocloud"
progress_channel = "com.example.progress"
[[images]]
name = "own"
kernel = "vmlinuz"
initrd = "initrd.img"
kernel_arguments = "console=ttyS7"
[[model_services]]
uuid = "{OTHER}"
name = "other"
image = "own"
description = "what it is"
framework = "vllm"
model_uuid = "{"e" * 32}"
model_service_type = "FineTune"
health_path = "/alive"
ports = {{ service = 7001 }}
canary_path = "/answer"
canary_body = "{{}}"
canary_expect = "^42$"
weights_uri = "http://models.example/ring.gguf"
weights_sha256 = "{"d" * 64}"
default_cpu = 3
default_memory = "2GiB"
root_disk_size = "3GiB"
initial_command = "lead"
worker_command = "follow"
environment = {{ COLOUR = "green" }}
workers_first = true
boot_timeout_ms = 123000
stop_grace_ms = 4321
supported_metrics = ["tokens"]
[[model_services]]
uuid = "{THIRD}"
name = "third"
image = "cloud"
readiness_kind = "command"
readiness_command = "test -e /up"
[[model_services]]
uuid = "{FOURTH}"
name = "fourth"
image = "own"
readiness_kind = "serial"
readiness_line = "is * up"
"""


NETWORK = """name = "zone-1"
[zones.network]
kind = "bridge"
source = "br0"
subnet = "10.7.0.0/24"
"""


def catalogue() -> str:
    """What engines of several members need is a zone that plans addresses."""
    return config_text(1, cpu=8, extra=CATALOGUE).replace('name = "zone-1"\n', NETWORK, 1)


async def made(lab: Whole, node: Mapping[str, Any], count: int = 1) -> tuple[Any, list[MachineSpec]]:
    """A group of such nodes, and what its hosts were asked to make."""
    specs: list[MachineSpec] = []
    for monitor in lab.service.reconciler.monitors.values():
        real = monitor.driver.create_paused

        async def create(spec: MachineSpec, *, budget_seconds: float, real: Any = real) -> Any:
            specs.append(spec)
            return await real(spec, budget_seconds=budget_seconds)

        monitor.driver.create_paused = create  # type: ignore[method-assign]
    final = await lab.up(model_services=[dict(node)] * count)
    return final, sorted(specs, key=lambda spec: spec.display_name)


@pytest.mark.asyncio
async def test_what_the_file_says_of_an_entry_is_in_its_machines(tmp_path: Path) -> None:
    async with whole(tmp_path, catalogue()) as lab:
        final, (head, worker) = await made(lab, {"uuid": OTHER}, 2)
        entry = (await lab.catalog.GetModelService(catalog_pb2.GetModelServiceRequest(uuid=OTHER))).inventory
        assert (entry.name, entry.description, entry.stop_grace) == ("other", "what it is", 4321)
        group = await lab.service.groups.get(Caller(), final.uuid)
        kept = group.instances[0]
        assert group.spec.workers_first
        assert (kept.stop_grace_ms, kept.boot_timeout_ms) == (4321, 123_000)
        told = (final.model_uuid, final.model_service_type, list(final.support_metrics))
        assert told == ("e" * 32, "FineTune", ["tokens"])

        assert (head.vcpus, head.memory_bytes, head.root_disk_bytes) == (3, 2 * GIB, 3 * GIB)
        document = json.loads(head.documents["rendezvous"])
        assert document["engine"]["preset"] == "vllm"
        assert document["engine"]["env"]["COLOUR"] == "green"
        assert document["engine"]["model"] == "e" * 32
        assert "lead" in document["engine"]["command"]
        assert "follow" in json.loads(worker.documents["rendezvous"])["engine"]["command"]
        assert document["ports"]["service"] == 7001
        assert document["readiness"]["path"] == "/alive"
        assert document["canary"] == {"path": "/answer", "body": "{}", "expect": "^42$"}
        assert document["engine"]["weights"] == {"uri": "http://models.example/ring.gguf", "sha256": "d" * 64}


@pytest.mark.asyncio
async def test_what_the_file_says_of_an_image_is_what_machines_boot_from(tmp_path: Path) -> None:
    async with whole(tmp_path, catalogue()) as lab:
        _, (spec,) = await made(lab, {"uuid": THIRD, "cpu_num": 1, "memory_size": GIB})
        image = spec.image
        assert (Path(image.disk_path).name, image.disk_format) == ("disk.qcow2", "qcow2")
        assert (image.sha256, image.delivery) == ({"disk": "1" * 64}, "nocloud")
        assert image.progress_channel == "com.example.progress"
        readiness = json.loads(spec.documents["rendezvous"])["readiness"]
        assert (readiness["kind"], readiness["command"]) == ("command", "test -e /up")
        with pytest.raises(grpc.aio.AioRpcError, match="its console has not said the line"):
            await made(lab, {"uuid": FOURTH, "cpu_num": 1, "memory_size": GIB, "timeout": 1_000})
        _, (spec,) = await made(lab, {"uuid": OTHER})
        files = (Path(spec.image.kernel_path).name, Path(spec.image.initrd_path).name)
        assert (spec.image.name, files, spec.image.kernel_arguments) == (
            "own",
            ("vmlinuz", "initrd.img"),
            "console=ttyS7",
        )


FLEET = f"""
[overcommit]
cpu = 3
memory = "1/2"
reserved_cpu = 1
reserved_memory = "4GiB"
[[zones]]
uuid = "{"c" * 32}"
name = "north"
description = "cold"
[zones.network]
kind = "bridge"
source = "br7"
subnet = "10.7.0.0/24"
gateway = "10.7.0.1"
pool = "10.7.0.9-10.7.0.9"
[zones.overcommit]
cpu = 5
memory = "1/4"
reserved_cpu = 2
reserved_memory = "8GiB"
[[clusters]]
uuid = "{"a" * 32}"
name = "rows"
zone = "north"
description = "of racks"
[[hosts]]
name = "own"
uuid = "{HOST}"
zone = "north"
cluster_uuid = "{"a" * 32}"
driver = "simulated"
transport = "test"
rack = "r7"
bridge = "br8"
labels = {{ disk = "ssd" }}
options = {{ cpu = 8, memory = "64GiB", boot_ms = 1 }}
[hosts.capacity]
vcpu = 16
[hosts.overcommit]
cpu = 7
memory = "1/8"
reserved_cpu = 4
reserved_memory = "16GiB"
[[hosts]]
name = "of-its-zone"
zone = "north"
driver = "simulated"
transport = "test"
state = "Disabled"
options = {{ cpu = 8, memory = "64GiB" }}
"""


@pytest.mark.asyncio
async def test_what_the_file_says_of_a_fleet_is_what_it_gives_out(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1, cpu=8, extra=FLEET)) as lab:

        async def gives(name: str) -> tuple[fleet_pb2.Host, int, int]:
            async def seen() -> bool:
                return bool((await lab.host(name)).capacities)

            await soon(seen)
            host = await lab.host(name)
            amounts = {one.resource: one.allocatable for one in host.capacities}
            return host, amounts["vcpu"], amounts["memory"] // GIB

        assert (await gives("host-1"))[1:] == (3 * (8 - 1), (64 - 4) // 2)
        closed, cpu, memory = await gives("of-its-zone")
        assert (closed.state, cpu, memory) == ("Disabled", 5 * (8 - 2), (64 - 8) // 4)
        host, cpu, memory = await gives("own")
        assert (host.uuid, cpu, memory) == (HOST, 7 * (16 - 4), (64 - 16) // 8)
        assert (host.rack, dict(host.labels), host.cluster_uuid) == ("r7", {"disk": "ssd"}, "a" * 32)
        zones = (await lab.fleet.ListZones(fleet_pb2.ListZonesRequest())).inventories
        assert [(one.name, one.description) for one in zones] == [("north", "cold"), ("zone-1", "")]
        (rows,) = (await lab.fleet.ListClusters(fleet_pb2.ListClustersRequest())).inventories
        assert (rows.name, rows.description, rows.zone_uuid) == ("rows", "of racks", "c" * 32)

        final, (spec,) = await made(lab, {"uuid": ENTRY, "zone_uuid": "c" * 32, "cpu_num": 1, "memory_size": GIB})
        assert list(final.instances[0].addresses) == ["10.7.0.9"]
        node = json.loads(spec.documents["rendezvous"])["node"]
        assert (node["gateway"], node["prefix_length"]) == ("10.7.0.1", 24)
        assert [(one.kind, one.source) for one in spec.interfaces] == [("bridge", "br8")], "a host's own comes first"
        assert lab.service.directory.zones["c" * 32].network.source == "br7"


def test_how_the_file_says_that_hosts_are_reached(tmp_path: Path) -> None:
    hosts = """
[[hosts]]
name = "far"
zone = "zone-1"
driver = "libvirt"
transport = "ssh"
address = "hv.example"
port = 2222
username = "corral"
[[hosts]]
name = "near"
zone = "zone-1"
driver = "libvirt"
transport = "unix"
socket = "/run/other/libvirt-sock"
"""
    far, near = parse(config_text(0, extra=hosts), tmp_path).hosts
    assert connection_uri(far.address).startswith("qemu+ssh://corral@hv.example:2222/system")
    assert connection_uri(near.address) == "qemu+unix:///system?socket=/run/other/libvirt-sock"


# --- the listeners -------------------------------------------------------------------------------------------------


def listening(grpc_: str = '"127.0.0.1:0"', http: str = '"127.0.0.1:0"', more: str = "", extra: str = "") -> str:
    text = config_text(1, extra=extra).replace('grpc = "127.0.0.1:0"', f"grpc = {grpc_}")
    return text.replace('http = "127.0.0.1:0"', f"http = {http}\n{more}")


@pytest.mark.asyncio
async def test_what_the_file_says_of_listeners_is_where_and_what_they_serve(tmp_path: Path) -> None:
    sock, web = tmp_path / "g.sock", tmp_path / "h.sock"
    more = 'admin = "127.0.0.1:0"\nmax_nodes = 2\nmax_message_bytes = 65536\ndrain_grace_ms = 77\nsocket_mode = "0660"'
    name = '[cluster]\nid = "my-cluster"\nname = "the lab"\n'
    async with whole(tmp_path, listening(f'"unix:{sock}"', f'"unix:{web}"', more, name)) as lab:
        assert [stat.S_IMODE(path.stat().st_mode) for path in (sock, web)] == [0o660, 0o660]
        node = {"uuid": ENTRY, "cpu_num": 1, "memory_size": GIB}
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await lab.up(model_services=[node] * 3)
        assert "2" in (refused.value.details() or "")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await lab.up(model_services=[{**node, "description": "y" * 2000}] * 40)
        assert reason_of(refused.value) == "MESSAGE_TOO_LARGE"
        async with grpc.aio.insecure_channel(str(lab.service.rpc.admin_address)) as channel:
            servers = await channelz_pb2_grpc.ChannelzStub(channel).GetServers(channelz_pb2.GetServersRequest())
            assert servers.server
        ended, stop = [], lab.service.rpc.stop

        async def stopped(grace_seconds: float) -> None:
            ended.append(grace_seconds)
            await stop(grace_seconds)

        lab.service.rpc.stop = stopped  # type: ignore[method-assign]
        async with grpc.aio.insecure_channel(f"unix:{sock}") as channel:
            call = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            told = dict(tuple(pair) for pair in await call.initial_metadata())
        assert told["corral-installation-bin"] == b"the lab"
        assert lab.service.custody.installation.cluster == "my-cluster"
    assert ended == [0.077]


@pytest.mark.asyncio
async def test_as_many_connections_as_the_file_says_are_served(tmp_path: Path) -> None:
    more = "max_grpc_connections = 1\nmax_http_connections = 1"
    async with whole(tmp_path, listening(more=more)) as lab:
        await lab.fleet.ListZones(fleet_pb2.ListZonesRequest())
        own = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(str(lab.service.rpc.address), own) as second:
            with pytest.raises(grpc.aio.AioRpcError):
                await fleet_pb2_grpc.FleetServiceStub(second).ListZones(fleet_pb2.ListZonesRequest(), timeout=5)
        host, _, port = lab.http_address.rpartition(":")
        with socket.create_connection((host, int(port))):

            async def full() -> bool:
                try:
                    async with httpx.AsyncClient(base_url=f"http://{lab.http_address}") as another:
                        return (await another.get("/healthz")).status_code == 503
                except httpx.TransportError:
                    return True

            await soon(full)


@pytest.mark.asyncio
async def test_the_certificates_that_the_file_names_are_shown_and_asked_for(tmp_path: Path) -> None:
    pem, key = certificate("corral.example")
    own, own_key = certificate("client.example")
    for name, content in (("cert.pem", pem), ("key.pem", key), ("ca.pem", own)):
        (tmp_path / name).write_bytes(content)
    tls = '[server.tls]\ncertificate = "cert.pem"\nkey = "key.pem"\nclient_ca = "ca.pem"\n'
    async with whole(tmp_path, listening(extra=tls)) as lab:
        target = f"localhost:{lab.service.rpc.address.port}"

        async def check(*shown: bytes) -> None:
            private, chain = shown or (None, None)
            credentials = grpc.ssl_channel_credentials(pem, private, chain)
            async with grpc.aio.secure_channel(target, credentials) as channel:
                await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)

        await check(own_key, own)
        with pytest.raises(grpc.aio.AioRpcError):
            await check()  # with client_ca every gRPC client shows a certificate


@pytest.mark.asyncio
async def test_the_database_is_where_the_file_says(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1, url=f"sqlite:///{tmp_path / 'own.db'}")):
        assert (tmp_path / "own.db").stat().st_size


@pytest.mark.asyncio
async def test_images_are_taken_from_the_directory_that_the_file_names(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "disk").write_bytes(bytes(512))
    text = config_text(0).replace('image_directory = "images"', 'image_directory = "elsewhere"')
    async with whole(tmp_path, text) as lab:
        request = catalog_pb2.RegisterImageRequest(name="disk", format="raw", file_name="disk")
        assert (await lab.catalog.RegisterImage(request)).inventory.name == "disk"


def test_the_log_is_as_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, ...]] = []
    monkeypatch.setattr(logs, "configure", lambda *words: said.append(words))
    text = config_text(0, url=f"sqlite:///{tmp_path / 'none.db'}", extra='[log]\nformat = "console"\nlevel = "error"\n')
    (tmp_path / "corral.toml").write_text(text)
    (tmp_path / "kernel").write_bytes(b"x")
    assert main(["backup", "--config", str(tmp_path / "corral.toml"), str(tmp_path / "copy.db")]) == 1, "there is none"
    assert said == [("console", "error")]


@pytest.mark.asyncio
async def test_what_the_file_says_of_a_network_is_what_its_zone_has(tmp_path: Path) -> None:
    more = 'pools = ["10.7.0.9-10.7.0.9", "10.7.0.20-10.7.0.29"]\nisolation = "off"\nreachable = ["10.7.0.53/32"]\n'
    text = config_text(1, cpu=8).replace('name = "zone-1"\n', NETWORK + more, 1)
    async with whole(tmp_path, text) as lab:
        (zone,) = (await lab.fleet.ListZones(fleet_pb2.ListZonesRequest())).inventories
        network = zone.network
        assert (network.isolation, list(network.reachable)) == ("off", ["10.7.0.53/32"])
        assert [pool.free for pool in zone.pools] == [1, 10]
