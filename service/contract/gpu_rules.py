"""Rules that tie what a request says of devices together. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from corral.v1 import deploy_pb2, group_pb2, placement_pb2

from service.domain.fleet import gpu_model_violation
from service.errors import FieldViolation


def gpus_are_right(
    request: deploy_pb2.DeployDistributedModelServiceRequest,
) -> Iterator[FieldViolation]:
    """What is wrong with the devices that the nodes of a request ask for."""
    for index, node in enumerate(request.model_services):
        yield from gpu_violations(node, f"model_services[{index}].gpus")
        yield from _whole_machines_have_all(node, f"model_services[{index}].gpus")


def gpu_violations(node: group_pb2.NodeSpec | deploy_pb2.MemberChange, path: str) -> Iterator[FieldViolation]:
    """What is wrong with those of one node, or of a change of members; `path`: of the list."""
    seen: set[str] = set()
    for index, gpu in enumerate(node.gpus):
        if gpu.model:  # none means any
            yield from gpu_model_violation(gpu.model, f"{path}[{index}].model")
        if gpu.model in seen:
            yield FieldViolation(f"{path}[{index}].model", "is in the list already")
        seen.add(gpu.model)
        if gpu.same_partition and not gpu.model:
            yield FieldViolation(
                f"{path}[{index}].model",
                "is required where same_partition is set: several models have no fabric in common",
            )


def _whole_machines_have_all(node: group_pb2.NodeSpec, path: str) -> Iterator[FieldViolation]:
    for index, gpu in enumerate(node.gpus if node.type == "BareMetal" else ()):
        required = gpu.numa_policy == placement_pb2.NUMA_POLICY_REQUIRED
        for name, said in (("numa_policy", required), ("same_partition", gpu.same_partition)):
            if said:
                why = "must not be asked for of BareMetal, which has all of its machine"
                yield FieldViolation(f"{path}[{index}].{name}", why)


def cells_agree(request: deploy_pb2.DeployDistributedModelServiceRequest) -> Iterator[FieldViolation]:
    """What is said of the cells of members and of those of their devices does not contradict itself."""
    shapes: list[tuple[str, Any]] = [
        ("", request),
        *((f"alternatives[{n}].", one) for n, one in enumerate(request.alternatives)),
    ]
    for prefix, shape in shapes:
        for position, node in enumerate(shape.model_services):
            yield from _cells_are_there(node, f"{prefix}model_services[{position}].numa_cells")
            if request.placement_policy.numa != placement_pb2.NUMA_POLICY_NONE:
                continue
            if node.numa_cells:
                path = f"{prefix}model_services[{position}].numa_cells"
                yield FieldViolation(path, "must not be set where placement_policy.numa is NUMA_POLICY_NONE")
            for index, gpu in enumerate(node.gpus):
                if gpu.numa_policy == placement_pb2.NUMA_POLICY_REQUIRED:
                    path = f"{prefix}model_services[{position}].gpus[{index}].numa_policy"
                    yield FieldViolation(path, "must not be required where placement_policy.numa is NUMA_POLICY_NONE")


def _cells_are_there(node: group_pb2.NodeSpec, path: str) -> Iterator[FieldViolation]:
    if node.numa_cells and node.type == "BareMetal":
        yield FieldViolation(path, "must not be asked for of BareMetal, which has all of its machine")
    if node.cpu_num and node.numa_cells > node.cpu_num:
        yield FieldViolation(path, f"must not be more than its processors: {node.cpu_num}")
