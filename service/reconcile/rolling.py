"""Rolls are carried out: a batch of hosts is begun once all before it are enabled again, and the rest of the order is
found anew on the fleet as it is by then. Where there is none, the roll waits, and says why.

Every replica does so; each step is a transaction that holds the roll's row, so that the same step is taken once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid as uuids
from collections.abc import Callable, Mapping

from placement.model import Snapshot, Status
from service.domain.fleet import Host
from service.domain.groups import Group
from service.domain.rolls import Roll, RollStage
from service.errors import CorralError
from service.failpoints import failpoint
from service.planning import rolling
from service.planning.fleet_reader import FleetReader
from service.planning.neighbours import LiveTargets, groups_in
from service.planning.planner import Planner
from service.planning.rolling import RollPlan
from service.reconcile.custody import Custody
from service.signals import Signals
from service.store import clock, groups, rolls
from service.store.claims import ClaimLost
from service.store.connection import Connection
from service.store.engine import Store
from service.telemetry.metrics import Metrics
from service.transactions import rolling as steps

logger = logging.getLogger(__name__)

EVERY_SECONDS = 2.0
IDLE_SECONDS = 15.0
"""How long nobody looks where no roll goes on: this process tells itself of those that are begun by it, and one that
another began goes on by that one's hand while it lives."""
AGAIN_SECONDS = 15.0
"""How long after an order was looked for in vain it is looked for again."""


class Roller:
    """`run` in every replica."""

    def __init__(
        self,
        store: Store,
        planner: Planner,
        reader: FleetReader,
        live_targets: LiveTargets,
        custody: Custody,
        metrics: Metrics,
        clock: Callable[[], int],
        signals: Signals,
    ) -> None:
        self._store = store
        self._planner = planner
        self._reader = reader
        self._live_targets = live_targets
        self._custody = custody
        self._metrics = metrics
        self._clock = clock
        self._signals = signals
        self._not_before: dict[str, float] = {}
        self._wake = asyncio.Event()

    def poke(self) -> None:
        """Something in the fleet was changed: an operator may have enabled a host."""
        self._wake.set()

    async def run(self) -> None:
        """Look every EVERY_SECONDS while a roll goes on, else every IDLE_SECONDS, and when poked, until cancelled."""
        while True:
            self._wake.clear()
            goes_on = True
            try:
                goes_on = await self.once()
            except CorralError as error:
                logger.warning("rolls wait: %s", error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), EVERY_SECONDS if goes_on else IDLE_SECONDS)

    async def once(self) -> bool:
        """Take each roll a step further; whether there was one. Raises Unavailable, NotFound."""
        going = await self._store.read(rolls.unended)
        self._not_before = {one.uuid: self._not_before.get(one.uuid, 0.0) for one in going}
        if not going or self._custody.held or not self._custody.judged:
            return bool(going)
        for one in going:
            failpoint("roll.looking")
            stepped = await self._store.write(lambda c, uuid=one.uuid: steps.look(c, uuid, clock.now(c)))  # type: ignore[misc]
            self._told(stepped)
            roll = stepped.roll
            if roll.ended_at or roll.called_off_at or roll.under_way:
                continue
            if asyncio.get_running_loop().time() >= self._not_before[roll.uuid]:
                await self._next(roll)
        return True

    def _told(self, stepped: steps.Stepped) -> None:
        for stage in (RollStage.MOVING, RollStage.DRAINED, RollStage.DONE):
            self._metrics.rolls.hosts.labels(stage.value).inc(stepped.came.get(stage, 0))
        if stepped.came and stepped.roll.ended_at:
            self._metrics.rolls.outcomes.labels("called_off" if stepped.roll.called_off_at else "done").inc()
        for group in stepped.touched:
            self._signals.group_due(group)
        if stepped.came:
            self._signals.fleet_changed()

    async def _next(self, roll: Roll) -> None:
        """Begin the next hosts, or say why not."""

        def read(connection: Connection) -> tuple[Mapping[str, Host], Snapshot, tuple[Group, ...]]:
            hosts, snapshot = self._reader.read(connection)
            return hosts, snapshot, tuple(groups.load_many(connection, groups_in(snapshot)))

        hosts, snapshot, seated = await self._store.read(read)
        left = steps.uuids(roll.waiting)
        unfit = [hosts[uuid].name for uuid in left if uuid in hosts and not rolling.fit(hosts[uuid])]
        if unfit:
            await self._waits(roll, f"host {unfit[0]} is not enabled, or does not answer")
            return
        asked = rolling.asked(seated, snapshot, hosts)
        plan = await self._planner.roll(snapshot, asked, left, roll.wish.at_once, budget_seconds=rolling.PLAN_SECONDS)
        self._metrics.rolls.plans.labels(plan.status.value).inc()
        if plan.status is not Status.PLACED:
            await self._waits(roll, f"host {hosts[plan.stuck].name} could not be emptied now: {plan.why}")
            return
        batch = plan.batches[0]
        live = await rolling.as_they_run(seated, self._clock(), self._live_targets, [batch])
        whole = RollPlan(plan, hosts, seated, live)
        moves = rolling.booked(whole, [move for move in batch.moves if move.member in live])
        touched = {move.group_uuid for move in moves}
        planned = tuple(group for group in seated if group.uuid in touched)
        name = uuids.uuid5(uuids.NAMESPACE_OID, f"{roll.uuid} {batch.hosts[0]}").hex

        def work(connection: Connection) -> steps.Stepped:
            return steps.next_hosts(connection, roll.uuid, batch.hosts, planned, moves, name, clock.now(connection))

        try:
            async with self._store.claiming(alone=False):
                stepped = await self._store.write(work)
        except ClaimLost as lost:
            logger.info("roll %s is planned again: %s", roll.uuid, lost)
            self._wake.set()
            return
        self._metrics.rebalance_moves.labels("roll").inc(len(moves))
        self._told(stepped)

    async def _waits(self, roll: Roll, reason: str) -> None:
        self._not_before[roll.uuid] = asyncio.get_running_loop().time() + AGAIN_SECONDS
        if roll.reason != reason:
            logger.warning("roll %s waits: %s", roll.uuid, reason)
            await self._store.write(lambda c: steps.why_not(c, roll.uuid, reason))
