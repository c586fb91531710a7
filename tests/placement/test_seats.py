"""What few domains can hold is counted before it is searched: how many nodes each of their hosts takes at most."""

from __future__ import annotations

import pytest

from placement.constraints import EVERYTHING, AtMost, Constraint, Scope, Together, Within
from placement.engine import place
from placement.model import Host, Member, Node, Policy, Request, Snapshot, Status, Strategy


def fleet(racks: int, each: int, cpu: int = 32) -> Snapshot:
    return Snapshot(
        tuple(
            Host(f"h{rack:02}-{n:02}", "z", {"cpu": cpu}, {}, rack=f"r{rack:02}")
            for rack in range(racks)
            for n in range(each)
        )
    )


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize(
    ("rules", "nodes"),
    [
        ((Within(EVERYTHING, Scope.RACK, 2), AtMost(EVERYTHING, 2, Scope.HOST)), 33),
        ((Within(EVERYTHING, Scope.RACK, 2), AtMost(EVERYTHING, 9, Scope.RACK)), 19),
        ((Together(EVERYTHING, Scope.RACK), AtMost(EVERYTHING, 1, Scope.HOST)), 9),
        ((Within(EVERYTHING, Scope.RACK, 3),), 3 * 8 * 2 + 1),
    ],
)
def test_too_few_seats_in_few_racks_are_proven_at_once(
    rules: tuple[Constraint, ...], nodes: int, strategy: Strategy
) -> None:
    """Twenty racks of eight hosts, each with volume for all: it is the seats that there are too few of, by one."""
    node = Node("n", {"cpu": 11}, count=nodes)
    looks = iter(range(200))
    decision = place(
        fleet(20, 8), Request((node,), strategy, rules), Policy(explain=False), stop=lambda: next(looks, None) is None
    )
    assert decision.status is Status.INFEASIBLE
    one_less = Request((Node("n", {"cpu": 11}, count=nodes - 1),), strategy, rules)
    assert place(fleet(20, 8), one_less, Policy(explain=False)).status is Status.PLACED


@pytest.mark.parametrize("rule", [AtMost(EVERYTHING, 2, Scope.RACK), AtMost(EVERYTHING, 1, Scope.HOST)])
def test_what_is_to_be_together_may_join_its_members_in_each_of_two_racks(rule: Constraint) -> None:
    """A host's rack may have changed below a member: no rack alone has seats for both that join, and the two have."""
    hosts = [
        Host(
            f"h{rack}-{number}", "z", {"cpu": 32}, rack=f"r{rack}", members=(Member(f"m{rack}"),) if number == 0 else ()
        )
        for rack in range(2)
        for number in range(2)
    ]
    request = Request(
        (Node("n", {"cpu": 20}, count=2),),
        constraints=(Together(EVERYTHING, Scope.RACK), rule),
        staying={"m0": "h0-0", "m1": "h1-0"},
    )
    assert place(Snapshot(tuple(hosts)), request).status is Status.PLACED


@pytest.mark.parametrize(
    ("strategy", "rules", "best"),
    [
        # 16 on the four hosts that a bound on hosts leaves: four each. On those of two racks or of a zone: one each.
        (Strategy.SPREAD, (Within(EVERYTHING, Scope.HOST, 4),), 4 * 16),
        (Strategy.SPREAD, (Within(EVERYTHING, Scope.RACK, 1),), 8 * 4),
        (Strategy.SPREAD, (Within(EVERYTHING, Scope.RACK, 2),), 16),
        (Strategy.SPREAD, (Within(EVERYTHING, Scope.ZONE, 1), AtMost(EVERYTHING, 4, Scope.RACK)), 16),
        # A rack counts 17, a host 1: four racks of four by the rule, or two of eight hosts.
        (Strategy.CLOSE, (Within(EVERYTHING, Scope.RACK, 5), AtMost(EVERYTHING, 4, Scope.RACK)), 4 * 17 + 4),
        (Strategy.CLOSE, (Within(EVERYTHING, Scope.RACK, 3), AtMost(EVERYTHING, 1, Scope.HOST)), 2 * 17 + 16),
    ],
)
def test_what_a_bound_on_domains_costs_is_proven_without_the_exact_model(
    strategy: Strategy, rules: tuple[Constraint, ...], best: int
) -> None:
    """The exact model sees a hundred of the thousand hosts at most, and proves nothing of all."""
    hosts = tuple(
        Host(f"h{zone}-{rack:02}-{n}", f"z{zone}", {"cpu": 44}, rack=f"r{zone}-{rack}")
        for zone in range(5)
        for rack in range(25)
        for n in range(8)
    )
    request = Request((Node("n", {"cpu": 11}, count=16),), strategy, rules)
    decision = place(Snapshot(hosts), request, Policy(branches=0))
    assert (decision.status, decision.objective, decision.lower_bound) == (Status.PLACED, best, best)
