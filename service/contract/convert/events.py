"""What happened to a group, as the message that every stream sends."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

from corral.v1 import group_pb2

from service.app.feed import Bookmark
from service.contract.convert import inventory, views
from service.contract.convert.inventory import Reachable
from service.domain.events import Event, EventKind
from service.domain.groups import Group, PlacementRecord

_MOST_SHARED = 64
"""Who is further behind than this many events has its messages made anew."""


def event(value: Event, reachable: Reachable) -> group_pb2.InstanceGroupEvent:
    """One event. Raises ValueError for an event without the body that its kind promises."""
    message = group_pb2.InstanceGroupEvent(
        revision=value.revision,
        sequence=value.sequence,
        time=inventory.timestamp(value.time),
        group_uuid=value.group_uuid,
    )
    match value:
        case Event(kind=EventKind.ACCEPTED, group=Group() as group):
            message.accepted.CopyFrom(inventory.group(replace(group, revision=value.revision), reachable))
        case Event(kind=EventKind.GROUP, group=Group() as group):
            message.group.CopyFrom(inventory.group(replace(group, revision=value.revision), reachable))
        case Event(kind=EventKind.FINAL, group=Group() as group):
            message.final.CopyFrom(inventory.group(replace(group, revision=value.revision), reachable))
        case Event(kind=EventKind.PLANNED, placement=record) if record is not None:
            message.planned.CopyFrom(inventory.placement(record))
        case Event(kind=EventKind.CLAIMED, placement=record) if record is not None:
            message.claimed.CopyFrom(inventory.claim(record))
        case Event(kind=EventKind.INSTANCE, instance=member) if member is not None:
            message.instance.CopyFrom(inventory.instance(member, reachable))
        case _:
            raise ValueError(f"event {value.revision} of kind {value.kind} has no body")
    return message


def standing(value: Group, reachable: Reachable) -> group_pb2.InstanceGroupEvent:
    """A group as it stands when a watch begins, told as a change of the group."""
    return group_pb2.InstanceGroupEvent(
        revision=value.revision,
        sequence=value.sequence,
        time=inventory.timestamp(value.updated_at),
        group_uuid=value.uuid,
        group=inventory.group(value, reachable),
    )


def planned(record: PlacementRecord) -> group_pb2.InstanceGroupEvent:
    """The only event of a deploy that was to be checked and planned, and not stored."""
    return group_pb2.InstanceGroupEvent(planned=inventory.placement(record, planned_only=True))


def bookmark(value: Bookmark) -> group_pb2.InstanceGroupEvent:
    """How far a watch has read."""
    return group_pb2.InstanceGroupEvent(
        revision=value.revision,
        bookmark=group_pb2.Bookmark(initial_state_complete=value.initial_state_complete),
    )


@dataclass(slots=True)
class _Made:
    """`data`: of the message, once somebody was sent it."""

    message: group_pb2.InstanceGroupEvent
    data: bytes = b""


class EventMessages:
    """Events as messages, each made once for all that are told of it: a thousand watchers hear of the same event, and
    begin with the same groups.

    A message is shared: whoever gets one does not change it.
    """

    def __init__(self, reachable: Reachable) -> None:
        self._reachable = reachable
        self._made: OrderedDict[tuple[int, frozenset[str], bool], _Made] = OrderedDict()
        self._standing = views.GroupViews(reachable, make=standing)

    def change(self, value: Group | Event | Bookmark) -> group_pb2.InstanceGroupEvent:
        """As the function `change`."""
        return self._event(value).message if isinstance(value, Event) else change(value, self._reachable)

    def framed(self, value: Group | Event | Bookmark) -> bytes:
        """The same as field 1 of an answer."""
        if isinstance(value, Group):
            return self._standing.group(value)
        if isinstance(value, Bookmark):
            return views.framed(bookmark(value))
        made = self._event(value)
        if not made.data:
            made.data = views.framed(made.message)
        return made.data

    def _event(self, value: Event) -> _Made:
        members = value.group.instances if value.group is not None else ()
        zones = {member.zone_uuid for member in (value.instance, *members) if member is not None}
        # What is reachable may change with a zone's network; and not every caller is told what a host itself said.
        key = value.revision, frozenset(zone for zone in zones if self._reachable(zone)), views.tells_causes()
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = _Made(event(value, self._reachable))
            if len(self._made) > _MOST_SHARED:
                self._made.popitem(last=False)
        return made


def change(value: Group | Event | Bookmark, reachable: Reachable) -> group_pb2.InstanceGroupEvent:
    """Whatever a watch tells."""
    match value:
        case Group():
            return standing(value, reachable)
        case Bookmark():
            return bookmark(value)
        case Event():
            return event(value, reachable)
