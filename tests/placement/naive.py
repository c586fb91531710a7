"""The textbook CP-SAT model of a request: a boolean for each node, host and choice of NUMA cells.

Shares nothing with the planner's own model but the definitions; one worker, so that a seed gives one run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations, product

from ortools.sat.python import cp_model

from placement.constraints import Apart, AtMost, Constraint, Near, Prefer, SpareHosts, SpreadOver, Together, Within
from placement.model import Host, Member, Node, Request, Snapshot, Strategy
from placement.problem.scoring import RoomValue
from tests.placement.brute import part_of, worth_of


@dataclass(frozen=True)
class Choice:
    """``on``: the node is on the host, in these of its NUMA cells."""

    on: cp_model.IntVar
    number: int
    node: Node
    host: Host
    cells: tuple[int, ...]


def domain_of(host: Host, scope: str) -> str:
    """The host's host, rack or zone; a host without a rack is in a rack of its own."""
    return {"host": host.id, "rack": host.rack or f"alone {host.id}", "zone": host.zone}[scope]


class Naive:
    """``best`` gives the least (penalty, objective), None when nothing fits."""

    def __init__(self, snapshot: Snapshot, request: Request, value: RoomValue) -> None:
        self.snapshot, self.request, self.value = snapshot, request, value
        self.model = cp_model.CpModel()
        self.nodes = [node for node in request.nodes for _ in range(node.count)]
        self.choices = [
            Choice(self.model.new_bool_var(""), number, node, host, cells)
            for number, node in enumerate(self.nodes)
            for host in snapshot.hosts
            if self._may(node, host)
            for cells in combinations(range(len(host.cells)), node.cells)
        ]
        for number in range(len(self.nodes)):
            self.model.add_exactly_one(choice.on for choice in self.choices if choice.number == number)
        for host in snapshot.hosts:
            self._room(host)
        self.used = {h.id: self._any(self._on(h)) for h in snapshot.hosts}
        self.penalty: list[cp_model.LinearExprT] = []
        for rule in request.constraints:
            self._rule(rule)

    def best(self) -> tuple[int, int] | None:
        """Solves for the least penalty first, then the least objective."""
        objective, most = self._objective()
        penalty = sum(self.penalty)
        self.model.minimize(cp_model.LinearExpr.sum([penalty * (most + 1), objective]))
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 1
        status = solver.solve(self.model)
        if status == cp_model.INFEASIBLE:
            return None
        assert status == cp_model.OPTIMAL, solver.status_name(status)
        return solver.value(penalty), solver.value(objective)

    def _may(self, node: Node, host: Host) -> bool:
        return (
            host.schedulable
            and host.id not in self.request.excluded_hosts
            and not any(member.exclusive for member in self._strangers(host))
            and node.zone in (None, host.zone)
            and all(host.labels.get(key) in allowed for key, allowed in node.host_labels.items())
            and not (node.exclusive and self._strangers(host))
        )

    def _strangers(self, host: Host) -> list[Member]:
        return [member for member in host.members if member.id not in self.request.staying]

    def _on(self, host: Host) -> list[Choice]:
        return [choice for choice in self.choices if choice.host is host]

    def _any(self, choices: Iterable[Choice]) -> cp_model.IntVar:
        """A boolean that is true when one of the choices is taken, and only then."""
        taken = [choice.on for choice in choices]
        some = self.model.new_bool_var("")
        self.model.add_max_equality(some, [*taken, 0])
        return some

    def _room(self, host: Host) -> None:
        mine = self._on(host)
        for name in {name for node in self.nodes for name in node.demand}:
            self.model.add(sum(c.on * c.node.demand.get(name, 0) for c in mine) <= host.free(name))
        named = {name for cell in host.cells for name in cell.capacity}
        for number, cell in enumerate(host.cells):
            for name in named:
                need = [c.on * -(-c.node.demand.get(name, 0) // c.node.cells) for c in mine if number in c.cells]
                self.model.add(sum(need) <= max(0, cell.capacity.get(name, 0) - cell.used.get(name, 0)))

    def _rule(self, rule: Constraint) -> None:
        """Adds by how much a rule is missed to the penalty, or forbids that it is missed at all."""
        for missed in self._misses(rule):
            if rule.weight is None:
                self.model.add(missed <= 0)
            else:
                amount = self.model.new_int_var(0, 100, "")
                self.model.add(amount >= missed)
                self.penalty.append(rule.weight * amount)

    def _misses(self, rule: Constraint) -> list[cp_model.LinearExprT]:
        if isinstance(rule, SpareHosts):
            return self._spare(rule)
        if isinstance(rule, Prefer):
            mine = [c for c in self.choices if part_of(rule, c.node.id, dict(c.node.labels), True)]
            return [sum(c.on for c in mine if c.host.labels.get(rule.key) not in rule.values)]
        return self._in_domains(rule)

    def _spare(self, rule: SpareHosts) -> list[cp_model.LinearExprT]:
        empty = [host for host in self.snapshot.hosts if host.schedulable and host.empty]
        return [rule.count - len(empty) + sum(self.used[host.id] for host in empty)]

    def _in_domains(self, rule: AtMost | Together | Apart | Near | SpreadOver | Within) -> list[cp_model.LinearExprT]:
        old: Counter[tuple[str, int]] = Counter()
        new: dict[tuple[str, int], list[Choice]] = {}
        for host in self.snapshot.hosts:
            domain = domain_of(host, rule.scope)
            for member in host.members:
                part = part_of(rule, member.id, dict(member.labels), member.id in self.request.staying)
                old[domain, part] += 1
            for part in (1, 2):
                new.setdefault((domain, part), [])
        for choice in self.choices:
            part = part_of(rule, choice.node.id, dict(choice.node.labels), True)
            if part:
                new[domain_of(choice.host, rule.scope), part].append(choice)
        domains = sorted({domain for domain, _ in new})
        first = {d: self._any(new[d, 1]) for d in domains}
        second = {d: self._any(new[d, 2]) for d in domains}
        if isinstance(rule, AtMost):
            count = {d: sum(c.on for c in new[d, 1]) for d in domains}
            return [count[d] - max(0, rule.limit - old[d, 1]) for d in domains]
        if isinstance(rule, Together):
            strangers = sum(first[d] for d in domains if not old[d, 1])
            return [strangers if any(old[d, 1] for d in domains) else strangers - 1]
        if isinstance(rule, SpreadOver):
            return [rule.minimum - sum(1 if old[d, 1] else first[d] for d in domains)]
        if isinstance(rule, Within):
            opened = sum(first[d] for d in domains if not old[d, 1])
            return [opened - max(0, rule.maximum - sum(1 for d in domains if old[d, 1]))]
        if isinstance(rule, Near):
            return [first[d] - second[d] for d in domains if not old[d, 2]]
        return [miss for d in domains for miss in self._meeting(first[d], second[d], old[d, 1] > 0, old[d, 2] > 0)]

    def _meeting(
        self, first: cp_model.IntVar, second: cp_model.IntVar, old_first: bool, old_second: bool
    ) -> list[cp_model.LinearExprT]:
        """Whether both parts are in a domain and a new node is one of them."""
        if old_first and old_second:
            either = self.model.new_bool_var("")
            self.model.add_max_equality(either, [first, second])
            return [either]
        if old_first or old_second:
            return [second if old_first else first]
        return [first + second - 1]

    def _objective(self) -> tuple[cp_model.LinearExprT, int]:
        """(the strategy's objective, the most that it can be)."""
        hosts, size = self.snapshot.hosts, len(self.nodes)
        strategy = self.request.strategy
        if strategy is Strategy.FEWEST_HOSTS:
            return sum(self.used.values()), size
        if strategy is Strategy.CLOSE:
            racks: dict[str, list[Choice]] = {}
            for choice in self.choices:
                racks.setdefault(domain_of(choice.host, "rack"), []).append(choice)
            many = sum(self._any(choices) for choices in racks.values())
            return many * (size + 1) + sum(self.used.values()), size * (size + 2)
        if strategy is Strategy.SPREAD:
            squares = []
            for host in hosts:
                square = self.model.new_int_var(0, size * size, "")
                count = self.model.new_int_var(0, size, "")
                self.model.add(count == sum(c.on for c in self._on(host)))
                self.model.add_multiplication_equality(square, [count, count])
                squares.append(square)
            return sum(squares), size * size
        lost = [self._lost(host) for host in hosts]
        return sum(amount for amount, _ in lost), sum(most for _, most in lost)

    def _lost(self, host: Host) -> tuple[cp_model.LinearExprT, int]:
        """(what a host's free room loses in value, what it is worth now), by a table over whole units of room."""
        names, unit = self.value.names, [int(u) for u in self.value.unit]
        if not names:
            return 0, 0
        free = {name: host.free(name) for name in names}
        extents = [free[name] // u + 1 for name, u in zip(names, unit, strict=True)]
        table = [
            worth_of(self.value, {name: cell * u for name, cell, u in zip(names, cells, unit, strict=True)})
            for cells in product(*(range(extent) for extent in extents))
        ]
        place: cp_model.LinearExprT = 0
        for name, u, extent in zip(names, unit, extents, strict=True):
            left, cells = self.model.new_int_var(0, free[name], ""), self.model.new_int_var(0, extent - 1, "")
            self.model.add(left == free[name] - sum(c.on * c.node.demand.get(name, 0) for c in self._on(host)))
            self.model.add_division_equality(cells, left, u)
            place = cp_model.LinearExpr.sum([place * extent, cells])
        spot = self.model.new_int_var(0, len(table) - 1, "")
        self.model.add(spot == place)
        worth = self.model.new_int_var(0, max(table), "")
        self.model.add_element(spot, table, worth)
        return table[-1] - worth, table[-1]
