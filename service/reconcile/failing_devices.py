"""Devices that fail are given to nobody before an operator has seen to them."""

from __future__ import annotations

import logging

from service.domain.groups import Instance
from service.drivers.base import DriverError, HostRejected
from service.errors import CorralError
from service.store import devices, fleet
from service.store.connection import Connection
from service.store.engine import Store

logger = logging.getLogger(__name__)

NOT_CLEANED = "its host could not reset it for a new machine"


async def take_out(store: Store, member: Instance, error: DriverError) -> None:
    """Quarantine what the member's host could not clean. Which of several it was the host does not say in words that
    are relied on: all of them are out."""
    if not isinstance(error, HostRejected) or error.code != "device_reset":
        return
    keys = [device.key for device in member.devices]

    def quarantine(connection: Connection) -> None:
        fleet.host(connection, member.host_uuid, lock=True)
        devices.quarantine(connection, member.host_uuid, keys, NOT_CLEANED)

    try:
        await store.write(quarantine)
    except CorralError as why:
        logger.warning("devices of %s are not taken out of service: %s", member.uuid, why)
        return
    logger.error("devices %s of host %s are in quarantine: %s", ", ".join(keys), member.host_name, NOT_CLEANED)
