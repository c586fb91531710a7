"""The verifier finds each way in which a decision can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from placement.check import check
from placement.constraints import AtMost, Near, Scope, Selector, SpareHosts, SpreadOver, Together
from placement.engine import place
from placement.model import Assignment, Cell, Decision, Host, Member, Node, Proof, Request, Snapshot, Status, Strategy

SNAPSHOT = Snapshot(
    (
        Host("a", "east", {"cpu": 8}, {"cpu": 2}, "r1", {"disk": "ssd"}, cells=(Cell({"cpu": 4}), Cell({"cpu": 4}))),
        Host("b", "west", {"cpu": 8}, {}, "r2"),
        Host("c", "west", {"cpu": 8}, {}, "r2", schedulable=False),
        Host("d", "west", {"cpu": 8}, {"cpu": 1}, "r3", members=(Member("x", {"cpu": 1}, exclusive=True),)),
    )
)
REQUEST = Request((Node("n", {"cpu": 2}, count=2), Node("m", {"cpu": 3})), Strategy.FEWEST_HOSTS)
GOOD = place(SNAPSHOT, REQUEST)


def on(*hosts: str, cells: tuple[int, ...] = ()) -> Decision:
    """The good decision with its nodes n, n, m on other hosts."""
    names = ("n", "n", "m")
    moved = tuple(Assignment(node, host, cells) for node, host in zip(names, hosts, strict=True))
    used = len(set(hosts))
    proof = Proof.OPTIMAL if used == 1 else Proof.GAP
    return replace(GOOD, assignments=moved, objective=used, upper_bound=used, lower_bound=1, proof=proof)


def rules(request: Request, decision: Decision) -> set[str]:
    return {violation.rule for violation in check(SNAPSHOT, request, decision)}


def test_the_planner_s_own_decision_is_right() -> None:
    assert check(SNAPSHOT, REQUEST, GOOD) == ()
    assert rules(REQUEST, on("b", "b", "b")) == set()


@pytest.mark.parametrize(
    ("rule", "request_", "decision"),
    [
        ("capacity", REQUEST, on("a", "a", "a")),
        ("schedulable", REQUEST, on("b", "c", "b")),
        ("exclusive", REQUEST, on("b", "b", "d")),
        ("unknown", REQUEST, on("b", "b", "nowhere")),
        ("excluded", replace(REQUEST, excluded_hosts=frozenset({"b"})), on("b", "b", "a")),
        ("count", REQUEST, replace(on("b", "b", "b"), assignments=on("b", "b", "b").assignments[:2])),
        ("objective", REQUEST, replace(on("b", "b", "a"), objective=1, upper_bound=1, proof=Proof.OPTIMAL)),
        ("bounds", REQUEST, replace(on("b", "b", "a"), lower_bound=3)),
        ("proof", REQUEST, replace(on("b", "b", "a"), proof=Proof.OPTIMAL)),
        ("penalty", REQUEST, replace(on("b", "b", "b"), penalty=4)),
        ("numa", REQUEST, on("b", "b", "a", cells=(0,))),
        ("constraint", replace(REQUEST, constraints=(AtMost(limit=1),)), on("b", "b", "a")),
        ("constraint", replace(REQUEST, constraints=(Together(),)), on("b", "b", "a")),
        ("constraint", replace(REQUEST, constraints=(SpreadOver(scope=Scope.ZONE),)), on("b", "b", "b")),
        ("constraint", replace(REQUEST, constraints=(SpareHosts(1),)), on("b", "b", "b")),
        (
            "constraint",
            replace(REQUEST, constraints=(Near(Selector(frozenset({"m"})), Selector(frozenset({"n"}))),)),
            on("b", "b", "a"),
        ),
        ("status", REQUEST, replace(on("b", "b", "b"), status=Status.UNKNOWN)),
        ("explanation", REQUEST, Decision(Status.INFEASIBLE, proof=Proof.INFEASIBLE)),
    ],
)
def test_each_fault_is_found(rule: str, request_: Request, decision: Decision) -> None:
    assert rule in rules(request_, decision)


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("zone", lambda node: replace(node, zone="east")),
        ("label", lambda node: replace(node, host_labels={"disk": ("ssd",)})),
        ("numa", lambda node: replace(node, cells=1)),
    ],
)
def test_each_wish_of_a_node_is_checked(rule: str, change: Callable[[Node], Node]) -> None:
    request = replace(REQUEST, nodes=(change(REQUEST.nodes[0]), REQUEST.nodes[1]))
    assert rule in rules(request, on("b", "b", "b"))


def test_an_exclusive_node_keeps_off_members_of_other_gangs_alone() -> None:
    alone = replace(REQUEST, nodes=tuple(replace(node, exclusive=True) for node in REQUEST.nodes))
    assert rules(alone, on("b", "b", "b")) == set()
    peopled = Snapshot(
        tuple(replace(host, members=(Member("y"),)) if host.id == "b" else host for host in SNAPSHOT.hosts)
    )
    assert {violation.rule for violation in check(peopled, alone, on("b", "b", "b"))} == {"exclusive"}
    assert check(peopled, replace(alone, staying={"y": "b"}), on("b", "b", "b")) == ()
