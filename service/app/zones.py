"""Zones as operators manage them at run time; see `app.fleet` for what they share with the configuration file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from service.app import operator_changes, paging
from service.app.auditing import audited
from service.app.etags import require_etag
from service.app.paging import Page
from service.domain.fleet import Zone
from service.domain.network import ForeignAddress, Network, NetworkWish, PoolUse, clashes, network_of
from service.domain.tenants import Caller
from service.drivers import in_zone
from service.errors import AlreadyExists, FieldViolation, InvalidArgument, WrongState
from service.signals import Signals
from service.store import addresses, clusters, fleet, schema
from service.store.connection import Connection
from service.store.engine import Store

T = TypeVar("T")
MOST_FOREIGN = 1000
"""So many addresses of strangers are told of a zone."""


@dataclass(frozen=True, slots=True)
class ZoneView:
    """A zone and how many hosts it has. `pools`, `foreign`: who has its addresses; None where that was not read."""

    zone: Zone
    hosts: int
    pools: tuple[PoolUse, ...] | None = None
    foreign: tuple[ForeignAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class NewZone:
    """A zone to make. Without `resource_uuid` one is made."""

    name: str
    description: str = ""
    resource_uuid: str = ""
    request_id: str = ""
    network: Network = field(default_factory=Network)
    image_copies_budget: int | None = None
    seed_url: str = ""
    report_url: str = ""


@dataclass(frozen=True, slots=True)
class ZoneChange:
    """What to change in a zone; None leaves it. `pools`: "first-last" each. `image_copies_budget`: (None,) to let the
    configuration say it."""

    description: str | None = None
    pools: tuple[str, ...] | None = None
    isolation: str | None = None
    reachable: tuple[str, ...] | None = None
    image_copies_budget: tuple[int | None] | None = None
    seed_url: str | None = None
    report_url: str | None = None


class Zones:
    """The use cases of zones. `signals.fleet_changed` is told of every commit, so that this process takes notice at
    once; other replicas find it by themselves within a second."""

    def __init__(self, store: Store, clock: Callable[[], int], new_uuid: Callable[[], str], signals: Signals) -> None:
        self._store = store
        self._clock = clock
        self._new_uuid = new_uuid
        self._signals = signals

    async def create_zone(self, caller: Caller, request: NewZone, *, validate_only: bool = False) -> ZoneView:
        """Make a zone; the same request id answers with the zone that it made.

        Raises AlreadyExists, RequestIdReused, InvalidArgument where another zone has some of its addresses.
        """
        now = self._clock()

        def work(connection: Connection) -> ZoneView:
            known = operator_changes.made_before(connection, caller, "CreateZone", request.request_id, request)
            if known is not None:
                return _zone_view(connection, known)
            uuid = request.resource_uuid or self._new_uuid()
            if uuid in fleet.zones(connection):
                raise AlreadyExists("zone", uuid)
            zone = Zone(
                uuid,
                request.name,
                request.description,
                request.network,
                image_copies_budget=request.image_copies_budget,
                seed_url=request.seed_url,
                report_url=request.report_url,
            )
            fleet.put_zone(connection, zone, now=now)
            # Checked after writing: of two calls at once the later one waits for the other, and sees its zone.
            if wrong := _clashes(zone, fleet.zones(connection).values()):
                raise InvalidArgument(wrong)
            operator_changes.made(connection, caller, "CreateZone", request.request_id, request, uuid, now)
            return _zone_view(connection, uuid)

        return await self._commit(work, validate_only)

    async def list_zones(self, page_size: int, page_token: str) -> Page[ZoneView]:
        """Zones by name. Raises InvalidArgument for a token that is not one."""
        cursor = paging.cursor("zones", page_size, page_token)

        def read(connection: Connection) -> Page[ZoneView]:
            found = fleet.page_of_zones(connection, cursor.after, cursor.limit)
            counts = fleet.hosts_of(connection)
            views = [_with_addresses(connection, ZoneView(z, counts.get(z.uuid, 0))) for z in found]
            return cursor.page(views, [(z.name, z.uuid) for z in found])

        return await self._store.read(read)

    async def update_zone(
        self, caller: Caller, uuid: str, change: ZoneChange, etag: str = "", *, validate_only: bool = False
    ) -> ZoneView:
        """Change a zone's pools, whom its groups may talk with, and where its machines find this service.

        Raises NotFound, Conflict (etag), InvalidArgument, WrongState where a pool is taken away that members have
        addresses of, or an address that its machines are reached by.
        """
        now = self._clock()

        def work(connection: Connection) -> ZoneView:
            zone = fleet.zone(connection, uuid, lock=True)
            require_etag("zone", zone, etag)
            texts = {name: getattr(change, name) for name in ("description", "seed_url", "report_url")}
            (budget,) = change.image_copies_budget or (zone.image_copies_budget,)
            wanted = replace(
                zone,
                network=_changed(zone.network, change),
                image_copies_budget=budget,
                **{name: text for name, text in texts.items() if text is not None},
            )
            if zone.seed_url and not wanted.seed_url:
                _keep_what_machines_need(connection, zone)
            if wanted != zone:
                fleet.put_zone(connection, wanted, now=now)
                # Checked after writing, as for a new zone.
                if wrong := _clashes(wanted, fleet.zones(connection).values()):
                    raise InvalidArgument([replace(one, field=one.field.removeprefix("network.")) for one in wrong])
                _keep_what_is_held(connection, wanted)
                audited(connection, caller, "UpdateZone", uuid, "", now)
            return _zone_view(connection, uuid)

        return await self._commit(work, validate_only)

    async def delete_zone(self, caller: Caller, uuid: str, etag: str = "", *, validate_only: bool = False) -> None:
        """Remove a zone. Raises NotFound, Conflict (etag), WrongState: it has hosts, or the file defines it."""
        now = self._clock()

        def work(connection: Connection) -> None:
            zone = fleet.zone(connection, uuid, lock=True)
            require_etag("zone", zone, etag)
            operator_changes.require_run_time(connection, schema.zones, f"zone {zone.name}", uuid)
            if hosts := fleet.hosts_of(connection).get(uuid, 0):
                raise WrongState(f"zone {zone.name}", f"not empty: it has {hosts} hosts", "a zone without hosts")
            if there := clusters.of_zone(connection, uuid):
                raise WrongState(f"zone {zone.name}", f"not empty: it has {there} clusters", "a zone without clusters")
            addresses.forget_zone(connection, uuid)
            fleet.delete_zone(connection, uuid, now)
            audited(connection, caller, "DeleteZone", uuid, "", now)

        await self._commit(work, validate_only)

    async def _commit(
        self, work: Callable[[Connection], operator_changes.T], validate_only: bool
    ) -> operator_changes.T:
        result = await operator_changes.commit(self._store, work, validate_only=validate_only)
        if not validate_only:
            self._signals.fleet_changed()
        return result


def _clashes(zone: Zone, others: Iterable[Zone]) -> list[FieldViolation]:
    found = (
        wrong
        for other in others
        if other.uuid != zone.uuid
        for wrong in clashes(zone.network, other.network, other.name)
    )
    return [replace(wrong, field=f"network.{wrong.field}") for wrong in found]


def _changed(network: Network, change: ZoneChange) -> Network:
    """The network as it is to be. Raises InvalidArgument."""
    if (change.pools, change.isolation, change.reachable) == (None, None, None):
        return network
    pools = tuple(f"{low}-{high}" for low, high in network.pools) if change.pools is None else change.pools
    wish = NetworkWish(
        network.kind,
        network.source,
        network.subnet,
        network.gateway,
        pools=pools,
        isolation=network.isolation if change.isolation is None else change.isolation,
        reachable=network.reachable if change.reachable is None else change.reachable,
    )
    if change.pools == ():
        raise InvalidArgument.of("pools", "must name at least one pool")
    found, wrong = network_of(wish)
    if wrong:
        raise InvalidArgument(wrong)
    return found


def _keep_what_is_held(connection: Connection, zone: Zone) -> None:
    """A member's address is its own for life, so that no pool goes which one has an address of. Raises WrongState."""
    held = addresses.held_outside(connection, zone.uuid, zone.network)
    if held:
        said = f"with members at {', '.join(held[:3])}{' and others' if len(held) > 3 else ''}"
        raise WrongState(f"zone {zone.name}", said, "pools that hold every address which a member has")


def _keep_what_machines_need(connection: Connection, zone: Zone) -> None:
    """Machines that do not say it themselves boot by their zone's address. Raises WrongState."""
    hosts = [h for h in fleet.hosts(connection).values() if h.zone_uuid == zone.uuid and in_zone.needs_url(h.address)]
    if hosts:
        said = f"with machines that boot by its seed_url, {hosts[0].name} among them"
        raise WrongState(f"zone {zone.name}", said, "machines with a seed_url of their own, or another one here")


def _zone_view(connection: Connection, uuid: str) -> ZoneView:
    view = ZoneView(fleet.zone(connection, uuid), fleet.hosts_of(connection).get(uuid, 0))
    return _with_addresses(connection, view)


def _with_addresses(connection: Connection, view: ZoneView) -> ZoneView:
    uuid, network = view.zone.uuid, view.zone.network
    if not network.plans_addresses:
        return view
    foreign = addresses.foreign_addresses(connection, uuid, network, MOST_FOREIGN)
    return replace(view, pools=addresses.pool_uses(connection, uuid, network), foreign=foreign)
