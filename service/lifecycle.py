"""The life of a group as a pure function: `advance(group, fact, now) -> group`.

Facts go in, and what has to be done is read off the result (`effects`); nothing here awaits, reads a clock or knows a
driver.

* `MEMBER` is the whole transition table of a member; a pair that is not in it changes nothing.
* `_SETTLE` moves the group when its members allow it. GO is the commit in which every member is known to be created.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from service.facts import (
    DeleteRequested,
    Fact,
    HostAnswers,
    HostSilent,
    NotPlaced,
    Observation,
    Observed,
    Placed,
    StopAsked,
    Ticked,
)
from service.model import Failure, FailurePolicy, Group, GroupPhase, GroupStatus, Instance, InstanceStatus

S = InstanceStatus
Seen = Observation

MEMBER: Mapping[tuple[InstanceStatus, Observation], InstanceStatus] = {
    (S.CLAIMED, Seen.DISPATCHED): S.CREATING,
    (S.CREATING, Seen.NOT_SENT): S.CLAIMED,
    (S.CREATING, Seen.PAUSED): S.CREATED,
    (S.CREATING, Seen.HALTED): S.FAILING,
    (S.CREATING, Seen.REJECTED): S.FAILING,
    (S.CREATED, Seen.EXECUTING): S.BOOTING,
    (S.CREATED, Seen.READY): S.RUNNING,
    (S.CREATED, Seen.HALTED): S.FAILING,
    (S.CREATED, Seen.GONE): S.FAILING,
    (S.CREATED, Seen.REJECTED): S.FAILING,
    (S.CREATING, Seen.EXPIRED): S.FAILING,
    (S.CREATED, Seen.EXPIRED): S.FAILING,
    (S.BOOTING, Seen.PAUSED): S.CREATED,
    (S.BOOTING, Seen.READY): S.RUNNING,
    (S.BOOTING, Seen.HALTED): S.FAILING,
    (S.BOOTING, Seen.GONE): S.FAILING,
    (S.BOOTING, Seen.EXPIRED): S.FAILING,
    (S.RUNNING, Seen.PAUSED): S.CREATED,
    (S.RUNNING, Seen.HALTED): S.FAILING,
    (S.RUNNING, Seen.GONE): S.FAILING,
    (S.STOPPING, Seen.HALTED): S.STOPPED,
    (S.STOPPING, Seen.GONE): S.STOPPED,
    (S.STOPPED, Seen.EXECUTING): S.STOPPING,
    (S.STOPPED, Seen.READY): S.STOPPING,
    (S.REMOVING, Seen.GONE): S.REMOVED,
}

PLACED = frozenset(S) - {S.PENDING, S.REMOVED}
UP = frozenset({S.CREATED, S.BOOTING, S.RUNNING})
LAUNCHING = frozenset({GroupPhase.PLANNING, GroupPhase.CREATING, GroupPhase.BOOTING, GroupPhase.RUNNING})
FINAL = frozenset({GroupPhase.FAILED, GroupPhase.DELETED})
AT_REST = frozenset({GroupPhase.RUNNING, GroupPhase.STOPPED}) | FINAL

CREATE_PATIENCE_MS = 15_000


def advance(group: Group, fact: Fact, now: int) -> Group:
    """The group after `fact` at `now` (ms since the epoch). A final group and an irrelevant fact change nothing."""
    if group.phase in FINAL:
        return group
    changed = _APPLY[type(fact)](group, fact, now)
    return settle(changed, now)


def released(before: Group, fact: Fact, after: Group) -> tuple[tuple[str, int], ...]:
    """The (instance, attempt) whose claims this step ends: seen gone, or never sent anything.

    A member that was left behind on a silent host is not among them: its old claim stands until the sweep sees the
    machine absent (RELIABILITY I2).
    """
    gone = []
    for old, new in zip(before.instances, after.instances, strict=True):
        if old.attempt == new.attempt and (old.status is S.REMOVED or new.status is not S.REMOVED):
            continue
        seen_gone = isinstance(fact, Observed) and fact.observation is Seen.GONE and fact.instance_uuid == old.uuid
        if seen_gone or old.status in (S.PENDING, S.CLAIMED):
            gone.append((old.uuid, old.attempt))
    return tuple(gone)


def advance_all(group: Group, facts: Sequence[Fact], now: int) -> Group:
    """`advance` for each fact in order."""
    for fact in facts:
        group = advance(group, fact, now)
    return group


def _placed(group: Group, fact: Placed, now: int) -> Group:
    if group.phase is not GroupPhase.PLANNING:
        return group
    pending = {m.uuid for m in group.instances if m.status is S.PENDING}
    if pending != set(fact.seats):
        return group

    def seat(member: Instance) -> Instance:
        if member.uuid not in pending:
            return member
        place = fact.seats[member.uuid]
        return replace(
            member,
            status=S.CLAIMED,
            host_uuid=place.host_uuid,
            host_name=place.host_name,
            zone_uuid=place.zone_uuid,
            machine_uuid=place.machine_uuid,
            address=place.address,
            mac=place.mac,
            reason="",
        )

    return replace(_each(group, seat), placement=fact.placement)


def _not_placed(group: Group, fact: NotPlaced, now: int) -> Group:
    return _give_up(group, fact.failure, now) if group.phase is GroupPhase.PLANNING else group


def _observed(group: Group, fact: Observed, now: int) -> Group:
    def observe(member: Instance) -> Instance:
        if member.uuid != fact.instance_uuid or member.attempt != fact.attempt:
            return member
        if fact.observation not in (Seen.DISPATCHED, Seen.NOT_SENT, Seen.EXPIRED):
            member = replace(member, unknown_since=0)
        if fact.address and not member.address:
            member = replace(member, address=fact.address)
        if fact.observation in (Seen.HALTED, Seen.GONE) and member.status in (S.REMOVING, S.STOPPING):
            member = replace(member, deadline_at=0, stop_asked=True)
        if member.status is S.FAILING and fact.observation is Seen.GONE:
            return _vacate(member, keep_claim=group.spec.failure_policy is FailurePolicy.RESTART_MEMBER)
        target = MEMBER.get((member.status, fact.observation))
        if target is None or (member.status is S.CREATED and not group.go and target in (S.BOOTING, S.RUNNING)):
            return member  # before GO an executing member is somebody's tampering; it waits for GO like the others
        return _enter(member, target, fact.reason, now)

    return _each(group, observe)


def _host_silent(group: Group, fact: HostSilent, now: int) -> Group:
    def silence(member: Instance) -> Instance:
        if member.host_uuid != fact.host_uuid or member.status not in PLACED:
            return member
        if member.status is S.CLAIMED and group.phase in LAUNCHING:
            member = _enter(member, S.FAILING, "its host stopped answering before anything was sent to it", now)
        return member if member.unknown_since else replace(member, unknown_since=now)

    return _each(group, silence)


def _host_answers(group: Group, fact: HostAnswers, now: int) -> Group:
    return _each(group, lambda m: replace(m, unknown_since=0) if m.host_uuid == fact.host_uuid else m)


def _stop_asked(group: Group, fact: StopAsked, now: int) -> Group:
    return _each(
        group,
        lambda m: replace(m, stop_asked=True) if (m.uuid, m.attempt) == (fact.instance_uuid, fact.attempt) else m,
    )


def _delete_requested(group: Group, fact: DeleteRequested, now: int) -> Group:
    if group.phase is GroupPhase.DELETING:
        return group
    return replace(_each(group, lambda m: _retire(m, now)), phase=GroupPhase.DELETING, reason="")


def _ticked(group: Group, fact: Ticked, now: int) -> Group:
    if group.deadline_at and now >= group.deadline_at and group.phase in LAUNCHING and not group.served:
        return _give_up(group, Failure("TIMEOUT", "the group was not running at its deadline"), now)

    def expire(member: Instance) -> Instance:
        silent = member.unknown_since and now >= member.unknown_since + CREATE_PATIENCE_MS
        if member.status in (S.CREATING, S.CREATED) and silent and group.phase in LAUNCHING:
            return _enter(member, S.FAILING, "its host stopped answering before GO", now)
        if member.status is S.BOOTING and member.deadline_at and now >= member.deadline_at and not member.unknown_since:
            seconds = member.boot_timeout_ms / 1000
            return _enter(member, S.FAILING, f"not ready within {seconds:g} s of its start", now)
        return member

    return _each(group, expire)


_APPLY: Mapping[type, Callable[..., Group]] = {
    Placed: _placed,
    NotPlaced: _not_placed,
    Observed: _observed,
    HostSilent: _host_silent,
    HostAnswers: _host_answers,
    StopAsked: _stop_asked,
    DeleteRequested: _delete_requested,
    Ticked: _ticked,
}


# --- what follows from the members ---------------------------------------------------------------------------------


def settle(group: Group, now: int) -> Group:
    """Move the group as far as its members allow; then derive its public status."""
    while True:
        moved = _settle_failing(group, now)
        statuses = {m.status for m in moved.instances}
        for phase, ready, target in _SETTLE:
            if moved.phase is phase and ready(statuses):
                moved = _enter_phase(moved, target)
                break
        moved = replace(moved, status=public_status(moved))
        if moved == group:
            return moved
        group = moved


_SETTLE: Sequence[tuple[GroupPhase, Callable[[set[InstanceStatus]], bool], GroupPhase]] = (
    (GroupPhase.DELETING, lambda s: s <= {S.REMOVED}, GroupPhase.DELETED),
    (GroupPhase.CLEANING, lambda s: s <= {S.REMOVED}, GroupPhase.FAILED),
    (GroupPhase.STOPPING, lambda s: s <= {S.STOPPED}, GroupPhase.STOPPED),
    (GroupPhase.CREATING, lambda s: S.PENDING in s, GroupPhase.PLANNING),
    (GroupPhase.BOOTING, lambda s: S.PENDING in s, GroupPhase.PLANNING),
    (GroupPhase.RUNNING, lambda s: S.PENDING in s, GroupPhase.PLANNING),
    (GroupPhase.PLANNING, lambda s: S.PENDING not in s and s <= PLACED, GroupPhase.CREATING),
    (GroupPhase.CREATING, lambda s: s <= UP, GroupPhase.BOOTING),
    (GroupPhase.BOOTING, lambda s: bool(s & {S.CLAIMED, S.CREATING}), GroupPhase.CREATING),
    (GroupPhase.BOOTING, lambda s: s <= {S.RUNNING}, GroupPhase.RUNNING),
    (GroupPhase.RUNNING, lambda s: not s <= {S.RUNNING}, GroupPhase.BOOTING),
)


def _enter_phase(group: Group, phase: GroupPhase) -> Group:
    if phase is GroupPhase.BOOTING and not group.go:
        return replace(group, phase=phase, go=True, start_epoch=group.start_epoch + 1)
    if phase is GroupPhase.RUNNING:
        return replace(group, phase=phase, served=True, excluded_hosts=(), reason="")
    return replace(group, phase=phase)


def _settle_failing(group: Group, now: int) -> Group:
    """A member that failed counts against the budget once; past it, or by policy, the whole group is given up."""
    if group.phase not in LAUNCHING:
        return group
    fresh = [m for m in group.instances if m.status is S.FAILING and not m.stop_asked]
    if not fresh:
        return group
    failures = group.failures + len(fresh)
    first = fresh[0]
    if group.spec.failure_policy is FailurePolicy.FAIL_GROUP or failures > group.spec.failure_budget:
        failure = Failure("MEMBER_FAILED", f"member {first.spec.name} (rank {first.rank}): {first.reason}")
        return _give_up(replace(group, failures=failures), failure, now)
    excluded = group.excluded_hosts
    if group.spec.failure_policy is FailurePolicy.REPLACE_MEMBER:
        excluded = tuple(dict.fromkeys((*excluded, *(m.host_uuid for m in fresh))))
    counted = _each(group, lambda m: replace(m, stop_asked=True) if m in fresh else m)
    if group.spec.failure_policy is FailurePolicy.REPLACE_MEMBER:
        counted = _each(counted, _leave_behind)
    return replace(counted, failures=failures, excluded_hosts=excluded, reason=f"{first.spec.name}: {first.reason}")


def _leave_behind(member: Instance) -> Instance:
    """A failing member that never executed need not wait for its silent host: paused, it can do no harm there."""
    if member.status is S.FAILING and member.unknown_since and not member.was_resumed:
        return _vacate(member, keep_claim=False)
    return member


def public_status(group: Group) -> GroupStatus:
    """ZStack's status word, or ours, for where the group stands."""
    if group.phase in LAUNCHING and group.served:
        if any(m.unknown_since for m in group.instances):
            return GroupStatus.UNKNOWN
        return GroupStatus.RUNNING if group.phase is GroupPhase.RUNNING else GroupStatus.DEGRADED
    if group.phase in LAUNCHING and group.start_epoch > (1 if group.go else 0):
        return GroupStatus.STARTING
    return _STATUS[group.phase]


_STATUS: Mapping[GroupPhase, GroupStatus] = {
    GroupPhase.PLANNING: GroupStatus.DEPLOYING,
    GroupPhase.CREATING: GroupStatus.CONFIG_SETTING_UP,
    GroupPhase.BOOTING: GroupStatus.SERVICE_BOOTING_UP,
    GroupPhase.RUNNING: GroupStatus.RUNNING,
    GroupPhase.STOPPING: GroupStatus.STOPPING,
    GroupPhase.STOPPED: GroupStatus.STOPPED,
    GroupPhase.CLEANING: GroupStatus.STOPPING,
    GroupPhase.FAILED: GroupStatus.FAILED,
    GroupPhase.DELETING: GroupStatus.DELETING,
    GroupPhase.DELETED: GroupStatus.DELETED,
}


def _give_up(group: Group, failure: Failure, now: int) -> Group:
    return replace(
        _each(group, lambda m: _retire(m, now)), phase=GroupPhase.CLEANING, failure=failure, reason=failure.message
    )


def _retire(member: Instance, now: int) -> Instance:
    """On the way out. A member that nothing was ever sent for is out at once; one that served is asked first."""
    if member.status in (S.PENDING, S.CLAIMED, S.REMOVED):
        return replace(member, status=S.REMOVED, unknown_since=0, deadline_at=0)
    if member.status is S.REMOVING:
        return member
    asks = member.status is S.RUNNING and member.stop_grace_ms > 0
    return replace(
        member, status=S.REMOVING, stop_asked=not asks, deadline_at=now + member.stop_grace_ms if asks else 0
    )


def _enter(member: Instance, status: InstanceStatus, reason: str, now: int) -> Instance:
    boots = status is S.BOOTING
    return replace(
        member,
        status=status,
        reason=reason,
        deadline_at=now + member.boot_timeout_ms if boots else 0,
        was_resumed=member.was_resumed or status in (S.BOOTING, S.RUNNING),
        stop_asked=False,
    )


def _vacate(member: Instance, *, keep_claim: bool) -> Instance:
    """A failing member starts over: in its seat, or placed anew with the next attempt.

    The claim of the old attempt is not released here: the store does it where the machine was seen gone, the sweep
    where the member was left behind on a silent host.
    """
    if keep_claim:
        return replace(member, status=S.CLAIMED, restarts=member.restarts + 1, was_resumed=False, stop_asked=False)
    return replace(
        member,
        status=S.PENDING,
        attempt=member.attempt + 1,
        host_uuid="",
        host_name="",
        machine_uuid="",
        address="",
        mac="",
        was_resumed=False,
        stop_asked=False,
        unknown_since=0,
        deadline_at=0,
    )


def _each(group: Group, change: Callable[[Instance], Instance]) -> Group:
    return replace(group, instances=tuple(change(m) for m in group.instances))
