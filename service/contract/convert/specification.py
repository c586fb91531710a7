"""A group's specification as YAML, for the inventory's `yaml` field. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from service.domain.cells import NumaPolicy
from service.domain.specs import GpuRequest, GroupSpec, NodeSpec

# Every answer about a group has its YAML in it, so this is made for speed: one encoder for all.
_scalar = json.JSONEncoder(ensure_ascii=False).encode


def as_yaml(spec: GroupSpec) -> str:
    """Block YAML with the request's own names; what was left out stays out.

    Environment variables are told by name only: their values may be secrets.
    """
    document = {
        "name": spec.name,
        "description": spec.description,
        "serviceCreationStrategy": spec.creation_strategy.value,
        "systemTags": list(spec.system_tags),
        "userTags": list(spec.user_tags),
        "modelServices": [_node(node) for node in spec.nodes],
    }
    return "\n".join(_block(_without_empty(document), 0)) + "\n"


def _node(node: NodeSpec) -> dict[str, Any]:
    return _without_empty(
        {
            "nodeRank": node.node_rank,
            "isInitialNode": node.is_initial_node,
            "uuid": node.model_service_uuid,
            "modelUuid": node.model_uuid,
            "zoneUuid": node.zone_uuid,
            "clusterUuid": node.cluster_uuid,
            "name": node.name,
            "description": node.description,
            "type": node.type.value,
            "cpuNum": node.cpu_num,
            "memorySize": node.memory_size,
            "rootDiskSize": node.root_disk_size or None,
            "dataDisks": [_without_empty({"imageUuid": d.image_uuid, "size": d.size or None}) for d in node.data_disks],
            "timeout": node.timeout_ms,
            "tensorParallelSize": node.tensor_parallel_size or None,
            "startupParameters": node.startup_parameters,
            "environmentVariables": sorted(node.environment_variables),
            "gpus": [_gpu(gpu) for gpu in node.gpus],
            "numaCells": node.numa_cells or None,
            "numaPolicy": _numa(node.numa),
            "dedicatedCpus": node.dedicated_cpus or None,
            "isolateEmulatorThreads": node.isolate_emulator_threads or None,
            "hugePages": node.huge_pages,
            "labels": dict(node.labels),
            "role": node.role,
            "startOrder": node.start_order if node.role else None,
        }
    )


def _gpu(gpu: GpuRequest) -> dict[str, Any]:
    return _without_empty(
        {
            "model": gpu.model,
            "count": gpu.count,
            "numaPolicy": _numa(gpu.numa),
            "samePartition": gpu.same_partition or None,
        }
    )


def _numa(policy: NumaPolicy | None) -> str | None:
    return f"NUMA_POLICY_{policy.name}" if policy is not None else None


def _without_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, "", [], {})}


def _block(values: Mapping[str, Any], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, value in values.items():
        # A JSON string is a YAML double-quoted scalar, whatever it contains; our own names need no quotes.
        key = name if name.isidentifier() else _scalar(name)
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from _block(value, depth + 1)
        elif isinstance(value, list):
            yield f"{indent}{key}:"
            yield from _items(value, depth + 1)
        else:
            yield f"{indent}{key}: {_scalar(value)}"


def _items(values: Sequence[Any], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for value in values:
        if isinstance(value, dict):
            first, *rest = _block(value, depth + 1)
            yield f"{indent}- {first.lstrip()}"
            yield from rest
        else:
            yield f"{indent}- {_scalar(value)}"
