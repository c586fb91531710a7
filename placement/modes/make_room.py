"""Which members have to move so that a gang fits that does not fit now, at a cost with a proven bound.

First who leaves (``packing/vacate.py``): the cheapest cover knows nothing of homes and rules between nodes, so its cost
bounds every plan of moves. Then the gang is placed on the fleet without them, and they on what it leaves. Where they
find no home, members that are hard to house become dearer and the cover is asked again.

No member moves to a host that another one leaves, so the moves depend on the gang's landing alone and on no order; they
hold their own groups' rules one after another, in the order in which they are given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from placement.engine import DEFAULT, place
from placement.model import (
    Assignment,
    Decision,
    Host,
    Member,
    Policy,
    Proof,
    Request,
    Snapshot,
    Status,
    Strategy,
    joined,
    left,
)
from placement.modes.fleet_members import Fleet
from placement.modes.leavers import leavers
from placement.modes.moves import MOST_COST, MadeRoom, Move, Neighbours
from placement.packing.vacate import Vacated
from placement.problem.gang import Gang
from placement.problem.index import Ints
from placement.stop import Stop, never

ATTEMPTS = 12
DEARER = 3, 2
"""A member that found no home is dearer by half before the next attempt. Measured on 300 hosts at 89 % use: doubling
leaves a gap of 16 % where this leaves 14 %, and a quarter 11 % for a fifth more time."""


def make_room(
    snapshot: Snapshot,
    request: Request,
    neighbours: Sequence[Neighbours],
    policy: Policy = DEFAULT,
    stop: Stop = never,
) -> MadeRoom:
    """The cheapest moves that were found, with their bound. A neighbour's size is its node's demand.

    Raises ``InvalidPlacementInput`` for a neighbour that lives nowhere, is listed twice, or belongs to the gang.
    """
    fleet = Fleet.of(snapshot, request, neighbours)
    decision = place(snapshot, request, policy, stop)
    if decision.status is Status.PLACED:
        return MadeRoom(Status.PLACED, decision, (), decision, 0, 0, Proof.OPTIMAL)
    return _Search(fleet, decision, replace(policy, explain=False, max_placed=False), stop).run()


@dataclass(slots=True, eq=False)
class _Search:
    """``dearer``: demand -> how many times a member that asks for it was left without a home."""

    fleet: Fleet
    decision: Decision
    policy: Policy
    stop: Stop
    dearer: dict[tuple[tuple[str, int], ...], int] = field(default_factory=dict)
    homeless: tuple[str, ...] = ()

    def run(self) -> MadeRoom:
        found = self._cheapest()
        if found.lower is None:
            return MadeRoom(Status.INFEASIBLE, self.decision, proof=Proof.INFEASIBLE, stopped=self.stop())
        lower = found.lower
        for attempt in range(ATTEMPTS):
            if found.leaving is None or (attempt and self.stop()):
                break
            plan = self._plan(found.leaving)
            if plan is not None:
                moves, placed = plan
                cost = sum(int(self.fleet.cost[number]) for number in found.leaving)
                proof = Proof.OPTIMAL if cost == lower else Proof.GAP
                return MadeRoom(Status.PLACED, self.decision, moves, placed, cost, lower, proof, stopped=self.stop())
            if not self.homeless:
                break
            self._make_dearer(self.homeless)
            found = self._cheapest()
        return MadeRoom(Status.UNKNOWN, self.decision, lower_bound=lower, homeless=self.homeless, stopped=self.stop())

    # --- who leaves ---------------------------------------------------------------------------------------------------

    def _cheapest(self) -> Vacated:
        """The cheapest cover at what members cost now."""
        residents = self.fleet.residents
        return leavers(self.fleet.gang, replace(residents, cost=self._prices(residents.cost)), self.stop)

    def _prices(self, cost: Ints) -> Ints:
        """int64[M]: the costs, those raised that members without homes have made dearer."""
        if not self.dearer:
            return cost
        prices, (by, over) = cost.copy(), DEARER
        for number, name in enumerate(self.fleet.ids):
            node = self.fleet.nodes.get(name)
            times = self.dearer.get(_size(node.demand), 0) if node is not None else 0
            if times:
                prices[number] = min((int(cost[number]) + 1) * by**times // over**times, MOST_COST)
        return prices

    def _make_dearer(self, members: Sequence[str]) -> None:
        for size in {_size(self.fleet.nodes[member].demand) for member in members}:
            self.dearer[size] = self.dearer.get(size, 0) + 1

    # --- where all go -------------------------------------------------------------------------------------------------

    def _plan(self, leaving: tuple[int, ...]) -> tuple[tuple[Move, ...], Decision] | None:
        """The gang on the fleet without the leaving, and they on what it leaves; None where either finds no place."""
        fleet = self.fleet
        self.homeless = ()
        without = fleet.snapshot.updated(fleet.without(leaving))
        decision = place(without, fleet.request, self.policy, self.stop)
        if decision.status is not Status.PLACED:
            return None
        landed = fleet.snapshot.updated(_landed(fleet.gang, decision.assignments))
        moves = self._homes(landed, {fleet.ids[number]: number for number in leaving})
        return None if moves is None else (moves, decision)

    def _homes(self, snapshot: Snapshot, leaving: Mapping[str, int]) -> tuple[Move, ...] | None:
        """The moves. On ``snapshot`` the gang has landed and the leaving, with their numbers, are where they were."""
        moves: list[Move] = []
        homeless: list[str] = []
        fleet = self.fleet
        for request, where in self._steps(leaving):
            assignments, without = self._housed(snapshot, request)
            if without:
                homeless += without
                continue
            gone = [Move(a.node, fleet.home(leaving[a.node]).id, *a[1:]) for a in assignments]
            moves += gone
            if where is not None:
                snapshot = snapshot.updated(_arrived(snapshot, [(fleet.member(leaving[m.member]), m) for m in gone]))
                where.update({move.member: move.target for move in gone})
        self.homeless = tuple(homeless)
        return None if homeless else tuple(moves)

    def _housed(self, snapshot: Snapshot, request: Request) -> tuple[Sequence[Assignment], list[str]]:
        """(where these go, or those without a home). Any homes will do: the whole search is asked only where the quick
        one finds none, and where the count of how many find one, a tenth of its work, leaves open that all do."""
        quick = replace(self.policy, rounds=0, branches=0)
        count = replace(self.policy, max_placed=True)
        # Where an attempt has failed the next one mostly does, so that the count comes first; it also finds homes.
        ways = [quick] if request.size == 1 else [count] if self.dearer else [quick, count]
        homeless, hopeless = [node.id for node in request.nodes], quick == self.policy
        for way in ways:
            found = place(snapshot, request, way, self.stop)
            if found.status is Status.PLACED and not found.unplaced:
                return found.assignments, []
            homeless = list(found.unplaced) or homeless
            hopeless |= found.status is Status.INFEASIBLE
            hopeless |= found.upper_bound is not None and found.upper_bound < request.size
        if not hopeless and not self.stop():
            found = place(snapshot, request, self.policy, self.stop)
            if found.status is Status.PLACED:
                return found.assignments, []
        return (), homeless

    def _steps(self, leaving: Mapping[str, int]) -> Iterator[tuple[Request, dict[str, str] | None]]:
        """(request, where all live): first each one that rules speak of, alone, then all the others
        together. None where it no longer matters where these go."""
        fleet = self.fleet
        vacated = frozenset(fleet.home(number).id for number in leaving.values())
        owner = {node.id: group for group in fleet.neighbours for node in group.nodes if node.id in leaving}
        ruled = [m for m in leaving if owner[m].ruled or fleet.nodes[m].exclusive]
        ruled.sort(key=lambda m: (-fleet.cost[leaving[m]], m))
        where = {name: fleet.home(number).id for number, name in enumerate(fleet.ids)} if ruled else {}
        for member in ruled:
            group = owner[member]
            others = {node.id: where[node.id] for node in group.nodes if node.id != member}
            request = Request(
                (fleet.nodes[member],),
                constraints=group.constraints,
                excluded_hosts=vacated | group.excluded_hosts,
                staying={**group.staying, **others},
            )
            yield request, where
        free = [m for m in leaving if m not in set(ruled)]
        if free:
            nodes = tuple(fleet.nodes[member] for member in sorted(free))
            yield Request(nodes, Strategy.LEAST_LOST_VALUE, excluded_hosts=vacated), None


def _size(demand: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(demand.items()))


def _landed(gang: Gang, assignments: Sequence[Assignment]) -> tuple[Host, ...]:
    """The hosts with the gang's nodes on them. A copy of a node is a member of its own."""
    nodes = {node.id: node for node in gang.request.nodes}
    hosts, position = gang.index.hosts, gang.index.position
    changed: dict[str, Host] = {}
    for copy, (name, host, cells, devices) in enumerate(assignments):
        node = nodes[name]
        member = Member(f"{name}/{copy}", node.demand, node.labels, False, node.exclusive, cells)
        changed[host] = joined(changed.get(host, hosts[position[host]]), member, devices)
    return tuple(changed.values())


def _arrived(snapshot: Snapshot, moves: Sequence[tuple[Member, Move]]) -> tuple[Host, ...]:
    """The hosts that these leave and where they arrive, after it."""
    hosts = {host.id: host for host in snapshot.hosts}
    changed: dict[str, Host] = {}
    for member, move in moves:
        source, target = move.source, move.target
        changed[source] = left(changed.get(source, hosts[source]), member)
        there = replace(member, cells=move.cells)
        changed[target] = joined(changed.get(target, hosts[target]), there, move.devices)
    return tuple(changed.values())
