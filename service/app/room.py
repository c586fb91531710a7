"""Which members of other groups would have to move, as they run, so that a group fits; or where no moves do, and it is
asked for, which groups of a lower priority would have to end, and who would move then. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from placement.model import Proof, Request, Snapshot, Status
from placement.modes.moves import Evictions, MadeRoom
from service.app.failures import error_of
from service.app.groups import Groups
from service.domain.fleet import Host
from service.domain.groups import Group, Instance, PlacementRecord
from service.domain.leaving import RoomEviction
from service.domain.preemption import Policies
from service.domain.specs import DeployRequest, RoomMoves
from service.domain.tenants import Caller
from service.errors import NoCapacity, Undecided
from service.planning import backfill, translate
from service.planning.ends_and_moves import ends_and_moves
from service.planning.neighbours import LiveTargets, Others, groups_in
from service.planning.planner import Planner, answer_time
from service.planning.victims import told_of, victims
from service.store import groups as group_rows
from service.store.connection import Connection
from service.store.engine import Store
from service.transactions import kept_room

ROOM_SECONDS = 10.0
"""What the search may take. Eighty moves on a thousand hosts took some 200 ms of a busy machine's CPU."""


KEPT_FROM_IT = "nothing that makes room was found beside the hosts where room is kept for a group before it in line"


@dataclass(frozen=True, slots=True)
class RoomMove:
    """A member's move. `live`: whether its machine is known to be taken by the other host as it runs."""

    member: Instance
    group_uuid: str
    source: Host
    target: Host
    live: bool


@dataclass(frozen=True, slots=True)
class RoomPlan:
    """`moved`, `lower_bound`: bytes of memory; no moves that make room carry less than the bound. Where groups end both
    are of these alone: no groups up to the highest priority that ends have less."""

    moves: tuple[RoomMove, ...]
    moved: int
    lower_bound: int
    proof: Proof
    record: PlacementRecord
    evictions: tuple[RoomEviction, ...] = ()


class RoomPlans:
    """The use case. `live_targets`: the hosts that would take a member as it runs; `priorities`: who evicts whom."""

    def __init__(
        self,
        store: Store,
        groups: Groups,
        planner: Planner,
        clock: Callable[[], int],
        live_targets: LiveTargets,
        priorities: Policies,
    ) -> None:
        self._priorities = priorities
        self._store = store
        self._groups = groups
        self._planner = planner
        self._clock = clock
        self._live_targets = live_targets

    async def plan(self, caller: Caller, request: DeployRequest, *, seconds: float | None = None) -> RoomPlan:
        """The cheapest moves that were found. `seconds`: how long the caller waits, None: for ever.

        Raises what a plan of the group raises; NoCapacity and Unsatisfiable where no moves can make room, which is
        proven, and Undecided where none were found.
        """
        answer_by = answer_time(seconds)

        def read(
            connection: Connection,
        ) -> tuple[Group, Mapping[str, Host], Snapshot, tuple[Group, ...], frozenset[str]]:
            group, hosts, snapshot = self._groups.foreseen(connection, caller, request)
            kept = kept_room.before(connection, group, group.created_at)
            # Who moves may not go where room is kept either.
            open_fleet, closed = backfill.open_to(group, kept, snapshot, hosts)
            others = group_rows.load_many(connection, groups_in(snapshot))
            return group, hosts, open_fleet, others, closed | backfill.kept_hosts(kept)

        group, hosts, snapshot, others, closed = await self._store.read(read)
        wanted = translate.request(group, snapshot, hosts)
        wanted = replace(wanted, excluded_hosts=wanted.excluded_hosts | closed)
        movable = Others(others, snapshot, hosts, self._clock())
        room = await self._planner.make_room(
            snapshot,
            wanted,
            movable.asked(),
            budget_seconds=ROOM_SECONDS,
            answer_by=answer_by,
        )
        if room.status is not Status.PLACED or room.placed is None:
            if request.make_room is RoomMoves.EVICT:
                return await self._evictions(group, wanted, hosts, snapshot, others, movable, answer_by)
            raise NoCapacity(KEPT_FROM_IT, None) if closed else _no_room(room, group, snapshot)
        record = translate.record(group, room.placed, hosts, 0.0, 0, snapshot)
        return RoomPlan(self._moves(room, movable, hosts), room.cost or 0, room.lower_bound or 0, room.proof, record)

    async def _evictions(
        self,
        group: Group,
        wanted: Request,
        hosts: Mapping[str, Host],
        snapshot: Snapshot,
        others: Sequence[Group],
        movable: Others,
        answer_by: float,
    ) -> RoomPlan:
        now = self._clock()
        may = victims(self._priorities, group, others, snapshot, hosts, now)
        found = await ends_and_moves(
            self._planner,
            snapshot,
            wanted,
            may.leaving,
            movable,
            self._live_targets,
            budget_seconds=ROOM_SECONDS,
            answer_by=answer_by,
        )
        if found.status is Status.UNKNOWN:
            raise Undecided("no moves that make room were found; which groups would have to end was not decided")
        if found.status is not Status.PLACED or found.placed is None:
            if wanted.excluded_hosts:
                raise NoCapacity(KEPT_FROM_IT, None)
            raise error_of(translate.failure(found.decision, group, snapshot), group.uuid)
        told, _ = told_of(self._priorities, group, [may.groups[number] for number in found.gone], now)
        record = translate.record(group, found.placed, hosts, 0.0, 0, snapshot)
        return RoomPlan(
            self._moves(found, movable, hosts), found.cost or 0, found.lower_bound or 0, found.proof, record, told
        )

    def _moves(self, plan: MadeRoom | Evictions, movable: Others, hosts: Mapping[str, Host]) -> tuple[RoomMove, ...]:
        return tuple(
            self._move(*movable.members[move.member], hosts[move.source], hosts[move.target]) for move in plan.moves
        )

    def _move(self, group: Group, member: Instance, source: Host, target: Host) -> RoomMove:
        return RoomMove(member, group.uuid, source, target, target.uuid in self._live_targets(group, member))


def _no_room(room: MadeRoom, group: Group, snapshot: Snapshot) -> Exception:
    if room.status is Status.UNKNOWN:
        words = "no moves that make room were found, and none were ruled out"
        homeless = f"; no other host was found for {len(room.homeless)} of those that would move"
        return Undecided(words + homeless * bool(room.homeless))
    return error_of(translate.failure(room.decision, group, snapshot), group.uuid)
