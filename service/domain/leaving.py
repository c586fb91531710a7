"""Who leaves so that a group fits: members that move, groups that end; as that is stored and told. Pure data.

Times are integers: milliseconds since the Unix epoch, UTC. Stored as JSON under these very field names (ARCHITECTURE,
"Stored JSON").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class EvictedTo(StrEnum):
    """What becomes of a group that is evicted."""

    WAITING = "waiting"  # for hosts, for as long as it was deployed to wait
    STOPPED = "stopped"  # without its seats
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Eviction:
    """A group ends so that another one fits. `room`: the plan by which it does; `at`: ms, not before; `notice_ms`: how
    far ahead that was told. `by_group`, `by_name`, `by_project`, `by_priority`: for whom. `begun`: it is leaving."""

    room: str
    at: int
    notice_ms: int
    becomes: EvictedTo
    by_group: str
    by_name: str
    by_project: str
    by_priority: int
    begun: bool = False


@dataclass(frozen=True, slots=True)
class RoomEviction:
    """A group that ends to make room. `seats`: the host uuids of its members by theirs; `memory`: bytes of all of them,
    which is what it costs; `at`: ms. `other_project`: as of a RoomMove."""

    group_uuid: str
    name: str
    priority: int
    seats: Mapping[str, str]
    memory: int
    at: int
    becomes: EvictedTo
    other_project: bool = False


@dataclass(frozen=True, slots=True)
class RoomMove:
    """A member that makes room: from where to where. `memory`: bytes that go over; `cells`: of the target that it is
    pinned to; `live`: as it runs.

    `other_project`: of another one than the group that room is made for, whose callers are not told which member it is.
    """

    instance_uuid: str
    group_uuid: str
    name: str
    source_host_uuid: str
    source_host_name: str
    target_host_uuid: str
    target_host_name: str
    memory: int
    cells: tuple[int, ...] = ()
    live: bool = True
    other_project: bool = False


def after_ends(moves: Sequence[RoomMove], evictions: Sequence[RoomEviction]) -> frozenset[str]:
    """The members that move only once groups have ended: to hosts that these leave, and those of their groups behind
    them in the order. All others have gone before anybody ends, so that nobody ends for a move that is refused."""
    left = {host for one in evictions for host in one.seats.values()}
    behind: set[str] = set()
    found: set[str] = set()
    for move in moves:
        if move.target_host_uuid in left or move.group_uuid in behind:
            behind.add(move.group_uuid)
            found.add(move.instance_uuid)
    return frozenset(found)
