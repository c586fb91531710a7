"""Hosts as operators manage them at run time, and what the fleet has; `zones` and `clusters` have those.

What the configuration file defines cannot be removed here. A change that is made here to what the file defines stays
until the file itself says something else; the file then has the last word. A host's state is always the operator's.
"""

from __future__ import annotations

import logging
import uuid as uuids
from collections.abc import Callable, Mapping
from dataclasses import astuple, replace
from typing import TYPE_CHECKING

from placement.model import Node
from service.app import operator_changes, paging
from service.app.auditing import audited
from service.app.capacity import FleetCapacity, HostView, carries, summed
from service.app.clusters import Clusters, require_cluster
from service.app.etags import require_etag
from service.app.first_contact import Probe, first_contact, refuse_twin
from service.app.host_images import images_on
from service.app.host_requests import HostChange, HostFilter, HostUpdate, NewHost
from service.app.paging import Page
from service.app.zones import Zones
from service.domain.fleet import MEMORY, VCPU, Bmc, Host, HostState, HostStatus, policy
from service.domain.ownership import Holding
from service.domain.specs import MachineType
from service.domain.tenants import Caller
from service.drivers import in_zone, kinds
from service.errors import AlreadyExists, InvalidArgument, NotFound, WrongState
from service.lifecycle.facts import Kept
from service.planning import translate
from service.planning.fleet_reader import FleetReader
from service.planning.planner import Planner, answer_time
from service.signals import Signals
from service.store import (
    addresses,
    claims,
    clock,
    devices,
    fencing,
    fleet,
    groups,
    kept_rules,
    ownership,
    schema,
    settings,
    usage,
    waiting,
)
from service.store.connection import Connection
from service.store.engine import Store
from service.store.loads import HostLoad, of_hosts
from service.transactions import host_facts
from service.transactions.changes import apply, time_lost

if TYPE_CHECKING:
    from placement.modes.capacity import Room

logger = logging.getLogger(__name__)

ROOM_SECONDS = 5.0

# What options of a BMC come from its credential: a caller names no files.
_OF_CREDENTIALS = ("password_file", "ca_file")

# What the audit calls a change of state, by whichever face it came.
_STATE_METHODS = {
    HostState.ENABLED: "EnableHost",
    HostState.DISABLED: "DisableHost",
    HostState.MAINTENANCE: "MaintainHost",
}


class Fleet(Zones, Clusters):
    """The use cases of hosts, and of the zones and clusters that they are in."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], int],
        probe: Probe,
        planner: Planner,
        *,
        new_uuid: Callable[[], str] = lambda: uuids.uuid4().hex,
        reader: FleetReader | None = None,
        credentials: Mapping[str, Mapping[str, str]] | None = None,
        anonymous_loopback: bool = False,
        signals: Signals | None = None,
        used: Callable[[str], Mapping[str, float]] = lambda _host_uuid: {},
        image_copies_budget: int = 0,
    ) -> None:
        """`reader`: the process's own. `credentials`: name -> option of hosts -> the file that it names.
        `anonymous_loopback`: whoever reaches this machine's loopback is an administrator. `used`: what guests take of a
        host just now. `image_copies_budget`: bytes, where neither a host nor its zone says another one; 0: any."""
        super().__init__(store, clock, new_uuid, signals or Signals())
        self._probe = probe
        self._planner = planner
        self.reader = reader or FleetReader()
        self._credentials = credentials or {}
        self._anonymous_loopback = anonymous_loopback
        self._used = used
        self._image_copies_budget = image_copies_budget

    async def add_host(self, caller: Caller, request: NewHost, *, validate_only: bool = False) -> HostView:
        """Take a host into the fleet once it has answered; the same request id answers with the host that it made.

        Raises NotFound (zone, credential), AlreadyExists (uuid, or the hypervisor itself), InvalidArgument,
        RequestIdReused, Unavailable where the host does not answer.
        """
        host = self._with_key(replace(request.host, uuid=request.host.uuid or self._new_uuid()), request.credential)
        host = replace(host, machine_type=kinds.machine_type(host.address))
        host = replace(host, bmc=self._with_password(host.bmc, request.bmc_credential, None))
        if wrong := [*kinds.whole_violations(host.address, host.overcommit, host.bridge), *kinds.bmc_violations(host)]:
            raise InvalidArgument(wrong)

        def known(connection: Connection) -> HostView | None:
            uuid = operator_changes.made_before(connection, caller, "AddHost", request.request_id, request)
            if uuid is not None:
                return self._host_view(connection, uuid)
            self._check_new(connection, request, host)
            return None

        before = await self._store.read(known)
        if before is not None:
            return before
        facts, now = await first_contact(self._probe, host), self._clock()

        def work(connection: Connection) -> HostView:
            there = known(connection)
            if there is not None:
                return there
            refuse_twin(connection, host, facts)
            fleet.put_host(connection, host, now=now)
            host_facts.record(connection, host, facts, now=now)
            operator_changes.made(connection, caller, "AddHost", request.request_id, request, host.uuid, now)
            return self._host_view(connection, host.uuid)

        return await self._commit(work, validate_only)

    async def get_host(self, uuid: str) -> HostView:
        """One host. Raises NotFound."""

        def read(connection: Connection) -> HostView:
            view = self._host_view(connection, uuid)
            return replace(view, images=images_on(connection, view.host, self._image_copies_budget))

        return await self._store.read(read)

    async def list_hosts(self, query: HostFilter, page_size: int, page_token: str) -> Page[HostView]:
        """Hosts by name. Raises InvalidArgument for a token that is not one, or of other filters."""
        cursor = paging.cursor("hosts", page_size, page_token, *astuple(query))

        def read(connection: Connection) -> Page[HostView]:
            found = fleet.page_of_hosts(
                connection,
                cursor.after,
                cursor.limit,
                zone_uuid=query.zone_uuid,
                states=query.states,
                statuses=query.statuses,
                project=query.project,
            )
            return cursor.page(self.views(connection, found), [(h.name, h.uuid) for h in found])

        return await self._store.read(read)

    async def update_host(
        self, caller: Caller, uuid: str, change: HostChange, etag: str = "", *, validate_only: bool = False
    ) -> HostUpdate:
        """Change what the operator says of a host; a new policy counts at once.

        Raises NotFound (host, cluster), Conflict (etag), InvalidArgument (a cluster of another zone), WrongState: it
        carries members whose groups' rules its new labels, rack or cluster would break, and that is not allowed.
        """
        now = self._clock()

        def work(connection: Connection) -> HostUpdate:
            host = fleet.host(connection, uuid, lock=True)
            require_etag("host", host, etag)
            wanted = _changed(host, change)
            if (wish := change.bmc) is not None:
                wanted = replace(wanted, bmc=self._with_password(wish.bmc, wish.credential, host.bmc))
            if wanted.cluster_uuid != host.cluster_uuid:
                require_cluster(connection, wanted)
            broken = kept_rules.broken_by(connection, host, wanted)
            if broken and not change.allow_broken_rules:
                raise _breaks(host, broken)
            zones = fleet.zones(connection)
            in_zone.require_bridge(wanted.bridge, zones[wanted.zone_uuid].network)
            whole = kinds.whole_violations(wanted.address, wanted.overcommit, wanted.bridge)
            if wrong := [*whole, *(kinds.bmc_violations(wanted) if change.bmc is not None else ())]:
                raise InvalidArgument(wrong)
            if wanted != host:
                fleet.set_allocatable(connection, wanted, policy(settings.overcommit(connection), zones, wanted))
                fleet.put_host(connection, wanted, now=now)
                method = "UpdateHost(allow_broken_rules)" if broken else "UpdateHost"
                audited(connection, caller, method, uuid, "", now)
            return HostUpdate(self._host_view(connection, uuid), broken)

        return await self._commit(work, validate_only)

    async def remove_host(
        self, caller: Caller, uuid: str, etag: str = "", *, force: bool = False, validate_only: bool = False
    ) -> None:
        """Take a host out of the fleet. Raises NotFound, Conflict (etag), WrongState: it carries members or claims,
        or the file defines it.

        `force`: the operator's word that the machine is gone for good. Claims of members that were placed elsewhere go
        with the host. Raises WrongState where it was not fenced, or answers. Its devices that are out of service are so
        again where it is added again.
        """
        now = self._clock()

        def work(connection: Connection) -> tuple[str, ...]:
            host = fleet.host(connection, uuid, lock=True)
            require_etag("host", host, etag)
            operator_changes.require_run_time(connection, schema.hosts, f"host {host.name}", uuid)
            if force:
                _give_up(connection, host)
            load = of_hosts(connection, [uuid])[uuid]
            if load.members or load.stale_claims:
                raise WrongState(f"host {host.name}", carries(load), "a host without members and claims: drain it")
            if host.name in ownership.ahead(connection):
                time_lost(connection, clock.now(connection))
            addresses.silent(connection, uuid)
            out = fleet.delete_host(connection, host, now)
            audited(connection, caller, "RemoveHost(force)" if force else "RemoveHost", uuid, "", now)
            return out

        if (out := await self._commit(work, validate_only)) and not validate_only:
            logger.warning("host %s is removed; devices stay out of service if it comes back: %s", uuid, ", ".join(out))

    async def set_state(
        self, caller: Caller, uuid: str, state: HostState, etag: str = "", *, validate_only: bool = False
    ) -> HostView:
        """Enable, disable or maintain a host; being so already is success.

        The end of maintenance takes a drain back: members that have not begun to move stay where they are.
        Raises NotFound, Conflict (etag), WrongState: maintenance of a host that carries members, and the end of
        maintenance while machines of members that were placed elsewhere may still be there.
        """
        now = self._clock()
        kept: list[str] = []

        def work(connection: Connection) -> HostView:
            host = fleet.host(connection, uuid, lock=True)
            require_etag("host", host, etag)
            load = of_hosts(connection, [uuid])[uuid]
            if state is HostState.MAINTENANCE and load.members and host.state is not state:
                raise WrongState(f"host {host.name}", carries(load), "a host without members: drain it")
            if host.state is HostState.MAINTENANCE and host.state is not state and load.stale_claims:
                raise WrongState(
                    f"host {host.name}",
                    carries(load),
                    "that it answers and is cleared of them, which happens by itself",
                )
            kept[:] = _take_drain_back(connection, uuid) if host.state is HostState.MAINTENANCE is not state else ()
            if host.state is not state:
                fleet.set_state(connection, host, state, now)
                if state is HostState.ENABLED:
                    waiting.given_back(connection)
                audited(connection, caller, _STATE_METHODS[state], uuid, "", now)
            return self._host_view(connection, uuid)

        view = await self._commit(work, validate_only)
        for group_uuid in () if validate_only else kept:
            self._signals.group_due(group_uuid)
        return view

    async def capacity(self, zone_uuid: str = "") -> FleetCapacity:
        """How much the hosts that take new members have, in the fleet or in one zone. Raises NotFound (zone)."""

        def read(connection: Connection) -> FleetCapacity:
            if zone_uuid and zone_uuid not in fleet.zones(connection):
                raise NotFound("zone", zone_uuid, "zone_uuid")
            hosts = [h for h in fleet.hosts(connection).values() if zone_uuid in ("", h.zone_uuid)]
            zones, of_fleet = fleet.zones(connection), settings.overcommit(connection)
            taking = [h for h in hosts if h.schedulable]
            views = [HostView(h, HostLoad(), policy(of_fleet, zones, h), used=self._used(h.uuid)) for h in taking]
            return FleetCapacity(summed(views), len(views), len(hosts) - len(views))

        return await self._store.read(read)

    async def room(self, cpu_num: int, memory_size: int, zone_uuid: str = "", *, seconds: float | None = None) -> Room:
        """How many more virtual machines of a size (vCPUs, bytes) fit on the fleet or in one zone.

        `seconds`: how long the caller waits, None: for ever.
        """
        answer_by = answer_time(seconds)
        _, snapshot = await self._store.read(self.reader.read)
        labels = {translate.TYPE_LABEL: (MachineType.VIRTUAL_MACHINE.value,)}
        node = Node("room", {VCPU: cpu_num, MEMORY: memory_size}, zone_uuid or None, host_labels=labels)
        return await self._planner.room(snapshot, node, budget_seconds=ROOM_SECONDS, answer_by=answer_by)

    def views(self, connection: Connection, hosts: tuple[Host, ...]) -> tuple[HostView, ...]:
        """The hosts with what they carry and the policies that hold for them."""
        zones, of_fleet = fleet.zones(connection), settings.overcommit(connection)
        holds = {h.uuid: policy(of_fleet, zones, h) for h in hosts}
        loads, whose = of_hosts(connection, [*holds]), usage.on_hosts(connection, [*holds])
        its = devices.of_hosts(connection, [*holds])
        fences, told = fencing.newest(connection, [*holds]), fencing.verdicts(connection, [*holds])
        some = {uuid for uuid, kind in ownership.counts(connection) if kind is Holding.MACHINE}
        held = {u: ownership.held_on(connection, u) for u in some & holds.keys()}
        return tuple(
            HostView(
                h,
                loads[u],
                holds[u],
                whose.get(u, ()),
                its.get(u, ()),
                fences.get(u),
                told.get(u),
                held.get(u, {}),
                self._used(u),
            )
            for u, h in ((h.uuid, h) for h in hosts)
        )

    def _host_view(self, connection: Connection, uuid: str) -> HostView:
        return self.views(connection, (fleet.host(connection, uuid),))[0]

    def _check_new(self, connection: Connection, request: NewHost, host: Host) -> None:
        zone = fleet.zones(connection).get(host.zone_uuid)
        if zone is None:
            raise NotFound("zone", host.zone_uuid, "zone_uuid")
        if self._anonymous_loopback and zone.network.kind == "user" and kinds.is_this_machine(host.address):
            raise InvalidArgument.of(
                "zone_uuid", "its guests would reach this machine's loopback, where every caller is an administrator"
            )
        in_zone.require_bridge(host.bridge, zone.network)
        require_cluster(connection, host)
        if request.credential and request.credential not in self._credentials:
            raise NotFound("credential", request.credential, "connection.credential")
        if request.credential and (unfit := kinds.credential_violation(host.address)):
            raise InvalidArgument.of("connection.credential", unfit)
        hosts = fleet.hosts(connection)
        if host.uuid in hosts:
            raise AlreadyExists("host", host.uuid)
        if (twin := kinds.twin_of(host, hosts.values())) is not None:
            raise AlreadyExists("host", twin.uuid)

    def _with_key(self, host: Host, credential: str) -> Host:
        """The host with the key file of the named credential; an unknown name is refused by `_check_new`."""
        if credential not in self._credentials:
            return host
        options = {**host.address.options, **self._credentials[credential]}
        return replace(host, address=replace(host.address, options=options))

    def _with_password(self, bmc: Bmc | None, credential: str, before: Bmc | None) -> Bmc | None:
        """The BMC with the files of the named credential, or with those that it has. Raises NotFound."""
        if bmc is None:
            return None
        if credential and not self._credentials.get(credential, {}).get("password_file"):
            raise NotFound("credential with a password_file", credential, "bmc.credential")
        kept = {k: v for k, v in (before.address.options if before else {}).items() if k in _OF_CREDENTIALS}
        options = {**bmc.address.options, **(self._credentials[credential] if credential else kept)}
        return replace(bmc, address=replace(bmc.address, options=options))


def _give_up(connection: Connection, host: Host) -> None:
    """End the claims of attempts that were left behind on a host that never comes back.

    The host's row is locked: a probe that sees it answer comes before, and then this is refused, or finds no row.
    Raises WrongState where the host was not fenced: then its members were placed nowhere else.
    """
    load = of_hosts(connection, [host.uuid])[host.uuid]
    if host.state is not HostState.MAINTENANCE or host.status is not HostStatus.DISCONNECTED or load.members:
        state = f"{host.state.value}, {host.status.value} and {carries(load)}"
        raise WrongState(f"host {host.name}", state, "a host that was fenced and does not answer")
    left = {(instance, attempt, host.uuid) for instance, attempt, _ in claims.on_host(connection, host.uuid)}
    claims.leave(connection, left)  # one that was to move here live holds its place on the host where it is still
    addresses.let_go(connection, [instance for instance, *_ in left])
    logger.warning("host %s is gone for good by its operator's word: %d claims are given up", host.name, len(left))


def _take_drain_back(connection: Connection, host_uuid: str) -> list[str]:
    """Let the members that wait for their move stay on the host; returns the groups with a member there."""
    now = clock.now(connection)
    touched = sorted({group for _, group, _, _ in groups.on_host(connection, host_uuid)})
    for group_uuid in touched:  # all locks first, so that the event counter's comes last
        groups.load(connection, group_uuid, lock=True)
    for group_uuid in touched:
        apply(connection, group_uuid, [Kept(host_uuid)], now)
        groups.due(connection, group_uuid, 0)
    return touched


def _breaks(host: Host, rules: tuple[str, ...]) -> WrongState:
    more = f", and {len(rules) - 5} more" if len(rules) > 5 else ""
    said = f"carrying members whose groups' rules that would break: {'; '.join(rules[:5])}{more}"
    return WrongState(f"host {host.name}", said, "a host without them (drain it), or allow_broken_rules")


def _changed(host: Host, change: HostChange) -> Host:
    fields = set(HostChange.__slots__) - {"allow_broken_rules", "bmc"}
    wanted = {name: value for name in fields if (value := getattr(change, name)) is not None}
    return replace(host, **wanted)
