"""Rules that tie what a request says of devices together. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from corral.v1 import deploy_pb2, group_pb2, placement_pb2

from service.domain.cells import PAGES
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


def confinement_is_right(
    request: deploy_pb2.DeployDistributedModelServiceRequest,
) -> Iterator[FieldViolation]:
    """What nodes ask to have for themselves of their hosts does not contradict itself, whatever their group says."""
    for index, node in enumerate(request.model_services):
        path = f"model_services[{index}]"
        if node.type == "BareMetal":
            for name in ("numa_policy", "dedicated_cpus", "isolate_emulator_threads", "huge_pages"):
                if getattr(node, name):
                    yield FieldViolation(
                        f"{path}.{name}", "must not be asked for of BareMetal, which has all of its machine"
                    )
            continue
        if node.isolate_emulator_threads and not node.dedicated_cpus:
            why = "is only of effect beside dedicated_cpus: without it machines run on all processors"
            yield FieldViolation(f"{path}.isolate_emulator_threads", why)
        if node.numa_policy == placement_pb2.NUMA_POLICY_NONE:
            yield from _floats(node, path, "its numa_policy")
        if node.numa_cells and node.numa_policy == placement_pb2.NUMA_POLICY_PREFERRED:
            yield FieldViolation(f"{path}.numa_policy", "must not be preferred beside numa_cells, which are required")
        each = PAGES.get(node.huge_pages, 1) * max(1, node.numa_cells)
        if node.huge_pages and node.memory_size % each:
            cells = f" for each of its {node.numa_cells} NUMA cells" if node.numa_cells > 1 else ""
            yield FieldViolation(f"{path}.memory_size", f"must be a multiple of {node.huge_pages}{cells}: huge_pages")


def cells_agree(request: deploy_pb2.DeployDistributedModelServiceRequest) -> Iterator[FieldViolation]:
    """What is said of the cells of members and of those of their devices does not contradict itself."""
    shapes: list[tuple[str, Any]] = [
        ("", request),
        *((f"alternatives[{n}].", one) for n, one in enumerate(request.alternatives)),
    ]
    for prefix, shape in shapes:
        for position, node in enumerate(shape.model_services):
            yield from _cells_are_there(node, f"{prefix}model_services[{position}].numa_cells")
            if request.placement_policy.numa == placement_pb2.NUMA_POLICY_NONE and not node.numa_policy:
                yield from _floats(node, f"{prefix}model_services[{position}]", "placement_policy.numa")


def _floats(node: group_pb2.NodeSpec, path: str, said: str) -> Iterator[FieldViolation]:
    """What one cannot have that is pinned to no cell. `said`: where that is said."""
    if node.numa_cells:
        yield FieldViolation(f"{path}.numa_cells", f"must not be set where {said} is NUMA_POLICY_NONE")
    for index, gpu in enumerate(node.gpus):
        if gpu.numa_policy == placement_pb2.NUMA_POLICY_REQUIRED:
            where = f"{path}.gpus[{index}].numa_policy"
            yield FieldViolation(where, f"must not be required where {said} is NUMA_POLICY_NONE")


def _cells_are_there(node: group_pb2.NodeSpec, path: str) -> Iterator[FieldViolation]:
    if node.numa_cells and node.type == "BareMetal":
        yield FieldViolation(path, "must not be asked for of BareMetal, which has all of its machine")
    if node.cpu_num and node.numa_cells > node.cpu_num:
        yield FieldViolation(path, f"must not be more than its processors: {node.cpu_num}")
