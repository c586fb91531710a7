"""Each step of the cleaning of a machine as a transaction of its own, under the lease of the process that leads.

The record comes first: `served` is written with the claim, so that whatever is killed when, a machine that may hold
what somebody left is never taken for a clean one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from service.domain.catalog import Image
from service.domain.cleaning import DEADLINE_MS, MOST_TRIES, Cleaning, CleaningState, Wipe, cleaner_of
from service.domain.fleet import Host, HostState, HostStatus, Zone
from service.errors import NotFound, WrongState
from service.store import addresses, audit, catalog, cleanings, clock, fencing, fleet, ownership, waiting
from service.store.connection import Connection
from service.transactions.fencing import LEASE_MS, PRINCIPAL, NotLeading


@dataclass(frozen=True, slots=True)
class Step:
    """A cleaning that goes on. `image`: by which it is cleaned, None where the catalogue has none of that name.
    `address`: that of the guest which cleans; empty where its zone plans none. `late`: its time is over."""

    host: Host
    zone: Zone
    image: Image | None
    address: str
    late: bool


def begin(connection: Connection, epoch: int, host_uuid: str) -> bool:
    """From now on nobody gets the machine; whether that is so. Not where somebody has it, or it cannot be cleaned now.

    Raises NotLeading, NoAddresses, ClaimLost (an address was just taken).
    """
    _lead(connection, epoch)
    try:
        host = fleet.host(connection, host_uuid, lock=True)
    except NotFound:
        return False
    if host.cleaning.state is not CleaningState.OPEN or not host.cleaning.served or _unfit(connection, host):
        return False
    now = clock.now(connection)
    count = _begun(connection, host, now)
    _audit(connection, "CleanMachine", f"{host_uuid}: {host.wipe}, attempt {count}", now)
    return True


def ordered(connection: Connection, host: Host, now: int) -> None:
    """By its operator's order the machine is cleaned, also once more where that failed. The host's row is locked.

    Raises WrongState, NoAddresses, ClaimLost.
    """
    if host.cleaning.state is CleaningState.CLEANING:
        return
    if (why := _unfit(connection, host)) is not None:
        raise WrongState(
            f"host {host.name}", why, "bare metal that answers, that nobody has, and whose `clean` says how"
        )
    _begun(connection, host, now)


def _unfit(connection: Connection, host: Host) -> str | None:
    """Why the host cannot be cleaned now; None: it can."""
    if not host.bare_metal:
        return "a hypervisor"
    if host.wipe is Wipe.NONE:
        return "not to be cleaned: its option clean is none"
    if host.status is not HostStatus.CONNECTED:
        return host.status.value
    if host.state is HostState.MAINTENANCE:
        return "under maintenance"
    if not cleanings.is_free(connection, host.uuid):
        return "a member's"
    if any(host.foreign.values()) or ownership.held_on(connection, host.uuid):
        return "somebody else's"
    return None


def _begun(connection: Connection, host: Host, now: int) -> int:
    count = host.cleaning.count + 1
    network = fleet.zone(connection, host.zone_uuid).network
    if network.plans_addresses:
        addresses.take_addresses(connection, host.zone_uuid, network, [(cleaner_of(host.uuid), count)])
    until = now + DEADLINE_MS[host.wipe]
    begun = Cleaning(host.cleaning.served, CleaningState.CLEANING, "it is to boot", count, until)
    cleanings.put(connection, host, begun, now)
    return count


def look(connection: Connection, epoch: int, host_uuid: str, count: int) -> Step | None:
    """Whether the cleaning goes on, asked before each call to the host, with the lease renewed for that call. None: it
    is over. Raises NotLeading."""
    host = _current(connection, epoch, host_uuid, count)
    if host is None:
        return None
    zone, address, mine = fleet.zone(connection, host.zone_uuid), "", cleaner_of(host_uuid)
    if zone.network.plans_addresses:
        address = addresses.take_addresses(connection, zone.uuid, zone.network, [(mine, count)])[mine]
    image = catalog.image_named(connection, host.address.options.get("clean_image", ""))
    return Step(host, zone, image, address, clock.now(connection) > host.cleaning.until)


def told(connection: Connection, epoch: int, host_uuid: str, count: int, reason: str) -> None:
    """How far it is. Raises NotLeading."""
    host = _current(connection, epoch, host_uuid, count)
    if host is not None and host.cleaning.reason != reason:
        cleanings.put(connection, host, replace(host.cleaning, reason=reason), clock.now(connection))


def stopped(connection: Connection, epoch: int, host_uuid: str, count: int) -> bool | None:
    """The machine has stopped before it said that it is clean; whether it is booted once more. None: the cleaning is
    over. Raises NotLeading."""
    host = _current(connection, epoch, host_uuid, count)
    if host is None:
        return None
    tries = host.cleaning.tries + 1
    if tries >= MOST_TRIES:
        return False
    reason = f"it stopped before it had said that it is clean: boot {tries + 1} of {MOST_TRIES}"
    cleanings.put(connection, host, replace(host.cleaning, tries=tries, reason=reason), clock.now(connection))
    return True


def done(connection: Connection, epoch: int, host_uuid: str, count: int, how: str) -> bool:
    """The machine is clean, off, and was seen without what has cleaned it: anybody may have it. Raises NotLeading."""
    host = _current(connection, epoch, host_uuid, count)
    if host is None:
        return False
    _ended(connection, host, Cleaning(count=count), how)
    return True


def failed(connection: Connection, epoch: int, host_uuid: str, count: int, reason: str) -> bool:
    """It may still hold what was left: out of service until an operator has it cleaned again. What has failed may still
    run, so the address stays its own. Raises NotLeading."""
    host = _current(connection, epoch, host_uuid, count)
    if host is None:
        return False
    now = clock.now(connection)
    cleanings.put(connection, host, replace(host.cleaning, state=CleaningState.UNCLEAN, reason=reason, until=0), now)
    _audit(connection, "MachineUnclean", f"{host_uuid}: {reason}", now)
    return True


def given_up(connection: Connection, epoch: int, host_uuid: str) -> None:
    """The operator of an unclean machine wants no cleaning any more: it is opened once nothing is there that cleans.
    Raises NotLeading."""
    _lead(connection, epoch)
    host = fleet.host(connection, host_uuid, lock=True)
    if host.wipe is Wipe.NONE and host.cleaning.state is CleaningState.UNCLEAN:
        now = clock.now(connection)
        until = now + DEADLINE_MS[Wipe.METADATA]
        cleanings.put(connection, host, replace(host.cleaning, state=CleaningState.CLEANING, until=until), now)


def _current(connection: Connection, epoch: int, host_uuid: str, count: int) -> Host | None:
    _lead(connection, epoch)
    try:
        host = fleet.host(connection, host_uuid, lock=True)
    except NotFound:
        return None
    same = host.cleaning.state is CleaningState.CLEANING and host.cleaning.count == count
    return host if same else None


def _ended(connection: Connection, host: Host, cleaning: Cleaning, how: str) -> None:
    now = clock.now(connection)
    cleanings.put(connection, host, cleaning, now)
    addresses.give_back(connection, cleaner_of(host.uuid))
    waiting.given_back(connection)
    _audit(connection, "MachineCleaned", f"{host.uuid}: {how}", now)


def _lead(connection: Connection, epoch: int) -> None:
    if not fencing.renew_lease(connection, epoch, clock.now(connection), LEASE_MS):
        raise NotLeading


def _audit(connection: Connection, method: str, subject: str, now: int) -> None:
    audit.record(connection, principal=PRINCIPAL, project="", method=method, subject=subject, request_id="", now=now)
