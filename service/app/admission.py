"""From a caller's request to a complete specification: catalogue and zones looked up, defaults and ranks filled in.

Pure functions over the fleet's rows. What a single field may hold was checked by the face; here is what needs the fleet
or several fields at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from service.domain.catalog import ModelService
from service.domain.fleet import Zone
from service.domain.groups import GroupSpec, NodeSpec
from service.errors import FieldViolation, InvalidArgument, NotFound

MAX_CPU = 4096
MAX_MEMORY = 64 << 40
MIN_MEMORY = 16 << 20


def admit(
    spec: GroupSpec, zones: Mapping[str, Zone], catalogue: Mapping[str, ModelService], *, max_nodes: int
) -> GroupSpec:
    """The specification with everything resolved. Raises InvalidArgument and NotFound, naming the field."""
    if not spec.nodes:
        raise InvalidArgument.of("model_services", "must name at least one node")
    if len(spec.nodes) > max_nodes:
        raise InvalidArgument.of("model_services", f"has {len(spec.nodes)} nodes; at most {max_nodes} are allowed")
    for position, node in enumerate(spec.nodes):
        path = f"model_services[{position}]"
        if node.model_service_uuid not in catalogue:
            raise NotFound("model service", node.model_service_uuid, f"{path}.uuid")
        if node.zone_uuid and node.zone_uuid not in zones:
            raise NotFound("zone", node.zone_uuid, f"{path}.zone_uuid")
    ranked = _ranked(spec.nodes)
    resolved = tuple(_resolved(spec, node, catalogue[node.model_service_uuid]) for node in ranked)
    _check_sizes(resolved)
    entry = catalogue[resolved[0].model_service_uuid]
    return replace(
        spec,
        nodes=resolved,
        workers_first=entry.workers_first,
        model_uuid=entry.model_uuid,
        model_service_type=entry.model_service_type,
        support_metrics=entry.supported_metrics,
    )


def _ranked(nodes: Sequence[NodeSpec]) -> tuple[NodeSpec, ...]:
    """Nodes in rank order. Ranks are given for all nodes or for none; without them the initial node comes first."""
    initial = [i for i, n in enumerate(nodes) if n.is_initial_node]
    if len(initial) > 1:
        raise InvalidArgument(
            [
                FieldViolation(f"model_services[{i}].is_initial_node", "at most one node may be the initial node")
                for i in initial[1:]
            ]
        )
    given = [n.node_rank for n in nodes if n.node_rank >= 0]
    if not given:
        order = sorted(range(len(nodes)), key=lambda i: (not nodes[i].is_initial_node, i))
        return tuple(replace(nodes[i], node_rank=rank, is_initial_node=rank == 0) for rank, i in enumerate(order))
    if sorted(given) != list(range(len(nodes))):
        wrong = _first_wrong_rank(nodes)
        raise InvalidArgument.of(
            f"model_services[{wrong}].node_rank", f"give every node a rank of 0 to {len(nodes) - 1}, each once, or none"
        )
    if initial and nodes[initial[0]].node_rank != 0:
        raise InvalidArgument.of(f"model_services[{initial[0]}].node_rank", "the initial node has rank 0")
    by_rank = sorted(nodes, key=lambda n: n.node_rank)
    return tuple(replace(n, is_initial_node=n.node_rank == 0) for n in by_rank)


def _first_wrong_rank(nodes: Sequence[NodeSpec]) -> int:
    """The position of the first rank that is missing, out of range or there twice."""
    seen: set[int] = set()
    for position, node in enumerate(nodes):
        if node.node_rank in seen or not 0 <= node.node_rank < len(nodes):
            return position
        seen.add(node.node_rank)
    raise AssertionError("called with ranks that are right")


def _resolved(spec: GroupSpec, node: NodeSpec, entry: ModelService) -> NodeSpec:
    return replace(
        node,
        name=node.name or f"{spec.name}-{node.node_rank}",
        cpu_num=node.cpu_num or entry.default_cpu,
        memory_size=node.memory_size or entry.default_memory,
        root_disk_size=node.root_disk_size or entry.root_disk_size,
        timeout_ms=node.timeout_ms or entry.boot_timeout_ms,
        model_service_version=entry.version,
    )


def _check_sizes(resolved: Sequence[NodeSpec]) -> None:
    """The last guard before the store, whatever face the request came by. Paths are by rank order."""
    for position, node in enumerate(resolved):
        path = f"model_services[{position}]"
        if not 1 <= node.cpu_num <= MAX_CPU:
            raise InvalidArgument.of(f"{path}.cpu_num", f"is {node.cpu_num}; 1 to {MAX_CPU} are allowed")
        if not MIN_MEMORY <= node.memory_size <= MAX_MEMORY:
            raise InvalidArgument.of(
                f"{path}.memory_size", f"is {node.memory_size}; {MIN_MEMORY} to {MAX_MEMORY} bytes are allowed"
            )
