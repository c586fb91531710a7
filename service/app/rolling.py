"""Rolls: a zone's hosts are emptied for maintenance some at a time, once the whole order was found.

A preview writes nothing. What is begun is a row; reconciliation (`service/reconcile/rolling.py`) carries it out whether
anybody watches or not.
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from placement.model import Snapshot, Status
from service.app import operator_changes, paging
from service.app.auditing import audited
from service.app.paging import Page
from service.domain.fleet import Host
from service.domain.groups import Group
from service.domain.rolls import Roll, RollHost, RollWish
from service.domain.tenants import Caller
from service.errors import InvalidArgument, NoCapacity, NotFound, Undecided, Unsatisfiable
from service.planning import rolling
from service.planning.fleet_reader import FleetReader
from service.planning.neighbours import LiveTargets, groups_in
from service.planning.planner import Planner, answer_time
from service.planning.rolling import RollPlan
from service.signals import Signals
from service.store import clock as database_clock
from service.store import clusters, fleet, groups, rolls
from service.store.connection import Connection
from service.store.engine import Store
from service.telemetry.metrics import Metrics
from service.transactions import rolling as steps

METHOD = "RollHosts"


@dataclass(frozen=True, slots=True)
class Begun:
    """A roll that was begun, or one that was only looked at; `plan`: None where a request was repeated."""

    roll: Roll
    plan: RollPlan | None = None


class Rolls:
    """The use cases. `live_targets`: the hosts that would take a member as it runs."""

    def __init__(
        self,
        store: Store,
        planner: Planner,
        clock: Callable[[], int],
        reader: FleetReader,
        live_targets: LiveTargets,
        *,
        metrics: Metrics | None = None,
        signals: Signals | None = None,
    ) -> None:
        self._store = store
        self._planner = planner
        self._clock = clock
        self._reader = reader
        self._live_targets = live_targets
        self._metrics = metrics or Metrics()
        self._signals = signals or Signals()

    async def plan(self, wish: RollWish, *, seconds: float | None = None) -> RollPlan:
        """The order; nothing is written. `seconds`: how long the caller waits, None: for ever.

        Raises NotFound (zone, cluster, host), and InvalidArgument where no host is meant.
        """

        def read(connection: Connection) -> tuple[Mapping[str, Host], Snapshot, tuple[Group, ...]]:
            hosts, snapshot = self._reader.read(connection)
            _known(connection, wish, hosts)
            return hosts, snapshot, tuple(groups.load_many(connection, groups_in(snapshot)))

        hosts, snapshot, seated = await self._store.read(read)
        meant = rolling.eligible(wish, hosts)
        if not meant:
            raise InvalidArgument.of("host_uuids", "no host of those is enabled and answers")
        asked = rolling.asked(seated, snapshot, hosts)
        plan = await self._planner.roll(
            snapshot, asked, meant, wish.at_once, budget_seconds=rolling.PLAN_SECONDS, answer_by=answer_time(seconds)
        )
        live = await rolling.as_they_run(seated, self._clock(), self._live_targets, plan.batches)
        return RollPlan(plan, hosts, seated, live)

    async def begin(
        self,
        caller: Caller,
        wish: RollWish,
        request_id: str = "",
        *,
        validate_only: bool = False,
        seconds: float | None = None,
    ) -> Begun:
        """Begin a roll whose whole order was found. The same request id answers with what it began.

        Raises what `plan` raises; RequestIdReused; Unsatisfiable where a host cannot be emptied, NoCapacity where no
        order was found, Undecided where that was not settled in time; WrongState where a host is not enabled, does not
        answer, or is another roll's. Then nothing was done.
        """
        known = await self._store.read(lambda c: self._made(c, caller, wish, request_id))
        if known is not None:
            return Begun(known)
        plan = await self.plan(wish, seconds=seconds)
        _refuse(plan)
        order = [uuid for batch in plan.plan.batches for uuid in batch.hosts]
        hosts = tuple(RollHost(uuid, plan.hosts[uuid].name) for uuid in order)

        def work(connection: Connection) -> Begun:
            if (made := self._made(connection, caller, wish, request_id)) is not None:
                return Begun(made)
            now = database_clock.now(connection)
            name = f"{order[0]} {now} {caller.principal}"
            roll = Roll(uuids.uuid5(uuids.NAMESPACE_OID, name).hex, wish, hosts, now)
            steps.begin(connection, roll)
            operator_changes.made(connection, caller, METHOD, request_id, wish, roll.uuid, now)
            return Begun(roll, plan)

        begun = await operator_changes.commit(self._store, work, validate_only=validate_only)
        if not validate_only and begun.plan is not None:
            self._metrics.rolls.outcomes.labels("begun").inc()
            self._signals.fleet_changed()
        return begun

    async def get(self, uuid: str) -> Roll:
        """One as it is now. Raises NotFound."""
        return await self._store.read(lambda c: rolls.get(c, uuid))

    async def list(self, asked: int, page_token: str) -> Page[Roll]:
        """Those that were begun, the newest first, a page at a time. `asked`: its size, 0 for the default.

        Raises InvalidArgument for a token of another listing.
        """
        cursor = paging.cursor("rolls", asked, page_token)

        def read(connection: Connection) -> Page[Roll]:
            found = rolls.page(connection, cursor.after_time(), cursor.limit)
            return cursor.page(found, [(str(one.created_at), one.uuid) for one in found])

        return await self._store.read(read)

    async def call_off(self, caller: Caller, uuid: str, *, validate_only: bool = False) -> Roll:
        """No further host is begun; who has not moved stays; a host that is under maintenance stays so until its
        operator enables it. Raises NotFound.
        """

        def work(connection: Connection) -> Roll:
            now = database_clock.now(connection)
            roll = steps.call_off(connection, uuid, now)
            audited(connection, caller, "CallOffRoll", uuid, "", now)
            return roll

        roll = await operator_changes.commit(self._store, work, validate_only=validate_only)
        if not validate_only:
            self._signals.group_due("")
            self._signals.fleet_changed()
        return roll

    def _made(self, connection: Connection, caller: Caller, wish: RollWish, request_id: str) -> Roll | None:
        uuid = operator_changes.made_before(connection, caller, METHOD, request_id, wish)
        return None if uuid is None else rolls.get(connection, uuid)


def _known(connection: Connection, wish: RollWish, hosts: Mapping[str, Host]) -> None:
    if wish.zone_uuid:
        fleet.zone(connection, wish.zone_uuid)
    if wish.cluster_uuid:
        clusters.get(connection, wish.cluster_uuid)
    if wish.host_uuids and (wish.zone_uuid or wish.cluster_uuid):
        raise InvalidArgument.of("host_uuids", "are named beside a zone or a cluster: name one of these")
    for number, uuid in enumerate(wish.host_uuids):
        if uuid not in hosts:
            raise NotFound("host", uuid, f"host_uuids[{number}]")


def _refuse(plan: RollPlan) -> None:
    """Raises where no order was found for all of the hosts."""
    found = plan.plan
    if found.status is Status.PLACED:
        return
    host = plan.hosts[found.stuck]
    if found.status is Status.INFEASIBLE:
        raise Unsatisfiable(f"host {host.name} can be emptied by no moves within its zone: {found.why}", None)
    if found.stopped:
        raise Undecided("whether there is an order in which these hosts can be emptied was not settled in time")
    raise NoCapacity(f"no order was found in which host {host.name} can be emptied: {found.why}", None)
