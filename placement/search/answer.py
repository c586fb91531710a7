"""An answer while it is being improved: placement, bounds, stage; and the objective of any placement.

May import ``gang``, ``scoring``, ``board``, ``model``, ``index`` and numpy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from placement.model import Strategy
from placement.problem.board import Board
from placement.problem.gang import Gang
from placement.problem.index import Ints
from placement.problem.scoring import lost_value, room_value

Landed = list[tuple[int, int, tuple[int, ...]]]


@dataclass(slots=True)
class Answer:
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

    def offer_board(self, gang: Gang, strategy: Strategy, board: Board | None, stage: str) -> None:
        """Keeps a full board that is better than the best."""
        if board is not None and len(board.assignments) == gang.size and board.keeps_hard_rules():
            self.offer(gang, strategy, list(board.assignments), board.penalty(), stage)


def objective_of(gang: Gang, strategy: Strategy, landed: Iterable[tuple[int, int, tuple[int, ...]]]) -> int:
    """The strategy's objective of a placement."""
    hosts: dict[int, list[int]] = {}
    for kind, host, _ in landed:
        hosts.setdefault(host, []).append(kind)
    if strategy is Strategy.FEWEST_HOSTS:
        return len(hosts)
    if strategy is Strategy.SPREAD:
        return sum(len(kinds) ** 2 for kinds in hosts.values())
    if strategy is Strategy.CLOSE:
        racks = {int(gang.index.rack[host]) for host in hosts}
        return len(racks) * (gang.size + 1) + len(hosts)
    counts: dict[int, Ints] = {
        host: np.bincount(kinds, minlength=len(gang.kinds)).astype(np.int64) for host, kinds in hosts.items()
    }
    return lost_value(gang, room_value(gang), counts)
