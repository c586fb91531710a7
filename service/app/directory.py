"""What groups are placed on and made from, as callers may look at it: zones, hosts and the catalogue."""

from __future__ import annotations

from service.fleet import Host, ModelService, Zone
from service.store import fleet
from service.store.engine import Store


class Directory:
    """Reads of the fleet's rows. Every method raises Unavailable where the store does not answer."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def zones(self) -> tuple[Zone, ...]:
        """All zones by name."""
        found = await self._store.read(fleet.zones)
        return tuple(sorted(found.values(), key=lambda zone: (zone.name, zone.uuid)))

    async def hosts(self) -> tuple[Host, ...]:
        """All hosts by name, with their resource vectors as last seen and claimed."""
        found = await self._store.read(fleet.hosts)
        return tuple(sorted(found.values(), key=lambda host: (host.name, host.uuid)))

    async def model_services(self) -> tuple[ModelService, ...]:
        """The whole catalogue by name."""
        found = await self._store.read(fleet.model_services)
        return tuple(sorted(found.values(), key=lambda entry: (entry.name, entry.uuid)))
