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
