"""What a caller may see of a group, and how a stored failure and a version are told."""

from __future__ import annotations

from service.errors import Conflict, CorralError, DeployFailed, NoCapacity, NotFound, Unsatisfiable
from service.model import Caller, Failure, Group, GroupPhase


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


def error_of(failure: Failure, group_uuid: str) -> CorralError:
    """The error that a caller gets for a stored failure."""
    if failure.code == Unsatisfiable.reason:
        return Unsatisfiable(failure.message, failure.explanation)
    if failure.code == NoCapacity.reason:
        return NoCapacity(failure.message, failure.explanation)
    return DeployFailed(group_uuid, failure.message)
