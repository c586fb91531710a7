"""A small planner of the simulation's own: first fit over a seeded order. The real one has its own laws and tests.

It keeps the rules that the scenarios use (capacity, zones, excluded and exclusive hosts, at most so many a host,
apart, one cell for each); its Decisions go through the real translation and the real claim.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from placement.constraints import Apart, AtMost, Near, Scope
from placement.model import Assignment, Decision, Host, Node, Policy, Proof, Request, Snapshot, Status
from placement.modes.capacity import Room
from placement.modes.moves import Evictions, Leaving, MadeRoom, Neighbours
from placement.modes.plans import Limits, Rebalance, Roll
from placement.stop import never
from service.planning.planner import Planned, evictions_verified, rebalance_verified, roll_verified, room_verified

if TYPE_CHECKING:
    from tests.simulation.world import World


class FirstFitPlanner:
    """Takes a moment, so that the fleet it planned for may have changed when the claim is made."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def place(
        self,
        snapshot: Snapshot,
        request: Request,
        policy: Policy,
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
        project: str = "",
    ) -> Planned:
        """See service.planning.planner.Planner.place."""
        world = self._world
        decision = place(snapshot, request, random.Random(world.random.getrandbits(32)))
        world.point("planner.reply")
        await asyncio.sleep(world.random.uniform(0.0, 0.05))
        return Planned(decision, 1.0)

    async def room(self, snapshot: Snapshot, node: Node, *, budget_seconds: float, answer_by: float = math.inf) -> Room:
        """See service.planning.planner.Planner.room: host by host, without rules."""
        by_zone: Counter[str] = Counter()
        for host in snapshot.hosts:
            if host.schedulable and (node.zone is None or host.zone == node.zone):
                by_zone[host.zone] += min(host.free(name) // amount for name, amount in node.demand.items() if amount)
        return Room(by_zone.total(), by_zone.total(), dict(by_zone))

    async def make_room(
        self,
        snapshot: Snapshot,
        request: Request,
        neighbours: Sequence[Neighbours],
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
    ) -> MadeRoom:
        """See service.planning.planner.Planner.make_room: the real planner, without a clock."""
        room = room_verified(snapshot, request, neighbours, never)
        self._world.point("planner.reply")
        self._world.stats["rooms planned"] += room.status is Status.PLACED
        await asyncio.sleep(self._world.random.uniform(0.0, 0.05))
        return room

    async def evict(
        self,
        snapshot: Snapshot,
        request: Request,
        leaving: Sequence[Leaving],
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
        neighbours: Sequence[Neighbours] = (),
    ) -> Evictions:
        """See service.planning.planner.Planner.evict: the real planner, without a clock."""
        plan = evictions_verified(snapshot, request, leaving, neighbours, never)
        self._world.point("planner.reply")
        self._world.stats["evictions planned"] += bool(plan.gone)
        self._world.stats["evictions with moves planned"] += bool(plan.gone and plan.moves)
        await asyncio.sleep(self._world.random.uniform(0.0, 0.05))
        return plan

    async def rebalance(
        self,
        snapshot: Snapshot,
        groups: Sequence[Neighbours],
        limits: Limits,
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
    ) -> Rebalance:
        """See service.planning.planner.Planner.rebalance: the real planner, without a clock."""
        plan = rebalance_verified(snapshot, groups, limits, never)
        self._world.point("planner.reply")
        self._world.stats["rebalances planned"] += bool(plan.moves)
        await asyncio.sleep(self._world.random.uniform(0.0, 0.05))
        return plan

    async def roll(
        self,
        snapshot: Snapshot,
        groups: Sequence[Neighbours],
        hosts: Sequence[str],
        at_once: int,
        *,
        budget_seconds: float,
        answer_by: float = math.inf,
    ) -> Roll:
        """See service.planning.planner.Planner.roll: the real planner, without a clock."""
        plan = roll_verified(snapshot, groups, hosts, at_once, never)
        self._world.point("planner.reply")
        self._world.stats["rolls planned"] += bool(plan.batches)
        await asyncio.sleep(self._world.random.uniform(0.0, 0.05))
        return plan

    def close(self) -> None:
        """Nothing to let go."""


def place(snapshot: Snapshot, request: Request, order: random.Random) -> Decision:
    """First fit, all or nothing."""
    hosts = [h for h in snapshot.hosts if h.schedulable and h.id not in request.excluded_hosts]
    order.shuffle(hosts)
    free = {h.id: {name: h.free(name) for name in h.capacity} for h in hosts}
    # What is being moved live is on two hosts.
    seated = Counter({h.id: sum(m.id in request.staying for m in h.members) for h in hosts})
    rooms = {h.id: [{n: c.capacity[n] - c.used.get(n, 0) for n in c.capacity} for c in h.cells] for h in hosts}
    assignments = []
    for node in request.nodes:
        homes = (h for h in hosts if _fits(h, node, request, free, seated) and _cell(rooms[h.id], node) is not None)
        home = next(homes, None)
        if home is None:
            return Decision(Status.INFEASIBLE, proof=Proof.INFEASIBLE, stage="first fit", strategy=request.strategy)
        for name, amount in node.demand.items():
            free[home.id][name] -= amount
        seated[home.id] += 1
        cells = _cell(rooms[home.id], node) or ()
        for name in ("vcpu", "memory") if cells else ():
            rooms[home.id][cells[0]][name] -= node.demand[name]
        assignments.append(Assignment(node.id, home.id, cells))
    return Decision(Status.PLACED, tuple(assignments), 0, 0, 1, Proof.GAP, "first fit", strategy=request.strategy)


def _cell(rooms: Sequence[dict[str, int]], node: Node) -> tuple[int, ...] | None:
    """The first of a host's cells that has room for a node that wants one; None: there is none."""
    if not node.cells:
        return ()
    fitting = (n for n, room in enumerate(rooms) if all(left >= node.demand[name] for name, left in room.items()))
    return next(((number,) for number in fitting), None)


def _fits(host: Host, node: Node, request: Request, free: dict[str, dict[str, int]], seated: Counter[str]) -> bool:
    if node.zone is not None and host.zone != node.zone:
        return False
    if any(free[host.id].get(name, 0) < amount for name, amount in node.demand.items()):
        return False
    if any(host.labels.get(key) not in values for key, values in node.host_labels.items()):
        return False
    others = [m for m in host.members if m.id not in request.staying]
    if others and (node.exclusive or any(m.exclusive for m in others)):
        return False
    for rule in request.constraints:
        if isinstance(rule, AtMost) and rule.scope is Scope.HOST and seated[host.id] >= rule.limit:
            return False
        if isinstance(rule, Apart) and any(rule.second.bears(m.labels) for m in others):
            return False
        if isinstance(rule, Near) and not any(rule.second.bears(m.labels) for m in others):
            return False
    return True
