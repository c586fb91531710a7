"""The linear and integer programs over columns: GLOP prices them, SCIP rounds.

Loads OR-Tools' light ``pywraplp`` when first used (59 ms, no pandas). A column is a pattern on a class; rows are "every
kind is covered" (>=, since a part of a pattern is a pattern) and "a class has no more hosts than this".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from placement.exact.interrupt import run_until
from placement.problem.index import Ints
from placement.stop import Stop

WATCHED = 1500
"""With more columns than this a linear program may take long enough that the stop must be heard meanwhile."""


@dataclass(frozen=True, slots=True)
class Column:
    """``pattern`` on one host of class ``cls`` at integer ``cost``."""

    cls: int
    pattern: tuple[int, ...]
    cost: int


def library() -> Any:
    """The linear solver, loaded at its first use."""
    from ortools.linear_solver import pywraplp

    return pywraplp


class Master:
    """The restricted master in GLOP; columns are added, counts and hosts may be lowered while diving.

    ``missing``: the price of leaving out one of each kind, which keeps it feasible and bounds the duals. After
    ``solve``: ``values`` how often each column is used, ``prices`` of the kinds (>= 0) and ``limits`` of the classes
    with a row (<= 0), ``left_out`` how much of the gang is left out, ``value`` the objective.
    """

    def __init__(
        self,
        counts: Sequence[int],
        hosts: Sequence[int],
        missing: Sequence[int],
        stop: Stop,
    ) -> None:
        self.stop = stop
        solvers = library()
        self.solver = solvers.Solver.CreateSolver("GLOP")
        self.infinity = self.solver.infinity()
        self.objective = self.solver.Objective()
        self.objective.SetMinimization()
        self.hosts = list(hosts)
        self.cover = [self.solver.Constraint(float(count), self.infinity) for count in counts]
        self.limit: dict[int, Any] = {}
        self.columns: list[Column] = []
        self.variables: list[Any] = []
        self.known: set[tuple[int, tuple[int, ...]]] = set()
        self.slack = []
        self.values: list[float] = []
        self.left_out = 0.0
        self.value = 0.0
        self.prices: list[float] = []
        self.limits: dict[int, float] = {}
        for row, price in zip(self.cover, missing, strict=True):
            variable = self.solver.NumVar(0.0, self.infinity, "")
            row.SetCoefficient(variable, 1.0)
            self.objective.SetCoefficient(variable, float(price))
            self.slack.append(variable)

    def add(self, column: Column) -> bool:
        """Adds a column unless it is there; says whether it was new."""
        key = (column.cls, column.pattern)
        if key in self.known:
            return False
        self.known.add(key)
        variable = self.solver.NumVar(0.0, self.infinity, "")
        for kind, copies in enumerate(column.pattern):
            if copies:
                self.cover[kind].SetCoefficient(variable, float(copies))
        if column.cls not in self.limit:
            self.limit[column.cls] = self.solver.Constraint(-self.infinity, float(self.hosts[column.cls]))
        self.limit[column.cls].SetCoefficient(variable, 1.0)
        if column.cost:
            self.objective.SetCoefficient(variable, float(column.cost))
        self.columns.append(column)
        self.variables.append(variable)
        return True

    def restrict(self, counts: Sequence[int], hosts: Sequence[int]) -> None:
        """Sets what is still wanted and which hosts are still there."""
        for row, count in zip(self.cover, counts, strict=True):
            row.SetLb(float(count))
        self.hosts = list(hosts)
        for cls, row in self.limit.items():
            row.SetUb(float(hosts[cls]))

    def solve(self) -> bool:
        """Whether GLOP found its optimum; reads all of it, since any later change makes it unreadable."""
        if len(self.columns) > WATCHED:
            status = run_until(self.solver.Solve, self.solver.InterruptSolve, self.stop)
        else:
            status = self.solver.Solve()
        if status != self.solver.OPTIMAL:
            return False
        self.values = [variable.solution_value() for variable in self.variables]
        self.left_out = float(sum(variable.solution_value() for variable in self.slack))
        self.value = float(self.objective.Value())
        self.prices = [row.dual_value() for row in self.cover]
        self.limits = {cls: row.dual_value() for cls, row in self.limit.items()}
        return True


def choose_columns(
    columns: Sequence[Column],
    counts: Sequence[int],
    hosts: Sequence[int],
    branches: int,
    stop: Stop,
    below: int | None = None,
) -> list[int] | None:
    """How often to use each column so that the gang is covered at least cost, by SCIP; None when it found nothing.

    ``branches``: the deterministic budget, in nodes of the search tree. ``below``: only answers that cost less.
    """
    solvers = library()
    solver = solvers.Solver.CreateSolver("SCIP")
    parameters = [f"limits/nodes = {max(1, branches)}", "randomization/randomseedshift = 0", "limits/stallnodes = 2000"]
    solver.SetSolverSpecificParametersAsString("\n".join(parameters))
    infinity = solver.infinity()
    cover = [solver.Constraint(float(count), infinity) for count in counts]
    limit = {cls: solver.Constraint(-infinity, float(hosts[cls])) for cls in {column.cls for column in columns}}
    objective = solver.Objective()
    objective.SetMinimization()
    variables = []
    cost_row = solver.Constraint(-infinity, float(below - 1)) if below is not None else None
    for column in columns:
        variable = solver.IntVar(0.0, float(hosts[column.cls]), "")
        for kind, copies in enumerate(column.pattern):
            if copies and counts[kind]:
                cover[kind].SetCoefficient(variable, float(copies))
        limit[column.cls].SetCoefficient(variable, 1.0)
        objective.SetCoefficient(variable, float(column.cost))
        if cost_row is not None:
            cost_row.SetCoefficient(variable, float(column.cost))
        variables.append(variable)
    status = run_until(solver.Solve, solver.InterruptSolve, stop)
    if status not in (solver.OPTIMAL, solver.FEASIBLE):
        return None
    return [round(variable.solution_value()) for variable in variables]


def rounded_prices(prices: Sequence[float], scale: int) -> Ints:
    """Duals as whole numbers of 1/scale, never negative: any such prices give a valid bound, exactly computed."""
    return np.array([max(0, round(price * scale)) for price in prices], np.int64)
