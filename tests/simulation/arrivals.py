"""Remembers when each member was last seen to have come to another host, whatever brought it there.

May not import anything of the service.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

LATE_SECONDS = 10.0
"""The time of a move is reckoned before the commit that tells of it, which takes as long where the database is slow."""


@dataclass
class Arrivals:
    """Asked after every commit. `rows`: a query of the database; `now`: seconds."""

    rows: Callable[..., list[tuple[Any, ...]]]
    now: Callable[[], float]
    _hosts: dict[str, str] = field(default_factory=dict)
    _at: dict[str, float] = field(default_factory=dict)

    def look(self) -> None:
        """Where everybody is now."""
        for uuid, host in self.rows("SELECT uuid, host_uuid FROM instances WHERE host_uuid != ''"):
            if self._hosts.setdefault(uuid, host) != host:
                self._hosts[uuid] = host
                self._at[uuid] = self.now()

    def too_soon(self, uuid: str, hold_seconds: float) -> bool:
        """Whether a member that is to move now came less than the hold ago, for certain."""
        return uuid in self._at and self.now() - self._at[uuid] < hold_seconds - LATE_SECONDS
