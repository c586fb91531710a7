"""Rules that tie several fields of a request together: one literal table from message to rules. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from corral.v1 import catalog_pb2, deploy_pb2, fleet_pb2, group_pb2, project_pb2
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from service.contract.disk_rules import data_disks_are_right
from service.contract.gpu_rules import cells_agree, confinement_is_right, gpu_violations, gpus_are_right
from service.domain import ranks, weights
from service.domain.containers import is_reference
from service.domain.fleet import MAX_RATIO, HostAddress
from service.domain.network import NetworkWish, network_of
from service.domain.presets import BY_HOST, MOST_HOST_CHECK_MS
from service.domain.seats import NO_BASE, is_base
from service.drivers import kinds
from service.errors import FieldViolation

Rule = Callable[[Any], Iterator[FieldViolation]]


def violations(request: Message) -> list[FieldViolation]:
    """What is wrong across the fields of a request whose fields are right one by one."""
    found = _RULES.get(request.DESCRIPTOR.full_name, ())
    return [violation for rule in found for violation in rule(request)]


def places(nodes: Iterable[group_pb2.NodeSpec]) -> list[ranks.Wish]:
    """What the nodes of a request say of their places."""
    return [ranks.Wish(node.is_initial_node, node.node_rank if node.HasField("node_rank") else None) for node in nodes]


def _ranks_are_right(request: deploy_pb2.DeployDistributedModelServiceRequest) -> Iterator[FieldViolation]:
    return ranks.violations(places(request.model_services))


def _capacity_can_be_claimed(request: fleet_pb2.AddHostRequest) -> Iterator[FieldViolation]:
    return kinds.capacity_violations(request.driver, request.capacity)


def _network_fits_together(request: fleet_pb2.CreateZoneRequest) -> Iterator[FieldViolation]:
    _, wrong = network_of(network_wish(request.network))
    return (replace(one, field=f"network.{one.field}") for one in wrong)


def network_wish(message: fleet_pb2.ZoneNetwork) -> NetworkWish:
    """A network as a request has it."""
    return NetworkWish(
        message.kind or "none",
        message.source,
        message.subnet,
        message.gateway,
        message.pool,
        tuple(message.pools),
        message.isolation,
        tuple(message.reachable),
    )


_MOST_MEMBERS = 1024
_ROLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _roles_and_counts_are_right(request: Any) -> Iterator[FieldViolation]:
    for position, node in enumerate(request.model_services):
        if node.role and not _ROLE.fullmatch(node.role):
            path = f"model_services[{position}].role"
            yield FieldViolation(path, "must be letters, digits and ._-, a letter or digit first")
    if sum(copies(node) for node in request.model_services) > _MOST_MEMBERS:
        yield FieldViolation("model_services", f"asks for more than {_MOST_MEMBERS} members")


def copies(node: group_pb2.NodeSpec) -> int:
    """How many members a node of a request asks for."""
    return node.count or 1


def _adds_or_removes(request: deploy_pb2.ScaleInstanceGroupRequest) -> Iterator[FieldViolation]:
    for given in ("role_updates", "role_counts"):
        if getattr(request, given):
            for name in ("role_counts", "model_services", "remove_instance_uuids"):
                if name != given and getattr(request, name):
                    yield FieldViolation(name, f"must be empty where {given} is not")
            return
    if request.model_services and request.remove_instance_uuids:
        yield FieldViolation("remove_instance_uuids", "must be empty where model_services is not")
    if not request.model_services and not request.remove_instance_uuids:
        yield FieldViolation("model_services", "is required where remove_instance_uuids is empty")


def _updates_are_right(request: deploy_pb2.ScaleInstanceGroupRequest) -> Iterator[FieldViolation]:
    yield from ranks.joining_violations(places(request.role_updates), "role_updates")
    seen: set[str] = set()
    for position, node in enumerate(request.role_updates):
        path = f"role_updates[{position}]"
        if not node.role:
            yield FieldViolation(f"{path}.role", "is required")
        elif node.role in seen:
            yield FieldViolation(f"{path}.role", "is in the list already")
        seen.add(node.role)
        yield from gpu_violations(node, f"{path}.gpus")


def _changes_are_right(request: deploy_pb2.RolloutInstanceGroupRequest) -> Iterator[FieldViolation]:
    for position, change in enumerate(request.changes):
        path = f"changes[{position}]"
        yield from gpu_violations(change, f"{path}.gpus")
        if change.gpus and change.no_gpus:
            yield FieldViolation(f"{path}.no_gpus", "must not be set where gpus are named")
        for number, name in enumerate(change.removed_environment_variables):
            if name in change.environment_variables:
                where = f"{path}.removed_environment_variables[{number}]"
                yield FieldViolation(where, f"{name} is set by the same change")


def _adds_no_initial_node(request: deploy_pb2.ScaleInstanceGroupRequest) -> Iterator[FieldViolation]:
    return ranks.joining_violations(places(request.model_services))


def _mask_names(*allowed: str) -> Rule:
    """The update mask names fields that can be changed."""

    def rule(request: Any) -> Iterator[FieldViolation]:
        for path in request.update_mask.paths:
            if path not in allowed:
                yield FieldViolation("update_mask", f"may only name {', '.join(allowed)}")
                return

    return rule


def _named_fields_are_not_empty(*required: str) -> Rule:
    """A field that a resource cannot do without is not emptied by an update."""

    def rule(request: Any) -> Iterator[FieldViolation]:
        for name in required:
            if name in request.update_mask.paths and not getattr(request, name):
                yield FieldViolation(name, "may not be empty")

    return rule


def _ratios_in_range(request: Any) -> Iterator[FieldViolation]:
    for index, policy in enumerate(request.resource_policies):
        if policy.HasField("overcommit_ratio") and not 0 < policy.overcommit_ratio <= MAX_RATIO:
            yield FieldViolation(
                f"resource_policies[{index}].overcommit_ratio", f"must be more than 0 and at most {MAX_RATIO}"
            )


def _machines_find_the_service(request: Any) -> Iterator[FieldViolation]:
    for name in ("seed_url", "report_url"):
        if (url := getattr(request, name)) and not is_base(url):
            yield FieldViolation(name, NO_BASE)


def _host_can_be_reached(request: fleet_pb2.AddHostRequest) -> Iterator[FieldViolation]:
    for wrong in kinds.violations(host_address(request)):
        yield replace(wrong, field=wrong.field if wrong.field == "driver" else f"connection.{wrong.field}")


def _a_bmc_is_of_a_hypervisor(request: fleet_pb2.AddHostRequest) -> Iterator[FieldViolation]:
    if request.HasField("bmc") and request.driver != "libvirt":
        yield FieldViolation("bmc", "must be empty unless driver is libvirt: only its hypervisors are fenced")
    if request.HasField("bmc") and not request.bmc.credential:
        yield FieldViolation("bmc.credential", "is required: one of the [[credentials]] that names a password_file")


def host_address(request: fleet_pb2.AddHostRequest) -> HostAddress:
    """How the host of a request is reached."""
    connection = request.connection
    return HostAddress(
        driver=request.driver,
        transport=connection.transport,
        address=connection.address,
        port=connection.port,
        socket=connection.socket,
        username=connection.username,
        options=dict(sorted(connection.options.items())),
    )


def _policies_name_each_resource_once(request: Any) -> Iterator[FieldViolation]:
    seen: set[str] = set()
    for index, policy in enumerate(request.resource_policies):
        path = f"resource_policies[{index}].resource"
        if policy.resource not in ("vcpu", "memory"):
            yield FieldViolation(path, "must be one of vcpu, memory")
        elif policy.resource in seen:
            yield FieldViolation(path, "is in the list already")
        seen.add(policy.resource)


def _variables_are_lines(request: Any) -> Iterator[FieldViolation]:
    """Variables travel into the guest as lines of `NAME=value`."""
    for name, value in sorted(request.environment_variables.items()):
        if any(separator in value for separator in "\n\r\x85\u2028\u2029"):
            yield FieldViolation(f"environment_variables[{name}]", "must be one line")


def _path_begins_with_slash(request: Any) -> Iterator[FieldViolation]:
    if request.readiness_check.path and not request.readiness_check.path.startswith("/"):
        yield FieldViolation("readiness_check.path", "must begin with a slash")
    canary = request.readiness_check.canary
    if canary.path and not canary.path.startswith("/"):
        yield FieldViolation("readiness_check.canary.path", "must begin with a slash")
    if (request.readiness_check.kind == "command") != bool(request.readiness_check.command):
        yield FieldViolation("readiness_check.command", "belongs to the kind `command`, which needs one")
    if (request.readiness_check.kind == "serial") != bool(request.readiness_check.line.strip(" *")):
        yield FieldViolation("readiness_check.line", "belongs to the kind `serial`, which needs one")
    if request.readiness_check.kind in BY_HOST and request.readiness_check.timeout > MOST_HOST_CHECK_MS:
        told = f"must be at most {MOST_HOST_CHECK_MS} with the kinds `agent` and `serial`"
        yield FieldViolation("readiness_check.timeout", told)


def _weights_have_a_place(request: Any) -> Iterator[FieldViolation]:
    if request.HasField("weights") and (wrong := weights.problem(request.weights.uri)):
        yield FieldViolation("weights.uri", wrong)


def _only_kernels_have_an_initrd(request: Any) -> Iterator[FieldViolation]:
    for name in ("initrd_file_name", "initrd_sha256"):
        if getattr(request, name) and request.format != "kernel":
            yield FieldViolation(name, "must be empty for a disk")
    if request.initrd_sha256 and not request.initrd_file_name:
        yield FieldViolation("initrd_file_name", "is required where initrd_sha256 is not empty")
    yield from _only_kernels_have_arguments(request)


def _only_kernels_have_arguments(request: Any) -> Iterator[FieldViolation]:
    if request.delivery == "seed" and request.format not in ("", "raw"):
        yield FieldViolation("delivery", "may only be seed for a raw ISO image, from which bare metal boots")
    if request.kernel_arguments and request.format != "kernel":
        yield FieldViolation("kernel_arguments", "must be empty for what is no kernel")


def _only_uploaded_kernels_have_an_initrd(
    request: catalog_pb2.UploadImageRequest | catalog_pb2.ImportImageRequest,
) -> Iterator[FieldViolation]:
    if request.initrd_sha256 and request.format != "kernel":
        yield FieldViolation("initrd_sha256", "must be empty for what is no kernel")
    if request.initrd_sha256 and request.initrd_sha256 == request.sha256:
        yield FieldViolation("initrd_sha256", "must be another file's than the kernel's")
    if request.delivery and request.format == "initrd":
        yield FieldViolation("delivery", "must be empty for an initial RAM disk: it is its kernel's")
    yield from _only_kernels_have_arguments(request)


def _containers_are_named_by_their_url(request: catalog_pb2.ImportImageRequest) -> Iterator[FieldViolation]:
    if not is_reference(request.url):
        if not request.sha256:
            yield FieldViolation("sha256", "is required")
        return
    for name in ("format", "delivery"):
        if getattr(request, name):
            yield FieldViolation(name, "must be empty for a container image")


def _size_is_whole(request: fleet_pb2.GetCapacityRequest) -> Iterator[FieldViolation]:
    for name, other in (("cpu_num", "memory_size"), ("memory_size", "cpu_num")):
        if getattr(request, other) and not getattr(request, name):
            yield FieldViolation(name, f"is required where {other} is given")


_LAST_SECOND = 253_402_300_799
"""Of the year 9999, the last that a Timestamp may name."""


def _of_a_calendar(time: Timestamp, path: str) -> Iterator[FieldViolation]:
    if not (0 <= time.seconds <= _LAST_SECOND and 0 <= time.nanos < 1_000_000_000):
        yield FieldViolation(path, "must be a time of the years 1970 to 9999")


def _waits_for_or_until(request: Any) -> Iterator[FieldViolation]:
    if request.HasField("wait"):
        wait = request.wait
        if bool(wait.for_ms) == wait.HasField("until"):
            yield FieldViolation("wait", "must have exactly one of for_ms, above 0, and until")
        yield from _of_a_calendar(wait.until, "wait.until")
    yield from _of_a_calendar(request.expected_end, "expected_end")


def _times_are_of_a_calendar(request: project_pb2.ListAuditEventsRequest) -> Iterator[FieldViolation]:
    for name in ("start_time", "end_time"):
        for wrong in _of_a_calendar(getattr(request, name), name):
            yield wrong
            return
    if request.HasField("start_time") and request.HasField("end_time"):
        start, end = ((t.seconds, t.nanos) for t in (request.start_time, request.end_time))
        if start >= end:
            yield FieldViolation("end_time", "must be after start_time")


_MODEL_SERVICE_FIELDS = tuple(
    field.name
    for field in catalog_pb2.UpdateModelServiceRequest.DESCRIPTOR.fields
    if field.name not in ("uuid", "update_mask", "etag", "validate_only")
)

_OF_NODES: Sequence[Rule] = (
    _ranks_are_right,
    _roles_and_counts_are_right,
    gpus_are_right,
    confinement_is_right,
    data_disks_are_right,
)


def _alternatives_are_right(request: deploy_pb2.DeployDistributedModelServiceRequest) -> Iterator[FieldViolation]:
    for number, one in enumerate(request.alternatives):
        for rule in _OF_NODES:
            yield from (replace(wrong, field=f"alternatives[{number}].{wrong.field}") for wrong in rule(one))


_DEPLOY: Sequence[Rule] = (
    _alternatives_are_right,
    _ranks_are_right,
    _roles_and_counts_are_right,
    gpus_are_right,
    confinement_is_right,
    data_disks_are_right,
    cells_agree,
    _waits_for_or_until,
)


def _group_is_right(request: fleet_pb2.PlanRoomRequest) -> Iterator[FieldViolation]:
    for rule in _DEPLOY:
        yield from (replace(wrong, field=f"group.{wrong.field}") for wrong in rule(request.group))
    if request.group.document_ranks:
        yield FieldViolation("group.document_ranks", "must be empty: no documents are made for a plan of moves")


_RULES: Mapping[str, Sequence[Rule]] = {
    "corral.v1.DeployDistributedModelServiceRequest": _DEPLOY,
    "corral.v1.PlanDistributedModelServiceRequest": _DEPLOY,
    "corral.v1.ScaleInstanceGroupRequest": (
        _adds_or_removes,
        _adds_no_initial_node,
        _updates_are_right,
        _roles_and_counts_are_right,
        gpus_are_right,
        confinement_is_right,
        data_disks_are_right,
    ),
    "corral.v1.RolloutInstanceGroupRequest": (_changes_are_right,),
    "corral.v1.UpdateInstanceGroupRequest": (
        _mask_names("name", "description", "user_tags", "system_tags"),
        _named_fields_are_not_empty("name"),
    ),
    "corral.v1.GetCapacityRequest": (_size_is_whole,),
    "corral.v1.PlanRoomRequest": (_group_is_right,),
    "corral.v1.CreateZoneRequest": (_network_fits_together, _machines_find_the_service),
    "corral.v1.AddHostRequest": (
        _ratios_in_range,
        _policies_name_each_resource_once,
        _host_can_be_reached,
        _capacity_can_be_claimed,
        _a_bmc_is_of_a_hypervisor,
    ),
    "corral.v1.UpdateZoneRequest": (
        _mask_names("description", "pools", "isolation", "reachable", "image_copies_budget", "seed_url", "report_url"),
        _named_fields_are_not_empty("pools"),
        _machines_find_the_service,
    ),
    "corral.v1.UpdateClusterRequest": (
        _mask_names("name", "description"),
        _named_fields_are_not_empty("name"),
    ),
    "corral.v1.UpdateHostRequest": (
        _mask_names("name", "description", "rack", "resource_policies", "labels", "cluster_uuid", "bmc"),
        _named_fields_are_not_empty("name"),
        _ratios_in_range,
        _policies_name_each_resource_once,
    ),
    "corral.v1.CreateModelServiceRequest": (_variables_are_lines, _path_begins_with_slash, _weights_have_a_place),
    "corral.v1.UpdateModelServiceRequest": (
        _mask_names(*_MODEL_SERVICE_FIELDS),
        _named_fields_are_not_empty("name", "image_uuid"),
        _variables_are_lines,
        _path_begins_with_slash,
        _weights_have_a_place,
    ),
    "corral.v1.RegisterImageRequest": (_only_kernels_have_an_initrd,),
    "corral.v1.UploadImageRequest": (_only_uploaded_kernels_have_an_initrd,),
    "corral.v1.ImportImageRequest": (_only_uploaded_kernels_have_an_initrd, _containers_are_named_by_their_url),
    "corral.v1.ListAuditEventsRequest": (_times_are_of_a_calendar,),
}
