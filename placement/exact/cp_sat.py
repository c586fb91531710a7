"""Writes a model in CP-SAT's own form and has it solved.

Loads the native part of CP-SAT when first used, not its Python front end, which loads pandas.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from placement.exact.interrupt import run_until
from placement.stop import Stop

Terms = list[tuple[int, int]]
"""(number of a variable, its coefficient) each."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search has found: the solution by variable, empty while ``status`` is unknown or infeasible."""

    status: Any
    solution: Sequence[int] = ()
    objective_value: float = 0.0
    best_objective_bound: float = 0.0


def library() -> Any:
    """CP-SAT without its Python modelling layer, loaded at its first use."""
    from ortools.sat.python import cp_model_helper

    return cp_model_helper


class Model:
    """A thin writer of CP-SAT's own model: integer variables, linear rows, an objective."""

    def __init__(self) -> None:
        self.library = library()
        self.proto = self.library.CpModelProto()
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

    def solve(self, work: float, seed: int, stop: Stop) -> Found:
        """What CP-SAT finds within a deterministic amount of work (about seconds), or until the stop."""
        if stop():
            return Found(self.library.UNKNOWN)
        parameters = self.library.SatParameters()
        parameters.max_deterministic_time = work
        parameters.random_seed = seed
        # Several interleaved workers abort the process in 9.15 on some of these models (fixed_search != nullptr).
        parameters.num_workers = 1
        wrapper = self.library.SolveWrapper()
        wrapper.set_parameters(parameters)
        best = _best_so_far(self.library)
        wrapper.add_solution_callback(best)

        def search() -> Found:
            response = wrapper.solve(self.proto)
            return Found(
                response.status, list(response.solution), response.objective_value, response.best_objective_bound
            )

        found: Found = run_until(search, wrapper.stop_search, stop, lambda: best.found)
        return found


def _best_so_far(library: Any) -> Any:
    """A listener to a search that keeps the best it has found."""

    class Best(library.SolutionCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.found = Found(library.UNKNOWN)

        def OnSolutionCallback(self) -> None:  # noqa: N802 - the name that the library calls
            solution = list(self.Response().solution)
            self.found = Found(library.FEASIBLE, solution, self.ObjectiveValue(), self.BestObjectiveBound())

    return Best()
