"""Repair and rebalance: which members move so that rules hold again and no host is much fuller than the others.

A preview writes nothing. What is begun is one commit, by which each member is asked to move live to the seat that is
booked for it; reconciliation carries it out whether anybody watches or not, and who cannot go stays where he is.
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from placement.model import Assignment, Snapshot
from placement.modes.plans import Goal, Limits
from placement.modes.plans import Rebalance as Plan
from service.app import operator_changes, paging
from service.app.auditing import audited
from service.app.feed import Feed
from service.app.paging import Page
from service.domain.events import Event, EventKind
from service.domain.fleet import MEMORY, VCPU, Host
from service.domain.groups import Group, Instance
from service.domain.rebalances import DEFAULT_HOLD_SECONDS, Held, Rebalance, RebalanceMove, RebalanceWish
from service.domain.tenants import Caller
from service.errors import Undecided, WrongState
from service.planning import cells
from service.planning.fleet_reader import FleetReader
from service.planning.neighbours import LiveTargets, Others, groups_in
from service.planning.planner import Planner, answer_time
from service.signals import Signals
from service.store import clock as database_clock
from service.store import clusters, events, fleet, groups, rebalances
from service.store.claims import ClaimLost
from service.store.connection import Connection
from service.store.engine import Store
from service.telemetry.metrics import Metrics
from service.transactions import rebalancing

METHOD = "RebalanceHosts"
PLAN_SECONDS = 10.0
LOOK_SECONDS = 1.0
MOST_PLANS = 12
"""How often moves are planned around hosts that do not take members as they run."""
MOST_TRIES = 4
"""How often all is planned anew because the fleet was another one when it was to begin."""


@dataclass(frozen=True, slots=True)
class RebalancePlan:
    """`plan`: as the planner made it; `moves`: the same as they are carried out. `held`: who could move but for the
    hold."""

    plan: Plan
    moves: tuple[RebalanceMove, ...]
    groups: tuple[Group, ...]
    held: Held = field(default_factory=Held)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where a move stands: "moving", "moved", "stayed" with the reason why, or "gone" where its member has ended;
    "advised" where it was never to be made."""

    move: RebalanceMove
    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RebalanceView:
    """One that was begun; `rebalance` None where there was nothing to move. `revision`: the newest of its groups."""

    rebalance: Rebalance | None
    outcomes: tuple[Outcome, ...] = ()
    revision: int = 0

    @property
    def over(self) -> bool:
        """Whether nobody is on the way for it any more."""
        return all(one.state != "moving" for one in self.outcomes)


@dataclass(frozen=True, slots=True)
class Progress:
    """One step: one of `plan`, `instance`, `final` is there. `time`: ms; `uuid`: of what was begun, or empty."""

    time: int
    uuid: str = ""
    plan: RebalancePlan | None = None
    instance: Instance | None = None
    final: RebalanceView | None = None


class Rebalancing:
    """The use cases. `live_targets`: the hosts that would take a member as it runs. `hold_seconds`: for how long
    whoever has moved is left where it is, where the wish does not say."""

    def __init__(
        self,
        store: Store,
        feed: Feed,
        planner: Planner,
        clock: Callable[[], int],
        reader: FleetReader,
        live_targets: LiveTargets,
        *,
        metrics: Metrics | None = None,
        signals: Signals | None = None,
        hold_seconds: int = DEFAULT_HOLD_SECONDS,
    ) -> None:
        self._store = store
        self._feed = feed
        self._planner = planner
        self._clock = clock
        self._reader = reader
        self._live_targets = live_targets
        self._metrics = metrics or Metrics()
        self._signals = signals or Signals()
        self._hold_seconds = hold_seconds

    async def plan(self, wish: RebalanceWish, *, seconds: float | None = None) -> RebalancePlan:
        """The moves; nothing is written. `seconds`: how long the caller waits, None: for ever.

        Raises NotFound (zone, cluster), and Undecided where too many members that would move cannot as they run.
        """

        def read(connection: Connection) -> tuple[Mapping[str, Host], Snapshot, tuple[Group, ...], int]:
            hosts, snapshot = self._reader.read(connection)
            _known(connection, wish)
            seated = tuple(groups.load_many(connection, groups_in(snapshot)))
            return hosts, snapshot, seated, database_clock.now(connection)

        hosts, snapshot, seated, now = await self._store.read(read)
        others = Others(seated, snapshot, hosts, self._clock())
        inside = _within(wish, hosts)
        hold_ms = 1000 * (self._hold_seconds if wish.hold_seconds is None else wish.hold_seconds)
        held = held_until((member for _, member in others.members.values()), hold_ms, now, inside)
        limits = Limits(
            wish.most_moves,
            wish.threshold_percent * 10,
            wish.least_gain_percent * 10,
            (VCPU, MEMORY),
            inside,
            Goal(wish.goal),
            frozenset(held),
        )
        answer_by = answer_time(seconds)
        for _ in range(MOST_PLANS):
            plan = await self._planner.rebalance(
                snapshot, others.asked(), limits, budget_seconds=PLAN_SECONDS, answer_by=answer_by
            )
            if not others.unfit(plan, self._live_targets):
                moves = tuple(_moves(plan, others, hosts))
                touched = {move.group_uuid for move in moves}
                left = Held.of(until for uuid, until in held.items() if uuid not in {m.instance_uuid for m in moves})
                return RebalancePlan(plan, moves, tuple(g for g in seated if g.uuid in touched), left)
        raise Undecided("too many of the members that would move are taken by no other host as they run")

    async def run(
        self, caller: Caller, wish: RebalanceWish, request_id: str = "", *, validate_only: bool = False
    ) -> AsyncGenerator[Progress, None]:
        """Begin the moves and follow them; ends when nobody is on the way. The same request id follows what it began.

        Raises what `plan` raises; RequestIdReused; WrongState while the database is older than what hosts have seen;
        Undecided where the fleet changes faster than it is planned for. Then nothing was done. What is only advised is
        recorded, and nobody moves.
        """
        known = await self._store.read(lambda c: self._made(c, caller, wish, request_id))
        if known is None:
            plan, begun = await self._begun(caller, wish, request_id, only_plan=validate_only)
            self._metrics.rebalance_held_members.inc(0 if validate_only else plan.held.count)
            yield Progress(self._clock(), begun.uuid if begun else "", plan=plan)
            if begun is None:
                yield Progress(self._clock(), final=RebalanceView(None))
                return
            known = begun.uuid
        async with aclosing(self._follow(known)) as steps:
            async for step in steps:
                yield step

    async def get(self, uuid: str) -> RebalanceView:
        """One as it is now. Raises NotFound."""
        return await self._store.read(lambda c: _view(c, uuid))

    async def list(self, asked: int, page_token: str) -> Page[RebalanceView]:
        """Those that were begun, the newest first, a page at a time. `asked`: its size, 0 for the default.

        Raises InvalidArgument for a token of another listing.
        """
        cursor = paging.cursor("rebalances", asked, page_token)

        def read(connection: Connection) -> Page[RebalanceView]:
            found = rebalances.page(connection, cursor.after_time(), cursor.limit)
            page = cursor.page(found, [(str(one.created_at), one.uuid) for one in found])
            views = tuple(_view(connection, one.uuid) for one in page.items)
            return Page(views, page.next_page_token, page.tokens)

        return await self._store.read(read)

    async def call_off(self, caller: Caller, uuid: str, *, validate_only: bool = False) -> RebalanceView:
        """Nobody begins to move for it any more, and who is under way is taken back where that is possible.

        Raises NotFound, and WrongState for what is advice alone.
        """

        def work(connection: Connection) -> RebalanceView:
            now = database_clock.now(connection)
            one = rebalances.get(connection, uuid, lock=True)
            if one.advised:
                raise WrongState(f"rebalance {uuid}", "advice alone", "a rebalance that was begun")
            if not one.called_off_at:
                rebalances.call_off(connection, uuid, now)
                for group in sorted({move.group_uuid for move in one.moves}):
                    groups.due(connection, group, 0)
            audited(connection, caller, "CallOffRebalance", uuid, "", now)
            return _view(connection, uuid)

        view = await operator_changes.commit(self._store, work, validate_only=validate_only)
        if not validate_only:
            self._metrics.rebalances.labels("called_off").inc()
            self._poke(view.rebalance)
        return view

    # --- beginning ----------------------------------------------------------------------------------------------------

    def _made(self, connection: Connection, caller: Caller, wish: RebalanceWish, request_id: str) -> str | None:
        return operator_changes.made_before(connection, caller, METHOD, request_id, wish)

    async def _begun(
        self, caller: Caller, wish: RebalanceWish, request_id: str, *, only_plan: bool
    ) -> tuple[RebalancePlan, Rebalance | None]:
        for _ in range(MOST_TRIES):
            plan = await self.plan(wish)
            if only_plan or not plan.moves:
                return plan, None
            if wish.advise_only:
                return plan, await self._advised(caller, wish, request_id, plan)

            def work(connection: Connection, plan: RebalancePlan = plan) -> Rebalance:
                now = database_clock.now(connection)
                until = now + rebalancing.patience(plan.groups, plan.moves)
                begun = Rebalance(_name(plan, now), plan.moves, now, until)
                rebalancing.begin(connection, plan.groups, begun, now)
                operator_changes.made(connection, caller, METHOD, request_id, wish, begun.uuid, now)
                return begun

            try:
                async with self._store.claiming(alone=False):
                    begun = await self._store.write(work)
            except ClaimLost:
                continue
            self._metrics.rebalances.labels("begun").inc()
            for move in plan.moves:
                self._metrics.rebalance_moves.labels(move.cause).inc()
            self._poke(begun)
            return plan, begun
        raise Undecided("the fleet changed each time before the moves that were planned for it could begin")

    async def _advised(self, caller: Caller, wish: RebalanceWish, request_id: str, plan: RebalancePlan) -> Rebalance:
        """Record what would be moved."""

        def work(connection: Connection) -> Rebalance:
            now = database_clock.now(connection)
            advice = Rebalance(_name(plan, now), plan.moves, now, now, advised=True)
            rebalances.add(connection, advice)
            operator_changes.made(connection, caller, METHOD, request_id, wish, advice.uuid, now)
            return advice

        advice = await self._store.write(work)
        self._metrics.rebalances.labels("advised").inc()
        for move in plan.moves:
            self._metrics.rebalance_advised_moves.labels(move.cause).inc()
        return advice

    def _poke(self, rebalance: Rebalance | None) -> None:
        for uuid in sorted({move.group_uuid for move in rebalance.moves} if rebalance else ()):
            self._signals.group_due(uuid)

    # --- following ----------------------------------------------------------------------------------------------------

    async def _follow(self, uuid: str) -> AsyncGenerator[Progress, None]:
        """The members' events until none of them is on its way any more."""

        def begin(connection: Connection) -> tuple[RebalanceView, int]:
            return _view(connection, uuid), events.head(connection)[1]

        view, head = await self._store.read(begin)
        members = {one.move.instance_uuid for one in view.outcomes}
        moving = {one.move.group_uuid for one in view.outcomes}
        if view.over:
            yield Progress(self._clock(), uuid, final=view)
            return
        async with aclosing(self._feed.follow(head, bookmarks=True, idle_seconds=LOOK_SECONDS)) as changes:
            async for change in changes:
                if isinstance(change, Event):
                    if change.kind is EventKind.INSTANCE and change.instance and change.instance.uuid in members:
                        yield Progress(change.time, uuid, instance=change.instance)
                    if change.group_uuid not in moving:
                        continue
                view = await self._store.read(lambda c: _view(c, uuid))
                if view.over and view.revision <= change.revision:
                    yield Progress(self._clock(), uuid, final=view)
                    return


def _name(plan: RebalancePlan, now: int) -> str:
    return uuids.uuid5(uuids.NAMESPACE_OID, f"{plan.moves[0].instance_uuid} {now}").hex


def _known(connection: Connection, wish: RebalanceWish) -> None:
    if wish.zone_uuid:
        fleet.zone(connection, wish.zone_uuid)
    if wish.cluster_uuid:
        clusters.get(connection, wish.cluster_uuid)


def _within(wish: RebalanceWish, hosts: Mapping[str, Host]) -> frozenset[str] | None:
    if not wish.zone_uuid and not wish.cluster_uuid:
        return None
    return frozenset(
        uuid
        for uuid, host in hosts.items()
        if wish.zone_uuid in ("", host.zone_uuid) and wish.cluster_uuid in ("", host.cluster_uuid)
    )


def held_until(members: Iterable[Instance], hold_ms: int, now: int, inside: frozenset[str] | None) -> dict[str, int]:
    """Member -> until when (ms) it is not moved for load: those that have moved less than `hold_ms` before `now`, on
    hosts that the wish means. A time ahead of `now` was stored before the clock was set: that long ago at most."""
    return {
        m.uuid: min(m.moved_at, now) + hold_ms
        for m in members
        if m.moved_at and now < min(m.moved_at, now) + hold_ms and (inside is None or m.host_uuid in inside)
    }


def _moves(plan: Plan, others: Others, hosts: Mapping[str, Host]) -> Sequence[RebalanceMove]:
    found = []
    for step in plan.steps:
        group, member = others.members[step.move.member]
        source, target = hosts[step.move.source], hosts[step.move.target]
        there = Assignment(member.uuid, target.uuid, step.move.cells)
        pinned = cells.given([member], [there], hosts, group.spec.placement.numa).get(member.uuid, ())
        found.append(
            RebalanceMove(
                member.uuid, member.attempt, group.uuid, member.spec.name, source.uuid, source.name, target.uuid,
                target.name, member.spec.memory_size, step.cause.value, step.rule.value if step.rule else "", step.gain,
                pinned,
            )
        )  # fmt: skip
    return found


def _view(connection: Connection, uuid: str) -> RebalanceView:
    rebalance = rebalances.get(connection, uuid)
    if rebalance.advised:
        return RebalanceView(rebalance, tuple(Outcome(move, "advised") for move in rebalance.moves))
    there = groups.load_many(connection, sorted({move.group_uuid for move in rebalance.moves}))
    members = {m.uuid: m for group in there for m in group.instances}
    outcomes = tuple(_outcome(move, members.get(move.instance_uuid), uuid) for move in rebalance.moves)
    return RebalanceView(rebalance, outcomes, max((group.revision for group in there), default=0))


def _outcome(move: RebalanceMove, member: Instance | None, uuid: str) -> Outcome:
    if member is None or not member.host_uuid:
        return Outcome(move, "gone")
    if member.room == uuid:
        return Outcome(move, "moving", member.reason)
    if member.host_uuid == move.target_host_uuid:
        return Outcome(move, "moved")
    return Outcome(move, "stayed", member.reason)
