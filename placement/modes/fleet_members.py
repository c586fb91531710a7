"""A gang, its fleet, and who lives there: as arrays, so that a plan for thousands of members costs milliseconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np

from placement.model import Host, InvalidPlacementInput, Member, Node, Request, Snapshot, left
from placement.modes.moves import Neighbours
from placement.packing.vacate import Residents
from placement.problem.gang import Gang, collapse
from placement.problem.index import Bools, Ints

STAYS = -1
"""The cost of a member that may not leave."""


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """The question. M members live on the hosts of the gang's index, host by host, the gang's own members aside.

    ``ids``: theirs; ``host``: int64[M], their hosts' rows; ``alone``: bool[M], it keeps its host for its own gang.
    ``nodes``: those that may leave, by id, whose sizes are their nodes' demands; ``size``: int64[M, R] of the gang's
    resources; ``cost``: int64[M], of its leaving, ``STAYS`` where it may not.
    """

    snapshot: Snapshot
    request: Request
    neighbours: tuple[Neighbours, ...]
    gang: Gang
    ids: list[str]
    host: Ints
    alone: Bools
    nodes: dict[str, Node]
    size: Ints
    cost: Ints

    @classmethod
    def of(cls, snapshot: Snapshot, request: Request, neighbours: Sequence[Neighbours]) -> Fleet:
        """The question for these neighbours. Raises ``InvalidPlacementInput``."""
        nodes = {node.id: node for group in neighbours for node in group.nodes}
        if len(nodes) < sum(len(group.nodes) for group in neighbours) or not nodes.keys().isdisjoint(request.staying):
            raise InvalidPlacementInput(
                "neighbours", f"{_twice(request, neighbours)!r} is listed twice, or is of the gang"
            )
        gang = collapse(snapshot, request)
        ids, host, alone = _living(gang)
        costs: dict[str, int] = {}
        for group in neighbours:
            costs.update(group.costs)
        if len(costs) != len(nodes):
            costs = {name: costs[name] for name in nodes}
        cost = np.fromiter(map(costs.get, ids, repeat(STAYS)), np.int64, len(ids))
        if np.count_nonzero(cost != STAYS) != len(nodes) and (lost := nodes.keys() - set(ids)):
            raise InvalidPlacementInput("neighbours", f"{min(lost)!r} lives on no host")
        size = sizes(nodes, ids, gang.names)
        return cls(snapshot, request, tuple(neighbours), gang, ids, host, alone, nodes, size, cost)

    @property
    def residents(self) -> Residents:
        """The members as ``packing/vacate.py`` asks for them."""
        return Residents(self.host, self.size, self.cost, self.alone)

    def home(self, number: int) -> Host:
        """The host of a member."""
        return self.gang.index.hosts[int(self.host[number])]

    def member(self, number: int) -> Member:
        """A member of those that may leave, as large as its node: the fleet may not know the demand of its members."""
        name = self.ids[number]
        member = next(m for m in self.home(number).members if m.id == name)
        demand = self.nodes[name].demand
        return member if member.demand == demand else replace(member, demand=demand)

    def without(self, numbers: Iterable[int]) -> tuple[Host, ...]:
        """The hosts that these members leave, once they have left."""
        leaving: dict[int, list[Member]] = {}
        for number in numbers:
            leaving.setdefault(int(self.host[number]), []).append(self.member(number))
        return tuple(left(self.gang.index.hosts[row], *leaving[row]) for row in sorted(leaving))


def sizes(nodes: Mapping[str, Node], ids: Sequence[str], names: Sequence[str]) -> Ints:
    """int64[M, R]: how much of the resources each member's node asks for, nothing where it has none."""
    nothing: Mapping[str, int] = {}
    demands = [node.demand if (node := nodes.get(name)) is not None else nothing for name in ids]
    found = np.empty((len(ids), len(names)), np.int64)
    for column, name in enumerate(names):
        found[:, column] = np.fromiter((demand.get(name, 0) for demand in demands), np.int64, len(ids))
    return found


def _living(gang: Gang) -> tuple[list[str], Ints, Bools]:
    """(ids, rows of their hosts, whether each keeps its host for its own gang) of who lives on the gang's fleet."""
    hosts, staying = gang.index.hosts, gang.request.staying
    ids = [member.id for host in hosts for member in host.members]
    counts = np.fromiter((len(host.members) for host in hosts), np.int64, len(hosts))
    row = np.repeat(np.arange(len(hosts)), counts)
    alone = np.zeros(len(ids), np.bool_)
    ends = np.cumsum(counts)
    for held in np.flatnonzero(~gang.index.shared).tolist():
        alone[ends[held] - counts[held] : ends[held]] = [member.exclusive for member in hosts[held].members]
    if staying:
        kept = np.fromiter((name not in staying for name in ids), np.bool_, len(ids))
        return [name for name in ids if name not in staying], row[kept], alone[kept]
    return ids, row, alone


def _twice(request: Request, neighbours: Sequence[Neighbours]) -> str:
    """The first node that is listed twice, or is of the gang."""
    seen = set(request.staying)
    for node in (node for group in neighbours for node in group.nodes):
        if node.id in seen:
            return node.id
        seen.add(node.id)
    raise AssertionError("no node is")
