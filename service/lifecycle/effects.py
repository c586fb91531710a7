"""Effects: what the stored state of a group asks to be done now. Pure: `effects(group, now)`, imperatives as data.

Whoever takes a group over after a crash derives the same effects from the same row and goes on. Doing an effect twice
is harmless, because every driver call observes and compares before it acts.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from service.domain.groups import Group, GroupPhase, GroupStatus, Instance, InstanceStatus, MoveStage
from service.domain.specs import CreationStrategy
from service.lifecycle.endpoint import quiescing, to_have
from service.lifecycle.evicting import is_due
from service.lifecycle.members import gives_up, outdated, runs_from
from service.lifecycle.silence import hang_at
from service.lifecycle.transitions import CREATE_PATIENCE_MS, FINAL, LAUNCHING
from service.lifecycle.updating import gangs
from service.lifecycle.waiting import waits

S = InstanceStatus


@dataclass(frozen=True, slots=True)
class Plan:
    """Find hosts for these pending members and commit the claims."""

    instance_uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AwaitRoom:
    """Look how far others are that make room, every `every_ms`; take the seats once they have gone, or call it off."""

    every_ms: int


@dataclass(frozen=True, slots=True)
class GiveWay:
    """The group's notice is over: see whether its room is still wanted, and commit that its members leave."""


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
    """Let the member's machine run: GO is committed, and the members that start before it are ready."""

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


@dataclass(frozen=True, slots=True)
class FindTarget:
    """Find a host that takes the member as it runs, and commit the claim there."""

    instance_uuid: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Migrate:
    """Move the member's machine to its target as it runs, and prove that it is there and nowhere else."""

    instance_uuid: str
    attempt: int


@dataclass(frozen=True, slots=True)
class AbortMove:
    """End the move of the member's machine, and prove that the target is without it; or that it has arrived."""

    instance_uuid: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the member's guest, as it runs, of the group's present start; then look what it says, every `every_ms`."""

    instance_uuid: str
    attempt: int
    every_ms: int


@dataclass(frozen=True, slots=True)
class Take:
    """Tell the member's guest to have this address beside its own, empty for none; then look what it says, every
    `every_ms`."""

    instance_uuid: str
    attempt: int
    address: str
    every_ms: int


@dataclass(frozen=True, slots=True)
class Quiesce:
    """Tell the member's guest to take no more callers and to end its answers; then look, every `every_ms`."""

    instance_uuid: str
    attempt: int
    every_ms: int


MemberEffect = Create | Resume | Observe | Tell | Take | Quiesce | Shutdown | PowerOff | Remove | Migrate | AbortMove
Effect = Plan | AwaitRoom | GiveWay | Dispatch | FindTarget | MemberEffect

BOOT_POLL_MS = 2_000
REST_POLL_MS = 10_000
TELL_MS = 3_000
QUIESCE_POLL_MS = 200
ROOM_MS = 500


def effects(group: Group, now: int) -> tuple[Effect, ...]:
    """What has to be done now, from the stored group alone. Doing an effect twice is harmless."""
    return tuple(effect for gang in gangs(group) for effect in _effects(gang, now))


def _effects(group: Group, now: int) -> tuple[Effect, ...]:
    if group.phase in FINAL:
        return ()
    if group.phase is GroupPhase.PLANNING:
        pending = tuple(m.uuid for m in group.instances if m.status is S.PENDING)
        # Members that leave a host together are placed together.
        more = any(m.status is S.EVICTING and not m.unknown_since for m in group.instances)
        found: list[Effect] = [Plan(pending)] if pending and not more and now >= group.retry_at else []
        if group.room is not None and group.room.plan is not None:
            found = [AwaitRoom(ROOM_MS)]
    else:
        found = []
    if is_due(group, now):
        found.append(GiveWay())
    claimed = tuple(m.uuid for m in group.instances if m.status is S.CLAIMED)
    if claimed and group.phase is GroupPhase.CREATING and now >= group.retry_at:
        found.append(Dispatch(claimed))
    startable, ends = _startable(group), quiescing(group, now)
    for member in group.instances:
        effect = _member_effect(group, member, startable, now)
        if ends and isinstance(effect, Shutdown | Remove):
            key = (member.uuid, member.attempt)  # the others serve the one that ends its answers
            effect = Quiesce(*key, QUIESCE_POLL_MS) if member.uuid == ends else Observe(*key, BOOT_POLL_MS)
        if effect is not None:
            found.append(effect)
    return tuple(found)


def _member_effect(group: Group, member: Instance, startable: frozenset[str], now: int) -> Effect | None:
    key = (member.uuid, member.attempt)
    if member.target_host_uuid:
        # Until the move is settled nobody knows on which of the two hosts anything else would have to be done.
        goes_on = member.status is S.RUNNING and member.move is MoveStage.GOING
        return Migrate(*key) if goes_on else AbortMove(*key)
    if member.status is S.CREATING:
        return Create(*key)
    if member.status is S.CREATED:
        may = member.uuid in startable
        every = BOOT_POLL_MS if may else REST_POLL_MS
        return Resume(*key) if may and now >= runs_from(member) else Observe(*key, every)
    if member.status in (S.BOOTING, S.RUNNING):
        return _of_one_that_executes(group, member)
    if member.status is S.FAILING:
        # One that is started again where it is keeps its machine, and what is on its disks.
        return Remove(*key) if gives_up(group, member) else PowerOff(*key)
    if member.status in (S.REMOVING, S.STOPPING, S.EVICTING):
        if now < member.deadline_at:
            return Observe(*key, 500) if member.stop_asked else Shutdown(*key)
        return PowerOff(*key) if member.status is S.STOPPING else Remove(*key)
    return None


def _of_one_that_executes(group: Group, member: Instance) -> MemberEffect | FindTarget:
    key = (member.uuid, member.attempt)
    if member.told_epoch and outdated(group, member):
        return Tell(*key, TELL_MS)
    if member.status is S.RUNNING and member is _next_to_move(group):
        return FindTarget(*key)
    if (address := to_have(group, member)) is not None:
        return Take(*key, address, TELL_MS)
    # What makes one member serve no more makes its fellows hang: they are looked at as closely.
    rests = member.status is S.RUNNING and group.status is GroupStatus.RUNNING
    return Observe(*key, REST_POLL_MS if rests else BOOT_POLL_MS)


def _startable(group: Group) -> frozenset[str]:
    """Members that GO lets run now: all members that start before them are ready.

    Roles come one after the other, and with `sequential` the members of a role do too.
    """
    if group.phase is not GroupPhase.BOOTING or not group.go:
        return frozenset()
    alone = group.spec.creation_strategy is CreationStrategy.SEQUENTIAL
    startable: set[str] = set()
    for _, wave in groupby(start_order(group), key=lambda m: m.uuid if alone else m.spec.start_order):
        members = tuple(wave)
        startable.update(m.uuid for m in members)
        if any(m.status is not S.RUNNING and not m.leaving for m in members):
            break
    return frozenset(startable)


def _next_to_move(group: Group) -> Instance | None:
    """A group's members move live one after the other, so that no more than one of them is slowed down."""
    if group.phase not in LAUNCHING or any(m.target_host_uuid for m in group.instances):
        return None
    wishing = sorted(
        (m for m in group.instances if m.move is MoveStage.WANTED and m.status is S.RUNNING),
        key=lambda m: m.room_order if m.room else 0,  # the order in which a room's moves keep the group's rules
    )
    return next((m for m in wishing if not m.unknown_since), None)


def start_order(group: Group) -> tuple[Instance, ...]:
    """By the order of roles, then by rank, with the initial node last of its role where the engine wants its workers
    first."""

    def place(member: Instance) -> tuple[int, bool, int]:
        return member.spec.start_order, group.spec.workers_first and member.rank == 0, member.rank

    return tuple(sorted(group.instances, key=place))


def next_deadline(group: Group) -> int:
    """The earliest time (ms) at which `Ticked` may change something; 0 = none."""
    return min((at for gang in gangs(group) for at in _deadlines(gang)), default=0)


def _deadlines(group: Group) -> list[int]:
    # A boot that cannot be seen is not judged: its deadline counts again when the host answers.
    times = [
        m.deadline_at
        for m in group.instances
        if m.deadline_at and not (m.unknown_since and m.status in (S.BOOTING, S.CREATED))
    ]
    if group.phase in LAUNCHING:
        times += [
            m.unknown_since + CREATE_PATIENCE_MS
            for m in group.instances
            if m.unknown_since and m.status in (S.CREATING, S.CREATED) and not m.was_resumed
        ]
    if group.retry_at and group.phase in LAUNCHING:
        times.append(group.retry_at)
    if waits(group) and group.waiting is not None:
        times.append(group.waiting.until)
    times += hang_at(group)
    times += [m.move_deadline_at for m in group.instances if m.move_deadline_at]
    if group.deadline_at and group.phase in LAUNCHING and not group.served:
        times.append(group.deadline_at)
    return times
