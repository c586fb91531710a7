"""What a probe of a host has shown becomes its rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from service.domain.devices import PciFunction
from service.domain.fleet import Host
from service.domain.unmet_rules import unmet
from service.drivers.base import HostFacts
from service.store import addresses, clock, fleet, settings
from service.store.connection import Connection

logger = logging.getLogger(__name__)


def record(connection: Connection, host: Host, facts: HostFacts, *, now: int | None = None) -> None:
    """The host is connected, with these amounts, devices and addresses of others. `now`: ms, None for the clock's."""
    fleet.set_facts(
        connection,
        host.uuid,
        boot_id=facts.boot_id,
        virt_type=facts.virt_type,
        total=facts.total,
        foreign=facts.foreign,
        beside=facts.beside,
        guests=facts.guests,
        functions=facts.functions,
        isolation=facts.isolation,
        firmware=facts.firmware,
        secure_boot=facts.secure_boot,
        hypervisor=facts.hypervisor,
        now=now,
    )
    zone = fleet.zones(connection).get(host.zone_uuid) if facts.addresses is not None else None
    if zone is None or facts.addresses is None:
        return
    at = clock.now(connection) if now is None else now
    if addresses.seen_on_host(connection, zone.uuid, zone.network, host.uuid, facts.addresses, at):
        logger.info("host %s shows other addresses than before that strangers have in zone %s", host.name, zone.name)


def unmet_rules(connection: Connection, host: Host, functions: Sequence[PciFunction]) -> tuple[str, ...]:
    """What rules and partitions of devices name this host and find nothing there, in words."""
    rules = settings.device_rules(connection)
    return tuple(unmet(rules, rules.name_of(host.uuid, host.name), functions))
