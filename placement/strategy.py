"""What is best among the feasible placements: each strategy's objective as a row of one table.

The search, the exact models and the independent check all read it; each measures the terms by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Strategy(StrEnum):
    """What a placement is good for; ``OBJECTIVES`` says what each minimises."""

    LEAST_LOST_VALUE = "least_lost_value"
    FEWEST_HOSTS = "fewest_hosts"
    SPREAD = "spread"
    CLOSE = "close"


class Term(StrEnum):
    """A quantity of a placement that an objective counts.

    ``value_lost``: by how much the hosts' free room loses value, where room is worth the best mix of flavours that
    still fits in it (``problem/scoring.py``). ``hosts``, ``racks``: those that get at least one node (a host without a
    rack is a rack of its own). ``squares``: the sum over hosts of (nodes it gets) squared. ``nodes``: nodes placed.
    """

    VALUE_LOST = "value_lost"
    HOSTS = "hosts"
    RACKS = "racks"
    SQUARES = "squares"
    NODES = "nodes"


@dataclass(frozen=True, slots=True)
class Weight:
    """How much one of a term counts for a gang: ``once``, and as much more as ``each`` of its nodes adds."""

    once: int
    each: int = 0

    def of(self, size: int) -> int:
        """The weight for a gang of so many nodes."""
        return self.once + self.each * size


@dataclass(frozen=True, slots=True)
class Objective:
    """A weighted sum of terms, in ``unit``. ``maximised``: more is better."""

    unit: str
    terms: Mapping[Term, Weight]
    maximised: bool = False

    def total(self, size: int, measured: Mapping[Term, int]) -> int:
        """The objective of a gang of so many nodes, from what was measured of each of its terms."""
        return sum(weight.of(size) * measured[term] for term, weight in self.terms.items())


ONE = Weight(1)
MORE_THAN_ALL_HOSTS = Weight(1, 1)
"""A gang of n nodes uses at most n hosts, so a term of this weight comes before the number of hosts."""

OBJECTIVES: dict[Strategy, Objective] = {
    Strategy.LEAST_LOST_VALUE: Objective("thousandths of an average host", {Term.VALUE_LOST: ONE}),
    Strategy.FEWEST_HOSTS: Objective("hosts", {Term.HOSTS: ONE}),
    Strategy.SPREAD: Objective("squared nodes on a host", {Term.SQUARES: ONE}),
    Strategy.CLOSE: Objective("hosts, a rack as all nodes and one", {Term.RACKS: MORE_THAN_ALL_HOSTS, Term.HOSTS: ONE}),
}
MOST_NODES = Objective("nodes", {Term.NODES: ONE}, maximised=True)
"""What counts instead of the strategy where as many nodes as possible are placed."""


def objective(strategy: Strategy, max_placed: bool = False) -> Objective:
    """What a decision's objective is."""
    return MOST_NODES if max_placed else OBJECTIVES[strategy]
