"""A live move: a running member goes to another host, claimed on both until it was seen there and here no more.

It stays Running, with its attempt, address and identity. What cannot be moved live, or not in time, is stopped and
placed anew like every member of a host that is being emptied; one that was to make room for another group stays where
it is. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from service.domain.groups import Group, Instance, InstanceStatus, MoveStage
from service.lifecycle.facts import MoveAborted, MoveClaimed, Moved, MoveImpossible, RoomAsked
from service.lifecycle.members import S, at_target, each, enter, evict, unmoved, unwished

MOVE_BASE_MS = 60_000
MOVE_MS_PER_MIB = 10
"""A move has its base and as long as memory takes at 100 MiB/s; one that takes longer is given up."""


def longest_move(member: Instance) -> int:
    """How long its live move may take, ms."""
    return MOVE_BASE_MS + MOVE_MS_PER_MIB * (member.spec.memory_size >> 20)


def wish(member: Instance, now: int) -> Instance:
    """Its host is being emptied: what runs is to be moved as it runs, everything else leaves at once."""
    if member.move is not MoveStage.NONE:
        # One that makes room leaves a host that is being emptied, whether that room is still wanted or not.
        return replace(member, room="", reason="its host is being emptied") if member.room else member
    if member.status is not S.RUNNING or member.unknown_since or member.joining or member.leaving:
        return evict(member, now)
    return replace(member, move=MoveStage.WANTED, reason="its host is being emptied")


def stay(member: Instance) -> Instance:
    """Its host is not emptied any more: it keeps its seat, unless it has begun to leave."""
    return replace(unwished(member), reason="") if member.move is MoveStage.WANTED and not member.room else member


def makes_room(member: Instance, asked: RoomAsked, now: int) -> Instance:
    """It is to leave its host for another group's room, or a rebalance: as it runs, or stopped and placed anew."""
    still = member.move is MoveStage.NONE and not (member.room or member.unknown_since)
    if not still or member.status is not S.RUNNING or member.joining or member.leaving:
        return member
    leaving = replace(member, move=MoveStage.WANTED, reason=asked.why) if asked.live else evict(member, now, asked.why)
    return replace(leaving, room=asked.room, room_order=asked.order)


def room_closed(member: Instance, room: str) -> Instance:
    """Nobody wants the room that it makes: it stays, or where it may be under way is taken back. One that was stopped
    for it has left its host, and keeps the seat that is booked for it."""
    if member.room != room:
        return member
    if member.move is MoveStage.WANTED:
        return replace(unwished(member), reason="")
    if member.move is MoveStage.GOING:
        told = "its move is not wanted any more"
        return replace(member, move=MoveStage.ABORTING, reason=told, move_deadline_at=0)
    return member


def go_over(member: Instance, status: InstanceStatus, reason: str, now: int) -> Instance:
    """The member as it takes on a status. What serves no more cannot be moved as it runs: it leaves at once."""
    if member.move is MoveStage.WANTED and status in (S.CREATED, S.BOOTING, S.FAILING):
        return enter(unwished(member), status, reason, now) if member.room else evict(member, now)
    return enter(member, status, reason, now)


def move_claimed(member: Instance, fact: MoveClaimed, now: int) -> Instance:
    """The other host is claimed; from this commit on the machine may be on its way there."""
    if member.move is not MoveStage.WANTED or member.status is not S.RUNNING:
        return member
    return replace(
        member,
        move=MoveStage.GOING,
        target_host_uuid=fact.host_uuid,
        target_host_name=fact.host_name,
        target_cells=fact.cells,
        move_deadline_at=now + longest_move(member),
        reason=f"it is being moved live to {fact.host_name}",
    )


def move_impossible(member: Instance, reason: str, now: int) -> Instance:
    """It cannot be moved live. Without a target it leaves at once; else the target must be without it first."""
    told = f"it could not be moved live: {reason}"
    if member.move is MoveStage.WANTED:
        return replace(unwished(member), reason=told) if member.room else evict(member, now, told)
    if member.move is MoveStage.GOING:
        return replace(member, move=MoveStage.ABORTING, reason=told, move_deadline_at=0)
    return member


def move_aborted(member: Instance, reason: str, now: int) -> Instance:
    """It is where it was, for certain. What was to go on running is stopped and placed anew."""
    if not member.target_host_uuid:
        return member
    told = f"it could not be moved live: {reason}" if reason else member.reason
    if member.room:
        return replace(unmoved(member), room="", reason=told)
    return evict(unmoved(member), now, told)


def moved(member: Instance, now: int) -> Instance:
    """It is on its target, and nowhere else."""
    if not member.target_host_uuid:
        return member
    arrived = replace(at_target(member), unknown_since=0, room="", moved_at=now)
    return replace(arrived, reason="") if member.status is S.RUNNING else arrived


def move_expired(member: Instance, now: int) -> Instance:
    """A move that has had its time is given up."""
    if member.move_deadline_at and now >= member.move_deadline_at:
        return move_impossible(member, "it took too long", now)
    return member


# --- the same for the member of a group that a fact is of -----------------------------------------------------------


def member_move_claimed(group: Group, fact: MoveClaimed, now: int) -> Group:
    """See `move_claimed`."""
    return _of_member(group, fact, lambda m: move_claimed(m, fact, now))


def member_move_impossible(group: Group, fact: MoveImpossible, now: int) -> Group:
    """See `move_impossible`."""
    return _of_member(group, fact, lambda m: move_impossible(m, fact.reason, now))


def member_move_aborted(group: Group, fact: MoveAborted, now: int) -> Group:
    """See `move_aborted`."""
    return _of_member(group, fact, lambda m: move_aborted(m, "", now))


def member_moved(group: Group, fact: Moved, now: int) -> Group:
    """See `moved`."""
    return _of_member(group, fact, lambda m: moved(m, now))


def _of_member(
    group: Group, fact: MoveClaimed | MoveImpossible | MoveAborted | Moved, change: Callable[[Instance], Instance]
) -> Group:
    return each(group, lambda m: change(m) if (m.uuid, m.attempt) == (fact.instance_uuid, fact.attempt) else m)
