"""What an operator decides about single devices of hosts."""

from __future__ import annotations

from collections.abc import Callable

from service.app import operator_changes
from service.app.auditing import audited
from service.domain.devices import Device
from service.domain.tenants import Caller
from service.signals import Signals
from service.store import devices, fleet, fleet_events
from service.store.connection import Connection
from service.store.engine import Store
from service.store.fleet_events import FleetChange


class Devices:
    """The use cases. `signals.fleet_changed` is told of every commit."""

    def __init__(self, store: Store, clock: Callable[[], int], signals: Signals) -> None:
        self._store = store
        self._clock = clock
        self._signals = signals

    async def quarantine(
        self, caller: Caller, host_uuid: str, key: str, reason: str, *, validate_only: bool = False
    ) -> Device:
        """Take a device out of service; a member that has it keeps it. Raises NotFound (host, device)."""

        def change(connection: Connection) -> None:
            devices.one(connection, host_uuid, key)
            devices.quarantine(connection, host_uuid, [key], reason)

        return await self._changed(caller, "QuarantineDevice", host_uuid, key, change, validate_only)

    async def release(self, caller: Caller, host_uuid: str, key: str, *, validate_only: bool = False) -> Device:
        """Take a device back into service. Raises NotFound (host, device), WrongState where it is not out of it."""

        def change(connection: Connection) -> None:
            devices.release(connection, host_uuid, key)

        return await self._changed(caller, "ReleaseDevice", host_uuid, key, change, validate_only)

    async def _changed(
        self,
        caller: Caller,
        method: str,
        host_uuid: str,
        key: str,
        change: Callable[[Connection], None],
        validate_only: bool,
    ) -> Device:
        now = self._clock()

        def work(connection: Connection) -> Device:
            host = fleet.host(connection, host_uuid, lock=True)
            change(connection)
            audited(connection, caller, method, f"{key} on host {host_uuid}", "", now)
            fleet_events.append(connection, FleetChange.HOST, host_uuid, host.zone_uuid, now)
            return devices.one(connection, host_uuid, key)

        device = await operator_changes.commit(self._store, work, validate_only=validate_only)
        if not validate_only:
            self._signals.fleet_changed()
        return device
