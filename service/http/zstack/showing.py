"""Groups as ZStack's inventories, with what of them stands in the catalogue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from service.app.catalog import Catalog
from service.contract.convert.inventory import Reachable
from service.domain.catalog import version_key
from service.domain.groups import Group
from service.http.zstack import inventories
from service.http.zstack.calls import every


@dataclass(frozen=True, slots=True)
class Shown:
    """Makes inventories by what the catalogue held at one time. `images`: version of an entry -> image uuid."""

    reachable: Reachable
    images: Mapping[str, str]

    def group(self, value: Group) -> dict[str, Any]:
        """ModelServiceInstanceGroupInventory, its instances with their `vm`."""
        return inventories.group(value, self.reachable, self.images)

    def machines(self, value: Group) -> Iterator[dict[str, Any]]:
        """VmInstanceInventory of each member that has a machine."""
        for member in value.instances:
            machine = inventories.machine(member, self.images)
            if machine is not None:
                yield machine


class Showing:
    """Knows where the rest of an inventory stands."""

    def __init__(self, catalog: Catalog, reachable: Reachable) -> None:
        self._catalog = catalog
        self._reachable = reachable

    async def now(self) -> Shown:
        """Reads the catalogue once, for as many inventories as a call answers with."""
        entries = every(self._catalog.list_model_services)
        return Shown(self._reachable, {version_key(e.uuid, e.version): e.image_uuid async for e in entries})

    async def group(self, value: Group) -> dict[str, Any]:
        """The inventory of one group."""
        return (await self.now()).group(value)
