"""What follows for a group from where its members stand: `_SETTLE` is the table of its phases. Pure.

Two things come before the table: members that failed are dealt with by the group's policy, and members that leave by a
scaling are taken out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from service.domain.groups import Failure, Group, GroupPhase, GroupStatus, Instance, InstanceStatus
from service.domain.specs import FailurePolicy
from service.lifecycle.census import Stand, census
from service.lifecycle.members import LAUNCHING, PLACED, UP, S, each, outdated, retire, unheard, vacate

STABLE_MS = 600_000
"""A group that has run for this long has its failure budget back."""
RETRY_FIRST_MS = 500
RETRY_MOST_MS = 30_000

_Statuses = set[InstanceStatus]

_SETTLE: Sequence[tuple[GroupPhase, Callable[[_Statuses], bool], GroupPhase]] = (
    (GroupPhase.DELETING, lambda s: s <= {S.REMOVED}, GroupPhase.DELETED),
    (GroupPhase.CLEANING, lambda s: s <= {S.REMOVED}, GroupPhase.FAILED),
    (GroupPhase.STOPPING, lambda s: s <= {S.STOPPED, S.PENDING, S.CLAIMED, S.REMOVED}, GroupPhase.STOPPED),
    (GroupPhase.CREATING, lambda s: S.PENDING in s, GroupPhase.PLANNING),
    (GroupPhase.BOOTING, lambda s: S.PENDING in s, GroupPhase.PLANNING),
    (GroupPhase.RUNNING, lambda s: S.PENDING in s, GroupPhase.PLANNING),
    (GroupPhase.PLANNING, lambda s: S.PENDING not in s and s <= PLACED, GroupPhase.CREATING),
    (GroupPhase.CREATING, lambda s: s <= UP, GroupPhase.BOOTING),
    (GroupPhase.BOOTING, lambda s: bool(s & {S.CLAIMED, S.CREATING}), GroupPhase.CREATING),
    (GroupPhase.BOOTING, lambda s: s <= {S.RUNNING}, GroupPhase.RUNNING),
    (GroupPhase.RUNNING, lambda s: not s <= {S.RUNNING}, GroupPhase.BOOTING),
)


def settle(group: Group, now: int, *, may_go: bool = True) -> Group:
    """Move the group as far as its members allow, and to GO if it may; then derive its public status."""
    while True:
        moved = _settle_leaving(_settle_failing(_started_late(group), now), now)
        # Members on their way out by a scaling hold nobody up; the scaling itself ends when they are gone.
        stands = census(moved.instances)
        staying = {_standing(moved, s) for s in stands if not s.leaving or moved.phase not in LAUNCHING}
        if moved.phase in (GroupPhase.BOOTING, GroupPhase.RUNNING) and any(s.leaving for s in stands):
            staying.add(S.REMOVING)
        for phase, ready, target in _SETTLE:
            if target is GroupPhase.BOOTING and not (may_go or moved.go):
                continue
            if moved.phase is phase and ready(staying):
                moved = _enter_phase(moved, target, now)
                break
        if (status := public_status(moved)) is not moved.status:
            moved = replace(moved, status=status)
        if moved is group or moved == group:
            return group
        group = moved


def _standing(group: Group, member: Stand) -> InstanceStatus:
    """One that runs and does not know the group's present start is no part of it yet."""
    return S.BOOTING if member.status is S.RUNNING and outdated(group, member) else member.status


def give_up(group: Group, failure: Failure, now: int) -> Group:
    """Everything is taken down, and the group will be FAILED."""
    retired = each(group, lambda m: retire(m, now))
    return replace(retired, phase=GroupPhase.CLEANING, failure=failure, reason=failure.message)


def withdraw(group: Group, failure: Failure, now: int) -> Group:
    """A scaling did not work out: the members that were to join go, those that were to leave stay."""

    def back(member: Instance) -> Instance:
        if member.joining:
            return retire(replace(member, leaving=True, joining=False), now)
        return member if member.status is S.REMOVING else replace(member, leaving=False)

    return replace(each(group, back), failure=failure, reason=failure.message)


def start_over(group: Group, now: int) -> Group:
    """A stopped group is brought up again: machines that are there are started, what has no seat is placed.

    The group's deadline counts from here.
    """
    again = each(
        group,
        lambda m: unheard(_begun(m)) if m.status is S.STOPPED else m,
    )
    return replace(
        again,
        phase=GroupPhase.CREATING,
        go=False,
        served=False,
        restarting=False,
        failure=None,
        failures=0,
        reason="",
        deadline_at=now + group.spec.deadline_ms if group.spec.deadline_ms else 0,
    )


def _started_late(group: Group) -> Group:
    """Somebody had let a stopped member run by hand, and it was being stopped again when its group was started."""
    if group.phase not in LAUNCHING or all(s.status is not S.STOPPED for s in census(group.instances)):
        return group
    return each(group, lambda m: unheard(_begun(m)) if m.status is S.STOPPED else m)


def _why_less(group: Group) -> str:
    """Why a group that runs is not whole: the first member that says why it does not serve; else what is known."""
    told = (m for m in group.instances if m.status is S.BOOTING and m.reason and not m.joining)
    first = next(told, None) if group.phase is GroupPhase.RUNNING else None
    return f"{first.spec.name}: {first.reason}" if first is not None else group.reason


def _begun(member: Instance) -> Instance:
    return replace(member, status=S.CREATING, reason="", pauses=0, paused_at=0)


def _enter_phase(group: Group, phase: GroupPhase, now: int) -> Group:
    if phase is GroupPhase.BOOTING:
        # From this commit on a resume may be on its way to any of them, whether its outcome is ever seen or not.
        if any(s.status is S.CREATED for s in census(group.instances)):
            group = each(group, lambda m: replace(m, was_resumed=True) if m.status is S.CREATED else m)
        if group.go:
            return replace(group, phase=phase, reason=_why_less(group))
        return replace(group, phase=phase, go=True, start_epoch=group.start_epoch + 1, starts=group.starts + 1)
    if phase is GroupPhase.RUNNING:
        reason = group.failure.message if group.failure else ""
        return replace(group, phase=phase, served=True, excluded_hosts=(), reason=reason, running_since=now, retry_at=0)
    if phase is GroupPhase.STOPPED and group.restarting:
        return start_over(group, now)
    return replace(group, phase=phase)


def _settle_leaving(group: Group, now: int) -> Group:
    """Members that serve leave once those that join with them have been ready; removed ones are no members any more."""
    if group.phase not in LAUNCHING or not any(s.leaving for s in census(group.instances)):
        return group
    replaced = not any(m.joining for m in group.instances)
    left = tuple(
        retire(m, now) if m.leaving and (replaced or m.status is not S.RUNNING) else m
        for m in group.instances
        if not (m.leaving and m.status is S.REMOVED)
    )
    nodes = tuple(m.spec for m in left if not m.leaving)
    return replace(group, instances=left, spec=replace(group.spec, nodes=nodes))


def _settle_failing(group: Group, now: int) -> Group:
    """A member that failed counts against the budget once. With the budget used up, or by policy, the whole group is
    given up."""
    if group.phase not in LAUNCHING:
        return group
    if not any(_fails_anew(s) for s in census(group.instances)):
        return group
    fresh = [m for m in group.instances if _fails_anew(m)]
    stable = group.running_since and now - group.running_since >= STABLE_MS
    failures = len(fresh) + (0 if stable else group.failures)
    first = fresh[0]
    if group.spec.failure_policy is FailurePolicy.FAIL_GROUP or failures > group.spec.failure_budget:
        failure = Failure("MEMBER_FAILED", f"member {first.spec.name} (rank {first.rank}): {first.reason}")
        if all(m.joining for m in fresh):
            return withdraw(replace(group, failures=failures), failure, now)
        return give_up(replace(group, failures=failures), failure, now)
    counted = each(group, lambda m: replace(m, stop_asked=True) if m in fresh else m)
    excluded = group.excluded_hosts
    if group.spec.failure_policy is FailurePolicy.REPLACE_MEMBER:
        excluded = tuple(dict.fromkeys((*excluded, *(m.host_uuid for m in fresh))))
        counted = each(counted, _leave_behind)
    pause = min(RETRY_FIRST_MS << (failures - 1), RETRY_MOST_MS) if failures > 1 else 0
    return replace(
        counted,
        failures=failures,
        running_since=0,
        retry_at=now + pause if pause else 0,
        excluded_hosts=excluded,
        reason=f"{first.spec.name}: {first.reason}",
    )


def _fails_anew(member: Instance | Stand) -> bool:
    return member.status is S.FAILING and not member.stop_asked and not member.leaving


def _leave_behind(member: Instance) -> Instance:
    """A failing member that never executed need not wait for its silent host: paused, it can do no harm there."""
    if member.status is S.FAILING and member.unknown_since and not member.was_resumed:
        return vacate(member, keep_claim=False)
    return member


def public_status(group: Group) -> GroupStatus:
    """ZStack's status word, or ours, for where the group stands. A scaling does not make a group degraded."""
    if group.phase in LAUNCHING and group.served:
        settled = [s for s in census(group.instances) if not s.joining and not s.leaving]
        if any(s.unknown for s in settled):
            return GroupStatus.UNKNOWN
        whole = all(_standing(group, s) is S.RUNNING for s in settled)
        return GroupStatus.RUNNING if whole else GroupStatus.DEGRADED
    if group.phase is GroupPhase.PLANNING and group.waiting is not None and group.waiting.since:
        return GroupStatus.WAITING
    if group.phase in LAUNCHING and group.starts > (1 if group.go else 0):
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
