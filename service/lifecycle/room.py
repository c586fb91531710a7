"""A group for which room is made: members of others leave their hosts, and it takes the seats that they leave. Pure.

It waits in its planning. What was booked for it stands as long as its row has the plan (`transactions/rooms.py`).
"""

from __future__ import annotations

from dataclasses import replace

from service.domain.groups import Group, GroupPhase, RoomWish
from service.lifecycle.evicting import eviction_closed
from service.lifecycle.facts import RoomAsked, RoomBegun, RoomCalledOff, RoomClosed, RoomRefused, RoomSeen
from service.lifecycle.members import S, each
from service.lifecycle.moving import makes_room, room_closed

ASK_FIRST_MS = 10_000
ASK_MOST_MS = 600_000
"""For so long a group that waits asks nobody again who did not go for it: the first time, and at most."""

MAKING_ROOM = "room is being made for it: other groups' members move"
OTHERS_END = "room is being made for it: groups of a lower priority end"
MOVE_AND_END = "room is being made for it: groups of a lower priority end, and other groups' members move"


def room_begun(group: Group, fact: RoomBegun, now: int) -> Group:
    """Others were asked to move."""
    if group.phase is not GroupPhase.PLANNING or group.room is None or group.room.plan is not None:
        return group
    wish = replace(group.room, tries=group.room.tries + 1, plan=fact.plan)
    ends = MOVE_AND_END if fact.plan.moves else OTHERS_END
    return replace(group, room=wish, reason=ends if fact.plan.evictions else MAKING_ROOM)


def room_seen(group: Group, fact: RoomSeen, now: int) -> Group:
    """Some of them have gone."""
    if group.room is None or group.room.plan is None:
        return group
    return replace(group, room=replace(group.room, plan=replace(group.room.plan, arrived=fact.arrived)))


def room_called_off(group: Group, fact: RoomCalledOff, now: int) -> Group:
    """The seats are given back, and the group is planned anew, around those who did not go."""
    if group.room is None or group.room.plan is None:
        return group
    wish = replace(group.room, plan=None)
    if fact.refused:
        refused = tuple(dict.fromkeys((*wish.refused, *fact.refused)))
        pause = min(ASK_FIRST_MS << min(wish.refusals, 32), ASK_MOST_MS)
        wish = replace(wish, refused=refused, refusals=wish.refusals + 1, asks_again_at=now + pause)
    return replace(group, room=wish, reason=fact.reason)


def rests(wish: RoomWish, now: int) -> RoomWish:
    """The wish of a group that waits, for its next look: those who did not go are asked again after a growing pause."""
    return replace(wish, tries=0, plan=None, refused=wish.refused if now < wish.asks_again_at else ())


def room_asked(group: Group, fact: RoomAsked, now: int) -> Group:
    """A member is to leave, unless it is on its way elsewhere, or does not serve."""
    if group.phase is not GroupPhase.RUNNING:
        return group
    return each(
        group,
        lambda m: makes_room(m, fact, now) if (m.uuid, m.attempt) == (fact.instance_uuid, fact.attempt) else m,
    )


def room_is_closed(group: Group, fact: RoomClosed, now: int) -> Group:
    """Members that were to make this room need not, nor need the group end for it."""
    return each(eviction_closed(group, fact), lambda m: room_closed(m, fact.room))


def room_refused(group: Group, fact: RoomRefused, now: int) -> Group:
    """Members that were stopped for it are placed like all others that have lost their hosts."""
    return each(group, lambda m: replace(m, room="") if m.uuid in fact.instances and m.status is S.PENDING else m)


def settled_room(group: Group) -> Group:
    """Room is made for members that wait for hosts, and for nobody else."""
    if group.room is None:
        return group
    waits = group.phase is GroupPhase.PLANNING and any(m.status is S.PENDING for m in group.instances)
    if waits:
        return group
    return replace(
        group, room=None, reason="" if group.reason in (MAKING_ROOM, OTHERS_END, MOVE_AND_END) else group.reason
    )
