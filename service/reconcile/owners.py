"""Who holds a lease, and whether that process has certainly ended.

A lease runs out by itself 45 s after its owner last renewed it. The process table says whether a process of this very
machine has ended; then nobody needs to wait: a restart, or another replica beside it, goes on at once. About processes
of other machines, or of other pid namespaces, nothing is ever concluded.
"""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path

from service.errors import CorralError
from service.store import clock, copies, fencing, groups
from service.store.connection import Connection
from service.store.engine import Store

logger = logging.getLogger(__name__)

EVERY_SECONDS = 5.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def owner_name() -> str:
    """This process's name as an owner, unlike that of any other process ever: `place/pid/start/random`."""
    return f"{_place()}/{os.getpid()}/{_started(os.getpid())}/{uuid.uuid4().hex[:8]}"


def has_ended(owner: str) -> bool:
    """Whether the owner was a process of this machine and pid namespace that has ended. False: it may be alive."""
    place, _, rest = owner.partition("/")
    pid, _, rest = rest.partition("/")
    started, _, _ = rest.partition("/")
    if not place or place != _place() or not pid.isdigit() or not started.isdigit():
        return False
    return _started(int(pid)) != started


class LeaseReaper:
    """Ends the leases of processes that are seen to have ended, so that what they worked on is taken over at once."""

    def __init__(self, store: Store, ended: Callable[[], None]) -> None:
        """`ended()`: called where leases were ended, on the event loop."""
        self._store = store
        self._ended = ended

    async def run(self) -> None:
        """Look every EVERY_SECONDS until cancelled."""
        while True:
            await self.once()
            await asyncio.sleep(EVERY_SECONDS)

    async def once(self) -> None:
        """Look once; trouble with the database is left to the next time."""
        try:
            owners = await self._store.read(_owners)
            gone = sorted(owner for owner in owners if has_ended(owner))
            if gone:
                await self._store.write(lambda c: _end(c, gone))
                logger.info("ended the leases of %d processes that are no more", len(gone))
                self._ended()
        except CorralError as error:
            logger.info("leases of ended processes were not looked for: %s", error)


def _owners(connection: Connection) -> set[str]:
    now = clock.now(connection)
    return {*groups.owners(connection, now), *fencing.lease_owners(connection, now), *copies.owners(connection, now)}


def _end(connection: Connection, owners: list[str]) -> None:
    for owner in owners:
        groups.end_leases(connection, owner)
        fencing.end_lease(connection, owner)
        copies.end_ownership(connection, owner)


@cache
def _place() -> str:
    """This boot of this machine, and this process's pid namespace; empty where the system does not say."""
    try:
        return f"{_BOOT_ID.read_text().strip()}:{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When the process started, in clock ticks since boot; empty where there is none, or it has ended (a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]
