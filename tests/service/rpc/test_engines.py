"""What a framework asks of a group, and what its members would be told, on the whole service with simulated hosts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import catalog_pb2, deploy_pb2, fleet_pb2
from google.protobuf.field_mask_pb2 import FieldMask

from service.domain.catalog import configured_image_uuid
from tests.service.rpc.test_catalog import refused
from tests.support.whole import GIB, ZONE, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

BAD = grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"
NETWORK = '\n[zones.network]\nkind = "network"\nsource = "lan"\nsubnet = "10.9.0.0/24"\ngateway = "10.9.0.1"\n'


def with_network(hosts: int = 2) -> str:
    return config_text(hosts).replace('name = "zone-1"\n', f'name = "zone-1"\n{NETWORK}', 1)


async def entry(lab: Whole, **fields: Any) -> catalog_pb2.ModelService:
    request = catalog_pb2.CreateModelServiceRequest(name="e", image_uuid=configured_image_uuid("guest"), **fields)
    made: catalog_pb2.ModelService = (await lab.catalog.CreateModelService(request)).inventory
    return made


def nodes(*uuids: str, **fields: Any) -> list[Any]:
    size = {"cpu_num": 1, "memory_size": GIB, "type": "VirtualMachine", "zone_uuid": ZONE}
    return [{"uuid": uuid, "name": f"n{at}", **size, **fields} for at, uuid in enumerate(uuids)]


def plan(members: list[Any], ranks: tuple[int, ...] = ()) -> deploy_pb2.PlanDistributedModelServiceRequest:
    return deploy_pb2.PlanDistributedModelServiceRequest(
        model_services=members, service_creation_strategy="parallel", name="group", document_ranks=ranks
    )


async def test_a_plan_shows_what_its_members_would_be_told(tmp_path: Path) -> None:
    async with whole(tmp_path, with_network()) as lab:
        told = {"HF_TOKEN": "hidden-of-the-entry"}
        llama = await entry(lab, framework="llamacpp-rpc", environment_variables=told)
        members = nodes(llama.uuid, llama.uuid, environment_variables={"MINE": "hidden-of-the-node"})
        members[0]["startup_parameters"] = "-m /model.gguf"
        answer = await lab.deploy.PlanDistributedModelService(plan(members, (1, 0)))
        assert [(d.node_rank, d.name) for d in answer.documents] == [(0, "n0"), (1, "n1")]
        leader = json.loads(answer.documents[0].documents["rendezvous"])
        assert leader["engine"]["command"] == (
            "exec llama-server --host 0.0.0.0 --port 8080 --rpc 10.9.0.3:50052 -ngl 99 -cram 0 -m /model.gguf"
        )
        assert [p["address"] for p in leader["peers"]] == ["10.9.0.2", "10.9.0.3"]
        worker = answer.documents[1].documents["env"]
        assert "CORRAL_ENGINE_COMMAND=exec ggml-rpc-server -H 10.9.0.3 -p 50052\n" in worker
        assert leader["engine"]["env"] == {"HF_TOKEN": "(withheld)", "MINE": "(withheld)"}
        assert "hidden-of" not in str(answer)
        assert not (await lab.deploy.PlanDistributedModelService(plan(members))).documents
        await refused(lab.deploy.PlanDistributedModelService(plan(members, (0, 2))), *BAD, "document_ranks[1]")
        # What was shown is what a deploy then gets.
        group = await lab.up(model_services=members)
        assert [list(m.addresses) for m in group.instances] == [["10.9.0.2"], ["10.9.0.3"]]
        assert [m.internal_url for m in group.instances] == ["http://10.9.0.2:8080", ""], "its leader alone serves"
        shorter = deploy_pb2.ScaleInstanceGroupRequest(uuid=group.uuid, model_services=nodes(*[llama.uuid] * 16))
        error = await refused(anext(aiter(lab.deploy.ScaleInstanceGroup(shorter))), *BAD, "model_services")
        assert "at most 17" in (error.details() or "")


async def test_documents_that_are_too_long_together_are_refused(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(cpu=16)) as lab:
        long = {f"V{number}": "x" * 32_768 for number in range(24)}
        custom = await entry(lab, initial_command="x" * 8_000)
        members = nodes(*[custom.uuid] * 3, environment_variables=long)
        answer = await lab.deploy.PlanDistributedModelService(plan(members, (0, 1, 2)))
        assert len(answer.documents) == 3, "values are withheld, so their length does not count"
        members = nodes(*[custom.uuid] * 64, memory_size=64 << 20, startup_parameters="x " * 4_000)
        every = lab.deploy.PlanDistributedModelService(plan(members, tuple(range(64))))
        await refused(every, *BAD, "document_ranks")


async def test_a_group_that_its_framework_cannot_be_is_refused_by_the_field(tmp_path: Path) -> None:
    async with whole(tmp_path, with_network(0)) as lab:
        bare = (await lab.fleet.CreateZone(fleet_pb2.CreateZoneRequest(name="bare"))).inventory.uuid
        llama, vllm = await entry(lab, framework="llamacpp-rpc"), await entry(lab, framework="vllm")
        for members, field in (
            (nodes(llama.uuid, vllm.uuid), "model_services[1].uuid"),
            (nodes(llama.uuid, llama.uuid, zone_uuid=bare)[:1], "model_services[0].zone_uuid"),
            (nodes(vllm.uuid, zone_uuid=""), "model_services[0].zone_uuid"),
            (nodes(vllm.uuid, startup_parameters="--name 'x"), "model_services[0].startup_parameters"),
            (nodes(*[llama.uuid] * 18), "model_services"),
        ):
            await refused(lab.deploy.PlanDistributedModelService(plan(members)), *BAD, field)


async def test_an_entry_has_its_frameworks_ports_and_none_that_overlap(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        made = await entry(lab, framework="sglang", ports={"service": 9000})
        assert dict(made.ports) == {"service": 9000, "rendezvous": 20000}
        await refused(entry(lab, framework="sglang", ports={"service": 20003}), *BAD, "ports[service]")
        change = catalog_pb2.UpdateModelServiceRequest(
            uuid=made.uuid, framework="llamacpp-rpc", update_mask=FieldMask(paths=["framework"])
        )
        changed = (await lab.catalog.UpdateModelService(change)).inventory
        assert changed.ports["rpc"] == 50052
        change = catalog_pb2.UpdateModelServiceRequest(uuid=made.uuid, ports={"service": 50052})
        await refused(lab.catalog.UpdateModelService(change), *BAD, "ports[service]")


async def test_a_scaling_that_leaves_a_gap_in_the_ranks_is_refused(tmp_path: Path) -> None:
    async with whole(tmp_path, with_network()) as lab:
        torch = await entry(lab, framework="torchrun")
        group = await lab.up(model_services=nodes(*[torch.uuid] * 3))
        (middle,) = [m.uuid for m in group.instances if m.node_rank == 1]
        ask = deploy_pb2.ScaleInstanceGroupRequest(uuid=group.uuid, remove_instance_uuids=[middle])
        await refused(anext(aiter(lab.deploy.ScaleInstanceGroup(ask))), *BAD, "remove_instance_uuids")
