"""Devices that fail are given to nobody before an operator has seen to them."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from prometheus_client import Counter

from service.domain.device_reports import kind_of_report
from service.domain.groups import Group, Instance
from service.drivers.base import DriverError, HostRejected, ObservedMachine
from service.errors import CorralError
from service.store import clock, devices, fleet, fleet_events
from service.store.connection import Connection
from service.store.engine import Store
from service.store.fleet_events import FleetChange

logger = logging.getLogger(__name__)

NOT_CLEANED = "its host could not reset it for a new machine"


async def take_out(store: Store, group: Group, member: Instance, error: DriverError) -> None:
    """Quarantine what the member's host could not clean. Which of several it was the host does not say in words that
    are relied on: all of them are out. Not where a later epoch has the group: an operator may have seen to them since,
    and whoever has it finds them again."""
    if not isinstance(error, HostRejected) or error.code != "device_reset":
        return
    keys = [device.key for device in member.devices]

    def quarantine(connection: Connection) -> bool:
        if not devices.is_leased(connection, group.uuid, group.epoch):
            return False
        fleet.host(connection, member.host_uuid, lock=True)
        devices.quarantine(connection, member.host_uuid, keys, NOT_CLEANED)
        _told(connection, member.host_uuid)
        return True

    try:
        if not await store.write(quarantine):
            return
    except CorralError as why:
        logger.warning("devices of %s are not taken out of service: %s", member.uuid, why)
        return
    logger.error("devices %s of host %s are in quarantine: %s", ", ".join(keys), member.host_name, NOT_CLEANED)


async def heed(store: Store, reports: Counter, host_name: str, host_uuid: str, machine: ObservedMachine) -> None:
    """Quarantine what the guest of a member's machine says fails. Raises CorralError: the next look brings it again.

    A guest may say so at each look for as long as it runs: only what is new locks the host and is written. `reports`:
    of `service/telemetry/device_metrics.py`.
    """
    of = machine.identity

    def new(connection: Connection) -> bool:
        return bool(devices.newly_ailing(connection, host_uuid, of.instance, of.attempt, machine.ailing))

    def reported(connection: Connection) -> tuple[Mapping[str, str], str]:
        said = devices.reported(connection, host_uuid, of.instance, of.attempt, machine.ailing)
        return said, _told(connection, host_uuid) if said else ""

    if not await store.read(new):
        return
    said, zone = await store.write(reported)
    for why in said.values():
        reports.labels(host_name, zone, kind_of_report(why).value).inc()
    if said:
        logger.error("devices %s of host %s are in quarantine: the guest of %s reports %s", ", ".join(said), host_name,
                     of.instance, "; ".join(sorted(set(said.values()))))  # fmt: skip


def _told(connection: Connection, host_uuid: str) -> str:
    """Tell that the host has changed; returns its zone's name."""
    host = fleet.host(connection, host_uuid)
    fleet_events.append(connection, FleetChange.HOST, host_uuid, host.zone_uuid, clock.now(connection))
    return fleet.zones(connection)[host.zone_uuid].name
