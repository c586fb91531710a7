"""What a request says of an entry, of nodes and of hosts is in what the hypervisors are asked for in the end.

Field by field as `protos/EFFECTS.md` tells them; what guests and drivers make of each is shown where they are tested.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import catalog_pb2

from service.domain.catalog import configured_image_uuid
from service.domain.fleet import Host
from service.domain.groups import Group
from service.domain.specs import FailurePolicy
from service.domain.tenants import Caller
from service.drivers.base import HostFacts, HostUnreachable
from service.drivers.libvirt.addressing import connection_uri
from tests.service.config.test_keys_count import NETWORK, made
from tests.support.whole import ENTRY, GIB, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

# What engines of several members need is a zone that plans addresses.
PLANNED = config_text(1, cpu=8).replace('name = "zone-1"\n', NETWORK, 1)
ENTRY_FIELDS: dict[str, Any] = {
    "description": "what it is",
    "framework": "vllm",
    "model_uuid": "e" * 32,
    "initial_command": "lead",
    "worker_command": "follow",
    "ports": {"service": 7001},
    "root_disk_size": 3 * GIB,
    "default_cpu_num": 3,
    "default_memory_size": 2 * GIB,
    "environment_variables": {"COLOUR": "green"},
    "boot_timeout": 123_000,
    "stop_grace": 4321,
    "support_metrics": ["tokens"],
    "workers_first": True,
    "readiness_check": {
        "kind": "http",
        "path": "/alive",
        "port": 7002,
        "interval": 700,
        "timeout": 900,
        "canary": {"path": "/answer", "body": "{}", "expect": "^42$"},
    },
    "weights": {"uri": "http://models.example/ring.gguf", "sha256": "d" * 64},
}


async def entry(lab: Whole, **fields: Any) -> str:
    """The uuid of a new catalogue entry."""
    guest = configured_image_uuid("guest")
    request = catalog_pb2.CreateModelServiceRequest(**{"name": "own", "image_uuid": guest, **fields})
    uuid: str = (await lab.catalog.CreateModelService(request)).inventory.uuid
    return uuid


async def stored(lab: Whole, uuid: str) -> Group:
    return await lab.service.groups.get(Caller(), uuid)


async def test_what_a_request_says_of_an_entry_is_in_its_machines(tmp_path: Path) -> None:
    async with whole(tmp_path, PLANNED) as lab:
        uuid = await entry(lab, **ENTRY_FIELDS)
        told = (await lab.catalog.GetModelService(catalog_pb2.GetModelServiceRequest(uuid=uuid))).inventory
        assert told.description == "what it is"
        final, (head, worker) = await made(lab, {"uuid": uuid}, 2)
        assert (final.model_uuid, list(final.support_metrics)) == ("e" * 32, ["tokens"])
        group = await stored(lab, final.uuid)
        kept = group.instances[0]
        assert (kept.stop_grace_ms, kept.boot_timeout_ms, group.spec.workers_first) == (4321, 123_000, True)
        assert (head.vcpus, head.memory_bytes, head.root_disk_bytes) == (3, 2 * GIB, 3 * GIB)
        document = json.loads(head.documents["rendezvous"])
        engine = document["engine"]
        assert (engine["preset"], engine["model"], engine["env"]) == ("vllm", "e" * 32, {"COLOUR": "green"})
        assert (engine["command"], document["ports"]["service"]) == ("lead", 7001)
        assert json.loads(worker.documents["rendezvous"])["engine"]["command"] == "follow"
        assert document["readiness"] == {
            "kind": "http", "path": "/alive", "port": 7002, "interval_ms": 700, "timeout_ms": 900,
        }  # fmt: skip
        assert document["canary"] == {"path": "/answer", "body": "{}", "expect": "^42$"}
        assert engine["weights"] == ENTRY_FIELDS["weights"]
        told = worker.documents["env"].splitlines()
        assert "CORRAL_WEIGHTS_URI=http://models.example/ring.gguf" in told
        assert f"CORRAL_WEIGHTS_SHA256={'d' * 64}" in told


async def test_a_command_of_an_entry_tells_when_its_machines_are_ready(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1)) as lab:
        uuid = await entry(lab, readiness_check={"kind": "command", "command": "test -e /up"})
        _, (spec,) = await made(lab, {"uuid": uuid, "cpu_num": 1, "memory_size": GIB})
        readiness = json.loads(spec.documents["rendezvous"])["readiness"]
        assert (readiness["kind"], readiness["command"]) == ("command", "test -e /up")
        asked = {"kind": "serial", "line": "guest of start * ready"}
        uuid = await entry(lab, name="quiet", readiness_check=asked)
        told = (await lab.catalog.GetModelService(catalog_pb2.GetModelServiceRequest(uuid=uuid))).inventory
        assert (told.readiness_check.kind, told.readiness_check.line) == ("serial", asked["line"])
        _, (spec,) = await made(lab, {"uuid": uuid, "cpu_num": 1, "memory_size": GIB})
        readiness = json.loads(spec.documents["rendezvous"])["readiness"]
        assert (spec.asked_for, readiness["line"]) == ("serial", asked["line"])


async def test_what_a_request_says_of_a_node_is_in_its_machine(tmp_path: Path) -> None:
    async with whole(tmp_path, PLANNED) as lab:
        node = {
            "uuid": await entry(lab, **ENTRY_FIELDS),
            "cpu_num": 2,
            "memory_size": 4 * GIB,
            "root_disk_size": 5 * GIB,
            "timeout": 77_000,
            "tensor_parallel_size": 2,
            "environment_variables": {"SHAPE": "round"},
            "startup_parameters": "--seed 7",
            "labels": {"team": "a"},
            "description": "the first",
            "model_uuid": "a" * 32,
        }
        final, (spec,) = await made(lab, node)
        assert (spec.vcpus, spec.memory_bytes, spec.root_disk_bytes) == (2, 4 * GIB, 5 * GIB)
        document = json.loads(spec.documents["rendezvous"])
        engine = document["engine"]
        assert engine["env"] == {"COLOUR": "green", "SHAPE": "round"}
        assert (engine["command"], engine["tensor_parallel_size"]) == ("lead --seed 7", 2)
        assert (engine["model"], final.model_uuid) == ("a" * 32, "a" * 32)
        assert document["start"]["deadline_ms"] == 77_000
        (kept,) = (await stored(lab, final.uuid)).instances
        assert kept.boot_timeout_ms == 77_000
        assert (kept.spec.labels, kept.spec.description) == ({"team": "a"}, "the first")
        assert 'team: "a"' in final.yaml


async def test_what_a_request_says_of_the_whole_group_is_kept_with_it(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1, cpu=8)) as lab:
        node = {"uuid": ENTRY, "cpu_num": 1, "memory_size": GIB}
        first = {**node, "name": "first", "is_initial_node": True}
        policy = {"action": "FAILURE_ACTION_FAIL_GROUP", "budget": 9}
        group = await lab.up(
            model_services=[{**node, "name": "other"}, first],
            service_creation_strategy="sequential",
            failure_policy=policy,
            description="for a test",
        )
        assert [(m.node_rank, m.name, m.is_initial_node) for m in group.instances] == [
            (0, "first", True),
            (1, "other", False),
        ]
        kept = await stored(lab, group.uuid)
        assert (kept.spec.failure_policy, kept.spec.failure_budget) == (FailurePolicy.FAIL_GROUP, 9)
        assert (kept.spec.creation_strategy.value, kept.spec.description) == ("sequential", "for a test")
        ranked = [{**node, "name": f"n{rank}", "node_rank": rank} for rank in (2, 0, 1)]
        group = await lab.up(model_services=ranked)
        assert [m.name for m in group.instances] == ["n0", "n1", "n2"]


async def test_a_host_is_reached_as_a_request_says(tmp_path: Path) -> None:
    reached: list[Host] = []

    async def silent(host: Host) -> HostFacts:
        reached.append(host)
        raise HostUnreachable("nobody is there")

    far = {"transport": "ssh", "address": "hv.example", "port": 2222, "username": "corral"}
    near = {"transport": "unix", "socket": "/run/other/libvirt-sock"}
    async with whole(tmp_path, config_text(0)) as lab:
        lab.service.fleet._probe = silent
        for connection in (far, near):
            with pytest.raises(grpc.aio.AioRpcError):
                await lab.add_host(driver="libvirt", connection=connection)
    uris = [connection_uri(host.address) for host in reached]
    assert uris[0].startswith("qemu+ssh://corral@hv.example:2222/system")
    assert uris[1] == "qemu+unix:///system?socket=/run/other/libvirt-sock"
