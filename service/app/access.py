"""What a caller may see of a group, and how a stored failure and a version are told."""

from __future__ import annotations

from service.errors import Conflict, CorralError, DeployFailed, NoCapacity, NotFound, QuotaExceeded, Unsatisfiable
from service.model import Caller, Failure, Group, GroupPhase
from service.store import audit
from service.store.connection import Connection


def project_of(caller: Caller) -> str | None:
    """The tenant whose groups the caller sees; None: all of them."""
    return None if caller.role == "admin" else caller.project


def visible(caller: Caller, group: Group) -> Group:
    """The group, or NotFound where it is deleted or another tenant's: the two can not be told apart."""
    if group.phase is GroupPhase.DELETED or project_of(caller) not in (None, group.project):
        raise NotFound("instance group", group.uuid)
    return group


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
