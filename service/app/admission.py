"""From a caller's request to a complete specification: catalogue and zones looked up, defaults and ranks filled in.

Pure functions over the fleet's rows. What a single field may hold was checked by the face; checked here is what needs
the fleet or several fields at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from service.app import engines, environment
from service.domain import placement_rules, ranks, roles
from service.domain.catalog import ModelService, RegisteredImage
from service.domain.environment import unknown_secrets
from service.domain.fleet import Cluster, Zone
from service.domain.presets import Gate, preset_of
from service.domain.specs import DataDisk, GroupSpec, NodeSpec
from service.errors import InvalidArgument, NotFound
from service.planning import confinement

MAX_CPU = 4096
MAX_MEMORY = 64 << 40
MIN_MEMORY = 16 << 20
DATA_FORMATS = ("raw", "qcow2")
"""Of images that data disks are made of."""


def admit(
    spec: GroupSpec,
    zones: Mapping[str, Zone],
    catalogue: Mapping[str, ModelService],
    *,
    max_nodes: int,
    knows_secret: Callable[[str], bool],
    cluster_of: Callable[[str], Cluster | None],
    image_of: Callable[[str], RegisteredImage | None],
    framework: str = "",
    own_uuid: str = "",
    members: Sequence[NodeSpec] = (),
    known_roles: Mapping[str, int] | None = None,
) -> GroupSpec:
    """The specification with everything filled in but the values of secrets. `knows_secret`: whether the caller may use
    the secret of a name; `cluster_of`, `image_of`: those of a uuid. `framework`: of the group that the nodes are to
    join; empty for that of the initial node. `own_uuid`: the group's, where its caller chose it; `members`: those that
    stay, and `known_roles`: its roles' start orders, where `spec` has those alone that join it.

    Raises InvalidArgument and NotFound, naming the field, and what `knows_secret` raises.
    """
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
        _check_cluster(node, path, cluster_of)
        environment.check(node.environment_variables, f"{path}.environment_variables", knows_secret)
        _check_secrets(catalogue[node.model_service_uuid], path, knows_secret)
    spec = replace(
        spec, nodes=tuple(_with_disks(n, f"model_services[{i}]", image_of) for i, n in enumerate(spec.nodes))
    )
    if wrong := list(roles.violations(spec.nodes, known_roles or {})):
        raise InvalidArgument(wrong)
    if (size := sum(node.count for node in spec.nodes)) > max_nodes:
        raise InvalidArgument.of("model_services", f"asks for {size} members; at most {max_nodes} are allowed")
    nodes = roles.expanded(spec.nodes, known_roles or {})
    if wrong := list(placement_rules.violations(spec.placement, [*members, *nodes], own_uuid)):
        raise InvalidArgument(wrong)
    ranked = _ranked(nodes)
    framework = framework or catalogue[ranked[0].model_service_uuid].framework
    engines.check(spec.nodes, catalogue, zones, framework)
    engines.check_count(len(nodes), framework, "model_services")
    resolved = tuple(_resolved(spec, node, catalogue[node.model_service_uuid]) for node in ranked)
    _check_sizes(resolved)
    entry = catalogue[resolved[0].model_service_uuid]
    return replace(
        spec,
        nodes=resolved,
        scope=preset_of(entry.framework).scope.value,
        workers_first=entry.workers_first or preset_of(entry.framework).gate is Gate.WORKERS,
        model_uuid=resolved[0].model_uuid or entry.model_uuid,
        model_service_type=entry.model_service_type,
        support_metrics=entry.supported_metrics,
    )


def wish_of(node: NodeSpec) -> ranks.Wish:
    """What a node says of its place."""
    return ranks.Wish(node.is_initial_node, node.node_rank if node.node_rank >= 0 else None)


def _check_cluster(node: NodeSpec, path: str, cluster_of: Callable[[str], Cluster | None]) -> None:
    """A cluster that there is, in the node's zone where it names one. Raises NotFound, InvalidArgument."""
    cluster = cluster_of(node.cluster_uuid) if node.cluster_uuid else None
    if node.cluster_uuid and cluster is None:
        raise NotFound("cluster", node.cluster_uuid, f"{path}.cluster_uuid")
    if cluster is not None and node.zone_uuid and cluster.zone_uuid != node.zone_uuid:
        raise InvalidArgument.of(f"{path}.cluster_uuid", f"is in zone {cluster.zone_uuid}, and the node names another")


def _with_disks(node: NodeSpec, path: str, image_of: Callable[[str], RegisteredImage | None]) -> NodeSpec:
    """The node with the images of its data disks; one that was admitted keeps what it was. Raises NotFound,
    InvalidArgument."""

    def made(disk: DataDisk, field: str) -> DataDisk:
        if not disk.image_uuid or disk.image is not None:
            return disk
        found = image_of(disk.image_uuid)
        if found is None:
            raise NotFound("image", disk.image_uuid, field)
        if found.format not in DATA_FORMATS:
            raise InvalidArgument.of(field, f"is of format {found.format}; raw and qcow2 are allowed")
        return replace(disk, image=found.image)

    disks = (made(disk, f"{path}.data_disks[{number}].image_uuid") for number, disk in enumerate(node.data_disks))
    return replace(node, data_disks=tuple(disks))


def _check_secrets(entry: ModelService, path: str, knows_secret: Callable[[str], bool]) -> None:
    """The secrets that the model service itself refers to. Raises NotFound by the field that names it."""
    for _, secret in unknown_secrets(entry.environment, knows_secret):
        raise NotFound("secret", secret, f"{path}.uuid")


def _ranked(nodes: Sequence[NodeSpec]) -> tuple[NodeSpec, ...]:
    """Nodes in rank order, the first of them the initial one. Raises InvalidArgument."""
    wishes = [wish_of(node) for node in nodes]
    if wrong := list(ranks.violations(wishes)):
        raise InvalidArgument(wrong)
    order = ranks.order(wishes)
    return tuple(replace(nodes[i], node_rank=rank, is_initial_node=rank == 0) for rank, i in enumerate(order))


def _resolved(spec: GroupSpec, node: NodeSpec, entry: ModelService) -> NodeSpec:
    return replace(
        node,
        name=node.name or f"{spec.name}-{node.node_rank}",
        cpu_num=node.cpu_num or entry.default_cpu,
        memory_size=node.memory_size or entry.default_memory,
        root_disk_size=node.root_disk_size or entry.root_disk_size,
        timeout_ms=node.timeout_ms or entry.boot_timeout_ms,
        model_service_version=entry.version,
        devices=(),
    )


def _check_sizes(resolved: Sequence[NodeSpec]) -> None:
    """The last guard before the store, by whatever face the request came. Paths count the nodes by rank."""
    for position, node in enumerate(resolved):
        path = f"model_services[{position}]"
        if not 1 <= node.cpu_num <= MAX_CPU:
            raise InvalidArgument.of(f"{path}.cpu_num", f"is {node.cpu_num}; 1 to {MAX_CPU} are allowed")
        if not MIN_MEMORY <= node.memory_size <= MAX_MEMORY:
            raise InvalidArgument.of(
                f"{path}.memory_size", f"is {node.memory_size}; {MIN_MEMORY} to {MAX_MEMORY} bytes are allowed"
            )
        if node.numa_cells > node.cpu_num:
            raise InvalidArgument.of(f"{path}.numa_cells", f"must not be more than its processors: {node.cpu_num}")
        if node.huge_pages and not confinement.fits(node, node.huge_pages):
            text = f"is {node.memory_size}: no whole number of pages of {node.huge_pages} for each of its NUMA cells"
            raise InvalidArgument.of(f"{path}.memory_size", text)
