"""Requests into domain types. The messages have passed `validation.check`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from corral.v1 import deploy_pb2, group_pb2, placement_pb2

from service.app.groups import Ask, Metadata
from service.app.role_changes import RoleChange
from service.contract import rules
from service.domain import ranks, roles
from service.domain.cells import NumaPolicy
from service.domain.specs import (
    CreationStrategy,
    DataDisk,
    DeployRequest,
    FailurePolicy,
    GpuRequest,
    GroupSpec,
    HostLabel,
    MachineType,
    MayWait,
    NodeSpec,
    PlacementPolicy,
    PlacementStrategy,
    PreferredGroup,
    RoomMoves,
    Survive,
)
from service.domain.updates import MemberChange, UpdateMode

ROOM_MOVES: Mapping[int, RoomMoves | None] = {
    group_pb2.MAKE_ROOM_UNSPECIFIED: None,
    group_pb2.MAKE_ROOM_LIVE: RoomMoves.LIVE,
    group_pb2.MAKE_ROOM_RESTART: RoomMoves.RESTART,
    group_pb2.MAKE_ROOM_EVICT: RoomMoves.EVICT,
}

STRATEGIES: Mapping[int, PlacementStrategy] = {
    placement_pb2.PLACEMENT_STRATEGY_UNSPECIFIED: PlacementStrategy.LEAST_LOST_VALUE,
    placement_pb2.PLACEMENT_STRATEGY_LEAST_LOST_VALUE: PlacementStrategy.LEAST_LOST_VALUE,
    placement_pb2.PLACEMENT_STRATEGY_PACK: PlacementStrategy.FEWEST_HOSTS,
    placement_pb2.PLACEMENT_STRATEGY_SPREAD: PlacementStrategy.SPREAD,
    placement_pb2.PLACEMENT_STRATEGY_CLOSE: PlacementStrategy.CLOSE,
}

NUMA_POLICIES: Mapping[int, NumaPolicy] = {
    placement_pb2.NUMA_POLICY_UNSPECIFIED: NumaPolicy.NONE,
    placement_pb2.NUMA_POLICY_NONE: NumaPolicy.NONE,
    placement_pb2.NUMA_POLICY_PREFERRED: NumaPolicy.PREFERRED,
    placement_pb2.NUMA_POLICY_REQUIRED: NumaPolicy.REQUIRED,
}

FAILURE_POLICIES: Mapping[int, FailurePolicy] = {
    group_pb2.FAILURE_ACTION_UNSPECIFIED: FailurePolicy.REPLACE_MEMBER,
    group_pb2.FAILURE_ACTION_FAIL_GROUP: FailurePolicy.FAIL_GROUP,
    group_pb2.FAILURE_ACTION_RESTART_MEMBER: FailurePolicy.RESTART_MEMBER,
    group_pb2.FAILURE_ACTION_REPLACE_MEMBER: FailurePolicy.REPLACE_MEMBER,
}

UPDATE_MODES: Mapping[int, UpdateMode] = {
    group_pb2.UPDATE_MODE_UNSPECIFIED: UpdateMode.SURGE,
    group_pb2.UPDATE_MODE_SURGE: UpdateMode.SURGE,
    group_pb2.UPDATE_MODE_IN_PLACE: UpdateMode.IN_PLACE,
}

_NODE_PATH = re.compile(r"^model_services\[(\d+)\]")

_UPDATABLE = ("name", "description", "user_tags", "system_tags")

ChangeMessage = (
    deploy_pb2.DeleteInstanceGroupRequest
    | deploy_pb2.StartInstanceGroupRequest
    | deploy_pb2.StopInstanceGroupRequest
    | deploy_pb2.RestartInstanceGroupRequest
    | deploy_pb2.ScaleInstanceGroupRequest
    | deploy_pb2.UpdateInstanceGroupRequest
    | deploy_pb2.RolloutInstanceGroupRequest
    | deploy_pb2.RollBackInstanceGroupRequest
)
DeployMessage = deploy_pb2.DeployDistributedModelServiceRequest | deploy_pb2.PlanDistributedModelServiceRequest


def gpu_request(message: group_pb2.GpuRequest) -> GpuRequest:
    """Devices that a member asks for."""
    said = NUMA_POLICIES[message.numa_policy] if message.numa_policy else None
    return GpuRequest(message.model, message.count, said, message.same_partition)


def positions_by_rank(nodes: Sequence[group_pb2.NodeSpec]) -> dict[int, int]:
    """Rank -> position in the caller's list: explicit ranks, else the list's order with the initial node first."""
    each = [position for position, node in enumerate(nodes) for _ in range(rules.copies(node))]
    order = ranks.order(rules.places(nodes[position] for position in each))
    return {rank: each[number] for rank, number in enumerate(order)}


def path_as_written(path: str, positions: Mapping[int, int]) -> str:
    """A field path that counts nodes by rank, as the caller counted them: `model_services[rank]` by its position."""
    found = _NODE_PATH.match(path)
    if found is None or int(found[1]) not in positions:
        return path
    return f"model_services[{positions[int(found[1])]}]{path[found.end() :]}"


def deploy_request(message: DeployMessage) -> DeployRequest:
    """The whole request, nodes as the caller listed them. What is absent is 0, "" or rank -1 for `app` to fill in."""
    policy = message.failure_policy
    spec = GroupSpec(
        name=message.name,
        nodes=nodes(message.model_services),
        creation_strategy=CreationStrategy(message.service_creation_strategy),
        description=message.description,
        system_tags=tuple(message.system_tags),
        user_tags=tuple(message.user_tags),
        tag_uuids=tuple(message.tag_uuids),
        failure_policy=FAILURE_POLICIES[policy.action],
        placement=_placement_policy(message.placement_policy),
    )
    if policy.HasField("budget"):
        spec = replace(spec, failure_budget=policy.budget)
    return DeployRequest(
        spec,
        message.resource_uuid,
        message.request_id,
        ROOM_MOVES[message.make_room],
        MayWait(message.wait.for_ms, message.wait.until.ToMilliseconds()) if message.HasField("wait") else None,
        message.expected_end.ToMilliseconds(),
        message.priority,
        tuple(nodes(one.model_services) for one in message.alternatives),
    )


def nodes(messages: Iterable[group_pb2.NodeSpec]) -> tuple[NodeSpec, ...]:
    """Node specifications as the caller listed them."""
    return tuple(_node(message) for message in messages)


def role_change(message: deploy_pb2.ScaleInstanceGroupRequest) -> RoleChange:
    """What a scaling changes of whole roles."""
    updates = zip(nodes(message.role_updates), message.role_updates, strict=True)
    return RoleChange(dict(message.role_counts), [replace(node, count=asked.count) for node, asked in updates])


def ask(message: ChangeMessage) -> Ask:
    """What every change of a group has."""
    return Ask(message.etag, message.request_id, message.validate_only)


def member_changes(message: deploy_pb2.RolloutInstanceGroupRequest) -> tuple[MemberChange, ...]:
    """What is to become of the members, in the caller's order."""
    return tuple(
        MemberChange(
            role=change.role if change.HasField("role") else None,
            model_service_uuid=change.model_service_uuid,
            environment=dict(change.environment_variables),
            dropped=tuple(change.removed_environment_variables),
            startup_parameters=change.startup_parameters if change.HasField("startup_parameters") else None,
            cpu_num=change.cpu_num,
            memory_size=change.memory_size,
            root_disk_size=change.root_disk_size,
            gpus=tuple(map(gpu_request, change.gpus)) if change.gpus or change.no_gpus else None,
            timeout_ms=change.timeout,
        )
        for change in message.changes
    )


def metadata(message: deploy_pb2.UpdateInstanceGroupRequest) -> Metadata:
    """The new values of the fields that the mask names; without a mask those that are not empty."""
    named = set(message.update_mask.paths) or {name for name in _UPDATABLE if getattr(message, name)}
    return Metadata(
        name=message.name if "name" in named else None,
        description=message.description if "description" in named else None,
        user_tags=tuple(message.user_tags) if "user_tags" in named else None,
        system_tags=tuple(message.system_tags) if "system_tags" in named else None,
    )


def _node(message: group_pb2.NodeSpec) -> NodeSpec:
    return NodeSpec(
        name=message.name,
        model_service_uuid=message.uuid,
        zone_uuid=message.zone_uuid,
        cpu_num=message.cpu_num,
        memory_size=message.memory_size,
        type=MachineType(message.type) if message.type else MachineType.VIRTUAL_MACHINE,
        is_initial_node=message.is_initial_node,
        node_rank=message.node_rank if message.HasField("node_rank") else -1,
        timeout_ms=message.timeout,
        tensor_parallel_size=message.tensor_parallel_size,
        cluster_uuid=message.cluster_uuid,
        description=message.description,
        environment_variables=dict(message.environment_variables),
        startup_parameters=message.startup_parameters,
        root_disk_size=message.root_disk_size,
        gpus=tuple(map(gpu_request, message.gpus)),
        labels=dict(message.labels),
        model_uuid=message.model_uuid,
        role=message.role,
        start_order=message.start_order if message.HasField("start_order") else roles.UNSET,
        count=rules.copies(message),
        numa_cells=message.numa_cells,
        numa=NUMA_POLICIES[message.numa_policy] if message.numa_policy else None,
        dedicated_cpus=message.dedicated_cpus,
        isolate_emulator_threads=message.isolate_emulator_threads,
        huge_pages=message.huge_pages,
        data_disks=tuple(DataDisk(disk.size, disk.image_uuid) for disk in message.data_disks),
    )


def _placement_policy(message: group_pb2.PlacementPolicy) -> PlacementPolicy:
    return PlacementPolicy(
        strategy=STRATEGIES[message.strategy],
        max_per_host=message.max_per_host,
        max_per_rack=message.max_per_rack,
        exclusive_hosts=message.exclusive_hosts,
        affinity_groups=tuple(message.affinity_group_uuids),
        anti_affinity_groups=tuple(message.anti_affinity_group_uuids),
        max_per_zone=message.max_per_zone,
        min_hosts=message.min_hosts,
        min_racks=message.min_racks,
        min_zones=message.min_zones,
        same_rack=message.same_rack,
        same_zone=message.same_zone,
        required_host_labels=tuple(HostLabel(one.key, tuple(one.values)) for one in message.required_host_labels),
        preferred_host_labels=tuple(
            HostLabel(one.key, tuple(one.values), one.weight or 1) for one in message.preferred_host_labels
        ),
        preferred_affinity=_preferred(message.preferred_affinity_groups),
        preferred_anti_affinity=_preferred(message.preferred_anti_affinity_groups),
        spare_hosts=message.spare_hosts,
        max_racks=message.max_racks,
        numa=NUMA_POLICIES[message.numa],
        survive=Survive(message.survive.members) if message.HasField("survive") else None,
    )


def _preferred(messages: Iterable[group_pb2.PreferredGroup]) -> tuple[PreferredGroup, ...]:
    return tuple(PreferredGroup(one.group_uuid, one.weight or 1) for one in messages)
