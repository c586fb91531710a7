"""One member's life: the whole transition table, and what entering, retiring and vacating a seat mean. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from operator import is_
from typing import Any, Protocol

from service.domain.groups import Group, GroupPhase, Instance, InstanceStatus, MoveStage
from service.domain.network import is_planned
from service.domain.specs import FailurePolicy
from service.lifecycle.facts import Observation

S = InstanceStatus

PAUSE_FIRST_MS = 1_000
PAUSE_MOST_MS = 60_000
PAUSES_FORGOTTEN_MS = 600_000
"""A member that has run for this long since it was paused has its count of pauses back at 0."""

MEMBER: Mapping[tuple[InstanceStatus, Observation], InstanceStatus] = {
    (S.CLAIMED, Observation.DISPATCHED): S.CREATING,
    (S.CREATING, Observation.NOT_SENT): S.CLAIMED,
    (S.CREATING, Observation.PAUSED): S.CREATED,
    (S.CREATING, Observation.EXECUTING): S.CREATED,  # somebody else let it run; it waits for GO like the others
    (S.CREATING, Observation.READY): S.CREATED,
    (S.CREATING, Observation.HALTED): S.FAILING,
    (S.CREATING, Observation.REJECTED): S.FAILING,
    (S.CREATED, Observation.EXECUTING): S.BOOTING,
    (S.CREATED, Observation.READY): S.RUNNING,
    (S.CREATED, Observation.HALTED): S.FAILING,
    (S.CREATED, Observation.GONE): S.FAILING,
    (S.CREATED, Observation.REJECTED): S.FAILING,
    (S.CREATING, Observation.BURNT): S.FAILING,
    (S.CREATED, Observation.BURNT): S.FAILING,
    (S.CREATING, Observation.EXPIRED): S.FAILING,
    (S.CREATED, Observation.EXPIRED): S.FAILING,
    (S.BOOTING, Observation.PAUSED): S.CREATED,
    (S.BOOTING, Observation.RELAPSED): S.CREATED,
    (S.BOOTING, Observation.READY): S.RUNNING,
    (S.BOOTING, Observation.HALTED): S.FAILING,
    (S.BOOTING, Observation.GIVEN_UP): S.FAILING,
    (S.BOOTING, Observation.GONE): S.FAILING,
    (S.BOOTING, Observation.EXPIRED): S.FAILING,
    (S.RUNNING, Observation.UNREADY): S.BOOTING,
    (S.RUNNING, Observation.PAUSED): S.CREATED,
    (S.RUNNING, Observation.RELAPSED): S.CREATED,
    (S.RUNNING, Observation.GIVEN_UP): S.FAILING,
    (S.RUNNING, Observation.HALTED): S.FAILING,
    (S.RUNNING, Observation.GONE): S.FAILING,
    (S.STOPPING, Observation.HALTED): S.STOPPED,
    (S.STOPPING, Observation.GONE): S.STOPPED,
    (S.STOPPED, Observation.EXECUTING): S.STOPPING,
    (S.STOPPED, Observation.READY): S.STOPPING,
    (S.REMOVING, Observation.GONE): S.REMOVED,
}

PLACED = frozenset(S) - {S.PENDING, S.REMOVED}
UP = frozenset({S.CREATED, S.BOOTING, S.RUNNING})
LAUNCHING = frozenset({GroupPhase.PLANNING, GroupPhase.CREATING, GroupPhase.BOOTING, GroupPhase.RUNNING})
FINAL = frozenset({GroupPhase.FAILED, GroupPhase.DELETED})
AT_REST = frozenset({GroupPhase.RUNNING, GroupPhase.STOPPED}) | FINAL


class Told(Protocol):
    """Whoever was told of a start of its group, or counts as one that was."""

    @property
    def told_epoch(self) -> int:
        """Of the newest start that it knows."""


def each(group: Group, change: Callable[[Instance], Instance]) -> Group:
    """The group with every member changed; the very same one where `change` gave each member back as it was."""
    members = tuple(map(change, group.instances))
    return group if all(map(is_, members, group.instances)) else replace(group, instances=members)


def alone(group: Group, uuid: str, change: Callable[[Instance], Instance]) -> Group:
    """The group with one member changed, where it has that one: as `each`, without a look at the others."""
    for place, member in enumerate(group.instances):
        if member.uuid == uuid:
            after = change(member)
            members = (*group.instances[:place], after, *group.instances[place + 1 :])
            return group if after is member else replace(group, instances=members)
    return group


def altered(member: Instance, **values: Any) -> Instance:
    """The member with these values; the very same one where it has them. A copy of so many fields takes a while."""
    return replace(member, **values) if any(getattr(member, n) != value for n, value in values.items()) else member


def enter(member: Instance, status: InstanceStatus, reason: str, now: int) -> Instance:
    """The member as it begins a status; the boot's deadline starts here."""
    boots = status is S.BOOTING
    return replace(
        member,
        status=status,
        reason=reason,
        # For a member that was paused in the middle of its boot the time goes on.
        deadline_at=(member.deadline_at or now + member.boot_timeout_ms) if boots else 0,
        was_resumed=member.was_resumed or status in (S.BOOTING, S.RUNNING),
        stop_asked=False,
        staging=None,
        joining=member.joining and status is not S.RUNNING,
    )


def unheard(member: Instance) -> Instance:
    """The member without what its guest has said: a new run of the machine has said nothing yet."""
    return replace(member, told_epoch=0, engine_restarts=0, silent_since=0, guest_boot="", holds=None, staging=None)


def outdated(group: Group, member: Told) -> bool:
    """Whether the member does not know the group's present start, or is not known to."""
    return group.go and group.spec.tells and member.told_epoch < group.start_epoch


def interrupted(member: Instance, entered: Instance, reason: str, now: int) -> Instance:
    """A member whose hypervisor paused it as it executed. `entered`: the same member, waiting to be let run again.

    It has its boot's time to become ready: what is left of it, or all of it where it was ready before.
    """
    again = now < member.paused_at + PAUSES_FORGOTTEN_MS
    pauses = member.pauses + 1 if again else 1
    times = f" ({pauses} times)" if pauses > 1 else ""
    return replace(
        entered,
        pauses=pauses,
        paused_at=now,
        deadline_at=member.deadline_at or now + member.boot_timeout_ms,
        reason=f"its hypervisor paused it{times}: {reason or 'it does not say why'}",
    )


def runs_from(member: Instance) -> int:
    """When (ms) a member that was paused is let run again: at once the first time, then after a growing pause."""
    if member.pauses < 2:
        return member.paused_at
    return member.paused_at + min(PAUSE_FIRST_MS << (min(member.pauses, 32) - 2), PAUSE_MOST_MS)


def never_sent(member: Instance) -> bool:
    """Whether nothing was ever sent for this attempt. One that starts again in its seat has a halted machine there."""
    return member.status is S.PENDING or (member.status is S.CLAIMED and not member.restarts)


def retire(member: Instance, now: int) -> Instance:
    """On the way out. A member that nothing was ever sent for is out at once; one that served is asked first."""
    if never_sent(member) or member.status is S.REMOVED:
        return replace(member, status=S.REMOVED, unknown_since=0, deadline_at=0, room="")
    if member.status is S.REMOVING:
        return member
    return _asked(replace(unwished(member), status=S.REMOVING, room="", staging=None), member.status is S.RUNNING, now)


def power_down(member: Instance, now: int) -> Instance:
    """On the way to STOPPED; what has no machine yet stays as it is."""
    if member.status not in (*UP, S.CREATING):
        return member
    if member.move is not MoveStage.NONE and not member.room:
        return evict(member, now)  # it leaves its host all the same
    return _asked(replace(unwished(member), status=S.STOPPING, staging=None), member.status is S.RUNNING, now)


def evict(member: Instance, now: int, reason: str = "") -> Instance:
    """On the way to another host: stopped, removed and seen gone before it may be anywhere else."""
    if member.status is S.CLAIMED and never_sent(member):
        return vacate(member, keep_claim=False)
    if member.status not in PLACED - {S.REMOVING, S.EVICTING}:
        return member
    leaving = replace(member, status=S.EVICTING, reason="its host is being emptied", staging=None)
    leaving = replace(unwished(leaving), reason=reason or leaving.reason)
    return _asked(leaving, member.status is S.RUNNING, now)


def unwished(member: Instance) -> Instance:
    """The member without a wish to be moved live. A move that has a target stays: what is seen there must settle it."""
    return replace(member, move=MoveStage.NONE, room="") if member.move is MoveStage.WANTED else member


def unmoved(member: Instance) -> Instance:
    """The member without any live move."""
    return replace(
        member, move=MoveStage.NONE, target_host_uuid="", target_host_name="", target_cells=(), move_deadline_at=0
    )


def at_target(member: Instance) -> Instance:
    """The member in the seat that its live move had for it."""
    return replace(
        unmoved(member),
        host_uuid=member.target_host_uuid,
        host_name=member.target_host_name,
        cells=member.target_cells,
    )


def fence(member: Instance) -> Instance:
    """Its host is off for certain: it is placed anew, or out where it was on its way out.

    The claim of what was sent there stands until the sweep has seen the host without it. A member that was being moved
    live may have arrived: it has to be seen gone from its target as well.
    """
    if member.target_host_uuid:
        there = replace(at_target(member), unknown_since=0, room="")
        if member.status is S.REMOVING:
            return there
        return replace(there, status=S.EVICTING, reason="its host was powered off", stop_asked=True, deadline_at=0)
    if member.status is S.REMOVING:
        return replace(member, status=S.REMOVED, unknown_since=0, deadline_at=0)
    if member.status not in PLACED:
        return member
    return replace(vacate(member, keep_claim=False), reason="its host was powered off")


def _asked(member: Instance, serves: bool, now: int) -> Instance:
    asks = serves and member.stop_grace_ms > 0
    return replace(member, stop_asked=not asks, deadline_at=now + member.stop_grace_ms if asks else 0)


def gives_up(group: Group, member: Instance) -> bool:
    """Whether the member's attempt is over once its machine is gone, and the next one is placed anew."""
    failed = member.status is S.FAILING and group.spec.failure_policy is not FailurePolicy.RESTART_MEMBER
    return failed or member.status is S.EVICTING


def vacate(member: Instance, *, keep_claim: bool) -> Instance:
    """A member starts over: in its seat, or placed anew with the next attempt.

    The claim of the old attempt is not released here: the store does it where the machine was seen gone, the sweep
    where the member was left behind on a silent host. A planned address is the member's, whatever happens to attempts.
    """
    member = unheard(member)
    if keep_claim:
        return replace(
            member,
            status=S.CLAIMED,
            restarts=member.restarts + 1,
            was_resumed=False,
            stop_asked=False,
            pauses=0,
            paused_at=0,
        )
    keeps = is_planned(member.address, member.mac, member.uuid)
    return replace(
        unmoved(member),
        status=S.PENDING,
        attempt=member.attempt + 1,
        restarts=0,
        host_uuid="",
        host_name="",
        cells=(),
        devices=(),
        machine_uuid="",
        address=member.address if keeps else "",
        mac=member.mac if keeps else "",
        was_resumed=False,
        stop_asked=False,
        unknown_since=0,
        deadline_at=0,
        pauses=0,
        paused_at=0,
    )


def left_burnt(member: Instance) -> Instance | None:
    """What is left behind where a host cannot remove it: it never executed, so it can do no harm there.

    Its claim stands until the sweep sees the host without it, which may take an operator.
    """
    if member.status in (S.FAILING, S.EVICTING):
        return vacate(member, keep_claim=False)
    if member.status is S.REMOVING:
        return replace(member, status=S.REMOVED, unknown_since=0, deadline_at=0)
    return None
