"""The database's clock: the one that leases and deadlines of all replicas are measured by.

Replicas' own clocks differ and jump, so no stored time that another replica acts on may come from them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Connection, text

CLOCK = "clock"
"""Key in `Connection.info` of a `Callable[[], int]` that stands for SQLite's clock, for simulations."""

_POSTGRESQL_NOW = text("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")


def wall_clock() -> int:
    """This process's milliseconds since the epoch, which is SQLite's clock too: one process owns the file."""
    return time.time_ns() // 1_000_000


def now(connection: Connection) -> int:
    """Milliseconds since the epoch, by the database's server."""
    if connection.dialect.name == "postgresql":
        return int(connection.scalar(_POSTGRESQL_NOW) or 0)
    own: Callable[[], int] = connection.info.get(CLOCK, wall_clock)
    return own()


JUMP_MS = 5_000
"""A clock that differs by more from what was expected of it was set."""

UNSEEN_SECONDS = 6.0
"""Some looks at the clock. Of a longer time without one nobody knows whether it was set back, and set right again."""

_NONE_HAS_ENDED = 0
"""By this time no lease has ended but those that were given back, which end at 0."""


class StoreClock:
    """The database's clock as one process has it: read now and then, and carried on by the process's monotonic clock.

    Whatever this process's own wall clock says, nothing that is stored and waited for is measured by it.
    """

    def __init__(
        self,
        lease_ms: int = 45_000,
        *,
        wall: Callable[[], int] = wall_clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`lease_ms`: whoever lives has renewed what it holds within so long. `wall`: until something was read."""
        self._lease_ms = lease_ms
        self._wall = wall
        self._monotonic = monotonic
        self._last: tuple[int, float, float] | None = None
        self._ahead_by, self._ahead_until = 0, 0.0
        self._doubt_until = 0.0

    def now(self) -> int:
        """Milliseconds since the epoch, by the database."""
        if self._last is None:
            return self._wall()
        read, asked_at, _ = self._last
        return read + int((self._monotonic() - asked_at) * 1000)

    def leases_as_of(self) -> int:
        """The time by which to judge whether somebody's lease has ended; see `lease_time`."""
        return _NONE_HAS_ENDED if self._doubts() else self.now() - self._forgiven()

    def lease_time(self, present: int, asked_at: float) -> int:
        """The same for a transaction that reads `present` and was asked for at `asked_at` by the monotonic clock.

        A clock that has leapt ahead ends every lease at once, of owners too that live and go by their monotonic clock.
        They renew within a lease's time; until then the leap is left out. Of a clock that was set back nobody knows
        how far back it was, and what was taken meanwhile lies as far in the past: within a lease's time only those
        are free that were given back. So it is where this process has not looked at the clock for a while, because it
        stood still, did not reach the database, or has only just begun.
        """
        jump = self._jump(present, asked_at)
        if jump < 0 or self._doubts():
            return _NONE_HAS_ENDED
        return present - max(0, self._forgiven() + jump)

    def read(self, present: int, asked_at: float) -> int:
        """The database said `present`, asked at `asked_at`. Answers by how much its clock was set since the last look:
        ms, negative where it was set back, 0 where it went on."""
        jump = self._jump(present, asked_at)
        answered_at = self._monotonic()
        if jump:  # several leaps within a lease's time count together, and one back takes of them
            self._ahead_by = max(0, self._forgiven() + jump)
        if jump > 0:
            self._ahead_until = answered_at + self._lease_ms / 1000
        if jump < 0 or self.has_not_looked(asked_at):
            self._doubt_until = answered_at + self._lease_ms / 1000
        self._last = present, asked_at, answered_at
        return jump

    def differs_by(self) -> int:
        """By how much this process's own wall clock is ahead of the database's, ms."""
        return self._wall() - self.now()

    def _doubts(self) -> bool:
        return self._monotonic() < self._doubt_until or self.has_not_looked(self._monotonic())

    def has_not_looked(self, at: float) -> bool:
        """Whether the last look lies so far before `at` (s, monotonic) that the clock may have been set since, twice
        even. Who has never looked knows nothing of it either."""
        return self._last is None or at - self._last[2] > UNSEEN_SECONDS

    def _forgiven(self) -> int:
        return self._ahead_by if self._monotonic() < self._ahead_until else 0

    def _jump(self, present: int, asked_at: float) -> int:
        if self._last is None:
            return 0
        read, asked, answered = self._last
        latest = read + int((self._monotonic() - asked) * 1000)
        earliest = read + int((asked_at - answered) * 1000)
        if present > latest + JUMP_MS:
            return present - latest
        return present - earliest if present < earliest - JUMP_MS else 0
