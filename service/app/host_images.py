"""What copies of images take on a host, and what they may take."""

from __future__ import annotations

from dataclasses import dataclass

from service.domain.fleet import Host, image_budget
from service.store import copies, fleet
from service.store.connection import Connection
from service.store.copies import Copy


@dataclass(frozen=True, slots=True)
class HostImages:
    """Copies of images on a host that this installation has on record, the one that was used last first. `budget`:
    bytes that they may take, 0: any number."""

    budget: int
    copies: tuple[Copy, ...] = ()

    @property
    def size(self) -> int:
        """Bytes that they take, of those that are not whole what has come."""
        return sum(one.size if one.whole else one.done for one in self.copies)


def images_on(connection: Connection, host: Host, otherwise: int) -> HostImages:
    """Those on a host. `otherwise`: the budget where neither the host nor its zone says one."""
    there = sorted(copies.on_host(connection, host.uuid), key=lambda one: (-one.used_at, one.volume))
    zone = fleet.zones(connection).get(host.zone_uuid)
    return HostImages(image_budget(host, zone, otherwise), tuple(there))
