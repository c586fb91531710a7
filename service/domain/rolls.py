"""Rolls: hosts that are emptied for maintenance some at a time, as they are asked for and stored. Pure data.

Times are milliseconds since the Unix epoch. Stored as JSON under these very field names (ARCHITECTURE, "Stored JSON").
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

CAUSE = "roll"
"""What a move is for that a roll asks for."""


class RollStage(StrEnum):
    """How far a host of a roll is."""

    WAITING = "waiting"
    MOVING = "moving"  # it takes nobody, and its members move to seats that are kept for them
    DRAINING = "draining"  # under maintenance; who has not moved leaves as from every host that is drained
    DRAINED = "drained"  # empty, until it is enabled
    DONE = "done"


UNDER_WAY = frozenset({RollStage.MOVING, RollStage.DRAINING, RollStage.DRAINED})


class RollEnable(StrEnum):
    """Who enables a host again that is empty."""

    WORD = "word"  # its operator, by EnableHost
    RESTART = "restart"  # the service, once the host was seen in another boot than the one in which it became empty


@dataclass(frozen=True, slots=True)
class RollWish:
    """Of which hosts: of those named, else of a zone, of a cluster, or of all that are enabled and answer."""

    zone_uuid: str = ""
    cluster_uuid: str = ""
    host_uuids: tuple[str, ...] = ()
    at_once: int = 1
    enable: RollEnable = RollEnable.WORD


@dataclass(frozen=True, slots=True)
class RollHost:
    """A host of a roll. `since`: when it came to its stage; `boot_id`: its boot when it was seen empty; `reason`: why
    it is not further, or how it ended where it was not emptied."""

    uuid: str
    name: str
    stage: RollStage = RollStage.WAITING
    since: int = 0
    boot_id: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Roll:
    """`rebalance`: the moves of the hosts that are under way; empty where none are made as they run. `reason`: why the
    next hosts are not begun. `ended_at`, `called_off_at`: 0 where it has not, was not."""

    uuid: str
    wish: RollWish
    hosts: tuple[RollHost, ...]
    created_at: int
    ended_at: int = 0
    called_off_at: int = 0
    rebalance: str = ""
    reason: str = ""

    @property
    def under_way(self) -> tuple[RollHost, ...]:
        """The hosts that are begun and not enabled again."""
        return tuple(host for host in self.hosts if host.stage in UNDER_WAY)

    @property
    def waiting(self) -> tuple[RollHost, ...]:
        """The hosts that are not begun yet."""
        return tuple(host for host in self.hosts if host.stage is RollStage.WAITING)
