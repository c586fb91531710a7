"""Work that one process at a time does for the whole fleet: the one that holds the lease by which hosts are fenced."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Hashable
from functools import partial
from typing import ClassVar

from service.errors import CorralError
from service.failpoints import failpoint
from service.store import clock, fencing
from service.store.clock import StoreClock
from service.store.connection import Connection
from service.store.engine import Store
from service.transactions.fencing import LEASE_MS, NotLeading

EVERY_SECONDS = 5.0

logger = logging.getLogger(__name__)


class Leading(ABC):
    """`run` in every replica; the one that holds the lease does the work.

    What takes long runs in tasks of its own, one a key; each carries the epoch that it was begun under, by which its
    writes fail once another process leads.
    """

    not_done: ClassVar[str]
    """What the log says where a look failed: "silent hosts were not judged"."""
    broke: ClassVar[str]
    """What it says where a task broke by a bug: "a fence broke". The next look begins it anew."""

    def __init__(self, store: Store, clock: StoreClock, owner: str) -> None:
        """`owner`: this process's name."""
        self._store = store
        self._clock = clock
        self._owner = owner
        self._epoch = 0
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()

    def poke(self) -> None:
        """Something in the fleet was changed: an operator may have asked for something."""
        self._wake.set()

    async def run(self) -> None:
        """Look every EVERY_SECONDS, and when poked, until cancelled."""
        try:
            while True:
                self._wake.clear()
                try:
                    await self.once()
                except NotLeading:
                    self._epoch = 0
                except CorralError as error:
                    logger.warning("%s: %s", self.not_done, error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), EVERY_SECONDS)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    @abstractmethod
    async def once(self) -> None:
        """One look at what is to be begun and at what is under way. Raises Unavailable, NotLeading."""

    async def _leads(self) -> bool:
        """Take the lease, or keep it: whether it is this process's now."""
        asked_at = asyncio.get_running_loop().time()

        def take(connection: Connection) -> int:
            now = clock.now(connection)
            as_of = self._clock.lease_time(now, asked_at)
            return fencing.take_lease(connection, self._owner, now, LEASE_MS, as_of)

        self._epoch = await self._store.write(take)
        failpoint("fence.leading")
        return bool(self._epoch)

    def _carry(self, key: Hashable, work: Coroutine[None, None, None], name: str) -> None:
        """Have it done in a task of its own. Nothing else may be under way for the key."""
        task = self._tasks[key] = asyncio.create_task(work, name=name)
        task.add_done_callback(partial(self._ended, key))

    def _ended(self, key: Hashable, task: asyncio.Task[None]) -> None:
        self._tasks.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.critical(self.broke, exc_info=error)
