"""The life of a group as a pure function: `(group, fact, now) -> group`, and `effects(group, now)` from what is stored.

Facts go in, effects come out; nothing here awaits, reads a clock or knows a driver. Effects depend on the stored group
alone, so whoever takes a group over after a crash derives the same effects and goes on: recovery is the ordinary path.

* `MEMBER` is the whole transition table of a member; a pair that is not in it changes nothing.
* `settle` moves the group when its members allow it. GO is the commit in which every member is known to be created.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from service.model import (
    CreationStrategy,
    Failure,
    FailurePolicy,
    Group,
    GroupPhase,
    GroupStatus,
    Instance,
    InstanceStatus,
    PlacementRecord,
)


class Observation(StrEnum):
    """What was learned about one member's machine."""

    DISPATCHED = "dispatched"  # we are about to send the first create
    NOT_SENT = "not_sent"  # the create certainly never left
    PAUSED = "paused"
    EXECUTING = "executing"
    READY = "ready"  # executing, and the guest says that it answers
    HALTED = "halted"  # there, not executing: shut off or crashed
    GONE = "gone"  # two complete listings without it (RELIABILITY I2)
    REJECTED = "rejected"  # the host can not do it
    EXPIRED = "expired"  # the deadline of its status passed


S, O = InstanceStatus, Observation

MEMBER: Mapping[tuple[InstanceStatus, Observation], InstanceStatus] = {
    (S.CLAIMED, O.DISPATCHED): S.CREATING,
    (S.CREATING, O.NOT_SENT): S.CLAIMED,
    (S.CREATING, O.PAUSED): S.CREATED,
    (S.CREATING, O.HALTED): S.FAILING,
    (S.CREATING, O.REJECTED): S.FAILING,
    (S.CREATED, O.EXECUTING): S.BOOTING,
    (S.CREATED, O.READY): S.RUNNING,
    (S.CREATED, O.HALTED): S.FAILING,
    (S.CREATED, O.GONE): S.FAILING,
    (S.CREATED, O.REJECTED): S.FAILING,
    (S.BOOTING, O.PAUSED): S.CREATED,
    (S.BOOTING, O.READY): S.RUNNING,
    (S.BOOTING, O.HALTED): S.FAILING,
    (S.BOOTING, O.GONE): S.FAILING,
    (S.BOOTING, O.EXPIRED): S.FAILING,
    (S.RUNNING, O.PAUSED): S.CREATED,
    (S.RUNNING, O.HALTED): S.FAILING,
    (S.RUNNING, O.GONE): S.FAILING,
    (S.STOPPING, O.HALTED): S.STOPPED,
    (S.STOPPING, O.GONE): S.STOPPED,
    (S.STOPPED, O.EXECUTING): S.STOPPING,
    (S.STOPPED, O.READY): S.STOPPING,
    (S.REMOVING, O.GONE): S.REMOVED,
}

PLACED = frozenset(S) - {S.PENDING, S.REMOVED}
UP = frozenset({S.CREATED, S.BOOTING, S.RUNNING})
LAUNCHING = frozenset({GroupPhase.PLANNING, GroupPhase.CREATING, GroupPhase.BOOTING, GroupPhase.RUNNING})
FINAL = frozenset({GroupPhase.FAILED, GroupPhase.DELETED})
AT_REST = frozenset({GroupPhase.RUNNING, GroupPhase.STOPPED}) | FINAL


# --- facts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a member was placed: its host and, where the zone plans addresses, its address and mac."""

    host_uuid: str
    address: str = ""
    mac: str = ""


@dataclass(frozen=True, slots=True)
class Placed:
    """Claims for every pending member are being committed with this change. `seats`: instance uuid -> seat."""

    placement: PlacementRecord
    seats: Mapping[str, Seat]


@dataclass(frozen=True, slots=True)
class NotPlaced:
    """The planner proved, or could not find otherwise, that the pending members do not fit."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Observed:
    """One member's machine was observed. A fact about an older attempt is ignored. `reason` is safe for callers."""

    instance_uuid: str
    attempt: int
    observation: Observation
    reason: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class HostSilent:
    """A host does not answer: its members are unknown, neither failed nor gone."""

    host_uuid: str


@dataclass(frozen=True, slots=True)
class HostAnswers:
    """A host answers again; its members' states are what is observed next."""

    host_uuid: str


@dataclass(frozen=True, slots=True)
class StopAsked:
    """The guest was asked to shut down."""

    instance_uuid: str
    attempt: int


@dataclass(frozen=True, slots=True)
class DeleteRequested:
    """The caller wants the group gone. Wins over everything else."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time passed; deadlines are looked at."""


Fact = Placed | NotPlaced | Observed | HostSilent | HostAnswers | StopAsked | DeleteRequested | Ticked


# --- effects -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """Find hosts for these pending members and commit the claims."""

    instance_uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Commit that creates are about to be sent for these members."""

    instance_uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Create:
    """Create the member's machine, paused."""

    instance_uuid: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Resume:
    """Let the member's machine run: GO is committed and it is its turn."""

    instance_uuid: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Observe:
    """Look at the member's machine, at once when hinted, otherwise every `every_ms`."""

    instance_uuid: str
    attempt: int
    every_ms: int


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Ask the guest to stop by itself."""

    instance_uuid: str
    attempt: int


@dataclass(frozen=True, slots=True)
class PowerOff:
    """Stop the machine at once and keep its definition and volumes."""

    instance_uuid: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Remove:
    """Destroy, undefine, delete volumes, and prove the absence."""

    instance_uuid: str
    attempt: int


Effect = Plan | Dispatch | Create | Resume | Observe | Shutdown | PowerOff | Remove

BOOT_POLL_MS = 2_000
REST_POLL_MS = 10_000


# --- facts in ------------------------------------------------------------------------------------------------------


def advance(group: Group, fact: Fact, now: int) -> Group:
    """The group after `fact` at `now` (ms since the epoch). A final group and an irrelevant fact change nothing."""
    if group.phase in FINAL:
        return group
    changed = _APPLY[type(fact)](group, fact, now)
    return settle(changed, now)


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
            member, status=S.CLAIMED, host_uuid=place.host_uuid, address=place.address, mac=place.mac, reason=""
        )

    return replace(_each(group, seat), placement=fact.placement)


def _not_placed(group: Group, fact: NotPlaced, now: int) -> Group:
    return _give_up(group, fact.failure, now) if group.phase is GroupPhase.PLANNING else group


def _observed(group: Group, fact: Observed, now: int) -> Group:
    def observe(member: Instance) -> Instance:
        if member.uuid != fact.instance_uuid or member.attempt != fact.attempt:
            return member
        if fact.observation not in (O.DISPATCHED, O.NOT_SENT, O.EXPIRED):
            member = replace(member, unknown_since=0)
        if fact.address and not member.address:
            member = replace(member, address=fact.address)
        if fact.observation in (O.HALTED, O.GONE) and member.status in (S.REMOVING, S.STOPPING):
            member = replace(member, deadline_at=0, stop_asked=True)
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
            return _enter(member, S.FAILING, "the host stopped answering before anything was sent to it", now)
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
    return replace(counted, failures=failures, excluded_hosts=excluded, reason=f"{first.spec.name}: {first.reason}")


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


def vacated(group: Group, instance_uuid: str, attempt: int, *, keep_claim: bool, now: int) -> Group:
    """A FAILING member's machine is gone (or can never run): restart it in its seat, or have it placed anew.

    `keep_claim`: same host, same attempt (policy `restart_member`). Otherwise the attempt rises and it is PENDING.
    """

    def vacate(member: Instance) -> Instance:
        if member.uuid != instance_uuid or member.attempt != attempt or member.status is not S.FAILING:
            return member
        if keep_claim:
            return replace(member, status=S.CLAIMED, restarts=member.restarts + 1, was_resumed=False, stop_asked=False)
        return replace(
            member,
            status=S.PENDING,
            attempt=member.attempt + 1,
            host_uuid="",
            address="",
            mac="",
            was_resumed=False,
            stop_asked=False,
            unknown_since=0,
        )

    return settle(_each(group, vacate), now)


def _each(group: Group, change: Callable[[Instance], Instance]) -> Group:
    return replace(group, instances=tuple(change(m) for m in group.instances))


# --- effects out ---------------------------------------------------------------------------------------------------


def effects(group: Group, now: int) -> tuple[Effect, ...]:
    """What has to be done now, from the stored group alone. Doing an effect twice is harmless."""
    if group.phase in FINAL:
        return ()
    if group.phase is GroupPhase.PLANNING:
        pending = tuple(m.uuid for m in group.instances if m.status is S.PENDING)
        found: list[Effect] = [Plan(pending)] if pending else []
    else:
        found = []
    claimed = tuple(m.uuid for m in group.instances if m.status is S.CLAIMED)
    if claimed and group.phase is GroupPhase.CREATING:
        found.append(Dispatch(claimed))
    turn = _turn(group)
    for member in group.instances:
        effect = _member_effect(group, member, turn, now)
        if effect is not None:
            found.append(effect)
    return tuple(found)


def _member_effect(group: Group, member: Instance, turn: frozenset[str], now: int) -> Effect | None:
    key = (member.uuid, member.attempt)
    if member.status is S.CREATING:
        return Create(*key)
    if member.status is S.CREATED:
        return Resume(*key) if member.uuid in turn else Observe(*key, REST_POLL_MS)
    if member.status is S.BOOTING:
        return Observe(*key, BOOT_POLL_MS)
    if member.status is S.RUNNING:
        return Observe(*key, REST_POLL_MS)
    if member.status is S.FAILING:
        return Remove(*key)
    if member.status in (S.REMOVING, S.STOPPING):
        if now < member.deadline_at:
            return Observe(*key, 500) if member.stop_asked else Shutdown(*key)
        return Remove(*key) if member.status is S.REMOVING else PowerOff(*key)
    return None


def _turn(group: Group) -> frozenset[str]:
    """Members that GO lets run now: all of them, or with `sequential` those whose forerunners are ready."""
    if group.phase is not GroupPhase.BOOTING or not group.go:
        return frozenset()
    if group.spec.creation_strategy is CreationStrategy.PARALLEL:
        return frozenset(m.uuid for m in group.instances)
    turn = set()
    for member in start_order(group):
        turn.add(member.uuid)
        if member.status is not S.RUNNING:
            break
    return frozenset(turn)


def start_order(group: Group) -> tuple[Instance, ...]:
    """Rank order, with the initial node last where the engine wants its workers first."""
    ordered = sorted(group.instances, key=lambda m: m.rank)
    return (*ordered[1:], ordered[0]) if group.spec.workers_first and ordered else tuple(ordered)


def next_deadline(group: Group) -> int:
    """The earliest time (ms) at which `Ticked` may change something; 0 = none."""
    times = [m.deadline_at for m in group.instances if m.deadline_at]
    if group.deadline_at and group.phase in LAUNCHING and not group.served:
        times.append(group.deadline_at)
    return min(times, default=0)
