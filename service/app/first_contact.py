"""A host that is not of the fleet yet is asked what it is."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from service.domain.causes import kept
from service.domain.fleet import Host
from service.drivers.base import DriverError, HostFacts, HostRejected
from service.errors import AlreadyExists, CorralError, InvalidArgument, Unavailable
from service.store import fleet
from service.store.connection import Connection

logger = logging.getLogger(__name__)

Probe = Callable[[Host], Awaitable[HostFacts]]
"""Connect to a host that is not of the fleet yet and read what it is. Raises DriverError."""


# Boot ids of these are all alike, so that two alike are no sign of one hypervisor that was added twice.
_ANONYMOUS = frozenset({"simulated", "test"})


async def first_contact(probe: Probe, host: Host) -> HostFacts:
    """What the host says that it is. Raises InvalidArgument, Unavailable: with a class of cause, and with what the host
    or the library that calls it said for those who are told."""
    try:
        return await probe(host)
    except DriverError as error:
        logger.info("host %s was not added: %s %s", host.name, error.public, error.detail)
        refused = _refusal(error)
        refused.cause = kept(error.detail, ())
        raise refused from error


def _refusal(error: DriverError) -> CorralError:
    if not isinstance(error, HostRejected):
        return Unavailable(f"the host does not answer: {error.public}")
    if error.code in ("bad_request", "unsupported"):
        return InvalidArgument.of("driver" if error.code == "unsupported" else "connection", error.public)
    return Unavailable(f"the host cannot be used: {error.public}")


def refuse_twin(connection: Connection, host: Host, facts: HostFacts) -> None:
    """Raises AlreadyExists for a hypervisor that has a host already, known by its boot id: under two uuids its capacity
    would be given out twice."""
    if facts.virt_type in _ANONYMOUS or not facts.boot_id:
        return
    for other in fleet.hosts(connection).values():
        if other.boot_id == facts.boot_id and other.address.driver == host.address.driver:
            raise AlreadyExists("host", other.uuid)
