"""The life of a group as a pure function: `advance(group, fact, now) -> group`.

Facts go in, and what has to be done is read off the result (`effects`); nothing here awaits, reads a clock or knows a
driver. GO is the commit in which every member is known to be created. `_APPLY` has one function for each kind of fact.

What a host was seen to do with a member goes by the table `members.MEMBER`, in which a pair that is missing changes
nothing; after every fact the group goes on by the table `settling._SETTLE`. What is in neither: the planner's answers,
what callers and operators ask for, silent hosts, deadlines, live moves (`moving`); and an update's gangs (`updating`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from service.domain.groups import Failure, Group, GroupPhase, Instance
from service.domain.specs import on_host
from service.lifecycle import endpoint, evicting, last_words, moving, room, silence, staging, updating, waiting
from service.lifecycle.causes import caused, explained, with_first_cause
from service.lifecycle.facts import (
    ClockLeapt,
    DeleteRequested,
    Evicted,
    EvictionAsked,
    EvictionBegun,
    Fact,
    Fenced,
    HostAnswers,
    HostSilent,
    Kept,
    LastLines,
    MoveAborted,
    MoveClaimed,
    Moved,
    MoveImpossible,
    NotDecided,
    NotPlaced,
    Observation,
    Observed,
    Placed,
    Quiesced,
    RoomAsked,
    RoomBegun,
    RoomCalledOff,
    RoomClosed,
    RoomRefused,
    RoomSeen,
    ScaleRequested,
    ShapeChosen,
    Staged,
    StartRequested,
    StopAsked,
    StopRequested,
    Ticked,
    TimeLost,
)
from service.lifecycle.members import (
    AT_REST,
    FINAL,
    LAUNCHING,
    MEMBER,
    PLACED,
    UP,
    S,
    alone,
    altered,
    each,
    enter,
    evict,
    fence,
    gives_up,
    interrupted,
    left_burnt,
    outdated,
    power_down,
    retire,
    vacate,
)
from service.lifecycle.moving import go_over, move_aborted, move_expired, move_impossible, wish
from service.lifecycle.present import begun_anew, carried_on, held_to_present
from service.lifecycle.progress import progress
from service.lifecycle.releasing import released
from service.lifecycle.renewal import BEHIND, RESET, caught_up, heard, not_ready, renewed, was_reset
from service.lifecycle.settling import give_up, public_status, settle, start_over, withdraw

__all__ = ["AT_REST", "FINAL", "LAUNCHING", "MEMBER", "PLACED", "SEARCH_GOES_ON", "UP", "advance", "advance_all",
           "public_status", "released"]  # fmt: skip

CREATE_PATIENCE_MS = 15_000
_RUNS = frozenset({Observation.EXECUTING, Observation.READY, Observation.UNREADY, Observation.GIVEN_UP})
SEARCH_GOES_ON = "no placement was found or ruled out so far; the search goes on"
"""The reason of a group whose planning is not decided yet."""


def advance(group: Group, fact: Fact, now: int, *, more: bool = False, settled: bool = False) -> Group:
    """The group after `fact` at `now` (ms since the epoch). A final group and an irrelevant fact change nothing.
    `more`: further facts of the same commit follow, and GO waits for the last of them, which may say otherwise.
    `settled`: an irrelevant fact has left this very group as it was, at the same `now` and with the same `more`."""
    if group.phase in FINAL:
        return group
    after = updating.advance(group, fact, now, lambda gang, told: _step(gang, told, now, more=more, settled=settled))
    return endpoint.settled(after, now)


def _step(group: Group, fact: Fact, now: int, *, more: bool, settled: bool) -> Group:
    if group.phase in FINAL:
        return group
    changed = caused(_APPLY[type(fact)](group, fact, now), fact)
    if settled and changed is group:
        return group  # what follows from how it stands follows from no fact, and was nothing
    after = evicting.settled_eviction(renewed(group, settle(changed, now, may_go=not more), now), now)
    return room.settled_room(explained(waiting.settled_waiting(after, now)))


def advance_all(group: Group, facts: Sequence[Fact], now: int) -> Group:
    """`advance` for each fact in order, as facts of one commit."""
    for _, _, group in steps(group, facts, now):  # noqa: B007, B020
        pass
    return group


def steps(group: Group, facts: Sequence[Fact], now: int) -> Iterator[tuple[Group, Fact, Group]]:
    """The group before and after each fact, as facts of one commit. Many that end nothing are one step."""
    settled = False
    together = progress(group, facts[:-1], now, _seen)
    if together is not None:
        yield group, facts[0], together
        group, facts = together, facts[-1:]
    for left, fact in zip(range(len(facts) - 1, -1, -1), facts, strict=True):
        after = advance(group, fact, now, more=left > 0, settled=settled)
        yield group, fact, after
        # Of two gangs each step takes one apart, which is another object every time.
        settled, group = after is group and left > 1, after


def _placed(group: Group, fact: Placed, now: int) -> Group:
    if group.phase is not GroupPhase.PLANNING:
        return group
    pending = {m.uuid for m in group.instances if m.status is S.PENDING}
    seats = {seat.instance_uuid: seat for seat in fact.placement.assignments}
    if pending != set(seats):
        return group

    def seat(member: Instance) -> Instance:
        if member.uuid not in pending:
            return member
        place = seats[member.uuid]
        return replace(
            member,
            spec=on_host(member.spec, place.resources),
            status=S.CLAIMED,
            host_uuid=place.host_uuid,
            host_name=place.host_name,
            zone_uuid=place.zone_uuid,
            machine_uuid=place.machine_uuid,
            address=place.address,
            mac=place.mac,
            cells=place.cells,
            devices=place.devices,
            reason="",
            room="",
            moved_at=now if member.attempt > 1 else member.moved_at,
        )

    reason = "" if group.reason == SEARCH_GOES_ON else group.reason
    shapes = replace(group.shapes, all=()) if group.shapes is not None else None
    return replace(each(group, seat), placement=fact.placement, reason=reason, shapes=shapes)


def _not_placed(group: Group, fact: NotPlaced, now: int) -> Group:
    """A deploy fails; a scaling is withdrawn; a group that serves waits, degraded, for room for its lost members."""
    if group.phase is not GroupPhase.PLANNING:
        return group
    if waiting.may_wait(group, fact.failure, now):
        return waiting.waits_on(group, fact, now)
    failure = with_first_cause(group, fact.failure)
    group = replace(group, room=None)
    if any(m.joining and m.status is S.PENDING for m in group.instances):
        return withdraw(group, failure, now)
    if group.served:
        return replace(group, reason=f"a lost member finds no host: {failure.message}")
    return give_up(group, failure, now)


def _not_decided(group: Group, fact: NotDecided, now: int) -> Group:
    """The planner has not said no: the group goes on waiting for its seats, and says so."""
    return replace(group, reason=fact.reason or SEARCH_GOES_ON) if group.phase is GroupPhase.PLANNING else group


def _observed(group: Group, fact: Observed, now: int) -> Group:
    over = staging.refused(group, fact, now)
    return over or _looked_at(staging.fetched(caught_up(group, fact), fact, now), fact, now)


def _looked_at(group: Group, fact: Observed, now: int) -> Group:
    return alone(group, fact.instance_uuid, lambda member: _seen(group, member, fact, now))


def _seen(group: Group, member: Instance, fact: Observed, now: int) -> Instance:
    if member.attempt != fact.attempt or member.target_host_uuid:
        return member  # one host alone does not tell where a member is that moves live
    if fact.observation not in (Observation.DISPATCHED, Observation.NOT_SENT, Observation.EXPIRED):
        member = altered(member, unknown_since=0)
    if fact.address and not member.address:
        member = replace(member, address=fact.address)
    anew = fact.observation in _RUNS and was_reset(member, fact, now)
    member = last_words.remembered(heard(group, member, fact, now), fact)
    if fact.observation in (Observation.HALTED, Observation.GONE) and member.status in (
        S.REMOVING,
        S.STOPPING,
        S.EVICTING,
    ):
        member = replace(member, deadline_at=0, stop_asked=True)
    if member.status in (S.FAILING, S.EVICTING) and fact.observation in (Observation.GONE, Observation.HALTED):
        return _ended(member, fact, leaves=gives_up(group, member))
    if fact.observation is Observation.BURNT and not member.was_resumed:
        left = left_burnt(member)
        if left is not None:
            return left
    if fact.observation is Observation.DISPATCHED and group.phase not in LAUNCHING:
        return member  # a stop was stored meanwhile; a create is only sent for what is stored as dispatched
    behind = fact.observation is Observation.READY and outdated(group, member)
    observation = not_ready(member) if behind or anew else fact.observation
    relapsed = (member.status, observation) == (S.CREATED, Observation.RELAPSED)
    target = S.CREATED if relapsed else MEMBER.get((member.status, observation))
    if target is None:
        return last_words.coming_up(group, member, fact, now)
    if member.status is S.CREATED and not group.go and target in (S.BOOTING, S.RUNNING):
        return member  # before GO an executing member is somebody's tampering; it waits for GO like the others
    if target is S.CREATED and member.status is not S.CREATING:
        entered = go_over(member, target, "", now)
        return interrupted(member, entered, fact.reason, now) if entered.status is target else entered
    # Why it was paused is told until it is ready again: it may be paused again at any moment.
    told = member.reason if target is S.BOOTING and member.pauses else ""
    told = BEHIND if behind else fact.reason or told
    told = ": ".join(part for part in (RESET, fact.reason) if part) if anew else told
    return go_over(member, target, last_words.reason(fact, told), now)


def _ended(member: Instance, fact: Observed, *, leaves: bool) -> Instance:
    """A member that was to end and executes no more. One that stays where it is starts again, on the disks that it has;
    one that `leaves` has to be gone."""
    if not leaves:
        return vacate(member, keep_claim=True)
    # Seen gone for another reason, before this one was stored: a create may be under way still.
    return vacate(member, keep_claim=False) if fact.observation is Observation.GONE and fact.barred else member


def _host_silent(group: Group, fact: HostSilent, now: int) -> Group:
    def silence(member: Instance) -> Instance:
        if member.host_uuid != fact.host_uuid or member.status not in PLACED:
            return member
        if member.status is S.CLAIMED and group.phase in LAUNCHING:
            member = enter(member, S.FAILING, "its host stopped answering before anything was sent to it", now)
        return member if member.unknown_since else replace(member, unknown_since=now)

    return each(group, silence)


def _host_answers(group: Group, fact: HostAnswers, now: int) -> Group:
    return each(group, lambda m: replace(m, unknown_since=0) if m.host_uuid == fact.host_uuid else m)


def _stop_asked(group: Group, fact: StopAsked, now: int) -> Group:
    asked = (fact.instance_uuid, fact.attempt)
    return each(group, lambda m: replace(m, stop_asked=True) if (m.uuid, m.attempt) == asked else m)


def _delete_requested(group: Group, fact: DeleteRequested, now: int) -> Group:
    if group.phase is GroupPhase.DELETING:
        return group
    return replace(each(group, lambda m: retire(m, now)), phase=GroupPhase.DELETING, reason="")


def _stop_requested(group: Group, fact: StopRequested, now: int) -> Group:
    if group.phase not in LAUNCHING:
        return group
    stopping = each(group, lambda m: power_down(m, now))
    return replace(stopping, phase=GroupPhase.STOPPING, restarting=fact.restart, served=False, failure=None, reason="")


def _start_requested(group: Group, fact: StartRequested, now: int) -> Group:
    return start_over(group, now) if group.phase is GroupPhase.STOPPED else group


def _scale_requested(group: Group, fact: ScaleRequested, now: int) -> Group:
    if group.phase is not GroupPhase.RUNNING:
        return group
    marked = each(group, lambda m: replace(m, leaving=True) if m.uuid in fact.removed else m)
    members = sorted((*marked.instances, *fact.added), key=lambda m: m.rank)
    nodes = tuple(m.spec for m in members)
    return replace(
        marked,
        instances=tuple(members),
        spec=replace(group.spec, nodes=nodes),
        failure=None,
        failures=0,
        reason="",
        room=fact.room,
    )


def _evicted(group: Group, fact: Evicted, now: int) -> Group:
    def leave(member: Instance) -> Instance:
        if member.target_host_uuid == fact.host_uuid:
            return move_impossible(member, "the host that it was to be moved to is being emptied", now)
        if member.host_uuid != fact.host_uuid:
            return member
        return wish(member, now) if fact.live else evict(member, now)

    return each(group, leave)


def _kept(group: Group, fact: Kept, now: int) -> Group:
    return each(group, lambda m: moving.stay(m) if m.host_uuid == fact.host_uuid else m)


def _fenced(group: Group, fact: Fenced, now: int) -> Group:
    def power_off(member: Instance) -> Instance:
        if member.target_host_uuid == fact.host_uuid:
            return move_aborted(member, "the host that it was to be moved to was powered off", now)
        return fence(member) if member.host_uuid == fact.host_uuid else member

    return each(group, power_off)


def _ticked(group: Group, fact: Ticked, now: int) -> Group:
    group = held_to_present(group, now)
    if over := waiting.why_over(group, now):
        return give_up(group, over, now)
    if group.deadline_at and now >= group.deadline_at and group.phase in LAUNCHING and not group.served:
        searching = group.reason == SEARCH_GOES_ON
        why = f": {SEARCH_GOES_ON.partition(';')[0]}" if searching else last_words.why_late(group, now)
        return give_up(group, Failure("TIMEOUT", f"the group was not running at its deadline{why}"), now)

    def expire(member: Instance) -> Instance:
        member = move_expired(member, now)
        silent = member.unknown_since and now >= member.unknown_since + CREATE_PATIENCE_MS
        if member.status in (S.CREATING, S.CREATED) and silent and not member.was_resumed and group.phase in LAUNCHING:
            return enter(member, S.FAILING, "its host stopped answering before GO", now)
        if member.status in (S.REMOVING, S.STOPPING, S.EVICTING) and now >= member.deadline_at:
            return replace(member, deadline_at=0)
        if silence.hangs(group, member) and now >= member.silent_since + silence.HANGS_MS:
            return enter(member, S.FAILING, member.reason or "its guest says nothing", now)
        boots = member.status in (S.BOOTING, S.CREATED) and not member.unknown_since
        if boots and member.deadline_at and now >= member.deadline_at:
            told = f"not ready within {member.boot_timeout_ms / 1000:g} s of its start"
            return enter(member, S.FAILING, f"{told}: {member.reason}" if member.reason else told, now)
        return member

    if group.retry_at and now >= group.retry_at:
        group = replace(group, retry_at=0)
    return each(group, expire)


_APPLY: Mapping[type, Callable[..., Group]] = {
    Placed: _placed,
    NotPlaced: _not_placed,
    NotDecided: _not_decided,
    ShapeChosen: waiting.shape_chosen,
    Observed: _observed,
    LastLines: last_words.taken,
    Staged: staging.staged,
    HostSilent: _host_silent,
    HostAnswers: _host_answers,
    StopAsked: _stop_asked,
    Quiesced: lambda group, fact, _now: endpoint.quiesced(group, fact),
    DeleteRequested: _delete_requested,
    StopRequested: _stop_requested,
    StartRequested: _start_requested,
    ScaleRequested: _scale_requested,
    Evicted: _evicted,
    Kept: _kept,
    Fenced: _fenced,
    MoveClaimed: moving.member_move_claimed,
    MoveImpossible: moving.member_move_impossible,
    MoveAborted: moving.member_move_aborted,
    Moved: moving.member_moved,
    RoomBegun: room.room_begun,
    RoomSeen: room.room_seen,
    RoomCalledOff: room.room_called_off,
    RoomAsked: room.room_asked,
    RoomClosed: room.room_is_closed,
    RoomRefused: room.room_refused,
    EvictionAsked: evicting.eviction_asked,
    EvictionBegun: evicting.eviction_begun,
    Ticked: _ticked,
    ClockLeapt: lambda group, fact, _now: carried_on(group, fact.by_ms),
    TimeLost: lambda group, _fact, now: begun_anew(group, now),
}
