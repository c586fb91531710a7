"""A group that ends so that a more important one fits: told ahead, then without its seats as its project's policy says.

Until its time comes nothing else about it changes, and it stays where it is if the room is not wanted any more. Once it
has begun to leave it goes on to leave, whatever becomes of the other. Pure.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from service.domain.groups import Group, GroupPhase, Waiting
from service.domain.leaving import EvictedTo, Eviction
from service.lifecycle.facts import EvictionAsked, EvictionBegun, RoomClosed
from service.lifecycle.members import LAUNCHING, S, each, evict, retire

MADE_ROOM = "it made room for a group of a higher priority"


def eviction_asked(group: Group, fact: EvictionAsked, now: int) -> Group:
    """It is told when it ends, and what becomes of it."""
    if group.phase is not GroupPhase.RUNNING or group.updating or group.eviction is not None:
        return group
    return replace(group, eviction=fact.eviction, reason=_told(fact.eviction))


def eviction_closed(group: Group, fact: RoomClosed) -> Group:
    """Nobody wants the room: where it has not begun to leave it stays."""
    asked = group.eviction
    if asked is None or asked.begun or asked.room != fact.room:
        return group
    return replace(group, eviction=None, reason="" if group.reason == _told(asked) else group.reason)


def eviction_begun(group: Group, fact: EvictionBegun, now: int) -> Group:
    """Its members leave their hosts, those that are stopped too: a seat that is kept is no room."""
    asked = group.eviction
    if asked is None or asked.room != fact.room or not is_due(group, now):
        return group
    begun = replace(asked, begun=True)
    if asked.becomes is EvictedTo.DELETED:
        gone = each(group, lambda m: retire(m, now))
        return replace(gone, phase=GroupPhase.DELETING, reason=MADE_ROOM, eviction=begun)
    serves = group.phase in LAUNCHING or group.restarting
    leaving = each(group, lambda m: evict(m, now, MADE_ROOM))
    return replace(
        leaving,
        phase=GroupPhase.STOPPING,
        restarting=serves and asked.becomes is EvictedTo.WAITING,
        served=False,
        failure=None,
        reason=MADE_ROOM,
        eviction=begun,
    )


def is_due(group: Group, now: int) -> bool:
    """Whether its notice is over, and it has something to leave."""
    ends = group.phase in LAUNCHING or group.phase in (GroupPhase.STOPPING, GroupPhase.STOPPED)
    return group.eviction is not None and not group.eviction.begun and ends and now >= group.eviction.at


def makes_room(group: Group) -> bool:
    """Whether somebody has to see that the room is still wanted for which it, or a member of it, is to go."""
    return group.eviction is not None or any(m.room for m in group.instances)


def settled_eviction(group: Group, now: int) -> Group:
    """A group that has left is evicted no more. One that comes back waits in line like a new one."""
    asked = group.eviction
    if asked is None:
        return group
    if group.phase in (GroupPhase.CLEANING, GroupPhase.FAILED, GroupPhase.DELETING, GroupPhase.DELETED):
        return replace(group, eviction=None)
    if not asked.begun or any(m.status not in (S.PENDING, S.REMOVED) for m in group.instances):
        return group
    if group.phase is GroupPhase.STOPPED:
        return replace(group, eviction=None)
    if group.phase is not GroupPhase.PLANNING or group.may_wait is None:
        return group
    until = group.may_wait.until or now + group.may_wait.for_ms
    return replace(group, eviction=None, waiting=Waiting(until, group.may_wait.for_ms), reason=MADE_ROOM)


def _told(asked: Eviction) -> str:
    when = f"{datetime.fromtimestamp(asked.at / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    then = {
        EvictedTo.WAITING: "it waits for hosts again then",
        EvictedTo.STOPPED: "it is stopped then, without its hosts",
        EvictedTo.DELETED: "it is deleted then",
    }[asked.becomes]
    return f"it makes room for a group of priority {asked.by_priority} at {when}: {then}"
