"""The database's time within a process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DatabaseTime:
    """The database's time in ms, carried on by the process's monotonic clock.

    `asked_at`: the event loop's time (s) before the transaction that read `read`, so that this is never behind the
    database's time: a lease seems shorter than it is, never longer. A wall clock that jumps changes nothing.
    """

    read: int
    asked_at: float

    def now(self) -> int:
        """Milliseconds since the epoch."""
        return self.read + int((asyncio.get_running_loop().time() - self.asked_at) * 1000)
