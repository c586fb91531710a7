"""The planner: ``place(snapshot, request, policy, stop) -> Decision``.

OR-Tools is loaded only when the cheap stages have left a gap.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from placement.devices import arrange
from placement.explain.explanation import explain
from placement.model import Assignment, Decision, Policy, Proof, Request, Snapshot, Status
from placement.problem.feasibility import fits_nowhere
from placement.problem.gang import Gang, Landed, collapse, takes_parts, want_of, wants_parts
from placement.search.constrained import by_model, solve_constrained
from placement.search.incumbent import Incumbent
from placement.search.max_placed import most_nodes
from placement.search.reduce import needs_rules
from placement.search.single import is_single, single
from placement.search.strategies import BY_STRATEGY, host_order
from placement.stop import Stop, never

DEFAULT = Policy()
SMALL = 200


def place(snapshot: Snapshot, request: Request, policy: Policy = DEFAULT, stop: Stop = never) -> Decision:
    """Where every node of the request goes, with proven bounds, or why it cannot.

    The same snapshot, request and policy give the same decision as long as ``stop`` stays false; ``stop`` is asked
    often (every few milliseconds) and the best answer so far is returned soon after it turns true.
    """
    gang = collapse(snapshot, request)
    if policy.max_placed:
        return as_many_as_possible(gang, policy, stop)
    incumbent = solve(gang, policy, stop)
    if incumbent.landed is None:
        return failed(gang, incumbent, policy, stop)
    return placed(gang, incumbent, stop())


def solve(gang: Gang, policy: Policy, stop: Stop) -> Incumbent:
    """The answer for a gang, by the packing where it holds all the rules."""
    strategy = gang.request.strategy
    if is_single(gang) and (found := single(gang, host_order(gang, policy.seed))) is not None:
        return found
    if fits_nowhere(gang) is not None:
        return Incumbent(infeasible=True, stage="funnel")
    if needs_rules(gang):
        return solve_constrained(gang, strategy, policy, stop)
    incumbent = BY_STRATEGY[strategy](gang, policy, stop)
    if not incumbent.closed and policy.branches and len(gang.kinds) * len(gang.index.hosts) <= SMALL and not stop():
        by_model(gang, strategy, replace(policy, branches=min(policy.branches, 2500)), stop, incumbent)
    return incumbent


def placed(gang: Gang, incumbent: Incumbent, stopped: bool) -> Decision:
    """The decision of a full placement."""
    assert incumbent.landed is not None
    assert incumbent.objective is not None
    lower = min(incumbent.lower, incumbent.objective)
    closed = lower == incumbent.objective and incumbent.penalty == incumbent.penalty_bound
    return Decision(
        Status.PLACED,
        name_nodes(gang, incumbent.landed),
        incumbent.objective,
        lower,
        incumbent.objective,
        Proof.OPTIMAL if closed else Proof.GAP,
        incumbent.stage,
        gang.request.strategy,
        penalty=incumbent.penalty,
        penalty_bound=incumbent.penalty_bound,
        stopped=stopped,
    )


def as_many_as_possible(gang: Gang, policy: Policy, stop: Stop) -> Decision:
    """The decision that leaves out as few nodes as it can."""
    most = most_nodes(gang, policy, stop)
    if most.landed is None:
        nothing = Incumbent(stage=most.stage, infeasible=most.infeasible)
        return replace(failed(gang, nothing, policy, stop), max_placed=True)
    found = name_nodes(gang, most.landed)
    count = len(found)
    closed = count >= most.upper and most.penalty == most.penalty_bound
    return Decision(
        Status.PLACED,
        found,
        count,
        count,
        max(most.upper, count),
        Proof.OPTIMAL if closed else Proof.GAP,
        most.stage,
        gang.request.strategy,
        most.penalty,
        most.penalty_bound,
        left_out(gang, found),
        stopped=stop(),
        max_placed=True,
    )


def left_out(gang: Gang, found: tuple[Assignment, ...]) -> tuple[str, ...]:
    """The id of each node, copies counted, that has no assignment."""
    placed = Counter(assignment.node for assignment in found)
    return tuple(
        identity for kind in gang.kinds for identity, copies in kind.nodes for _ in range(copies - placed[identity])
    )


def name_nodes(gang: Gang, landed: Landed) -> tuple[Assignment, ...]:
    """Gives each landed node of a kind one of the kind's ids; ordered as the request is."""
    waiting = [kind.ids() for kind in gang.kinds]
    hosts = gang.index.hosts
    by_node: dict[str, list[Assignment]] = {}
    devices = _devices(gang, landed)
    for number, (kind, host, cells) in enumerate(landed):
        node = next(waiting[kind])
        found = Assignment(node, hosts[host].id, cells, devices.get(number, ()))
        if node in by_node:
            by_node[node].append(found)
        else:
            by_node[node] = [found]
    return tuple(found for node in gang.request.nodes for found in by_node.get(node.id, ()))


def _devices(gang: Gang, landed: Landed) -> dict[int, tuple[tuple[int, int], ...]]:
    """Of each landed node, by its position, what it gets of its host's pools of what it wants together."""
    if not wants_parts(gang):
        return {}
    there, which = gang.index.parts()
    wants = {kind: want_of(gang, kind) for kind in range(len(gang.kinds))}
    on_host: dict[int, list[int]] = {}
    for number, (kind, host, _) in enumerate(landed):
        if takes_parts(gang, kind):
            on_host.setdefault(host, []).append(number)
    found = {}
    for host, numbers in on_host.items():
        mine = [replace(wants[landed[n][0]], chosen=landed[n][2]) for n in numbers]
        got = arrange(there[int(which[host])], mine)
        assert got is not None, "the nodes of a host were placed with devices for all"
        found.update({n: one.devices for n, one in zip(numbers, got, strict=True) if one.devices})
    return found


def failed(gang: Gang, incumbent: Incumbent, policy: Policy, stop: Stop) -> Decision:
    """The decision when nothing was placed, explained."""
    return Decision(
        Status.INFEASIBLE if incumbent.infeasible else Status.UNKNOWN,
        proof=Proof.INFEASIBLE if incumbent.infeasible else Proof.NONE,
        stage=incumbent.stage,
        strategy=gang.request.strategy,
        stopped=stop(),
        explanation=explain(gang, incumbent.infeasible, solve, policy, stop),
    )
