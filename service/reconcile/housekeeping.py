"""Forgets what is too old to be of use: events, and ids of requests. Groups and their rows are never touched."""

from __future__ import annotations

import asyncio
import logging

from service.errors import CorralError
from service.store import addresses, clock, events, fencing, left_seats, requests, retired
from service.store.connection import Connection
from service.store.engine import Store

logger = logging.getLogger(__name__)

EVERY_SECONDS = 3600.0
KEEP_MS = 7 * 24 * 3600 * 1000
"""For this long (ms) a watch can be resumed and a request be repeated."""
KEEP_RETIRED_MS = 30 * 24 * 3600 * 1000
"""The least time (ms) for which records of retired attempts are kept: a late request may bring a machine back."""
KEEP_ANSWERS_MS = 24 * 3600 * 1000
"""For this long (ms) an address is given to nobody for which a stranger answered a member that is gone."""
STEP = 10_000
"""Events that one transaction forgets at most: a large transaction would hold up the writers."""


class Housekeeping:
    """Runs in every replica; that several do the same does no harm."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def run(self) -> None:
        """Every EVERY_SECONDS until cancelled."""
        while True:
            try:
                await self.once()
            except CorralError as error:
                logger.info("old events were not forgotten: %s", error)
            await asyncio.sleep(EVERY_SECONDS)

    async def once(self) -> int:
        """Forget what is older than KEEP_MS; returns how many events went. Raises Unavailable."""
        await self._store.write(lambda c: retired.forget_retired(c, clock.now(c) - KEEP_RETIRED_MS))
        await self._store.write(lambda c: left_seats.forget_old(c, clock.now(c) - KEEP_RETIRED_MS))
        await self._store.write(lambda c: fencing.forget_old(c, clock.now(c) - KEEP_RETIRED_MS))
        await self._store.write(lambda c: addresses.forget_foreign(c, clock.now(c) - KEEP_ANSWERS_MS))
        gone = 0
        while True:
            went, more = await self._store.write(_step)
            gone += went
            if not more:
                return gone


def _step(connection: Connection) -> tuple[int, bool]:
    before = clock.now(connection) - KEEP_MS
    requests.forget(connection, before)
    oldest, _ = events.head(connection)
    last = events.newest_before(connection, before)
    if last <= oldest:
        return 0, False
    until = min(last, oldest + STEP)
    return events.compact(connection, until), until < last
