"""Room for a group that does not fit: who moves for it is planned, asked, and waited for until its seats are free."""

from __future__ import annotations

import logging
import uuid as uuids
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from placement.model import Assignment, Proof, Request, Snapshot, Status
from placement.modes.moves import Evictions, MadeRoom
from service.domain.fleet import Host, HostState
from service.domain.groups import Failure, Group, GroupPhase, Instance, InstanceStatus, MoveStage, RoomPlan, RoomWish
from service.domain.leaving import RoomEviction, RoomMove
from service.domain.specs import RoomMoves
from service.errors import QuotaExceeded, Undecided
from service.failpoints import failpoint
from service.lifecycle.facts import Fact, NotPlaced, RoomCalledOff, RoomClosed, RoomSeen
from service.lifecycle.moving import MOVE_BASE_MS, longest_move
from service.planning import cells, translate
from service.planning.neighbours import Others, groups_in
from service.reconcile.context import WorkerContext
from service.reconcile.evictions import Evicting
from service.reconcile.outcomes import EffectResult
from service.reconcile.standing_in_line import Line
from service.store import bookings, claims, fleet, groups
from service.store.claims import ClaimLost
from service.store.connection import Connection
from service.transactions import claiming, rooms

logger = logging.getLogger(__name__)

S = InstanceStatus

MOST_TRIES = 3
"""How often room is begun to be made for one operation: a move that was refused is planned around."""
MOST_PLANS = 6
NOBODY_TO_END = "no moves were found that make room, and the end of all groups that may be evicted for it would not"
LEAVING = frozenset({S.REMOVING, S.EVICTING, S.FAILING})
ENDING = frozenset({GroupPhase.CLEANING, GroupPhase.FAILED, GroupPhase.DELETING, GroupPhase.DELETED})


@dataclass(frozen=True, slots=True)
class _Sight:
    """The members that move for a group: where their groups stand, what is claimed, and the hosts of the seats."""

    others: Mapping[str, Group]
    claimed: Mapping[str, frozenset[str]]
    closed: frozenset[str]


@dataclass(slots=True)
class RoomMaking:
    """For one group under its worker's lease. `now`: the database's time, ms; `steady`: ms that only go on."""

    context: WorkerContext
    now: Callable[[], int]
    steady: Callable[[], int]
    evicting: Evicting
    _since: dict[str, int] = field(default_factory=dict)

    # --- beginning ----------------------------------------------------------------------------------------------------

    async def begin(
        self, group: Group, hosts: Mapping[str, Host], snapshot: Snapshot, failure: Failure, line: Line
    ) -> EffectResult:
        """Who would have to move, or end, is asked to; called within `Store.claiming`. `failure`: why the group does
        not fit. What others leave on hosts where room is kept for somebody before it in line is not for it.

        Raises ClaimLost where something changed since, QuotaExceeded, HeldBack, LeaseLost, InvariantViolation.
        """
        wish = group.room
        assert wish is not None
        others = await self.context.store.read(lambda c: groups.load_many(c, groups_in(snapshot)))
        mine = [o for o in others if o.uuid != group.uuid and (wish.everybody or o.project == group.project)]
        asked = Others(mine, snapshot, hosts, self.now(), refused=set(wish.refused))
        wanted = translate.request(group, snapshot, hosts)
        request = replace(wanted, excluded_hosts=wanted.excluded_hosts | line.kept_hosts)
        room = await self._planned(group, request, snapshot, asked, wish)
        if room is not None and room.status is Status.PLACED and room.placed is not None:
            plan = self._plan(group, room, asked, hosts, ())
        elif wish.moves is RoomMoves.EVICT:
            found, victims = await self.evicting.planned(group, request, hosts, snapshot, others, asked, wish.refused)
            if found.status is not Status.PLACED or found.placed is None:
                return EffectResult([NotPlaced(_no_room(room, failure, found))], retry=True)
            plan = self._plan(group, found, asked, hosts, [victims.groups[number] for number in found.gone])
        else:
            return EffectResult([NotPlaced(_no_room(room, failure))], retry=True)
        failpoint("room.planned")
        movers = {move.group_uuid for move in plan.moves} | {one.group_uuid for one in plan.evictions}
        theirs = [o for o in others if o.uuid in movers]
        now = self.now()

        def begin(connection: Connection) -> Group:
            line.still(connection, group, now)
            return rooms.begin(connection, group, theirs, plan, now)

        after = await self.context.store.write(begin)
        failpoint("room.begun")
        if after.room is not None and after.room.plan == plan:
            self.context.metrics.rooms.labels("begun").inc()
            self.context.metrics.evictions.labels("told").inc(len(plan.evictions))
            logger.info("group %s: %d members move, %d groups end so that it fits", group.uuid, len(plan.moves),
                        len(plan.evictions))  # fmt: skip
            for uuid in sorted(movers):
                self.context.poke(uuid)
        return EffectResult([], reload=True)

    async def _planned(
        self, group: Group, request: Request, snapshot: Snapshot, asked: Others, wish: RoomWish
    ) -> MadeRoom | None:
        """Moves that can be made; None where those that were planned never could."""
        for _ in range(MOST_PLANS):
            room = await self.context.planner.make_room(
                snapshot, request, asked.asked(), budget_seconds=self.context.plan_seconds
            )
            if wish.moves is not RoomMoves.LIVE or not asked.unfit(room, self.context.calls.live_targets):
                return room
        return None

    def _plan(
        self,
        group: Group,
        room: MadeRoom | Evictions,
        asked: Others,
        hosts: Mapping[str, Host],
        ending: Sequence[Group],
    ) -> RoomPlan:
        """Who moves, and who ends, as that is stored. `ending`: the groups that do."""
        assert room.placed is not None
        moves: list[RoomMove] = []
        busy: dict[str, int] = defaultdict(int)
        for move in room.moves:
            other, member = asked.members[move.member]
            source, target = hosts[move.source], hosts[move.target]
            numa, there = other.spec.placement.numa, Assignment(member.uuid, move.target, move.cells)
            pinned = cells.given([member], [there], hosts, numa)
            live = move.target in self.context.calls.live_targets(other, member)
            busy[other.uuid] += longest_move(member) + (0 if live else member.boot_timeout_ms + member.stop_grace_ms)
            moves.append(
                RoomMove(
                    member.uuid, other.uuid, member.spec.name, source.uuid, source.name, target.uuid, target.name,
                    member.spec.memory_size, pinned.get(member.uuid, ()), live, other.project != group.project,
                )
            )  # fmt: skip
        grace = max((m.stop_grace_ms for victim in ending for m in victim.instances), default=0)
        told, notice_ms = self.evicting.told(group, ending)
        # Some move before anybody ends, and others after that.
        moving_ms = max(busy.values(), default=0) * (2 if ending else 1)
        return RoomPlan(
            uuid=uuids.uuid5(uuids.UUID(group.uuid), f"room {group.version}").hex,
            moves=tuple(moves),
            placement=translate.record(group, room.placed, hosts, 0.0, 1, asked.snapshot),
            fellows=_fellows(group),
            moved=room.cost or 0,
            lower_bound=room.lower_bound or 0,
            proof="optimal" if room.proof is Proof.OPTIMAL else "gap",
            patience_ms=MOVE_BASE_MS + notice_ms + grace + moving_ms,
            evictions=told,
        )

    # --- waiting ------------------------------------------------------------------------------------------------------

    async def look(self, group: Group) -> EffectResult:
        """Take the seats once all have gone; call it off where one stays. Raises LeaseLost, InvariantViolation."""
        if self.context.custody.held or group.room is None or group.room.plan is None:
            return EffectResult([], retry=True)
        plan = group.room.plan
        sight = await self.context.store.read(lambda c: _look(c, plan))
        failpoint("room.looked")
        arrived = tuple(m.instance_uuid for m in plan.moves if _has_left(m, sight, plan.uuid)) + tuple(
            instance
            for one in plan.evictions
            for instance, host in one.seats.items()
            if host not in sight.claimed.get(instance, frozenset())
        )
        why, refused = self._why_not(group, plan, sight, arrived)
        if why:
            return self._off(group, why, refused)
        if len(arrived) < _going(plan):
            if arrived == plan.arrived:
                return EffectResult([])
            for uuid in sorted(sight.others):  # some wait for others to be gone
                self.context.poke(uuid)
            return EffectResult([RoomSeen(arrived)])
        return await self._take(group, plan)

    async def _take(self, group: Group, plan: RoomPlan) -> EffectResult:
        cluster, now = self.context.custody.installation.cluster, self.now()
        try:
            async with self.context.store.claiming(alone=False):
                await self.context.store.write(lambda c: claiming.claim(c, cluster, group, plan.placement, now))
        except ClaimLost as lost:
            return self._off(group, f"the room that was made is gone: {lost}", ())
        except QuotaExceeded as error:
            return EffectResult([NotPlaced(Failure(error.reason, error.message))], retry=True)
        except claiming.HeldBack:
            return EffectResult([], retry=True)
        failpoint("room.taken")
        self.context.metrics.claims.inc()
        self.context.metrics.rooms.labels("made").inc()
        self.context.metrics.room_moves.labels("made").inc(len(plan.moves))
        self.context.metrics.evictions.labels("made").inc(len(plan.evictions))
        return EffectResult([], reload=True)

    def _why_not(
        self, group: Group, plan: RoomPlan, sight: _Sight, arrived: tuple[str, ...]
    ) -> tuple[str, tuple[str, ...]]:
        """Why it is called off, and which members did not go; "" where it goes on."""
        waiting = {(m.uuid, m.attempt) for m in group.instances if m.status is S.PENDING}
        if waiting != {(s.instance_uuid, s.attempt) for s in plan.placement.assignments} or plan.fellows != _fellows(
            group
        ):
            return "its members are not where they were when room for it was planned", ()
        refused = tuple(m.instance_uuid for m in plan.moves if _stays(m, sight, plan.uuid))
        if refused:
            return f"{len(refused)} of {len(plan.moves)} members that were to make room stay where they are", refused
        stayed = tuple(one.group_uuid for one in plan.evictions if _keeps(one, sight, plan.uuid))
        if stayed:
            return f"{len(stayed)} of {len(plan.evictions)} groups that were to make room stay where they are", stayed
        if sight.closed:
            return "a host on which room was being made takes no members any more", ()
        since = self._since.setdefault(plan.uuid, self.steady())
        if self.steady() - since > plan.patience_ms:
            late = tuple(m.instance_uuid for m in plan.moves if m.instance_uuid not in arrived) + tuple(
                one.group_uuid for one in plan.evictions if not set(one.seats) <= set(arrived)
            )
            return f"{_going(plan) - len(arrived)} of {_going(plan)} members took too long to make room", late
        return "", ()

    def _off(self, group: Group, why: str, refused: tuple[str, ...]) -> EffectResult:
        logger.info("group %s: the room that is made for it is called off: %s", group.uuid, why)
        self.context.metrics.rooms.labels("called_off").inc()
        self.context.metrics.room_moves.labels("refused").inc(len(refused))
        return EffectResult([RoomCalledOff(why, refused)])

    # --- for a group whose members make room for another one ----------------------------------------------------------

    async def closed(self, group: Group) -> list[Fact]:
        """The rooms that members of this group are to make and nobody wants any more."""
        on_the_way = (MoveStage.WANTED, MoveStage.GOING)
        wanted = {m.room for m in group.instances if m.room and m.move in on_the_way}
        if group.eviction is not None and not group.eviction.begun:
            wanted.add(group.eviction.room)
        if not wanted or self.context.custody.held:
            return []
        now = self.now()
        still = await self.context.store.read(lambda c: bookings.open_rooms(c, wanted, now))
        failpoint("room.closed")
        return [RoomClosed(room) for room in sorted(wanted - still)]


def _look(connection: Connection, plan: RoomPlan) -> _Sight:
    theirs = {m.group_uuid for m in plan.moves} | {one.group_uuid for one in plan.evictions}
    others = {g.uuid: g for g in groups.load_many(connection, sorted(theirs))}
    claimed: dict[str, set[str]] = defaultdict(set)
    for uuid in others:
        for (instance, _), hosts in claims.seats_of(connection, uuid).items():
            claimed[instance] |= hosts
    uuids = sorted({s.host_uuid for s in plan.placement.assignments})
    open_hosts = {u for u, host in fleet.hosts(connection, uuids).items() if host.state is HostState.ENABLED}
    return _Sight(others, {i: frozenset(h) for i, h in claimed.items()}, frozenset(uuids) - open_hosts)


def _member(move: RoomMove, sight: _Sight) -> Instance | None:
    group = sight.others.get(move.group_uuid)
    return next((m for m in group.instances if m.uuid == move.instance_uuid), None) if group is not None else None


def _has_left(move: RoomMove, sight: _Sight, room: str) -> bool:
    """Whether the member holds nothing on its host any more, and has its seat where it went."""
    member = _member(move, sight)
    under_way = member is not None and member.room == room
    return not under_way and move.source_host_uuid not in sight.claimed.get(move.instance_uuid, frozenset())


def _stays(move: RoomMove, sight: _Sight, room: str) -> bool:
    """Whether the member is not on its way any more, and still where it was."""
    member = _member(move, sight)
    if member is None or member.room == room or member.status in LEAVING:
        return False
    return member.host_uuid == move.source_host_uuid and not member.target_host_uuid


def _keeps(one: RoomEviction, sight: _Sight, room: str) -> bool:
    """Whether the group does not end for this room any more, and still has a seat that it was to leave."""
    victim = sight.others.get(one.group_uuid)
    if victim is None or victim.phase in ENDING or (victim.eviction is not None and victim.eviction.room == room):
        return False
    there = {m.uuid for m in victim.instances if m.host_uuid == one.seats.get(m.uuid) and m.status not in LEAVING}
    return bool(there)


def _going(plan: RoomPlan) -> int:
    """How many members have to have left their hosts."""
    return len(plan.moves) + sum(len(one.seats) for one in plan.evictions)


def _fellows(group: Group) -> dict[str, str]:
    """Where the group's members are that need no seat."""
    return {m.uuid: m.target_host_uuid or m.host_uuid for m in group.instances if m.status is not S.PENDING}


def _no_room(room: MadeRoom | None, failure: Failure, found: Evictions | None = None) -> Failure:
    """Why the group fits neither as it is nor by moves, nor where `found` is given by the end of other groups."""
    if found is not None:
        if found.status is Status.INFEASIBLE:
            return Failure(failure.code, f"{failure.message}; {NOBODY_TO_END}", failure.explanation)
        return Failure(
            Undecided.reason, f"{failure.message}; which groups would have to end was not found, nor ruled out"
        )
    if room is not None and room.status is Status.INFEASIBLE:
        return Failure(failure.code, f"{failure.message}; no moves of others would make room", failure.explanation)
    return Failure(
        Undecided.reason, f"{failure.message}; no moves of others that make room were found, and none were ruled out"
    )
