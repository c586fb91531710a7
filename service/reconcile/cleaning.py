"""Machines of bare metal that served one project are cleaned before another gets them.

One process at a time does so, the one that judges silent hosts too, under its lease. A machine is cleaned by a boot of
its own: made like a member's, from the image that its operator names, with a document that says how to clean. Its guest
reports, and is switched off. What goes wrong leaves the machine closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial

from service.domain.cleaning import CleaningState, Wipe
from service.domain.fleet import Host
from service.errors import CorralError
from service.failpoints import failpoint
from service.reconcile.cleaning_attempt import CleaningAttempt
from service.reconcile.custody import Custody
from service.reconcile.leading import Leading
from service.reconcile.monitor import HostMonitor
from service.store import cleanings
from service.store.clock import StoreClock
from service.store.connection import Connection
from service.store.engine import Store
from service.telemetry.metrics import Metrics
from service.transactions import cleaning as steps
from service.transactions.fencing import NotLeading

logger = logging.getLogger(__name__)

GRACE_SECONDS = 30.0
"""For so long after it was let go a machine is kept for its own project: a member that is placed anew comes back."""
AGAIN_SECONDS = 3.0


class Cleaner(Leading):
    """Has the machines cleaned that are due."""

    not_done = "machines were not cleaned"
    broke = "a machine's cleaning broke"

    def __init__(
        self,
        store: Store,
        monitors: Mapping[str, HostMonitor],
        custody: Custody,
        metrics: Metrics,
        clock: StoreClock,
        owner: str,
    ) -> None:
        """`owner`: this process's name."""
        super().__init__(store, clock, owner)
        self._monitors = monitors
        self._custody = custody
        self._metrics = metrics
        self._free: dict[str, float] = {}

    async def once(self) -> None:
        """Begin what is to be begun, and see to what is under way. Raises Unavailable, NotLeading."""
        found = {host.uuid: host for host in await self._store.read(cleanings.due)}
        ripe = self._ripe(found)
        under_way = [h for h in found.values() if h.cleaning.state is CleaningState.CLEANING]
        free_again = [h for h in found.values() if h.cleaning.state is CleaningState.UNCLEAN and h.wipe is Wipe.NONE]
        if not ripe and not under_way and not free_again:
            return
        if not await self._leads() or self._custody.held or not self._custody.judged:
            return
        epoch = self._epoch
        for host in free_again:
            await self._store.write(partial(_given_up, epoch, host.uuid))
        for host in ripe:
            await self._begin(host, epoch)
        for host in (await self._store.read(cleanings.due)) if ripe else under_way:
            key = host.uuid, host.cleaning.count
            if host.cleaning.state is CleaningState.CLEANING and key not in self._tasks:
                self._carry(key, self._carry_out(*key, epoch), f"cleaning of {host.name}")

    def _ripe(self, found: Mapping[str, Host]) -> list[Host]:
        """Those that nobody of their project has come back to."""
        now = asyncio.get_running_loop().time()
        waiting = {
            uuid: host
            for uuid, host in found.items()
            if host.cleaning.state is CleaningState.OPEN and host.wipe is not Wipe.NONE and uuid in self._monitors
        }
        self._free = {uuid: self._free.get(uuid, now) for uuid in waiting}
        return [host for uuid, host in waiting.items() if now - self._free[uuid] >= GRACE_SECONDS and host.schedulable]

    async def _begin(self, host: Host, epoch: int) -> None:
        failpoint("clean.beginning")
        try:
            if await self._store.write(lambda c: steps.begin(c, epoch, host.uuid)):
                failpoint("clean.begun")
                logger.info("host %s is cleaned (%s)", host.name, host.wipe)
        except CorralError as error:
            logger.warning("the cleaning of host %s does not begin yet: %s", host.name, error)

    # --- carrying out ------------------------------------------------------------------------------------------------

    async def _carry_out(self, host_uuid: str, count: int, epoch: int) -> None:
        """Until the cleaning is over, or another process leads."""
        one = CleaningAttempt(self._store, self._monitors, self._custody, self._metrics, host_uuid, count, epoch)
        try:
            while True:
                if await one.tried():
                    return
                await asyncio.sleep(AGAIN_SECONDS)
        except NotLeading:
            logger.info("the cleaning of host %s is another process's now", host_uuid)


def _given_up(epoch: int, host_uuid: str, connection: Connection) -> None:
    steps.given_up(connection, epoch, host_uuid)
