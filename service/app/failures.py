"""A group's stored failure as the error that its caller gets."""

from __future__ import annotations

from service.domain.groups import Failure
from service.errors import CorralError, DeployFailed, NoAddresses, NoCapacity, QuotaExceeded, Undecided, Unsatisfiable


def error_of(failure: Failure, group_uuid: str) -> CorralError:
    """The error that a caller gets for a stored failure."""
    if failure.code == Unsatisfiable.reason:
        return Unsatisfiable(failure.message, failure.explanation)
    if failure.code == NoCapacity.reason:
        return NoCapacity(failure.message, failure.explanation)
    if failure.code == Undecided.reason:
        return Undecided(failure.message)
    if failure.addresses is not None:
        short = failure.addresses
        return NoAddresses(short.zone, short.pool, short.asked, short.free)
    if failure.quota is not None:
        passed = failure.quota
        return QuotaExceeded(passed.subject, passed.resource, passed.limit, passed.requested, passed.held)
    return DeployFailed(group_uuid, failure.message)
