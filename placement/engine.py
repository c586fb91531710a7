"""The planner: ``place(snapshot, request, policy, stop) -> Decision``.

May import everything in this package; imports OR-Tools only through ``exact*``, and only when the cheap stages
left a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from placement.board import Board
from placement.explain import explain
from placement.gang import Gang, collapse
from placement.greedy import greedy
from placement.model import Assignment, Decision, Policy, Proof, Request, Snapshot, Status, Strategy
from placement.scoring import lost_value, room_value

Stop = Callable[[], bool]


def never() -> bool:
    """A stop that never comes."""
    return False


def place(snapshot: Snapshot, request: Request, policy: Policy | None = None, stop: Stop = never) -> Decision:
    """Where every node of the request goes, with proven bounds, or why it can not.

    The same snapshot, request and policy give the same decision as long as ``stop`` stays false; ``stop`` is asked
    often (every few milliseconds) and the best answer so far is returned soon after it turns true.
    """
    index = snapshot.index()
    index.cache["flavours"] = snapshot.flavours
    gang = collapse(request, index)
    board = greedy(gang, request.strategy, stop)
    if board is not None and board.keeps_hard_rules():
        return placed(gang, board, stop())
    explanation = explain(snapshot, gang)
    proven = any(funnel.candidates == 0 for funnel in explanation.funnels)
    return Decision(
        Status.INFEASIBLE if proven else Status.UNKNOWN,
        proof=Proof.INFEASIBLE if proven else Proof.NONE,
        stage="funnel" if proven else "greedy",
        strategy=request.strategy,
        stopped=stop(),
        explanation=explanation,
    )


def objective_of(gang: Gang, strategy: Strategy, landed: Iterable[tuple[int, int]]) -> int:
    """The strategy's objective for (kind, host) pairs."""
    counts: dict[int, np.ndarray[tuple[int], np.dtype[np.int64]]] = {}
    for kind, host in landed:
        counts.setdefault(host, np.zeros(len(gang.kinds), np.int64))[kind] += 1
    if strategy is Strategy.FEWEST_HOSTS:
        return len(counts)
    if strategy is Strategy.SPREAD:
        return sum(int(row.sum()) ** 2 for row in counts.values())
    if strategy is Strategy.CLOSE:
        racks = {int(gang.index.rack[host]) for host in counts}
        return len(racks) * (gang.size + 1) + len(counts)
    return lost_value(gang, room_value(gang), counts)


def placed(gang: Gang, board: Board, stopped: bool) -> Decision:
    """The decision of a full board, with the bounds that need no search."""
    identities = [list(kind.ids()) for kind in gang.kinds]
    assignments = [
        Assignment(identities[kind].pop(0), gang.index.hosts[host].id, cells)
        for kind, host, cells in board.assignments
    ]
    strategy = gang.request.strategy
    objective = objective_of(gang, strategy, ((kind, host) for kind, host, _ in board.assignments))
    penalty = board.penalty()
    lower = min(objective, 1 if strategy is Strategy.FEWEST_HOSTS else 0)
    closed = lower == objective and penalty == 0
    return Decision(
        Status.PLACED,
        tuple(assignments),
        objective,
        lower,
        objective,
        Proof.OPTIMAL if closed else Proof.GAP,
        "greedy",
        strategy,
        penalty=penalty,
        stopped=stopped,
    )
