"""Every error that a use case may raise, in domain terms; each protocol has one table that translates them.

CorralError
├── InvalidArgument          one or more fields are missing or wrong
│   └── RequestIdReused      a request id came back with another body
├── NotFound                 no such resource, or none that the caller may see
├── AlreadyExists            the uuid belongs to another resource
├── NoCapacity               the gang does not fit now, but would on an empty fleet
│   └── NoAddresses          a zone's pools have too few addresses left
├── Unsatisfiable            the gang can never fit on this fleet
├── QuotaExceeded            the tenant's quota would be exceeded
├── WrongState               the resource's state forbids the call
├── Conflict                 an etag mismatch, or a claim lost after every retry
├── Undecided                a search had no answer in its time: neither yes nor no
├── Unavailable              a dependency is down, or the service drains
├── Overloaded               too much at once
│   └── RateLimited          the tenant calls too often
├── RevisionUnavailable      a watch revision that is compacted or in the future
├── Unauthenticated          no credentials, or bad ones
│   └── LoginFailed          a wrong account name or password
├── PermissionDenied         the caller's role does not allow the method
├── DeployFailed             an accepted group came to an end other than Running
└── InvariantViolation       a bug: a check inside a transaction failed
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from placement.model import Explanation


class CorralError(Exception):
    """Base of all domain errors. `reason` is a stable UPPER_SNAKE_CASE word for machines."""

    reason = "INTERNAL"
    cause = ""
    """What a host itself said behind the message, without secrets, for those who are told (`Caller`)."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong field: its path as the caller wrote it (`model_services[2].memory_size`) and what is allowed."""

    field: str
    description: str


class InvalidArgument(CorralError):
    """One or more request fields are missing, malformed or out of range."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations))

    @classmethod
    def of(cls, field: str, description: str) -> InvalidArgument:
        """The error for a single field."""
        return cls([FieldViolation(field, description)])


class RequestIdReused(InvalidArgument):
    """The request id was used before with a different body; nothing was done."""

    reason = "REQUEST_ID_REUSED"

    def __init__(self, request_id: str) -> None:
        super().__init__([FieldViolation("request_id", f"{request_id} was used before with another request")])


class NotFound(CorralError):
    """The resource does not exist, or is not visible to the caller."""

    reason = "NOT_FOUND"

    def __init__(self, resource_type: str, resource_name: str, field: str = "") -> None:
        where = f"{field}: " if field else ""
        super().__init__(f"{where}no {resource_type} {resource_name}")
        self.resource_type = resource_type
        self.resource_name = resource_name
        self.field = field


class AlreadyExists(CorralError):
    """The uuid is taken by a resource that another request made."""

    reason = "ALREADY_EXISTS"

    def __init__(self, resource_type: str, resource_name: str) -> None:
        super().__init__(f"{resource_type} {resource_name} exists already")
        self.resource_type = resource_type
        self.resource_name = resource_name


class PlacementError(CorralError):
    """The gang could not be placed. `explanation` says why and what would make it fit."""

    def __init__(self, message: str, explanation: Explanation | None) -> None:
        super().__init__(message)
        self.explanation = explanation


class NoCapacity(PlacementError):
    """The gang does not fit now; it would fit if enough were free."""

    reason = "NO_CAPACITY"


class NoAddresses(NoCapacity):
    """Too few addresses are left in a zone's pools, or in those of all zones together (names with commas).

    `pool`: "first-last" of each, with commas. `asked`: how many more are needed; `free`: how many there are.
    """

    reason = "NO_ADDRESSES"

    def __init__(self, zone: str, pool: str, asked: int, free: int) -> None:
        super().__init__(f"zone {zone} has {free} free addresses in {pool}, and {asked} are needed", None)
        self.zone = zone
        self.pool = pool
        self.asked = asked
        self.free = free


class Unsatisfiable(PlacementError):
    """The gang cannot fit on this fleet even when every host is empty."""

    reason = "UNSATISFIABLE"


def _in_gib(amount: int) -> str:
    return f"{round(amount / (1 << 30), 2):g} GiB"


class QuotaExceeded(CorralError):
    """A tenant's quota would be exceeded. Amounts are in the resource's unit (vCPUs, bytes, count); `requested` is the
    sum of what is `held` already, None where that is not known, and what is asked for."""

    reason = "QUOTA_EXCEEDED"

    def __init__(self, subject: str, resource: str, limit: int, requested: int, held: int | None = None) -> None:
        of = _in_gib if resource == "memory" else str
        needs = f"the request needs {of(requested)}"
        if held is not None:
            needs = f"{of(held)} held and {of(requested - held)} asked for are {of(requested)}"
        super().__init__(f"quota of {subject} for {resource} is {of(limit)}, {needs}")
        self.held = held
        self.subject = subject
        self.resource = resource
        self.limit = limit
        self.requested = requested


class WrongState(CorralError):
    """The resource's present state forbids the call. `needs`: what it needs, in words; `states`: the same as states,
    where states are what it needs."""

    reason = "WRONG_STATE"

    def __init__(self, subject: str, state: str, needs: str, states: Collection[str] = ()) -> None:
        super().__init__(f"{subject} is {state}; the call needs {needs}")
        self.subject = subject
        self.state = state
        self.needs = needs
        self.states = tuple(sorted(states))

    @property
    def allowed(self) -> str:
        """The states as a list with commas; the words where it is not by states."""
        return ",".join(self.states) or self.needs


class Conflict(CorralError):
    """Somebody else changed the resource first. Read again and retry after `retry_after_ms`."""

    reason = "CONFLICT"

    def __init__(self, message: str, retry_after_ms: int = 100) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class Undecided(CorralError):
    """A search ended without an answer in the time that it had: neither yes nor no. Retry after `retry_after_ms`."""

    reason = "UNDECIDED"

    def __init__(self, message: str, retry_after_ms: int = 1000) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class Unavailable(CorralError):
    """A hypervisor, machine or database cannot be reached, or the service drains. Retry after `retry_after_ms`."""

    reason = "UNAVAILABLE"

    def __init__(self, message: str, retry_after_ms: int = 1000) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class Overloaded(CorralError):
    """Too many requests, streams or bytes at once. Retry after `retry_after_ms`."""

    reason = "OVERLOADED"

    def __init__(self, message: str, retry_after_ms: int = 1000) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class RateLimited(Overloaded):
    """The callers of a project call more often than they may. `burst`: calls that may come at once after a pause."""

    reason = "RATE_LIMITED"

    def __init__(self, project: str, calls_per_second: float, burst: int, retry_after_ms: int) -> None:
        super().__init__(f"project {project} may call {calls_per_second:g} times a second", retry_after_ms)
        self.project = project
        self.calls_per_second = calls_per_second
        self.burst = burst


class RevisionUnavailable(CorralError):
    """A watch asked for a revision outside [oldest, current]."""

    reason = "REVISION_UNAVAILABLE"

    def __init__(self, revision: int, oldest: int, current: int) -> None:
        super().__init__(f"revision {revision} is not available; the oldest is {oldest}, the current is {current}")
        self.revision = revision
        self.oldest = oldest
        self.current = current


class Unauthenticated(CorralError):
    """The call carries no credentials, or credentials that are not valid."""

    reason = "UNAUTHENTICATED"


class LoginFailed(Unauthenticated):
    """The account name or its password is wrong; which of the two is not told."""

    reason = "LOGIN_FAILED"


class PermissionDenied(CorralError):
    """The caller is known, and its role does not allow the method."""

    reason = "PERMISSION_DENIED"


class DeployFailed(CorralError):
    """An accepted group did not become Running. `group_reason` is the group's stored reason, safe for callers. `cause`:
    what a host itself said, set where the caller is one who is told."""

    reason = "DEPLOY_FAILED"

    def __init__(self, group_uuid: str, group_reason: str) -> None:
        super().__init__(f"instance group {group_uuid}: {group_reason}")
        self.group_uuid = group_uuid
        self.group_reason = group_reason
        self.cause = ""


class InvariantViolation(CorralError):
    """A consistency check inside a transaction failed; the transaction is rolled back and the group is frozen."""

    reason = "INVARIANT_VIOLATION"
