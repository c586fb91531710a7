"""Which members have to move so that a gang fits that does not fit now, at a cost with a proven bound.

First who leaves (``packing/vacate.py``): the cheapest cover knows nothing of homes and rules between nodes, so its cost
bounds every plan of moves. Then the gang is placed on the fleet without them, and they on what it leaves. Where they
find no home, members that are hard to house become dearer and the cover is asked again.

No member moves to a host that another one leaves, so the moves depend on the gang's landing alone and on no order; they
hold their own groups' rules one after another, in the order in which they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter

from placement.engine import DEFAULT, place
from placement.model import (
    Assignment,
    Decision,
    Host,
    InvalidPlacementInput,
    Member,
    Node,
    Policy,
    Proof,
    Request,
    Snapshot,
    Status,
    Strategy,
    joined,
    left,
)
from placement.modes.leavers import leavers
from placement.modes.moves import MOST_COST, MadeRoom, Move, Neighbours
from placement.packing.vacate import Resident, Vacated
from placement.problem.gang import Gang, collapse
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


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """The question. ``owner``: member -> its neighbours; ``home``: member -> its host; ``costs``: of its move."""

    snapshot: Snapshot
    request: Request
    gang: Gang
    owner: dict[str, Neighbours]
    nodes: dict[str, Node]
    home: dict[str, str]
    costs: dict[str, int]

    @classmethod
    def of(cls, snapshot: Snapshot, request: Request, neighbours: Sequence[Neighbours]) -> Fleet:
        """The question for these neighbours. Raises ``InvalidPlacementInput``."""
        living = {member.id: host.id for host in snapshot.hosts for member in host.members}
        owner: dict[str, Neighbours] = {}
        nodes: dict[str, Node] = {}
        for group in neighbours:
            for node in group.nodes:
                if node.id in owner or node.id in request.staying:
                    raise InvalidPlacementInput("neighbours", f"{node.id!r} is listed twice, or is of the gang")
                if node.id not in living:
                    raise InvalidPlacementInput("neighbours", f"{node.id!r} lives on no host")
                owner[node.id], nodes[node.id] = group, node
        home = {member: host for member, host in living.items() if member in owner}
        costs = {member: cost for group in neighbours for member, cost in group.costs.items()}
        snapshot = _sized(snapshot, nodes)
        return cls(snapshot, request, collapse(snapshot, request), owner, nodes, home, costs)

    def cost(self, member: str) -> int:
        """What its move costs."""
        return self.costs[member]


def _sized(snapshot: Snapshot, nodes: Mapping[str, Node]) -> Snapshot:
    """The fleet with each neighbour as large as its node says: a member whose demand nobody gave weighs nothing."""
    changed = [
        replace(
            host, members=tuple(replace(m, demand=nodes[m.id].demand) if m.id in nodes else m for m in host.members)
        )
        for host in snapshot.hosts
        if any(m.id in nodes and m.demand != nodes[m.id].demand for m in host.members)
    ]
    return snapshot.updated(changed) if changed else snapshot


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
            plan = self._plan(self._named(found.leaving))
            if plan is not None:
                moves, placed = plan
                cost = sum(self.fleet.cost(move.member) for move in moves)
                proof = Proof.OPTIMAL if cost == lower else Proof.GAP
                return MadeRoom(Status.PLACED, self.decision, moves, placed, cost, lower, proof, stopped=self.stop())
            if not self.homeless:
                break
            self._make_dearer(self.homeless)
            found = self._cheapest()
        return MadeRoom(Status.UNKNOWN, self.decision, lower_bound=lower, homeless=self.homeless, stopped=self.stop())

    # --- who leaves ---------------------------------------------------------------------------------------------------

    def _cheapest(self) -> Vacated:
        """The cheapest cover: (row of a host, position among its members) of each that leaves."""
        numbers, residents = self._residents()
        found = leavers(self.fleet.gang, residents, self.stop)
        return replace(found, leaving=found.leaving and tuple((h, numbers[h][n]) for h, n in found.leaving))

    def _residents(self) -> tuple[list[list[int]], list[list[Resident]]]:
        """(positions among its members, residents) of each host of the index; the gang's own members stay aside."""
        gang, costs = self.fleet.gang, self.fleet.costs
        staying, size_of = gang.request.staying, sizer(gang.names)
        numbers: list[list[int]] = []
        residents: list[list[Resident]] = []
        for host in gang.index.hosts:
            own = [n for n, m in enumerate(host.members) if m.id not in staying]
            there = host.members if len(own) == len(host.members) else [host.members[n] for n in own]
            numbers.append(own)
            if self.dearer:
                told = [Resident(size_of(m.demand), self._price(m, costs.get(m.id)), m.exclusive) for m in there]
            else:
                told = [Resident(size_of(m.demand), costs.get(m.id), m.exclusive) for m in there]
            residents.append(told)
        return numbers, residents

    def _price(self, member: Member, cost: int | None) -> int | None:
        if cost is None or not self.dearer:
            return cost
        times = self.dearer.get(_size(member.demand), 0)
        by, over = DEARER
        return min((cost + 1) * by**times // over**times, MOST_COST) if times else cost

    def _make_dearer(self, members: Sequence[str]) -> None:
        for size in {_size(self.fleet.nodes[member].demand) for member in members}:
            self.dearer[size] = self.dearer.get(size, 0) + 1

    def _named(self, leaving: tuple[tuple[int, int], ...]) -> tuple[str, ...]:
        hosts = self.fleet.gang.index.hosts
        return tuple(hosts[row].members[number].id for row, number in leaving)

    # --- where all go -------------------------------------------------------------------------------------------------

    def _plan(self, leaving: tuple[str, ...]) -> tuple[tuple[Move, ...], Decision] | None:
        """The gang on the fleet without the leaving, and they on what it leaves; None where either finds no place."""
        fleet = self.fleet
        self.homeless = ()
        hosts = {host.id: host for host in fleet.snapshot.hosts}
        gone = dict(hosts)
        for member in leaving:
            home = fleet.home[member]
            gone[home] = left(gone[home], next(m for m in hosts[home].members if m.id == member))
        vacated = frozenset(fleet.home[member] for member in leaving)
        without = fleet.snapshot.updated(tuple(gone[host] for host in sorted(vacated)))
        decision = place(without, fleet.request, self.policy, self.stop)
        if decision.status is not Status.PLACED:
            return None
        landed = _landed(hosts, fleet.request, decision.assignments)
        moves = self._homes(fleet.snapshot.updated(tuple(landed.values())), leaving, vacated)
        return None if moves is None else (moves, decision)

    def _homes(self, snapshot: Snapshot, leaving: tuple[str, ...], vacated: frozenset[str]) -> tuple[Move, ...] | None:
        """The moves. On ``snapshot`` the gang has landed and the leaving are still where they were."""
        moves: list[Move] = []
        homeless: list[str] = []
        where = dict(self.fleet.home)
        for members, request in self._steps(leaving, vacated, where):
            decision = self._housed(snapshot, request)
            if decision.status is not Status.PLACED:
                homeless += self._unhoused(snapshot, request) if len(members) > 1 else members
                continue
            arrived: dict[str, Host] = {}
            hosts = {host.id: host for host in snapshot.hosts}
            for node, target, cells, devices in decision.assignments:
                source = where[node]
                member = next(m for m in hosts[source].members if m.id == node)
                arrived[source] = left(arrived.get(source, hosts[source]), member)
                arrived[target] = joined(arrived.get(target, hosts[target]), replace(member, cells=cells), devices)
                moves.append(Move(node, source, target, cells, devices))
                where[node] = target
            snapshot = snapshot.updated(tuple(arrived.values()))
        self.homeless = tuple(homeless)
        return None if homeless else tuple(moves)

    def _housed(self, snapshot: Snapshot, request: Request) -> Decision:
        """Where these go. Any homes will do, so better ones are sought only where the quick search finds none."""
        quick = replace(self.policy, rounds=0, branches=0)
        decision = place(snapshot, request, quick, self.stop)
        undecided = decision.status is Status.UNKNOWN and quick != self.policy and not self.stop()
        return place(snapshot, request, self.policy, self.stop) if undecided else decision

    def _steps(
        self, leaving: tuple[str, ...], vacated: frozenset[str], where: Mapping[str, str]
    ) -> Iterator[tuple[list[str], Request]]:
        """(members, request) by request: first each one that rules speak of, alone, then all the others together."""
        fleet = self.fleet
        ruled = [m for m in leaving if fleet.owner[m].ruled or fleet.nodes[m].exclusive]
        ruled.sort(key=lambda m: (-fleet.cost(m), m))
        for member in ruled:
            group = fleet.owner[member]
            others = {node.id: where[node.id] for node in group.nodes if node.id != member}
            yield (
                [member],
                Request(
                    (fleet.nodes[member],),
                    constraints=group.constraints,
                    excluded_hosts=vacated | group.excluded_hosts,
                    staying={**group.staying, **others},
                ),
            )
        free = [m for m in leaving if m not in set(ruled)]
        if free:
            nodes = tuple(fleet.nodes[member] for member in sorted(free))
            yield free, Request(nodes, Strategy.LEAST_LOST_VALUE, excluded_hosts=vacated)

    def _unhoused(self, snapshot: Snapshot, request: Request) -> list[str]:
        """Which of several members find no home."""
        most = place(snapshot, request, replace(self.policy, max_placed=True), self.stop)
        return list(most.unplaced) or [node.id for node in request.nodes]


def sizer(names: tuple[str, ...]) -> Callable[[Mapping[str, int]], tuple[int, ...]]:
    """Takes some resources out of a demand; most members name them all, and for those it has to be fast."""
    if len(names) < 2:
        return lambda demand: tuple(demand.get(name, 0) for name in names)
    pick: Callable[[Mapping[str, int]], tuple[int, ...]] = itemgetter(*names)

    def sizes(demand: Mapping[str, int]) -> tuple[int, ...]:
        try:
            return pick(demand)
        except KeyError:
            return tuple(demand.get(name, 0) for name in names)

    return sizes


def _size(demand: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(demand.items()))


def _landed(hosts: Mapping[str, Host], request: Request, assignments: Sequence[Assignment]) -> dict[str, Host]:
    """The hosts with the gang's nodes on them. A copy of a node is a member of its own."""
    nodes = {node.id: node for node in request.nodes}
    changed: dict[str, Host] = {}
    for copy, (name, host, cells, devices) in enumerate(assignments):
        node = nodes[name]
        member = Member(f"{name}/{copy}", node.demand, node.labels, False, node.exclusive, cells)
        changed[host] = joined(changed.get(host, hosts[host]), member, devices)
    return changed
