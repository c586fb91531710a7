"""The best placement of a gang found so far, with its bounds; and the objective of any placement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from placement.problem.gang import Gang, Landed
from placement.problem.index import Ints
from placement.problem.scoring import lost_value, room_value
from placement.problem.state import PlacementState
from placement.strategy import OBJECTIVES, Strategy, Term


@dataclass(slots=True)
class Incumbent:
    """What is known of a gang: ``landed`` is (kind, host, cells) a node, None while nothing is found.

    ``infeasible`` is a proof. ``lower`` bounds the objective; with wishes it holds at the penalty ``penalty_bound``.
    """

    landed: Landed | None = None
    objective: int | None = None
    lower: int = 0
    stage: str = "none"
    infeasible: bool = False
    penalty: int = 0
    penalty_bound: int = 0

    @property
    def closed(self) -> bool:
        """Whether nothing better can exist."""
        if self.infeasible:
            return True
        return self.objective is not None and self.objective <= self.lower and self.penalty <= self.penalty_bound

    def offer(self, gang: Gang, strategy: Strategy, landed: Landed, penalty: int, stage: str) -> None:
        """Keeps a placement that is better than the best: less penalty first, then the objective."""
        objective = objective_of(gang, strategy, landed)
        if self.objective is None or (penalty, objective) < (self.penalty, self.objective):
            self.landed, self.objective, self.penalty, self.stage = landed, objective, penalty, stage

    def offer_state(self, gang: Gang, strategy: Strategy, state: PlacementState | None, stage: str) -> None:
        """Keeps a full state that is better than the best."""
        if state is not None and len(state.assignments) == gang.size and state.keeps_hard_rules():
            self.offer(gang, strategy, list(state.assignments), state.penalty(), stage)


def objective_of(gang: Gang, strategy: Strategy, landed: Landed) -> int:
    """The strategy's objective of a placement."""
    hosts: dict[int, list[int]] = {}
    for kind, host, _ in landed:
        hosts.setdefault(host, []).append(kind)
    objective = OBJECTIVES[strategy]
    return objective.total(gang.size, {term: MEASURES[term](gang, hosts) for term in objective.terms})


def _value_lost(gang: Gang, hosts: Mapping[int, Sequence[int]]) -> int:
    counts: dict[int, Ints] = {
        host: np.bincount(kinds, minlength=len(gang.kinds)).astype(np.int64) for host, kinds in hosts.items()
    }
    return lost_value(gang, room_value(gang), counts)


MEASURES: dict[Term, Callable[[Gang, Mapping[int, Sequence[int]]], int]] = {
    Term.VALUE_LOST: _value_lost,
    Term.HOSTS: lambda gang, hosts: len(hosts),
    Term.RACKS: lambda gang, hosts: len({int(gang.index.rack[host]) for host in hosts}),
    Term.SQUARES: lambda gang, hosts: sum(len(kinds) ** 2 for kinds in hosts.values()),
    Term.NODES: lambda gang, hosts: sum(map(len, hosts.values())),
}
"""How each term is measured on the kinds that each host gets."""
