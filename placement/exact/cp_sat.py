"""Writes a model in CP-SAT's own form and has it solved.

Loads the native part of CP-SAT when first used, not its Python front end, which loads pandas.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from placement.exact.interrupt import run_until
from placement.stop import Stop

Terms = list[tuple[int, int]]
"""(number of a variable, its coefficient) each."""


class Model:
    """A thin writer of CP-SAT's own model: integer variables, linear rows, an objective."""

    def __init__(self) -> None:
        from ortools.sat.python import cp_model_helper

        self.library: Any = cp_model_helper
        self.proto = cp_model_helper.CpModelProto()
        self.size = 0

    def variable(self, lowest: int, highest: int) -> int:
        """A new integer variable's number."""
        self.proto.variables.add().domain.extend([lowest, highest])
        self.size += 1
        return self.size - 1

    def row(self, terms: Iterable[tuple[int, int]], lowest: int, highest: int) -> None:
        """lowest <= sum of coefficient * variable <= highest, terms as (variable, coefficient)."""
        terms = list(terms)
        linear = self.proto.constraints.add().linear
        linear.vars.extend([variable for variable, _ in terms])
        linear.coeffs.extend([factor for _, factor in terms])
        linear.domain.extend([lowest, highest])

    def minimise(self, terms: Terms) -> None:
        """Sets the objective."""
        self.proto.clear_objective()
        self.proto.objective.vars.extend([variable for variable, _ in terms])
        self.proto.objective.coeffs.extend([factor for _, factor in terms])

    def hint(self, values: dict[int, int]) -> None:
        """Where to start."""
        self.proto.clear_solution_hint()
        self.proto.solution_hint.vars.extend(list(values))
        self.proto.solution_hint.values.extend(list(values.values()))

    def solve(self, work: float, seed: int, stop: Stop) -> Any:
        """CP-SAT's response within a deterministic amount of work (about seconds)."""
        parameters = self.library.SatParameters()
        parameters.max_deterministic_time = work
        parameters.random_seed = seed
        # Several interleaved workers abort the process in 9.15 on some of these models (fixed_search != nullptr).
        parameters.num_workers = 1
        wrapper = self.library.SolveWrapper()
        wrapper.set_parameters(parameters)
        return run_until(lambda: wrapper.solve(self.proto), wrapper.stop_search, stop)
