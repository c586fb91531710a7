"""The whole problem with every rule as one CP-SAT model, over at most a hundred or so candidate hosts.

Variables are counts of a kind on a host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from placement.constraints import AtMost, Near, Prefer, SpareHosts, SpreadOver, Together, Within
from placement.devices import Choice
from placement.exact.cp_sat import Model, Terms
from placement.exact.parts import divide_parts
from placement.problem.gang import FIRST, Gang, Landed, allowed_hosts, cell_demand, wants_parts
from placement.problem.scoring import free_for, room_value
from placement.problem.topology import Tally
from placement.stop import Stop, never
from placement.strategy import OBJECTIVES, Strategy, Term


@dataclass(slots=True)
class Verdict:
    """``landed`` is the best placement, ``penalty`` and ``bound`` (of the objective) hold for the candidates."""

    landed: Landed | None
    infeasible: bool
    optimal: bool
    penalty: int
    penalty_bound: int
    lower: int | None


BIG = 1 << 40


class Stopped(Exception):
    """The caller's stop was heard while the model was still being written."""


class ConstraintModel:
    """Variables and rows of a gang on candidate hosts (``rows``: their numbers in the index). Raises ``Stopped``."""

    def __init__(
        self, gang: Gang, rows: Sequence[int], strategy: Strategy, stop: Stop = never, partial: bool = False
    ) -> None:
        self.stop = stop
        self.gang, self.rows, self.model = gang, list(rows), Model()
        self.partial = partial
        self.count: dict[tuple[int, int], int] = {}
        self.pins: dict[tuple[int, int, tuple[int, ...]], int] = {}
        self.choices: dict[tuple[int, int, Choice], int] = {}
        self.on_host: dict[int, list[tuple[int, int]]] = {row: [] for row in self.rows}
        self.soft: Terms = []
        self._counts()
        self._room()
        self.used = {row: self._any([v for _, v in self.on_host[row]]) for row in self.rows if self.on_host[row]}
        for number in range(len(gang.request.constraints)):
            self._rule(number)
        self.objective = self._placed() if partial else self._objective(strategy)

    def _hear(self) -> None:
        if self.stop():
            raise Stopped

    def _counts(self) -> None:
        gang = self.gang
        for k, kind in enumerate(gang.kinds):
            self._hear()
            allowed = allowed_hosts(gang, kind)
            for row in self.rows:
                most = int(kind.count) if allowed[row] else 0
                for d in range(len(gang.names)):
                    if gang.demand[k, d]:
                        most = min(most, int(gang.free[row, d] // gang.demand[k, d]))
                if most:
                    self.count[k, row] = self.model.variable(0, most)
                    self.on_host[row].append((k, self.count[k, row]))
            mine = [(v, 1) for (kk, _), v in self.count.items() if kk == k]
            self.model.row(mine, 0 if self.partial else kind.count, kind.count)

    def _room(self) -> None:
        gang = self.gang
        for row in self.rows:
            self._hear()
            for d in range(len(gang.names)):
                terms = [(v, int(gang.demand[k, d])) for k, v in self.on_host[row] if gang.demand[k, d]]
                if terms:
                    self.model.row(terms, 0, int(gang.free[row, d]))
            self._cells(row)

    def _cells(self, row: int) -> None:
        if wants_parts(self.gang):
            divide_parts(self.gang, self.model, row, self.on_host[row], self.choices)
            return
        pinned = [(k, v) for k, v in self.on_host[row] if self.gang.kinds[k].sample.cells]
        if not pinned:
            return
        _, cells = self.gang.index.cells()
        real = [c for c in range(cells.shape[1]) if (cells[row, c] >= 0).any()]
        load: dict[tuple[int, int], Terms] = {}
        for k, v in pinned:
            share = cell_demand(self.gang, k)
            choices = []
            for chosen in combinations(real, self.gang.kinds[k].sample.cells):
                if all((cells[row, c] >= share).all() for c in chosen):
                    pin = self.model.variable(0, self.gang.kinds[k].count)
                    self.pins[k, row, chosen] = pin
                    choices.append((pin, 1))
                    for c in chosen:
                        for d in range(len(share)):
                            if share[d]:
                                load.setdefault((c, d), []).append((pin, int(share[d])))
            self.model.row([*choices, (v, -1)], 0, 0)
        for (c, d), terms in load.items():
            self.model.row(terms, 0, int(cells[row, c, d]))

    def _any(self, variables: Sequence[int]) -> int:
        """A boolean that is true exactly when one of the counts is positive."""
        flag = self.model.variable(0, 1)
        most = self.gang.size
        self.model.row([*((v, 1) for v in variables), (flag, -most)], -BIG, 0)
        self.model.row([*((v, 1) for v in variables), (flag, -1)], 0, BIG)
        return flag

    def _miss(self, weight: int | None, most: int) -> int | None:
        """A variable for how much a rule is missed, or None for a hard rule."""
        if weight is None:
            return None
        variable = self.model.variable(0, max(0, most))
        self.soft.append((variable, weight))
        return variable

    def _rule(self, number: int) -> None:
        gang, tally = self.gang, Tally.start(self.gang, number)
        rule, size = tally.rule, self.gang.size
        if isinstance(rule, SpareHosts):
            miss = self._miss(rule.weight, rule.count)
            spare = int(tally.empty.sum())
            terms = [(flag, 1) for row, flag in self.used.items() if tally.empty[row]]
            self.model.row(terms + ([(miss, -1)] if miss is not None else []), -BIG, spare - rule.count)
            return
        first: dict[int, list[int]] = {}
        second: dict[int, list[int]] = {}
        for (k, row), v in self.count.items():
            part = gang.kinds[k].parts[number]
            if part:
                (first if part == FIRST else second).setdefault(int(tally.domain[row]), []).append(v)
        if isinstance(rule, AtMost):
            for domain, variables in first.items():
                room = max(0, rule.limit - int(tally.old_first[domain]))
                miss = self._miss(rule.weight, size)
                terms = [(v, 1) for v in variables] + ([(miss, -1)] if miss is not None else [])
                self.model.row(terms, -BIG, room)
        elif isinstance(rule, Together):
            self._together(tally, first, 0 if (tally.old_first > 0).any() else 1)
        elif isinstance(rule, Within):
            self._together(tally, first, tally.fresh_left())
        elif isinstance(rule, SpreadOver):
            self._spread_over(tally, first)
        elif isinstance(rule, Prefer):
            for host in sorted(first):
                if tally.empty[host]:
                    self._elsewhere(rule.weight, first[host])
        else:
            self._pair(tally, first, second)

    def _together(self, tally: Tally, first: dict[int, list[int]], free: int) -> None:
        """At most ``free`` domains are opened beside those with old members."""
        old = tally.old_first > 0
        strangers = [self._any(variables) for domain, variables in first.items() if not old[domain]]
        miss = self._miss(tally.rule.weight, len(strangers))
        terms = [(flag, 1) for flag in strangers] + ([(miss, -1)] if miss is not None else [])
        self.model.row(terms, -BIG, free)

    def _elsewhere(self, weight: int | None, variables: Sequence[int]) -> None:
        """Counts on a host of another kind than is wished for."""
        if weight is None:
            self.model.row([(v, 1) for v in variables], 0, 0)
        else:
            self.soft.extend((v, weight) for v in variables)

    def _spread_over(self, tally: Tally, first: dict[int, list[int]]) -> None:
        assert isinstance(tally.rule, SpreadOver)
        old = tally.old_first > 0
        fresh = [self._any(variables) for domain, variables in first.items() if not old[domain]]
        miss = self._miss(tally.rule.weight, tally.rule.minimum)
        terms = [(flag, 1) for flag in fresh] + ([(miss, 1)] if miss is not None else [])
        self.model.row(terms, tally.rule.minimum - int(old.sum()), BIG)

    def _pair(self, tally: Tally, first: dict[int, list[int]], second: dict[int, list[int]]) -> None:
        rule = tally.rule
        for domain in sorted(set(first) | set(second)):
            mine = [(self._any(first[domain]), 1)] if domain in first else []
            theirs = [(self._any(second[domain]), 1)] if domain in second else []
            old_first, old_second = bool(tally.old_first[domain]), bool(tally.old_second[domain])
            if isinstance(rule, Near):
                if not mine or old_second:
                    continue
                rows = [(mine + [(flag, -1) for flag, _ in theirs], 0)]
            else:
                rows = []
                if old_second and mine:
                    rows.append((mine, 0))
                if old_first and theirs:
                    rows.append((theirs, 0))
                if not rows and mine and theirs:
                    rows.append((mine + theirs, 1))
            if rows:
                miss = self._miss(rule.weight, 1)
                for terms, most in rows:
                    self.model.row(terms + ([(miss, -1)] if miss is not None else []), -BIG, most)

    def _placed(self) -> Terms:
        return [(v, -1) for v in self.count.values()]

    def _objective(self, strategy: Strategy) -> Terms:
        """The strategy's terms, each by its weight."""
        write: dict[Term, Callable[[], Terms]] = {
            Term.VALUE_LOST: self._lost_value,
            Term.HOSTS: lambda: [(flag, 1) for flag in self.used.values()],
            Term.RACKS: self._racks,
            Term.SQUARES: lambda: [(self._square(row), 1) for row in self.used],
            Term.NODES: lambda: [(v, 1) for v in self.count.values()],
        }
        weights = OBJECTIVES[strategy].terms.items()
        return [(v, c * weight.of(self.gang.size)) for term, weight in weights for v, c in write[term]()]

    def _racks(self) -> Terms:
        racks: dict[int, list[int]] = {}
        for row, flag in self.used.items():
            racks.setdefault(int(self.gang.index.rack[row]), []).append(flag)
        return [(self._any(flags), 1) for flags in racks.values()]

    def _square(self, row: int) -> int:
        """At least the square of how many nodes the host gets, by its tangents, which are exact at whole numbers."""
        self._hear()
        variables = [v for _, v in self.on_host[row]]
        most = min(self.gang.size, sum(self.model.proto.variables[v].domain[1] for v in variables))
        square = self.model.variable(0, most * most)
        for n in range(most):
            self.model.row([(square, 1), *((v, -(2 * n + 1)) for v in variables)], -n * (n + 1), BIG)
        return square

    def _lost_value(self) -> Terms:
        """Minus the best value of flavours that still fit; the constant before it is added by the caller."""
        value = room_value(self.gang)
        terms: Terms = []
        if not value.names:
            return terms
        free = free_for(self.gang.index, value.names)
        cells = -(-value.flavours // value.unit) * value.unit
        for row in self.used:
            self._hear()
            kept = []
            for size, worth in zip(cells, value.worth.tolist(), strict=True):
                most = min(int(free[row, d] // size[d]) for d in range(len(size)) if size[d])
                if most:
                    kept.append((self.model.variable(0, most), size))
                    terms.append((kept[-1][0], -worth))
            for d, name in enumerate(value.names):
                load = [(v, int(size[d])) for v, size in kept if size[d]]
                load += [(v, self.gang.kinds[k].sample.demand.get(name, 0)) for k, v in self.on_host[row]]
                self.model.row(load, 0, int(free[row, d]))
        return terms

    def hint(self, landed: Landed) -> None:
        """Starts from a known placement."""
        values = dict.fromkeys(self.count.values(), 0)
        for kind, row, _ in landed:
            if (kind, row) in self.count:
                values[self.count[kind, row]] += 1
        self.model.hint(values)

    def read(self, solution: Sequence[int]) -> Landed:
        """The placement of a solution."""
        landed: Landed = []
        parted = {(k, row) for k, row, _ in self.choices}
        for (k, row, choice), pin in sorted(self.choices.items()):
            landed.extend([(k, row, choice[0])] * int(solution[pin]))
        for (k, row), v in sorted(self.count.items()):
            if (k, row) in parted:
                continue
            if self.gang.kinds[k].sample.cells:
                for (kk, rr, chosen), pin in sorted(self.pins.items()):
                    if (kk, rr) == (k, row):
                        landed.extend([(k, row, chosen)] * int(solution[pin]))
            else:
                landed.extend([(k, row, ())] * int(solution[v]))
        return landed


def solve_model(
    gang: Gang,
    rows: Sequence[int],
    strategy: Strategy,
    work: float,
    seed: int,
    stop: Stop,
    known: Landed | None = None,
    partial: bool = False,
) -> Verdict:
    """The best placement on the candidate hosts: first the least penalty, then the best objective.

    ``work``: deterministic effort, about seconds. ``Verdict.lower`` is in the objective's own terms. ``partial``: as
    many nodes as possible, then the least penalty; ``lower`` is minus the most that can be placed.
    """
    try:
        ruled = ConstraintModel(gang, rows, strategy, stop, partial)
    except Stopped:
        return Verdict(None, False, False, 0, 0, None)
    model = ruled.model
    statuses = model.library
    if known is not None:
        ruled.hint(known)
    if partial:
        return _most(ruled, work, seed, stop)
    penalty = penalty_bound = 0
    if ruled.soft:
        model.minimise(ruled.soft)
        response = model.solve(work, seed, stop)
        if response.status == statuses.INFEASIBLE:
            return Verdict(None, True, False, 0, 0, None)
        if response.status not in (statuses.OPTIMAL, statuses.FEASIBLE):
            return Verdict(None, False, False, 0, 0, None)
        penalty = round(response.objective_value)
        penalty_bound = int(np.ceil(response.best_objective_bound - 1e-6))
        known = ruled.read(response.solution)
        model.row(ruled.soft, 0, penalty)
        ruled.hint(known)
    model.minimise(ruled.objective)
    response = model.solve(work, seed, stop)
    if response.status == statuses.INFEASIBLE:
        return Verdict(None, True, False, 0, 0, None)
    if response.status not in (statuses.OPTIMAL, statuses.FEASIBLE):
        return Verdict(known if ruled.soft else None, False, False, penalty, penalty_bound, None)
    lower = int(np.ceil(response.best_objective_bound - 1e-6))
    if strategy is Strategy.LEAST_LOST_VALUE:
        value = room_value(gang)
        if value.names:
            lower += int(value.of(free_for(gang.index, value.names)[list(ruled.used)]).sum())
    optimal = response.status == statuses.OPTIMAL and penalty == penalty_bound
    return Verdict(ruled.read(response.solution), False, optimal, penalty, penalty_bound, lower)


def _most(ruled: ConstraintModel, work: float, seed: int, stop: Stop) -> Verdict:
    """The most nodes that keep the hard rules, and among such placements one that misses few wishes."""
    model, statuses = ruled.model, ruled.model.library
    model.minimise(ruled.objective)
    response = model.solve(work, seed, stop)
    if response.status == statuses.INFEASIBLE:
        return Verdict(None, True, False, 0, 0, None)
    if response.status not in (statuses.OPTIMAL, statuses.FEASIBLE):
        return Verdict(None, False, False, 0, 0, None)
    lower = int(np.ceil(response.best_objective_bound - 1e-6))
    landed, penalty, bound = ruled.read(response.solution), 0, 0
    if ruled.soft:
        penalty = sum(weight * int(response.solution[v]) for v, weight in ruled.soft)
        model.row(ruled.objective, -BIG, -len(landed))
        ruled.hint(landed)
        model.minimise(ruled.soft)
        second = model.solve(work, seed, stop)
        if second.status in (statuses.OPTIMAL, statuses.FEASIBLE):
            landed, penalty = ruled.read(second.solution), round(second.objective_value)
            bound = int(np.ceil(second.best_objective_bound - 1e-6))
    optimal = lower == -len(landed) and penalty == bound
    return Verdict(landed, False, optimal, penalty, bound, lower)
