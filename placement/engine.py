"""The planner: ``place(snapshot, request, policy, stop) -> Decision``.

May import everything in this package; imports OR-Tools only through ``exact*``, and only when the cheap stages left
a gap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from placement.explain.explanation import explain
from placement.model import Assignment, Decision, Policy, Proof, Request, Snapshot, Status
from placement.problem.gang import Gang, collapse
from placement.search.answer import Answer
from placement.search.most import place_most
from placement.search.reduce import needs_rules
from placement.search.ruled import by_model, solve_ruled
from placement.search.strategies import BY_STRATEGY

Stop = Callable[[], bool]
DEFAULT = Policy()
SMALL = 200


def never() -> bool:
    """A stop that never comes."""
    return False


def place(snapshot: Snapshot, request: Request, policy: Policy = DEFAULT, stop: Stop = never) -> Decision:
    """Where every node of the request goes, with proven bounds, or why it cannot.

    The same snapshot, request and policy give the same decision as long as ``stop`` stays false; ``stop`` is asked
    often (every few milliseconds) and the best answer so far is returned soon after it turns true.
    """
    gang = collapse(snapshot, request)
    if policy.max_placed:
        return place_most(gang, policy, stop)
    answer = solve(gang, policy, stop)
    if answer.landed is None:
        return failed(gang, answer, policy, stop)
    return placed(gang, answer, stop())


def solve(gang: Gang, policy: Policy, stop: Stop) -> Answer:
    """The answer for a gang, by the packing where it holds all the rules."""
    strategy = gang.request.strategy
    if needs_rules(gang):
        return solve_ruled(gang, strategy, policy, stop)
    answer = BY_STRATEGY[strategy](gang, policy, stop)
    if not answer.closed and policy.branches and len(gang.kinds) * len(gang.index.hosts) <= SMALL and not stop():
        by_model(gang, strategy, replace(policy, branches=min(policy.branches, 2500)), stop, answer)
    return answer


def placed(gang: Gang, answer: Answer, stopped: bool) -> Decision:
    """The decision of a full placement."""
    assert answer.landed is not None
    assert answer.objective is not None
    lower = min(answer.lower, answer.objective)
    closed = lower == answer.objective and answer.penalty == answer.penalty_bound
    return Decision(
        Status.PLACED,
        name_nodes(gang, answer),
        answer.objective,
        lower,
        answer.objective,
        Proof.OPTIMAL if closed else Proof.GAP,
        answer.stage,
        gang.request.strategy,
        penalty=answer.penalty,
        penalty_bound=answer.penalty_bound,
        stopped=stopped,
    )


def name_nodes(gang: Gang, answer: Answer) -> tuple[Assignment, ...]:
    """Gives each landed node of a kind one of the kind's ids; ordered as the request is."""
    waiting = [kind.ids() for kind in gang.kinds]
    hosts = gang.index.hosts
    by_node: dict[str, list[Assignment]] = {}
    for kind, host, cells in answer.landed or ():
        node = next(waiting[kind])
        found = Assignment(node, hosts[host].id, cells)
        if node in by_node:
            by_node[node].append(found)
        else:
            by_node[node] = [found]
    return tuple(found for node in gang.request.nodes for found in by_node.get(node.id, ()))


def failed(gang: Gang, answer: Answer, policy: Policy, stop: Stop) -> Decision:
    """The decision when nothing was placed, explained."""
    return Decision(
        Status.INFEASIBLE if answer.infeasible else Status.UNKNOWN,
        proof=Proof.INFEASIBLE if answer.infeasible else Proof.NONE,
        stage=answer.stage,
        strategy=gang.request.strategy,
        stopped=stop(),
        explanation=explain(gang, solve, policy, stop),
    )
