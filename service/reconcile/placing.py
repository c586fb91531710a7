"""Finding room for a group's members and claiming it: for the whole gang, or for one that is moved live."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from placement.model import Decision, Policy, Request, Snapshot, Status
from service.domain.fleet import Host as FleetHost
from service.domain.groups import (
    AddressShortage,
    Failure,
    Group,
    Instance,
    InstanceStatus,
    PlacementRecord,
    QuotaViolation,
)
from service.errors import CorralError, InvariantViolation, NoAddresses, NoCapacity, QuotaExceeded, Unavailable
from service.failpoints import failpoint
from service.lifecycle.facts import MoveImpossible, NotDecided, NotPlaced, RoomRefused, ShapeChosen
from service.planning import backfill, cells, fleet_reader, images, translate, unseen
from service.planning.planner import Planned
from service.reconcile import shaping
from service.reconcile.context import WorkerContext
from service.reconcile.evictions import Evicting
from service.reconcile.fleet_look import Booked, look
from service.reconcile.outcomes import EffectResult, Sends
from service.reconcile.reserving import Reserving
from service.reconcile.room_making import MOST_TRIES, RoomMaking
from service.reconcile.standing_in_line import Line
from service.store import bookings, fleet
from service.store.addresses import Shortages
from service.store.claims import ClaimLost
from service.store.connection import Connection
from service.transactions import claiming, rooms
from service.transactions.changes import LeaseLost

logger = logging.getLogger(__name__)

CLAIM_TRIES = 8
CLAIM_RACES = 5
"""Tries that race with everybody; later ones have the fleet to themselves, so that large gangs do not starve."""
FLEET_PATIENCE_MS = 30_000
"""How long a gang waits for hosts of which nobody knows yet whether they answer: longer than a first probe takes."""
UNDECIDED_PATIENCE_MS = 600_000
"""How long searches without an answer are repeated where no deadline of the group ends them."""
MOVE_PATIENCE_MS = 60_000
"""The same for the target of a live move: a member can always be moved by a restart instead."""
MOST_DOUBLINGS = 3


@dataclass(slots=True)
class Search:
    """The searches of one worker since the last one that had an answer. `since`: ms, when the first of them ended."""

    undecided: int = 0
    since: int = 0

    def goes_on(self, now: int, patience_ms: int | None) -> bool:
        """Count one more without an answer; False once the patience is over (None: never)."""
        self.since = self.since or now
        self.undecided += 1
        return patience_ms is None or now < self.since + patience_ms


@dataclass(slots=True)
class Placing:
    """Plans and claims for one group under its worker's lease. `now`: the database's time, ms; `steady`: ms that only
    go on, by which this process's own patience is measured."""

    context: WorkerContext
    now: Callable[[], int]
    steady: Callable[[], int]
    _waits_for_fleet_until: int = 0
    _search: Search = field(default_factory=Search)
    _move_searches: dict[tuple[str, int], Search] = field(default_factory=dict)
    line: Line = field(default_factory=Line)
    rooms: RoomMaking = field(init=False)
    reserving: Reserving = field(init=False)
    evictions: Evicting = field(init=False)

    def __post_init__(self) -> None:
        self.reserving = Reserving(self.context, self.now)
        self.evictions = Evicting(self.context, self.now)
        self.rooms = RoomMaking(self.context, self.now, self.steady, self.evictions)

    async def gang(self, group: Group, sends: Sends) -> EffectResult:
        """Seats for all pending members of the group, or of that gang of it; or why there are none. `sends`: is told of
        those whose creates may be sent from then on.

        What finds no room is tried again after a growing pause, where the group outlives that.
        Raises InvariantViolation, LeaseLost.
        """
        outcome = await self._gang(group, sends)
        if not group.instances[0].beside:
            return outcome
        told = [replace(f, beside=True) if isinstance(f, NotPlaced | NotDecided) else f for f in outcome.facts]
        return replace(outcome, facts=told)

    async def _gang(self, group: Group, sends: Sends) -> EffectResult:
        if self.context.custody.held:
            # What hosts have seen and this database has not may be these very members.
            return EffectResult([], retry=True)
        outcome = await self._seats(group, sends)
        if not outcome.retry:
            self._search = Search()
        return replace(outcome, facts=self.line.told(outcome.facts))

    async def _seats(self, group: Group, sends: Sends) -> EffectResult:
        try:
            return await self._race(group, lambda attempt, alone: self._gang_once(group, sends, attempt, alone=alone))
        except QuotaExceeded as error:
            passed = QuotaViolation(error.subject, error.resource, error.limit, error.requested, error.held)
            return EffectResult([NotPlaced(Failure(error.reason, error.message, quota=passed))], retry=True)
        except NoAddresses as error:
            short = AddressShortage(error.zone, error.pool, error.asked, error.free)
            return EffectResult([NotPlaced(Failure(error.reason, error.message, addresses=short))], retry=True)
        except claiming.HeldBack as reason:
            return EffectResult([NotDecided(str(reason))], retry=True)
        except (InvariantViolation, LeaseLost):
            raise
        except CorralError as error:
            return EffectResult([NotPlaced(Failure(error.reason, error.message))], retry=True)

    async def target(self, group: Group, member: Instance, sends: Sends) -> EffectResult:
        """A host that the member is moved to live, or that there is none. Raises InvariantViolation, LeaseLost."""
        if self.context.custody.held:
            return EffectResult([], retry=True)
        try:
            return await self._race(
                group, lambda attempt, alone: self._target_once(group, member, sends, attempt, alone=alone)
            )
        except claiming.HeldBack:
            return EffectResult([], retry=True)
        except (InvariantViolation, LeaseLost):
            raise
        except CorralError as error:
            return EffectResult([MoveImpossible(member.uuid, member.attempt, error.message)])

    async def _race(self, group: Group, once: Callable[[int, bool], Awaitable[EffectResult | None]]) -> EffectResult:
        """A claim that was lost is planned anew with fresh rows, in the end with the fleet to itself."""
        try:
            for attempt in range(1, CLAIM_TRIES + 1):
                alone = attempt > CLAIM_RACES
                async with self.context.store.claiming(alone=alone):
                    outcome = await once(attempt, alone)
                if outcome is not None:
                    return outcome
                self.context.metrics.claims_lost.inc()
        except Unavailable as error:
            logger.warning("group %s: planning waits: %s", group.uuid, error)
        return EffectResult([], retry=True)

    async def _gang_once(self, group: Group, sends: Sends, attempt: int, *, alone: bool) -> EffectResult | None:
        # After a lost race all of it is read: what was kept of the fleet may be why.
        reader, now = self.context.fleet_reader if attempt == 1 else None, self.now()
        hosts, snapshot, booked, short, turn = await self.context.store.read(
            lambda c: look(c, reader, self.line, group, now)
        )
        if booked:
            return await self._booked(group, hosts, booked)
        if not turn:
            return EffectResult([], retry=True)
        everything, kept = snapshot, self.line.turn.kept if self.line.turn is not None else None
        snapshot, closed = backfill.open_to(group, kept, everything, hosts)
        number, planned, why = await self._shaped(group, snapshot, hosts, short, closed, attempt, alone=alone)
        if group.shapes is not None and number != group.shapes.chosen:
            return EffectResult([ShapeChosen(number, why)])
        decision = planned.decision
        if decision.status is not Status.PLACED and snapshot is not everything:
            planned = await self._gang_decided(group, everything, hosts, short, frozenset(), attempt, alone=alone)
            decision = planned.decision
            if decision.status is Status.PLACED:
                self.context.metrics.backfill.labels("held_back").inc()
                return EffectResult([NotPlaced(Failure(NoCapacity.reason, backfill.KEPT))], retry=True)
        if decision.status is not Status.PLACED:
            return await self._unplaced(group, decision, hosts, snapshot, why, alone=alone)
        failpoint("worker.planned")
        placement = translate.record(group, decision, hosts, planned.duration_ms, attempt, snapshot)
        now = self.now()
        cluster = self.context.custody.installation.cluster
        try:
            claimed = await self.context.store.write(
                lambda c: self._claimed(c, cluster, group, placement, now, alone=alone)
            )
        except ClaimLost as lost:
            logger.info("group %s: claim lost (%s), planning again", group.uuid, lost)
            return None
        sends.dispatched.update(claimed.dispatched)
        failpoint("worker.claimed")
        self.context.metrics.claims.inc()
        if kept is not None:
            self.context.metrics.backfill.labels("passed").inc()
        return EffectResult([], stored=claimed.group)

    async def _unplaced(
        self,
        group: Group,
        decision: Decision,
        hosts: Mapping[str, FleetHost],
        snapshot: Snapshot,
        why: shaping.Why,
        *,
        alone: bool,
    ) -> EffectResult | None:
        """What follows where the gang fits nowhere, or that was not decided. `why`: of each, where several would do."""
        if unseen.waits_for(hosts) and self._may_wait_for_fleet():
            return EffectResult([], retry=True)
        if decision.status is Status.UNKNOWN and self._may_go_on(group):
            return EffectResult([NotDecided()], retry=True)
        failure = shaping.of_all(translate.failure(decision, group, snapshot, hosts), why)
        if group.room is not None and group.room.tries < MOST_TRIES and not alone:
            return await self._room(group, hosts, snapshot, failure)
        if failure.code != NoCapacity.reason:
            return EffectResult([NotPlaced(failure)], retry=True)
        # Whoever is the first in line leaves nobody room: it sees all of the fleet.
        starts_at, kept = await self.reserving.foreseen(group, hosts, snapshot, self.line.turn)
        return EffectResult([NotPlaced(failure, starts_at=starts_at, kept=kept)], retry=True)

    async def _shaped(
        self,
        group: Group,
        snapshot: Snapshot,
        hosts: Mapping[str, FleetHost],
        short: Shortages,
        closed: frozenset[str],
        attempt: int,
        *,
        alone: bool,
    ) -> tuple[int, Planned, shaping.Why]:
        """Where the gang goes, or the first that fits of those that its deploy named: see `shaping.chosen`."""

        def decide(variant: Group) -> Awaitable[Planned]:
            return self._gang_decided(variant, snapshot, hosts, short, closed, attempt, alone=alone)

        return await shaping.chosen(group, decide, lambda p, one: translate.failure(p.decision, one, snapshot, hosts))

    async def _gang_decided(
        self,
        group: Group,
        snapshot: Snapshot,
        hosts: Mapping[str, FleetHost],
        short: Shortages,
        closed: frozenset[str],
        attempt: int,
        *,
        alone: bool,
    ) -> Planned:
        """Where the gang goes, in the best order of hosts that are left out. `closed`: those that it may not use."""
        catalogue = self.context.calls.directory.catalogue
        asked = images.preferring(translate.request(group, snapshot, hosts), group, hosts, catalogue)
        never = closed | translate.kept_for_others(group, hosts)
        for shunned in _shunned(frozenset(group.excluded_hosts), hosts, short):
            where = replace(asked, excluded_hosts=shunned | never)
            planned = await self._decide(snapshot, where, group.project, self._search, attempt, alone=alone)
            if planned.decision.status is Status.PLACED:
                break
        return planned

    def _claimed(
        self, connection: Connection, cluster: str, group: Group, placement: PlacementRecord, now: int, *, alone: bool
    ) -> claiming.Claimed:
        """See `claiming.claim`. Raises ClaimLost too where other room is kept for somebody before it by now."""
        self.line.still(connection, group, now)
        return claiming.claim(connection, cluster, group, placement, now, alone=alone, dispatch=True)

    async def _room(
        self, group: Group, hosts: Mapping[str, FleetHost], snapshot: Snapshot, failure: Failure
    ) -> EffectResult | None:
        try:
            return await self.rooms.begin(group, hosts, snapshot, failure, self.line)
        except ClaimLost as lost:
            logger.info("group %s: room for it is planned again: %s", group.uuid, lost)
            return None

    async def _booked(self, group: Group, hosts: Mapping[str, FleetHost], booked: Booked) -> EffectResult:
        """Members that were stopped to make room take the seats that are kept for them."""
        waiting = [m for m in group.instances if m.status is InstanceStatus.PENDING]
        refused = EffectResult([RoomRefused(frozenset(booked))], reload=True)
        if any(m.uuid not in booked or booked[m.uuid][0] not in hosts for m in waiting):
            return refused
        seats = tuple(translate.seat(m, hosts[booked[m.uuid][0]], booked[m.uuid][1]) for m in waiting)
        placement = PlacementRecord(seats, group.spec.placement.strategy, 0, 0, 0, "gap", "room made for others")
        cluster, now = self.context.custody.installation.cluster, self.now()
        try:
            await self.context.store.write(lambda c: claiming.claim(c, cluster, group, placement, now))
        except ClaimLost as lost:
            logger.info("group %s: a seat that was kept for it is gone: %s", group.uuid, lost)
            return refused
        return EffectResult([], reload=True)

    async def _target_once(
        self, group: Group, member: Instance, sends: Sends, attempt: int, *, alone: bool
    ) -> EffectResult | None:
        if member.room:
            return await self._booked_target(group, member, sends)
        hosts, snapshot = await self.context.store.read(fleet_reader.read_fleet)
        targets = self.context.calls.live_targets(group, member)
        request = translate.move_request(group, member, snapshot, hosts, targets)
        search = self._move_searches.setdefault((member.uuid, member.attempt), Search())
        decision = (
            (await self._decide(snapshot, request, group.project, search, attempt, alone=alone)).decision
            if targets
            else None
        )
        undecided = decision is not None and decision.status is Status.UNKNOWN
        if undecided and search.goes_on(self.steady(), MOVE_PATIENCE_MS):
            return EffectResult([], retry=True)
        if decision is None or decision.status is not Status.PLACED:
            return EffectResult([MoveImpossible(member.uuid, member.attempt, "no other host takes it as it runs")])
        failpoint("move.planned")
        target, now = hosts[decision.assignments[0].host], self.now()
        pinned = cells.given([member], decision.assignments, hosts, group.spec.placement.numa).get(member.uuid, ())
        try:
            after = await self.context.store.write(
                lambda c: claiming.claim_move(c, group, member, target, now, pinned=pinned, alone=alone)
            )
        except ClaimLost as lost:
            logger.info("group %s: a live move's claim is lost (%s), planning again", group.uuid, lost)
            return None
        failpoint("move.claimed")
        if after.instance(member.uuid).target_host_uuid == target.uuid:
            sends.moves.begun.add((member.uuid, member.attempt, target.uuid))
        return EffectResult([], reload=True)

    async def _booked_target(self, group: Group, member: Instance, sends: Sends) -> EffectResult:
        """The claim on the host where a seat is kept for a member that makes room."""

        def look(connection: Connection) -> tuple[FleetHost | None, tuple[int, ...], bool]:
            uuid, pinned = bookings.booked(connection, [member.uuid]).get(member.uuid, ("", ()))
            return fleet.hosts(connection, [uuid]).get(uuid), pinned, rooms.waits_for_an_end(connection, member, uuid)

        target, pinned, waits = await self.context.store.read(look)
        if target is None or target.uuid not in self.context.calls.live_targets(group, member):
            reason = "the host that it was to go to does not take it as it runs now"
            return EffectResult([MoveImpossible(member.uuid, member.attempt, reason)])
        if waits:
            return EffectResult([], retry=True)
        failpoint("room.target")
        search, now = self._move_searches.setdefault((member.uuid, member.attempt), Search()), self.now()
        try:
            after = await self.context.store.write(
                lambda c: claiming.claim_move(c, group, member, target, now, pinned=pinned)
            )
        except ClaimLost as lost:
            # A rule may ask that another member that moves is there first.
            if search.goes_on(self.steady(), MOVE_PATIENCE_MS):
                return EffectResult([], retry=True)
            return EffectResult([MoveImpossible(member.uuid, member.attempt, f"its host takes it no more: {lost}")])
        if after.instance(member.uuid).target_host_uuid == target.uuid:
            sends.moves.begun.add((member.uuid, member.attempt, target.uuid))
        return EffectResult([], reload=True)

    async def _decide(
        self, snapshot: Snapshot, request: Request, project: str, search: Search, attempt: int, *, alone: bool
    ) -> Planned:
        """Ask the planner. Each further attempt breaks ties in another way, and has more time where the ones before
        were not decided; but whoever has the fleet to itself has the plain budget (`store.engine.ALONE_MS`)."""
        budget = self.context.plan_seconds * (1 if alone else 2 ** min(search.undecided, MOST_DOUBLINGS))
        seed = attempt - 1 + CLAIM_TRIES * search.undecided
        return await self.context.planner.place(
            snapshot, request, Policy(seed=seed), budget_seconds=budget, project=project
        )

    def _may_go_on(self, group: Group) -> bool:
        """Whether a search without an answer is repeated: until the group's deadline, or for a while without one. Who
        waits in line lets others go on."""
        if group.waiting is not None and self._search.undecided >= MOST_DOUBLINGS:
            return False
        timed = bool(group.deadline_at) and not group.served
        return self._search.goes_on(self.steady(), None if timed else UNDECIDED_PATIENCE_MS)

    def _may_wait_for_fleet(self) -> bool:
        """Right after a start some hosts were not seen yet: that is no reason to refuse, for a while."""
        now = self.steady()
        if not self._waits_for_fleet_until:
            self._waits_for_fleet_until = now + FLEET_PATIENCE_MS
        return now < self._waits_for_fleet_until


def _shunned(failed: frozenset[str], hosts: Mapping[str, FleetHost], short: Shortages) -> Sequence[frozenset[str]]:
    """Which hosts are left out, in the order in which that is tried.

    `failed`: hosts where a member failed are shunned while there are others, not at the price of the group; and so is a
    zone without addresses for all who wait, since it may have those for some. One without any is never taken.
    """
    none = frozenset(uuid for uuid, host in hosts.items() if host.zone_uuid in short.none)
    tight = frozenset(uuid for uuid, host in hosts.items() if host.zone_uuid in short.tight)
    return tuple(dict.fromkeys((failed | tight | none, failed | none, none)))
