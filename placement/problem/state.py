"""The working state of a node-by-node placement: free room, NUMA cells, rules."""

from __future__ import annotations

import numpy as np

from placement.problem.gang import Gang, Landed, allowed_hosts, arranged, cell_demand, seats, takes_parts, wants_parts
from placement.problem.index import Bools, Ints
from placement.problem.topology import Tally

SOFT_MISS = 1 << 20


class PlacementState:
    """Room and rules while nodes land one after another; every answer is an array over all hosts.

    Invariant: what was landed fits the hosts; hard rules are kept as far as ``places`` was obeyed.
    """

    def __init__(self, gang: Gang) -> None:
        self.gang = gang
        self.free: Ints = gang.free.copy()
        self.landed: Ints = np.zeros(len(gang.index.hosts), np.int64)
        self.closed: Bools = np.zeros(len(gang.index.hosts), np.bool_)
        self.tallies = [Tally.start(gang, number) for number in range(len(gang.request.constraints))]
        self.pinned = any(kind.sample.cells or kind.sample.devices for kind in gang.kinds)
        self.parts = wants_parts(gang)
        self.held: dict[int, list[int]] = {}
        self.more: dict[tuple[int, int], bool] = {}
        self.cells: Ints = (
            gang.index.cells()[1].copy() if self.pinned and not self.parts else np.zeros((0, 0, 0), np.int64)
        )
        self.assignments: Landed = []
        self.allowed: dict[int, Bools] = {}
        self.rules: dict[int, list[tuple[Tally, int]]] = {}

    def room(self, number: int) -> Bools:
        """bool[H]: hosts with room for one more of a kind, whatever the rules say."""
        if number not in self.allowed:
            self.allowed[number] = allowed_hosts(self.gang, self.gang.kinds[number])
        node = self.gang.kinds[number].sample
        mask: Bools = self.allowed[number] & ~self.closed
        for column in range(len(self.gang.names)):
            if self.gang.demand[number, column]:
                mask &= self.free[:, column] >= self.gang.demand[number, column]
        if self.parts and takes_parts(self.gang, number):
            return self._parted(number, mask)
        if node.cells:
            mask &= self.enough_cells(number)
        return mask

    def room_on(self, number: int, host: int) -> bool:
        """Whether one host has room for one more of a kind: ``room`` of it alone."""
        if self.parts and takes_parts(self.gang, number):
            return bool(self.room(number)[host])
        if number not in self.allowed:
            self.allowed[number] = allowed_hosts(self.gang, self.gang.kinds[number])
        if not self.allowed[number][host] or self.closed[host] or (self.free[host] < self.gang.demand[number]).any():
            return False
        cells = self.gang.kinds[number].sample.cells
        return not cells or int(self._cells_on(number, host).sum()) >= cells

    def _cells_on(self, number: int, host: int) -> Bools:
        fit: Bools = (self.cells[host] >= cell_demand(self.gang, number)).all(axis=1)
        return fit

    def playing(self, number: int) -> list[tuple[Tally, int]]:
        """The rules in which a kind plays a part, and which."""
        if number not in self.rules:
            parts = self.gang.kinds[number].parts
            self.rules[number] = [pair for pair in zip(self.tallies, parts, strict=True) if pair[1]]
        return self.rules[number]

    def _parted(self, number: int, mask: Bools) -> Bools:
        """Those of the hosts whose cells and devices can be divided anew so that one more of the kind gets its own."""
        if self.gang.kinds[number].sample.cells or self.gang.kinds[number].sample.devices:
            mask = mask & (seats(self.gang, number) > 0)
        for host in self.held:
            if mask[host]:
                if (number, host) not in self.more:
                    wanted = [*(self.assignments[at][0] for at in self.held[host]), number]
                    self.more[number, host] = arranged(self.gang, host, wanted) is not None
                mask[host] = self.more[number, host]
        return mask

    def enough_cells(self, number: int) -> Bools:
        """bool[H]: hosts where as many NUMA cells as the kind wants can each give its share."""
        fit = self.cells_that_fit(number)
        fitting = np.zeros(len(fit), np.int64)
        for cell in range(fit.shape[1]):
            fitting += fit[:, cell]
        return np.asarray(fitting >= self.gang.kinds[number].sample.cells, np.bool_)

    def cells_that_fit(self, number: int) -> Bools:
        """bool[H, X]: NUMA cells that can give one share of the kind."""
        fit: Bools = np.ones(self.cells.shape[:2], np.bool_)
        for column, share in enumerate(cell_demand(self.gang, number).tolist()):
            fit &= self.cells[:, :, column] >= share
        return fit

    def places(self, number: int) -> tuple[Bools, Ints]:
        """bool[H] where one more of a kind may go, and int64[H] the penalty that it adds there."""
        mask = self.room(number)
        penalty = np.zeros(len(mask), np.int64)
        for tally, part in self.playing(number):
            extra = tally.marginal(part)
            if tally.rule.weight is None:
                mask = mask & (extra <= 0)
            else:
                penalty += extra * tally.rule.weight
        return mask, penalty

    def land(self, number: int, host: int) -> None:
        """Puts one node of a kind on a host that ``room`` allows."""
        node = self.gang.kinds[number].sample
        self.free[host] -= self.gang.demand[number]
        self.landed[host] += 1
        chosen: tuple[int, ...] = ()
        if self.parts and takes_parts(self.gang, number):
            self._divide(number, host)
        elif node.cells:
            share = cell_demand(self.gang, number)
            fit = np.flatnonzero(self._cells_on(number, host))
            tightest = sorted(fit, key=lambda cell: (tuple(self.cells[host, cell]), cell))
            chosen = tuple(sorted(int(cell) for cell in tightest[: node.cells]))
            self.cells[host, list(chosen)] -= share
        for tally, part in self.playing(number):
            tally.add(part, host)
        if not (self.parts and takes_parts(self.gang, number)):
            self.assignments.append((number, host, chosen))

    def _divide(self, number: int, host: int) -> None:
        """Lets one more of a kind have its cells and devices on a host; others there may get other cells."""
        mine = self.held.setdefault(host, [])
        mine.append(len(self.assignments))
        self.assignments.append((number, host, ()))
        kinds = [self.assignments[at][0] for at in mine]
        got = arranged(self.gang, host, kinds)
        assert got is not None, "a host was taken without room for the kind"
        for at, kind, one in zip(mine, kinds, got, strict=True):
            self.assignments[at] = (kind, host, one.cells)
        for kind in range(len(self.gang.kinds)):
            self.more.pop((kind, host), None)

    def penalty(self) -> int:
        """The weight of the wishes missed so far."""
        return sum(tally.missed() * tally.rule.weight for tally in self.tallies if tally.rule.weight is not None)

    def keeps_hard_rules(self) -> bool:
        """Whether every hard rule holds for what is landed."""
        return all(tally.rule.weight is not None or tally.missed() == 0 for tally in self.tallies)


def penalty_of(gang: Gang, landed: Landed) -> int:
    """The weight of the wishes that a placement misses."""
    tallies = [Tally.start(gang, number) for number in range(len(gang.request.constraints))]
    for kind, host, _ in landed:
        for tally, part in zip(tallies, gang.kinds[kind].parts, strict=True):
            tally.add(part, host)
    return sum(tally.missed() * tally.rule.weight for tally in tallies if tally.rule.weight is not None)
