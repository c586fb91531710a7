"""What a caller may see of a group, and how a stored failure and a version are told."""

from __future__ import annotations

from dataclasses import replace

from service.domain.groups import Failure, Group, GroupPhase, PlacementPolicy
from service.domain.tenants import Caller
from service.errors import Conflict, CorralError, DeployFailed, NoCapacity, NotFound, QuotaExceeded, Unsatisfiable
from service.store import audit, groups
from service.store.connection import Connection


def project_of(caller: Caller) -> str | None:
    """The tenant whose groups the caller sees; None: all of them."""
    return None if caller.role == "admin" else caller.project


def visible(caller: Caller, group: Group) -> Group:
    """The group, or NotFound where it is deleted or another tenant's: the two cannot be told apart."""
    if group.phase is GroupPhase.DELETED or project_of(caller) not in (None, group.project):
        raise NotFound("instance group", group.uuid)
    return group


def permitted(connection: Connection, caller: Caller, policy: PlacementPolicy) -> PlacementPolicy:
    """The policy as far as it speaks of groups that the caller may see.

    Near to another tenant's group would tell on which hosts it runs; apart from it would keep it off hosts. The first
    is NotFound, the second has no effect, both as for a uuid that no group has. Raises NotFound, naming the field.
    """
    for position, uuid in enumerate(policy.affinity_groups):
        try:
            visible(caller, groups.load(connection, uuid))
        except NotFound as error:
            field = f"placement_policy.affinity_group_uuids[{position}]"
            raise NotFound("instance group", uuid, field) from error
    project = project_of(caller)
    named = groups.load_many(connection, policy.anti_affinity_groups)
    foreign = {group.uuid for group in named if project not in (None, group.project)}
    apart = tuple(uuid for uuid in policy.anti_affinity_groups if uuid not in foreign)
    return replace(policy, anti_affinity_groups=apart)


def etag_of(group: Group) -> str:
    """A value that changes whenever the group does."""
    return f"{group.uuid[:8]}-{group.version}"


def require_etag(group: Group, etag: str) -> None:
    """Raises Conflict where the caller names an etag that the group has no more."""
    if etag and etag != etag_of(group):
        raise Conflict(f"instance group {group.uuid} has changed since its etag was read")


def audited(connection: Connection, caller: Caller, method: str, subject: str, request_id: str, now: int) -> None:
    """Leave a row about a change in its own transaction."""
    audit.record(
        connection,
        principal=caller.principal,
        project=caller.project,
        method=method,
        subject=subject,
        request_id=request_id,
        now=now,
    )


def error_of(failure: Failure, group_uuid: str) -> CorralError:
    """The error that a caller gets for a stored failure."""
    if failure.code == Unsatisfiable.reason:
        return Unsatisfiable(failure.message, failure.explanation)
    if failure.code == NoCapacity.reason:
        return NoCapacity(failure.message, failure.explanation)
    if failure.quota is not None:
        return QuotaExceeded(
            failure.quota.subject, failure.quota.resource, failure.quota.limit, failure.quota.requested
        )
    return DeployFailed(group_uuid, failure.message)
