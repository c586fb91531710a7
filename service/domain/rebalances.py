"""Rebalances as they are asked for, planned and stored. Pure data.

Times are milliseconds since the Unix epoch, sizes bytes. Stored as JSON under these very field names (ARCHITECTURE,
"Stored JSON").
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

DEFAULT_MOVES = 10
DEFAULT_THRESHOLD = 20
DEFAULT_LEAST_GAIN = 5
DEFAULT_HOLD_SECONDS = 600


@dataclass(frozen=True, slots=True)
class RebalanceWish:
    """Of which hosts: of a zone, of a cluster, or of all. `threshold_percent`: two hosts that are less apart are left
    alone; `least_gain_percent`: so much less full the fuller of the two is at least after a move.
    `goal`: "even_load" or "free_hosts", for which these two do not count. `advise_only`: what would be moved is only
    recorded. `hold_seconds`: whoever has moved less than so long ago is moved for a broken rule alone; None: as long as
    the configuration says."""

    zone_uuid: str = ""
    cluster_uuid: str = ""
    most_moves: int = DEFAULT_MOVES
    threshold_percent: int = DEFAULT_THRESHOLD
    least_gain_percent: int = DEFAULT_LEAST_GAIN
    goal: str = "even_load"
    advise_only: bool = False
    hold_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """How many members are left where they are because they have moved a short while ago, and until when the first
    and the last of them are; 0 where there is none."""

    count: int = 0
    first_until: int = 0
    last_until: int = 0

    @classmethod
    def of(cls, untils: Iterable[int]) -> Self:
        """Of the times until which members are held."""
        times = sorted(untils)
        return cls(len(times), times[0], times[-1]) if times else cls()


@dataclass(frozen=True, slots=True)
class RebalanceMove:
    """A member's move. `cause`: "rule", "load", "roll" or "free"; `rule`: which one it mends; `gain`: how much less is
    missed, or how many thousandths less full the fuller of the two hosts is, or 1 of one that becomes free; `cells`: of
    the other host, that it is pinned to."""

    instance_uuid: str
    attempt: int
    group_uuid: str
    name: str
    source_host_uuid: str
    source_host_name: str
    target_host_uuid: str
    target_host_name: str
    memory_size: int
    cause: str
    rule: str = ""
    gain: int = 0
    cells: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Rebalance:
    """Moves that were begun together, or `advised`: nobody was ever to move for it. `until`: who has not left by then
    stays; `called_off_at`: 0 where it was not."""

    uuid: str
    moves: tuple[RebalanceMove, ...]
    created_at: int
    until: int
    called_off_at: int = 0
    advised: bool = False
