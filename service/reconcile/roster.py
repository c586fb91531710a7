"""Keeps what this process knows of fleet and catalogue as the store has it, whichever replica changed it.

That is a monitor and a driver for every host, and what machine specifications are made from.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from service.domain.catalog import ModelService
from service.domain.fleet import Host, HostStatus, Zone
from service.drivers import in_zone
from service.drivers.base import (
    DriverError,
    HostDriver,
)
from service.drivers.unusable import UnusableDriver
from service.errors import Unavailable
from service.reconcile.custody import Custody
from service.reconcile.directory import Directory
from service.reconcile.manager import Reconciler
from service.reconcile.monitor import HostMonitor
from service.store import catalog, fleet
from service.store.connection import Connection
from service.store.engine import Store

logger = logging.getLogger(__name__)

MakeDriver = Callable[[Host], HostDriver]
"""The driver of a host. Raises DriverError where the host's fields are not right for it."""

_Picture = tuple[Mapping[str, Zone], Mapping[str, Host], Mapping[str, ModelService]]


class Roster:
    """`sync` after every change of the fleet or the catalogue; it does nothing where there is nothing new."""

    def __init__(
        self,
        store: Store,
        reconciler: Reconciler,
        directory: Directory,
        make_driver: MakeDriver,
        custody: Custody,
    ) -> None:
        """`make_driver`: makes the driver of a host. `custody`: the process's."""
        self._store = store
        self._reconciler = reconciler
        self._directory = directory
        self._make_driver = make_driver
        self._custody = custody
        self._one_at_a_time = asyncio.Lock()
        self.unusable: dict[str, str] = {}
        """Host uuid -> why no driver could be made for it."""

    async def sync(self) -> None:
        """Read the rows and follow them. Raises Unavailable."""
        async with self._one_at_a_time:
            zones, rows, catalogue = await self._store.read(_read)
            hosts = {uuid: in_zone.reached(host, zones.get(host.zone_uuid)) for uuid, host in rows.items()}
            self._directory.zones, self._directory.hosts, self._directory.catalogue = zones, hosts, catalogue
            for uuid in sorted(set(self._reconciler.monitors) - set(hosts)):
                await self._reconciler.remove_host(uuid, left_fleet=True)
                self.unusable.pop(uuid, None)
            for uuid, host in sorted(hosts.items()):
                await self._follow(uuid, host)

    async def refresh(self) -> None:
        """`sync`, for callers that come back anyway: a store that does not answer is logged."""
        try:
            await self.sync()
        except Unavailable as error:
            logger.warning("changes of the fleet are not seen for now: %s", error)

    async def _follow(self, uuid: str, host: Host) -> None:
        monitor = self._reconciler.monitors.get(uuid)
        if monitor is not None and monitor.host.address != host.address:
            logger.info("host %s is reached in another way now", host.name)
            await self._reconciler.remove_host(uuid)
            monitor = None
        if monitor is None:
            driver = self._driver(host)
            # The row's status is of the past; the monitor finds out for itself.
            unseen = replace(host, status=HostStatus.CONNECTING)
            changed = self._reconciler.host_changed
            self._reconciler.add_host(HostMonitor(unseen, driver, self._store, changed, self._custody))
        else:
            monitor.update(host)

    def _driver(self, host: Host) -> HostDriver:
        try:
            driver = self._make_driver(host)
        except DriverError as error:
            logger.warning("host %s cannot be used: %s %s", host.name, error.public, error.detail)
            self.unusable[host.uuid] = error.public
            return UnusableDriver(host.uuid, error.public, error.detail)
        self.unusable.pop(host.uuid, None)
        return driver


def _read(connection: Connection) -> _Picture:
    return fleet.zones(connection), fleet.hosts(connection), catalog.every_version(connection)
