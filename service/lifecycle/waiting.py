"""A group that waits for hosts: it does not fit now, and its caller has said for how long it may wait. Pure.

It waits in its planning. Its own deadline does not run meanwhile: its deploy begins once it has hosts.
"""

from __future__ import annotations

from dataclasses import replace

from service.domain.groups import Failure, Group, GroupPhase
from service.domain.shapes import as_shape
from service.errors import NoAddresses, NoCapacity, QuotaExceeded, Undecided
from service.lifecycle.facts import NotPlaced, ShapeChosen
from service.lifecycle.members import S
from service.lifecycle.room import rests

WAITABLE = frozenset({NoAddresses.reason, NoCapacity.reason, QuotaExceeded.reason, Undecided.reason})
"""Reasons that may not hold any more when others have gone. What could not fit if all hosts were empty is refused."""
WAITS = "waits: "
"""How the reason of a group that waits begins."""
NOT_LOOKED = "it waited for its turn among others, and whether it fits was not decided"


def may_wait(group: Group, failure: Failure, now: int) -> bool:
    """Whether the group, for whose members there are no hosts, goes on waiting for some."""
    return group.waiting is not None and not group.served and failure.code in WAITABLE and now < group.waiting.until


def waits(group: Group) -> bool:
    """Whether the group waits for hosts, was seen not to fit, and has nothing else to be done."""
    return (
        group.phase is GroupPhase.PLANNING
        and group.waiting is not None
        and group.waiting.since > 0
        and (group.room is None or group.room.plan is None)
        and all(m.status is S.PENDING for m in group.instances)
    )


def waits_on(group: Group, fact: NotPlaced, now: int) -> Group:
    """The group after a look that found no hosts for it."""
    assert group.waiting is not None
    waiting = replace(
        group.waiting,
        since=group.waiting.since or now,
        looked=fact.looked,
        looked_at=now,
        position=fact.position,
        starts_at=fact.starts_at,
        promised_at=group.waiting.promised_at or fact.starts_at,
        kept=fact.kept,
        failure=fact.failure,
    )
    # Who may move for it may have come, or have stopped refusing, by a later look.
    wish = rests(group.room, now) if group.room is not None else None
    return replace(group, waiting=waiting, room=wish, reason=f"{WAITS}{fact.failure.message}", deadline_at=0)


def shape_chosen(group: Group, fact: ShapeChosen, now: int) -> Group:
    """A group that has no seats yet becomes another one of the gangs that its deploy named."""
    choice = group.shapes
    if group.phase is not GroupPhase.PLANNING or choice is None or fact.number >= len(choice.all):
        return group
    if group.starts or any(m.status is not S.PENDING for m in group.instances):
        return group
    return as_shape(group, fact.number, fact.passed_over)


def why_over(group: Group, now: int) -> Failure | None:
    """What is told of a group that waited in vain for as long as it may: why it did not fit when that was last looked
    at; None while it may wait."""
    waiting = group.waiting
    if waiting is None or not waits(group) or now < waiting.until:
        return None
    if waiting.failure is None:
        return Failure(Undecided.reason, NOT_LOOKED)
    seconds = max(0, waiting.until - waiting.since) / 1000
    return replace(waiting.failure, message=f"{waiting.failure.message}; it waited for {seconds:.0f} s")


def settled_waiting(group: Group, now: int) -> Group:
    """Who has hosts, or is over, waits no more; the deadline of its deploy counts from there."""
    if group.waiting is None or group.phase is GroupPhase.PLANNING:
        return group
    begins = group.phase is GroupPhase.CREATING and group.waiting.since > 0 and group.spec.deadline_ms > 0
    return replace(
        group,
        waiting=None,
        reason="" if group.reason.startswith(WAITS) else group.reason,
        deadline_at=now + group.spec.deadline_ms if begins else group.deadline_at,
    )
