"""The one way in which a stored group changes: facts through the lifecycle, rows and events in the same transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from operator import attrgetter
from typing import NamedTuple

from service.domain.difference import Difference, difference
from service.domain.events import EventKind
from service.domain.fleet import MEMORY, VCPU, HostState
from service.domain.groups import Group, Instance, InstanceStatus, PlacementRecord, Waiting
from service.domain.network import is_planned
from service.domain.specs import GroupSpec, MachineType
from service.errors import WrongState
from service.failpoints import failpoint
from service.lifecycle import invariants
from service.lifecycle.facts import Evicted, Fact, Moved, Observed, TimeLost
from service.lifecycle.renewal import CLASH
from service.lifecycle.transitions import FINAL, PLACED, advance, released, steps
from service.lifecycle.updating import at_rest
from service.store import addresses, bookings, claims, events, fleet, groups, ownership, retired, standing, waiting
from service.store.connection import Connection
from service.store.events import Draft
from service.store.groups import Freed, Held
from service.store.standing import Seats

_REMOVED = InstanceStatus.REMOVED


class LeaseLost(Exception):
    """A later epoch has the group: the caller must stop working on it at once (ARCHITECTURE I8)."""


class Foreseen(NamedTuple):
    """The group after facts, but for its numbers, and the (instance, attempt, host) whose claims they end."""

    group: Group
    ended: tuple[tuple[str, int, str], ...]


def foreseen(known: Group, facts: Sequence[Fact], now: int) -> Foreseen | None:
    """What comes of the facts where the group is stored as known; None where the database has its say in that."""
    if any(isinstance(fact, Moved) for fact in facts):
        return None
    after = known
    ended: list[tuple[str, int, str]] = []
    for before, fact, after in steps(known, facts, now):
        ended += released(before, fact, after)
    return Foreseen(after, tuple(ended))


class Known(NamedTuple):
    """A group as the writer has it, which this transaction has seen to be the stored one; and the claims of the members
    that the facts change, at least. `foreseen`: what comes of the facts that are to be applied, where that was worked
    out before."""

    group: Group
    seats: Seats
    foreseen: Foreseen | None = None


def as_known(connection: Connection, group: Group, foreseen: Foreseen | None = None) -> Known | None:
    """The group, locked as by a load, where it is stored as the writer has it; None where it has to be read again."""
    members = [m.uuid for _, _, m in difference(group, foreseen.group).changed] if foreseen is not None else None
    seats = standing.as_known(connection, group, members)
    return None if seats is None else Known(group, seats, foreseen)


def apply(
    connection: Connection,
    uuid: str,
    facts: Sequence[Fact],
    now: int,
    *,
    epoch: int | None = None,
    known: Known | None = None,
    freed: Freed | None = None,
) -> Group:
    """Advance the stored group by the facts and commit rows, released claims and events together.

    `epoch`: the writer's lease; None for a caller's intent. `known`: see `as_known`, of these very facts and this
    `now`. `freed`: where the facts change anything, the writer's lease ends with them. Raises NotFound, LeaseLost.
    """
    before, seats, worked_out = known or (groups.load(connection, uuid, lock=True), None, None)
    failpoint("change.loaded")
    if epoch is not None and before.epoch != epoch:
        raise LeaseLost(uuid)
    group, ended = worked_out or _decided(connection, before, facts, now)
    failpoint("change.decided")
    _note_answers(connection, before, group, facts, now)
    return commit(connection, before, group, ended, now, seats=seats, freed=freed)


def _decided(connection: Connection, group: Group, facts: Sequence[Fact], now: int) -> Foreseen:
    ended: list[tuple[str, int, str]] = []
    for left, fact in zip(range(len(facts) - 1, -1, -1), facts, strict=True):
        after = advance(group, fact, now, more=left > 0)
        ended += released(group, fact, after)
        group = after
        if isinstance(fact, Moved):
            group = _moved_on(connection, group, fact, now)
    return Foreseen(group, tuple(ended))


def _note_answers(connection: Connection, before: Group, after: Group, facts: Sequence[Fact], now: int) -> None:
    """Keep in mind that a stranger answers for a member's address: once the member is gone nobody else gets it."""
    heard = {fact.instance_uuid: fact.clash for fact in facts if isinstance(fact, Observed)}
    for _, old, member in difference(before, after).changed if heard else ():
        if old is None or member.uuid not in heard:
            continue
        was, is_so = old.reason.startswith(CLASH), member.reason.startswith(CLASH)
        if is_so and not was and is_planned(member.address, member.mac, member.uuid):
            addresses.answered(connection, member, heard[member.uuid], now)
        elif was and not is_so and not heard[member.uuid]:
            addresses.silent(connection, member.uuid)


def time_lost(connection: Connection, now: int) -> None:
    """The database was an older copy and goes on from now (ms): nothing of any group is over by the time that it lost.

    For its own transaction, or the begin of one: it locks all groups that are not over.
    """
    touched = sorted(groups.unfinished(connection))
    for uuid in touched:  # all locks first, so that the event counter's comes last
        groups.load(connection, uuid, lock=True)
    for uuid in touched:
        apply(connection, uuid, [TimeLost()], now)


def _moved_on(connection: Connection, group: Group, fact: Moved, now: int) -> Group:
    """A member that arrived where a drain began while it was under way: it goes on, or that drain would never end."""
    for member in group.instances:
        if (member.uuid, member.attempt) == (fact.instance_uuid, fact.attempt) and member.host_uuid:
            host = fleet.host(connection, member.host_uuid)
            return advance(group, Evicted(host.uuid, live=True), now) if host.state is HostState.MAINTENANCE else group
    return group


def commit(
    connection: Connection,
    before: Group,
    after: Group,
    ended: Iterable[tuple[str, int, str]],
    now: int,
    *,
    seats: Seats | None = None,
    freed: Freed | None = None,
    anew: bool = False,
) -> Group:
    """Write the difference, release the claims of `ended` (instance, attempt, host), append the events.

    Returns the group as stored. `seats`: of the members that it changes, at least, as this transaction has read them
    and changed them since; those members alone are held to the invariants then. `freed`: the lease ends with it.
    `anew`: no attempt of those that it seats was ever let go.

    Raises InvariantViolation: the change is a bug's, and nothing of it is kept.
    """
    if after == before:
        return before
    if ended := tuple(ended):
        claims.leave(connection, ended)
        failpoint("change.released")
    if before.updating and not after.updating:
        _fit_claims(connection, after)
    differs = difference(before, after)
    _let_go(connection, differs, after, now, anew=anew)
    gave_back = _give_back(connection, before, after, differs)
    only = seats is not None and not ended and not before.updating
    seats = seats if seats is not None and only else claims.seats_of(connection, after.uuid)
    invariants.check(before, after, seats, differs.changed if only else None)
    if heard_alone(before, after, differs):
        groups.save(connection, before, after, freed)
        return after
    stored, drafts = to_store(before, after, differs, now)
    revision = events.append(connection, stored, drafts, now) if drafts else before.revision
    if ended or gave_back:
        waiting.given_back(connection)
    failpoint("change.told")
    stored = replace(stored, sequence=before.sequence + len(drafts), revision=revision)
    groups.save(connection, before, stored, freed)
    over = {m.uuid for m in differs.gone} | {m.uuid for _, _, m in differs.changed if m.status is _REMOVED}
    _keep_address(connection, before, stored)
    addresses.let_go(connection, {instance for instance, *_ in ended} | over)
    failpoint("change.stored")
    return stored


def to_store(before: Group, after: Group, differs: Difference, now: int) -> tuple[Group, list[Draft]]:
    """The group as it will be stored and its events carry it, but for its revision and sequence; and these events."""
    stamped = list(after.instances)
    for place, _, member in differs.changed:
        stamped[place] = replace(member, updated_at=now)
    stored = replace(after, instances=tuple(stamped), version=before.version + 1, updated_at=now)
    return stored, _drafts(before, stored, differs)


def _keep_address(connection: Connection, before: Group, after: Group) -> None:
    """The address that a surge hands on is the group's from the switch to its end."""
    was = before.endpoint is not None and before.endpoint.kept
    if after.endpoint is not None and after.endpoint.kept and not was:
        addresses.hand_over(connection, after.endpoint.zone_uuid, after.endpoint.holder, after.uuid)
    if was and after.phase in FINAL:
        addresses.give_back(connection, after.uuid)


def _fit_claims(connection: Connection, group: Group) -> None:
    """What was claimed for an update in place is no more than what its members are in the end."""
    seats = (m for m in group.instances if m.status in PLACED and not m.target_host_uuid and not m.cells)
    virtual = (m for m in seats if m.spec.type is MachineType.VIRTUAL_MACHINE)
    sizes = {(m.uuid, m.attempt, m.host_uuid): {VCPU: m.spec.cpu_num, MEMORY: m.spec.memory_size} for m in virtual}
    claims.resize(connection, sizes)


def _let_go(connection: Connection, differs: Difference, after: Group, now: int, *, anew: bool) -> None:
    """Keep a record of every attempt that no member wants on its host any more. A machine of it that is found there
    later may be ended by that record alone (ARCHITECTURE I15). `anew`: there is none of those that are wanted now."""
    were, are = wanted(differs)
    if were == are:
        return
    retired.retire(connection, sorted(were - are), after.uuid, _why(after), now)
    if not anew:
        retired.take_back(connection, sorted(are - were))


def _give_back(connection: Connection, before: Group, after: Group, differs: Difference) -> bool:
    """Seats are kept for a group while its row has the plan of the room that is made for it, and for a member that
    makes room while its row says so. They end with that, in the same commit. Whether some ended."""
    ended = False
    room = before.room.plan if before.room else None
    if room is not None and (after.room is None or after.room.plan is None or after.room.plan.uuid != room.uuid):
        bookings.give_back(connection, room.uuid, (seat.instance_uuid for seat in room.placement.assignments))
        ended = True
    left = [old for _, old, new in differs.changed if old is not None and old.room != new.room]
    for member in (*left, *differs.gone):
        if member.room:
            bookings.give_back(connection, member.room, [member.uuid])
            ended = True
    return ended


Machines = frozenset[tuple[str, int, str]]
"""(instance, attempt, host) of each."""


def wanted(differs: Difference) -> tuple[Machines, Machines]:
    """Every machine that a member wants, or is being moved to: before and after, of the members that are not as they
    were."""
    were = (*(old for _, old, _ in differs.changed if old is not None), *differs.gone)
    return _wanted(were), _wanted([new for _, _, new in differs.changed])


def _wanted(members: Sequence[Instance]) -> Machines:
    here = {(m.uuid, m.attempt, m.host_uuid) for m in members if m.status is not InstanceStatus.REMOVED}
    there = {(m.uuid, m.attempt, m.target_host_uuid) for m in members}
    return frozenset(seat for seat in here | there if seat[2])


def _why(group: Group) -> str:
    return f"group {group.uuid} let it go ({group.phase.value}{': ' + group.reason if group.reason else ''})"


def outline(group: Group) -> Group:
    """The group without its members, for events that tell of the group alone."""
    alone = replace(group, instances=(), spec=_outlined(group.spec), placement=None)
    if group.update is None:
        return alone
    update = replace(group.update, before=_outlined(group.update.before), after=_outlined(group.update.after))
    if update.gang is not None:
        update = replace(update, gang=replace(update.gang, spec=_outlined(update.gang.spec), placement=None))
    return replace(alone, update=update)


def _outlined(spec: GroupSpec) -> GroupSpec:
    return replace(spec, nodes=spec.nodes[:1])


def _drafts(before: Group, after: Group, differs: Difference) -> list[Draft]:
    """`differs`: what the members of `after` differ in, but for when that was."""
    drafts: list[Draft] = []

    def add(kind: EventKind, body: object) -> None:
        drafts.append(Draft(kind, before.sequence + len(drafts) + 1, body))  # type: ignore[arg-type]

    for placement in _placements(before, after):
        add(EventKind.PLANNED, placement)
        add(EventKind.CLAIMED, placement)
    for place, old, _ in differs.changed:
        member = after.instances[place]
        if old is None or _told(old) != _told(member):
            add(EventKind.INSTANCE, member)
    for gone in differs.gone:
        add(EventKind.INSTANCE, replace(gone, status=InstanceStatus.REMOVED, unknown_since=0))
    if at_rest(after) and not (at_rest(before) and before.phase is after.phase):
        add(EventKind.FINAL, after)
    elif outline(_told_group(after)) != outline(_told_group(before)):
        add(EventKind.GROUP, outline(after))
    return drafts


def _placements(before: Group, after: Group) -> Iterator[PlacementRecord]:
    """Placements that are new; that of a second gang is not when the gang becomes the group's."""
    was = before.update.gang.placement if before.update is not None and before.update.gang is not None else None
    beside = after.update.gang.placement if after.update is not None and after.update.gang is not None else None
    for placement in (after.placement, beside):
        if placement is not None and placement not in (before.placement, was):
            yield placement


def _told_group(group: Group) -> Group:
    """The group without its counters and times."""
    if group.update is not None and (gang := group.update.gang) is not None:
        quiet = replace(gang, retry_at=0, running_since=0, failures=0, excluded_hosts=())
        group = replace(group, update=replace(group.update, gang=quiet))
    return replace(
        group, version=0, sequence=0, revision=0, updated_at=0, retry_at=0, running_since=0, failures=0,
        excluded_hosts=(), epoch=0, waiting=_looked_of(group),
    )  # fmt: skip


_OF_THE_GUEST = frozenset({"told_epoch", "last_answer_at", "guest_boot", "holds"})
_UNTOLD = _OF_THE_GUEST | {
    "updated_at", "deadline_at", "stop_asked", "was_resumed", "move_deadline_at", "moved_at", "move", "room",
    "room_order", "paused_at", "silent_since",
}  # fmt: skip


def _without(names: frozenset[str]) -> Callable[[Instance], tuple[object, ...]]:
    return attrgetter(*(field.name for field in fields(Instance) if field.name not in names))


_told = _without(_UNTOLD)
"""The member without what is of no use to a caller, so that bookkeeping alone makes no event."""
_not_by_guest = _without(_OF_THE_GUEST)


def heard_alone(before: Group, after: Group, differs: Difference) -> bool:
    """Whether guests have said of themselves what changes nothing for anybody, or one more look found what the one
    before had: no new version, so that an etag that a caller has stays good."""
    if differs.gone or any(was is None or _not_by_guest(was) != _not_by_guest(now) for _, was, now in differs.changed):
        return False
    alone = [replace(group, instances=(), waiting=_looked_of(group)) for group in (before, after)]
    return alone[0] == alone[1]


def _looked_of(group: Group) -> Waiting | None:
    """How the group waits, without when that was last looked at, and which seats exactly are kept for it."""
    if group.waiting is None:
        return None
    kept = replace(group.waiting.kept, seats=()) if group.waiting.kept is not None else None
    return replace(group.waiting, looked=0, looked_at=0, kept=kept)


def accepted(connection: Connection, group: Group, now: int, held: Held | None = None) -> Group:
    """Store a new group with its first event, due at once. `held`: with its first lease.

    One with a sequence takes over the uuid of a deleted group and goes on counting where that one ended. Raises
    AlreadyExists.
    """
    if group.sequence:
        groups.forget_deleted(connection, group.uuid)
    stored = replace(group, sequence=group.sequence + 1, version=group.version + 1, epoch=group.epoch + bool(held))
    revision = events.append(connection, stored, [Draft(EventKind.ACCEPTED, stored.sequence, stored)], now)
    failpoint("intent.told")
    stored = replace(stored, revision=revision)
    groups.create(connection, stored, due_at=0, held=held)
    failpoint("intent.stored")
    return stored


def refuse_older_copy(connection: Connection, subject: str, is_one: str) -> None:
    """Raises WrongState while a host may have seen what this database does not know: then nobody is placed.

    `is_one`: what the subject is to that fleet, in words.
    """
    if ahead := ownership.ahead(connection):
        since = f"since {', '.join(ahead[:3])} may have seen what this database does not know"
        needs = "that the database is recovered, or these hosts are claimed"
        raise WrongState(subject, f"{is_one} in which nobody is placed, {since}", needs)
