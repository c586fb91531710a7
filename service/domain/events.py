"""What is told of instance groups as it happens: one event a change, each with a number of its own. Pure data.

Stored as JSON under these very field names (ARCHITECTURE, "Stored JSON").
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from service.domain.groups import Group, Instance, PlacementRecord


class EventKind(StrEnum):
    """What an event tells; its payload has the shape of the named thing."""

    ACCEPTED = "accepted"  # Group
    PLANNED = "planned"  # PlacementRecord
    CLAIMED = "claimed"  # PlacementRecord's assignments, committed
    INSTANCE = "instance"  # Instance
    GROUP = "group"  # Group without members
    FINAL = "final"  # Group: the operation has ended (Running, Stopped, Failed, Deleted)


@dataclass(frozen=True, slots=True)
class Event:
    """One change. `revision` rises over all groups in commit order, `sequence` within the group from 1; both without
    gaps."""

    revision: int
    group_uuid: str
    sequence: int
    kind: EventKind
    time: int
    project: str
    group: Group | None = None
    instance: Instance | None = None
    placement: PlacementRecord | None = None
