"""Whose groups may be ended so that a more important one fits, after what notice, and what becomes of them. Pure.

What comes back by itself is what its caller has said may wait: a batch queue's requeue. Whoever did not say so expects
an answer and no queue; such a group is stopped, without its seats, and starts again by its caller's word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from service.domain.groups import Group, GroupPhase, InstanceStatus, MoveStage
from service.domain.leaving import EvictedTo
from service.errors import InvalidArgument

LEAST_RUN_MS = 600_000
DELAY_MS = 60_000
EVERY_PROJECT = "*"


class Victims(StrEnum):
    """What becomes of a project's groups that are evicted."""

    WAIT = "wait"  # again, those that were deployed so; the others stop
    STOP = "stop"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class PriorityPolicy:
    """A project's. `most`: the highest priority that it may use; `preempts`: projects whose groups of a lower priority
    make room for its own (`*`: all), none by default; `preemptible`: whether others' do so at its cost. Of its groups
    that are evicted: `least_run_ms`, how long they have run at least; `delay_ms`, between the notice and the end."""

    most: int = 0
    preempts: tuple[str, ...] = ()
    preemptible: bool = True
    least_run_ms: int = LEAST_RUN_MS
    delay_ms: int = DELAY_MS
    victims: Victims = Victims.WAIT


Policies = Mapping[str, PriorityPolicy]
"""By project, of "" all that are not named."""


def policy_of(policies: Policies, project: str) -> PriorityPolicy:
    """The project's own, or that of all that have none."""
    return policies.get(project) or policies.get("") or PriorityPolicy()


def require_evictor(policies: Policies, project: str) -> None:
    """Raises InvalidArgument where no group makes room for the project's at its own end."""
    if not policy_of(policies, project).preempts:
        told = f"evicts for nobody of project {project}: [[priorities]] preempts of it names no project"
        raise InvalidArgument.of("make_room", told)


def may_evict(policies: Policies, group: Group, victim: Group, now: int) -> bool:
    """Whether the victim may be told to end so that the group fits: of a lower priority, by the policies of both
    projects, running for long enough, with all of its members at rest where they are."""
    preempts, theirs = policy_of(policies, group.project).preempts, policy_of(policies, victim.project)
    allowed = victim.project in preempts or EVERY_PROJECT in preempts
    if not allowed or not theirs.preemptible or victim.priority >= group.priority or victim.uuid == group.uuid:
        return False
    runs = victim.phase is GroupPhase.RUNNING and not victim.updating and victim.eviction is None
    return (
        runs
        and now - victim.running_since >= theirs.least_run_ms
        and all(
            m.status is InstanceStatus.RUNNING
            and m.move is MoveStage.NONE
            and not (m.room or m.unknown_since or m.leaving)
            for m in victim.instances
        )
    )


def becomes(policies: Policies, victim: Group, at: int) -> EvictedTo:
    """What becomes of the victim that ends at `at` (ms). Who may wait until a time that has passed then is stopped."""
    wish = policy_of(policies, victim.project).victims
    if wish is Victims.DELETE:
        return EvictedTo.DELETED
    may_wait = victim.may_wait is not None and not (0 < victim.may_wait.until <= at)
    return EvictedTo.WAITING if may_wait and wish is not Victims.STOP else EvictedTo.STOPPED
