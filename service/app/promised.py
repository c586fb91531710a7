"""What a new group may count on: its project's quota beside what others of it were promised, and how long it waits."""

from __future__ import annotations

from collections.abc import Mapping

from service.domain.groups import Group, InstanceStatus, Waiting
from service.domain.preemption import Policies, policy_of
from service.domain.specs import MayWait
from service.errors import InvalidArgument, QuotaExceeded
from service.planning import translate
from service.store import claims, groups, quotas
from service.store.connection import Connection


def may_wait(wait: MayWait | None, now: int) -> Waiting | None:
    """How long a new group may wait. Raises InvalidArgument for a time that has passed."""
    if wait is None:
        return None
    if wait.until and wait.until <= now:
        raise InvalidArgument.of("wait.until", "must be in the future")
    return Waiting(until=wait.until or now + wait.for_ms, length=wait.for_ms)


def ends(ends_at: int, now: int) -> int:
    """By when it is said to be gone. Raises InvalidArgument for a time that has passed."""
    if ends_at and ends_at <= now:
        raise InvalidArgument.of("expected_end", "must be in the future")
    return ends_at


def priority(asked: int, project: str, policies: Policies) -> int:
    """How important the group is. `policies`: say how high each project may go.

    Raises InvalidArgument for more than that.
    """
    limit = policy_of(policies, project).most
    if asked > limit:
        raise InvalidArgument.of("priority", f"must be at most {limit}, the highest that project {project} may use")
    return asked


def check_quota(connection: Connection, group: Group) -> None:
    """Raises QuotaExceeded; of a group that may wait only where it would be more than its project may ever have."""
    try:
        if limits := quotas.lock(connection, group.project):
            quotas.compare(connection, group.project, limits, promised(connection, group))
    except QuotaExceeded as error:
        own = translate.total(translate.demand(m.spec) for m in group.instances)
        if group.waiting is None or own.get(error.resource, 0) > error.limit:
            raise


def promised(connection: Connection, group: Group) -> Mapping[str, int]:
    """What the group asks for, and with it what members of its project ask for that still wait for their claims; of the
    group's resources alone. What does not fit now, and waits, takes nothing from others."""
    wanted = translate.total(translate.demand(m.spec) for m in group.instances)
    waiting = translate.total(
        translate.wish(m.spec)
        for other in groups.without_seats(connection, group.project)
        if other.waiting is None or not other.waiting.since
        for held in ({instance for instance, _ in claims.seats_of(connection, other.uuid)},)
        for m in other.instances
        if m.status is InstanceStatus.PENDING and m.uuid not in held
    )
    return {name: amount + waiting.get(name, 0) for name, amount in wanted.items()}
