"""One group taken out of quarantine on a running service: rows written from its machines' own records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from service.domain.groups import Group
from service.domain.recovery import ToldValues
from service.drivers.base import DriverError
from service.reconcile.custody import Custody
from service.reconcile.monitor import HostMonitor, Look
from service.store.connection import Connection
from service.store.engine import Store
from service.transactions import recovery
from service.transactions.surveys import MOST_LOOKS, Survey, agree, values_of, withholds

TOLD_SECONDS = 5.0


class Adoption:
    """One for each process. An adopted group is due at once, like one that has just been accepted."""

    def __init__(self, store: Store, monitors: Mapping[str, HostMonitor], custody: Custody) -> None:
        self._store = store
        self._monitors = monitors
        self._custody = custody

    async def adopt(self, group_uuid: str) -> Group:
        """The group as stored, with claims on what its machines hold already. Raises like `prepare`'s, Unavailable."""
        return await self._store.write(await self.prepare(group_uuid))

    async def prepare(self, group_uuid: str) -> Callable[[Connection], Group]:
        """Look at all hosts; the answer is a transaction's work, which returns the group as stored.

        That work raises WrongState, which says why it is not plain what to write; Conflict where a host has no room for
        what it holds.
        """
        monitors = list(self._monitors.values())
        looks = await asyncio.gather(*(self._look(m) for m in monitors))
        silent = [m.host.name for m, look in zip(monitors, looks, strict=True) if look is None]
        seen = [(m, look) for m, look in zip(monitors, looks, strict=True) if look is not None]
        surveys = await asyncio.gather(*(self._survey(m, look, group_uuid) for m, look in seen))
        installation = self._custody.installation
        return lambda connection: recovery.adopt(connection, installation, surveys, silent, group_uuid)

    async def _look(self, monitor: HostMonitor) -> Look | None:
        if monitor.silent:
            return None
        try:
            before = await monitor.look()
            for _ in range(MOST_LOOKS - 1):
                after = await monitor.look()
                if agree(before.listing, after.listing):
                    return after
                before = after
        except DriverError:
            return None
        return None

    async def _survey(self, monitor: HostMonitor, look: Look, group_uuid: str) -> Survey:
        told: dict[str, ToldValues] = {}
        for machine in look.listing.machines:
            if machine.identity.group == group_uuid and withholds(machine):
                try:
                    text = await monitor.driver.told(machine.identity, budget_seconds=TOLD_SECONDS)
                except DriverError:
                    continue  # its names are told as missing
                told[machine.machine_uuid] = values_of(text)
        return Survey(monitor.host, look.listing.machines, None, told)
