"""Emptying a host: by moving its members away (drain), or by having it off: by its BMC, or by its operator's word
(fence).

A member that runs is moved as it runs where both hosts can. Every other is restarted elsewhere, never twice at a time:
it is seen gone from its host, or that host is seen or stated to be off, before it may be placed again. The intent is
one commit; reconciliation carries it out whether anybody watches or not.
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace

from placement.model import Policy, Snapshot
from placement.model import Request as PlacementRequest
from placement.modes.drain import Drain, Leaving, Steps, drain
from service.app import operator_changes
from service.app.auditing import audited
from service.app.capacity import HostView
from service.app.etags import require_etag
from service.app.feed import Feed
from service.app.fleet import Fleet
from service.domain.events import Event, EventKind
from service.domain.fencing import FenceCause
from service.domain.fleet import ANSWERING, Fencing, Host, HostState, HostStatus
from service.domain.groups import Failure, Group, GroupPhase, Instance, InstanceStatus, MoveStage
from service.domain.tenants import Caller
from service.errors import CorralError, NoCapacity, Undecided, Unsatisfiable, WrongState
from service.lifecycle.facts import Evicted
from service.lifecycle.moving import wish
from service.lifecycle.transitions import FINAL, LAUNCHING, SEARCH_GOES_ON, advance
from service.lifecycle.updating import gangs
from service.planning import translate
from service.planning.fleet_reader import FleetReader
from service.planning.neighbours import LiveTargets
from service.planning.planner import Planner
from service.signals import Signals
from service.store import clock as database_clock
from service.store import events, fleet, groups
from service.store.connection import Connection
from service.store.engine import Store
from service.store.loads import of_hosts
from service.transactions import fencing
from service.transactions.changes import refuse_older_copy
from service.transactions.fencing import empty

S = InstanceStatus

PLAN_SECONDS = 5.0
LOOK_SECONDS = 1.0  # a change of the host itself is no event of a group, so the host is looked at this often
ON_THE_WAY = frozenset({S.EVICTING, S.FAILING, S.CLAIMED, S.CREATING, S.CREATED, S.BOOTING})


@dataclass(frozen=True, slots=True)
class PlannedMove:
    """A member's way from one host to another, as it is planned. `live`: it keeps running on the way."""

    instance_uuid: str
    source_host_uuid: str
    target_host_uuid: str
    live: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a drain: exactly one of `move`, `instance`, `final` is there. `time`: ms since the epoch."""

    time: int
    move: PlannedMove | None = None
    instance: Instance | None = None
    final: HostView | None = None


@dataclass(frozen=True, slots=True)
class _Intent:
    """What a drain began with: the members on their way, and the revision after which their events begin."""

    leaving: Mapping[str, str]
    after_revision: int


@dataclass(frozen=True, slots=True)
class _Situation:
    """The host with the groups on it, and the fleet that their members have to find room in."""

    host: Host
    seated: tuple[Group, ...]
    hosts: Mapping[str, Host]
    snapshot: Snapshot


class Evacuation:
    """The use cases of drain and fence. `signals.group_due` is told of every group that has to move.

    `live_targets` is asked for the preview alone; whether a member is moved live is decided when it is about to leave.
    """

    def __init__(
        self,
        store: Store,
        feed: Feed,
        planner: Planner,
        clock: Callable[[], int],
        fleet_cases: Fleet,
        *,
        signals: Signals | None = None,
        live_targets: LiveTargets = lambda _group, _member: frozenset(),
        new_uuid: Callable[[], str] = lambda: uuids.uuid4().hex,
    ) -> None:
        self._store = store
        self._feed = feed
        self._planner = planner
        self._clock = clock
        self._fleet = fleet_cases
        self._signals = signals or Signals()
        self._live_targets = live_targets
        self._new_uuid = new_uuid

    async def drain(
        self, caller: Caller, uuid: str, etag: str = "", request_id: str = "", *, validate_only: bool = False
    ) -> AsyncGenerator[Progress, None]:
        """Put the host under maintenance and move its members away; ends when it carries nothing and they are up again.

        `validate_only`: only the planned moves and the host as it is. The same request id follows the drain that it
        began.

        Raises NotFound, Conflict (etag), RequestIdReused, WrongState where the host does not answer, NoCapacity and
        Unsatisfiable where a member would find no room, Undecided where that was not settled in time; then nothing was
        done. Raises WrongState later where somebody ended the maintenance meanwhile, so that the host takes new
        members; the moves go on.
        """
        known = await self._store.read(lambda c: self._known(c, caller, uuid, request_id))
        if not known:
            async for planned in self._planned(uuid, etag):
                yield planned
        if validate_only:
            yield Progress(self._clock(), final=await self._fleet.get_host(uuid))
            return
        intent = await self._store.write(lambda c: self._intend(c, caller, uuid, "" if known else etag, request_id))
        for group_uuid in sorted(set(intent.leaving.values())):
            self._signals.group_due(group_uuid)
        self._signals.fleet_changed()
        async with aclosing(self._follow(uuid, intent)) as steps:
            async for step in steps:
                yield step

    async def fence(
        self, caller: Caller, uuid: str, etag: str = "", *, already_off: bool = False, validate_only: bool = False
    ) -> HostView:
        """Have a host that does not answer switched off by its BMC; once it was seen off, its members are placed anew,
        and it is under maintenance. The one that is under way is shown where there is one.

        A host without a BMC, or `already_off`: the operator's word that it is off counts at once. Claims on it stand
        until it answers again and was seen without their machines; before that it cannot be enabled.
        Raises NotFound, Conflict (etag), WrongState where the host answers, or has a BMC and was never seen.
        """
        touched: list[str] = []

        def work(connection: Connection) -> HostView:
            host = fleet.host(connection, uuid, lock=True)
            require_etag("host", host, etag)
            if host.status is not HostStatus.DISCONNECTED:
                raise WrongState(f"host {host.name}", host.status.value, "a host that does not answer")
            if host.fencing is Fencing.OFF or already_off:
                fencing.by_word(connection, host, database_clock.now(connection))
                touched[:] = fencing.is_off(connection, host)
            elif not host.hypervisor:
                raise WrongState(
                    f"host {host.name}",
                    "one that has never answered",
                    "its own uuid on record, by which its BMC is known; or already_off, if you know that it is",
                )
            else:
                reason = "an operator asked for it"
                fencing.ask(connection, host, self._new_uuid(), FenceCause.OPERATOR, caller.principal, reason)
            audited(connection, caller, "FenceHost", uuid, "", self._clock())
            return self._fleet.views(connection, (fleet.host(connection, uuid),))[0]

        view = await operator_changes.commit(self._store, work, validate_only=validate_only)
        if not validate_only:
            for group_uuid in touched:
                self._signals.group_due(group_uuid)
            self._signals.fleet_changed()
        return view

    # --- planning --------------------------------------------------------------------------------------------------

    async def _planned(self, uuid: str, etag: str) -> AsyncGenerator[Progress, None]:
        """The moves, group by group, each in the room that the ones before leave. Raises where one finds no room."""
        situation = await self._store.read(lambda c: _situation(c, self._fleet.reader, uuid, etag))
        if situation.seated and situation.host.status not in ANSWERING:
            raise WrongState(
                f"host {situation.host.name}", situation.host.status.value, "a host that answers; fence it if it is off"
            )
        seeking: list[Group] = []
        gangs: list[Leaving] = []
        live: dict[str, frozenset[str]] = {}
        for group in situation.seated:
            request = _request(group, uuid, self._clock(), situation)
            if request is None:
                continue
            takers = self._live(group, {node.id for node in request.nodes})
            live.update(takers)
            seeking.append(group)
            gangs.append(Leaving(request, frozenset.intersection(*takers.values())))  # if possible, all of them live
        plan = await self._decided(drain(situation.snapshot, gangs))
        if plan.stuck is not None:
            group = seeking[plan.stuck]
            assert plan.decision is not None
            raise _no_room(translate.failure(plan.decision, group, plan.after), group)
        for move in plan.moves:
            told = PlannedMove(move.member, uuid, move.target, move.target in live[move.member])
            yield Progress(self._clock(), move=told)

    async def _decided(self, steps: Steps) -> Drain:
        """What a drain ends with, its questions decided by the planner."""
        try:
            asked = next(steps)
            while True:
                planned = await self._planner.place(
                    asked.snapshot, asked.request, Policy(), budget_seconds=PLAN_SECONDS
                )
                asked = steps.send(planned.decision)
        except StopIteration as done:
            plan: Drain = done.value
            return plan

    def _live(self, group: Group, leaving: set[str]) -> Mapping[str, frozenset[str]]:
        """Which hosts take each of the leaving members as it runs; none where it does not run."""
        now = self._clock()
        return {
            m.uuid: self._live_targets(gang, m) if wish(m, now).move is MoveStage.WANTED else frozenset()
            for gang in gangs(group)
            for m in gang.instances
            if m.uuid in leaving
        }

    # --- the intent ------------------------------------------------------------------------------------------------

    def _known(self, connection: Connection, caller: Caller, uuid: str, request_id: str) -> bool:
        asked = ("DrainHost", uuid)
        return operator_changes.made_before(connection, caller, "DrainHost", request_id, asked) is not None

    def _intend(self, connection: Connection, caller: Caller, uuid: str, etag: str, request_id: str) -> _Intent:
        now = database_clock.now(connection)
        host = fleet.host(connection, uuid, lock=True)
        require_etag("host", host, etag)
        _, head = events.head(connection)
        here = [(instance, group) for instance, group, _, _ in groups.on_host(connection, uuid)]
        arriving = [(instance, group) for instance, group, _ in groups.arriving(connection, uuid)]
        if not self._known(connection, caller, uuid, request_id):
            refuse_older_copy(connection, f"host {host.name}", "of a fleet")
            empty(connection, host, Evicted(uuid, live=True))
            asked = ("DrainHost", uuid)
            operator_changes.made(connection, caller, "DrainHost", request_id, asked, uuid, now)
        return _Intent(dict([*here, *arriving]), head)

    # --- following -------------------------------------------------------------------------------------------------

    async def _follow(self, uuid: str, intent: _Intent) -> AsyncGenerator[Progress, None]:
        """The members' events until the host is empty and none of them is on its way any more."""
        final = await self._final(uuid, intent, intent.after_revision)
        if final is not None:
            yield final
            return
        moving = set(intent.leaving.values())
        async with aclosing(
            self._feed.follow(intent.after_revision, bookmarks=True, idle_seconds=LOOK_SECONDS)
        ) as changes:
            async for change in changes:
                if isinstance(change, Event):
                    if change.kind is EventKind.INSTANCE and change.instance and change.instance.uuid in intent.leaving:
                        yield Progress(change.time, instance=change.instance)
                    if change.group_uuid not in moving:
                        continue
                final = await self._final(uuid, intent, change.revision)
                if final is not None:
                    yield final
                    return

    async def _final(self, uuid: str, intent: _Intent, told: int) -> Progress | None:
        """The last step, once everything up to revision `told` has been told and there is nothing to come.

        Raises WrongState where the host is under maintenance no more: it might never be empty.
        """

        def read(connection: Connection) -> HostView | None:
            host = fleet.host(connection, uuid)
            if host.state is not HostState.MAINTENANCE:
                raise WrongState(
                    f"host {host.name}", host.state.value, "it to stay under maintenance until it is empty"
                )
            load = of_hosts(connection, [uuid])[uuid]
            if load.members or load.stale_claims:
                return None
            moving = groups.load_many(connection, sorted(set(intent.leaving.values())))
            for group in moving:
                on_the_way = any(_on_the_way(group, m) for m in group.instances if m.uuid in intent.leaving)
                if on_the_way or group.revision > told:
                    return None
            return self._fleet.views(connection, (host,))[0]

        view = await self._store.read(read)
        return Progress(self._clock(), final=view) if view is not None else None


def _situation(connection: Connection, reader: FleetReader, uuid: str, etag: str) -> _Situation:
    host = fleet.host(connection, uuid)
    require_etag("host", host, etag)
    hosts, snapshot = reader.read(connection)
    uuids = sorted({group for _, group, _, _ in groups.on_host(connection, uuid)})
    seated = [g for g in groups.load_many(connection, uuids) if g.phase in LAUNCHING]
    # The largest first: they are the ones that find no room among the rest.
    seated.sort(key=lambda g: (-sum(m.spec.memory_size for m in g.instances if m.host_uuid == uuid), g.uuid))
    return _Situation(host, tuple(seated), hosts, snapshot)


def _request(group: Group, host_uuid: str, now: int, situation: _Situation) -> PlacementRequest | None:
    """The group's members on the host as a gang that needs room elsewhere; None where all of them only have to go, or
    have room elsewhere already and are on their way there."""
    homeless = _homeless(group, host_uuid, now)
    here = {m.uuid for m in group.instances if m.host_uuid == host_uuid}
    seeking = {
        m.uuid for m in homeless.instances if m.uuid in here and m.status is S.PENDING and not m.target_host_uuid
    }
    if not seeking:
        return None
    others = (m for m in homeless.instances if m.status is not S.PENDING or m.uuid in seeking)
    moved = replace(homeless, instances=tuple(others))
    request = translate.request(moved, situation.snapshot, situation.hosts)
    return replace(request, excluded_hosts=request.excluded_hosts | {host_uuid})


def _homeless(group: Group, host_uuid: str, now: int) -> Group:
    """The group once its members on the host were seen gone."""
    evicted = advance(group, Evicted(host_uuid), now)
    waiting = {m.uuid for m in evicted.instances if m.host_uuid == host_uuid and m.status is S.EVICTING}
    return replace(
        evicted,
        instances=tuple(
            replace(m, status=S.PENDING, host_uuid="") if m.uuid in waiting else m for m in evicted.instances
        ),
    )


def _no_room(failure: Failure, group: Group) -> CorralError:
    """Why a member of the group would find no room, naming the group; or that this was not settled."""
    if failure.code == Undecided.reason:
        return Undecided(f"instance group {group.uuid}: {failure.message}")
    message = f"instance group {group.uuid} would find no room elsewhere: {failure.message}"
    kind = Unsatisfiable if failure.code == Unsatisfiable.reason else NoCapacity
    return kind(message, failure.explanation)


def _on_the_way(group: Group, member: Instance) -> bool:
    """Whether the member is still moving. A member that waits for room is not, where its group has said that there is
    none; nor is one that is created and waits for such a fellow member, without which it does not start."""
    if group.phase in FINAL or group.phase is GroupPhase.STOPPED:
        return member.status is S.EVICTING
    no_room = group.reason not in ("", SEARCH_GOES_ON) and any(m.status is S.PENDING for m in group.instances)
    if no_room and member.status in (S.PENDING, S.CREATED):
        return False
    if member.move is not MoveStage.NONE:
        return True
    return member.status in ON_THE_WAY or (member.status is S.PENDING and group.phase in LAUNCHING)
