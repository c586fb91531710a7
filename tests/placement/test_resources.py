"""Bad input: every wrong value is a typed error that names its field, and nothing hangs or takes the memory."""

from __future__ import annotations

import pickle

import pytest

from placement.constraints import Apart, AtMost, Selector, SpareHosts, SpreadOver, Together
from placement.engine import place
from placement.model import (
    Cell,
    Flavour,
    Host,
    Node,
    Policy,
    Proof,
    Request,
    Snapshot,
    Status,
    Strategy,
)
from placement.resources import MAX_AMOUNT, InvalidPlacementInput
from tests.placement.brute import assert_right

QUICK = Policy(explain=False)


def node(**changes: object) -> Node:
    """A small node with some fields changed."""
    return Node(**{"id": "n", "demand": {"cpu": 1}, **changes})  # type: ignore[arg-type]


def host(**changes: object) -> Host:
    """A small host with some fields changed."""
    return Host(**{"id": "h", "zone": "z", "capacity": {"cpu": 8}, **changes})  # type: ignore[arg-type]


WRONG = [
    ("node.id", lambda: node(id="")),
    ("node.id", lambda: node(id="a\nb")),
    ("node.id", lambda: node(id="x" * 300)),
    ("node.demand[cpu]", lambda: node(demand={"cpu": -1})),
    ("node.demand[cpu]", lambda: node(demand={"cpu": 1.5})),
    ("node.demand[cpu]", lambda: node(demand={"cpu": True})),
    ("node.demand[cpu]", lambda: node(demand={"cpu": MAX_AMOUNT + 1})),
    ("node.demand", lambda: node(demand=[("cpu", 1)])),
    ("node.demand", lambda: node(demand={f"r{n}": 1 for n in range(65)})),
    ("node.count", lambda: node(count=0)),
    ("node.count", lambda: node(count=100_001)),
    ("node.cells", lambda: node(cells=-1)),
    ("node.zone", lambda: node(zone="")),
    ("node.host_labels[k]", lambda: node(host_labels={"k": "v"})),
    ("node.labels[k]", lambda: node(labels={"k": 3})),
    ("host.capacity[cpu]", lambda: host(capacity={"cpu": -8})),
    ("host.used[cpu]", lambda: host(used={"cpu": -1})),
    ("host.rack", lambda: host(rack="")),
    ("host.cells", lambda: host(cells=(Cell({"cpu": 1}),) * 9)),
    ("cell.capacity[cpu]", lambda: Cell({"cpu": -1})),
    ("flavour.demand[cpu]", lambda: Flavour({"cpu": -1})),
    ("snapshot.hosts", lambda: Snapshot((host(), host()))),
    ("request.nodes", lambda: Request(())),
    ("request.nodes", lambda: Request((node(), node()))),
    ("request.nodes", lambda: Request((node(count=60_000), node(id="m", count=60_000)))),
    ("request.nodes", lambda: Request((node(demand={"cpu": MAX_AMOUNT}, count=9),))),
    ("request.constraints[0].select", lambda: Request((node(),), constraints=(AtMost(Selector(frozenset({"q"}))),))),
    ("request.constraints", lambda: Request((node(),), constraints=(AtMost(),) * 1001)),
    ("constraint.limit", lambda: AtMost(limit=0)),
    ("constraint.minimum", lambda: SpreadOver(minimum=0)),
    ("constraint.count", lambda: SpareHosts(0)),
    ("constraint.weight", lambda: Together(weight=0)),
    ("constraint.weight", lambda: Apart(Selector(), Selector(), weight=-1)),
    ("policy.seed", lambda: Policy(seed=-1)),
    ("policy.cells", lambda: Policy(cells=10**12)),
]


@pytest.mark.parametrize(("field", "build"), WRONG, ids=[f"{n}-{field}" for n, (field, _) in enumerate(WRONG)])
def test_a_wrong_value_is_refused_by_the_name_of_its_field(field: str, build: object) -> None:
    with pytest.raises(InvalidPlacementInput) as caught:
        build()  # type: ignore[operator]
    assert caught.value.field == field
    assert caught.value.message


def test_the_error_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(InvalidPlacementInput("a", "b")))
    assert (error.field, error.message) == ("a", "b")


def test_a_fleet_whose_total_overflows_is_refused() -> None:
    hosts = tuple(host(id=f"h{n}", capacity={"cpu": MAX_AMOUNT}) for n in range(2))
    with pytest.raises(InvalidPlacementInput, match="2\\*\\*62"):
        place(Snapshot(hosts), Request((node(),)))


def test_amounts_near_the_limit_are_placed_exactly() -> None:
    snapshot = Snapshot((host(capacity={"cpu": MAX_AMOUNT}),))
    fits = Request((node(demand={"cpu": MAX_AMOUNT // 2}, count=2),), Strategy.FEWEST_HOSTS)
    decision = place(snapshot, fits)
    assert decision.status is Status.PLACED
    assert_right(snapshot, fits, decision)
    too_much = Request((node(demand={"cpu": MAX_AMOUNT // 2 + 1}, count=2),), Strategy.FEWEST_HOSTS)
    assert place(snapshot, too_much).status is Status.INFEASIBLE


@pytest.mark.parametrize("strategy", Strategy)
def test_an_empty_fleet_and_a_fleet_without_capacity_are_infeasible(strategy: Strategy) -> None:
    for snapshot in (Snapshot(()), Snapshot((host(capacity={}), host(id="g", capacity={"cpu": 0})))):
        request = Request((node(),), strategy)
        decision = place(snapshot, request)
        assert decision.status is Status.INFEASIBLE
        assert decision.explanation is not None
        assert decision.explanation.permanent is True
        assert_right(snapshot, request, decision)


@pytest.mark.parametrize("strategy", Strategy)
def test_a_node_that_asks_for_nothing_goes_anywhere(strategy: Strategy) -> None:
    snapshot = Snapshot((host(capacity={"cpu": 0}), host(id="g")))
    request = Request((node(demand={}, count=3), node(id="m", demand={"cpu": 0})), strategy)
    decision = place(snapshot, request)
    assert decision.status is Status.PLACED
    assert_right(snapshot, request, decision)


def test_unknown_names_are_infeasible_not_an_error() -> None:
    snapshot = Snapshot((host(),))
    for wrong in (node(zone="nowhere"), node(demand={"tpu": 1}), node(host_labels={"k": ("v",)})):
        decision = place(snapshot, Request((wrong,)))
        assert decision.status is Status.INFEASIBLE
        assert decision.proof is Proof.INFEASIBLE


def test_use_above_capacity_counts_as_no_room() -> None:
    snapshot = Snapshot((host(used={"cpu": 80}),))
    assert place(snapshot, Request((node(),))).status is Status.INFEASIBLE


def test_contradictory_rules_are_proven_infeasible() -> None:
    snapshot = Snapshot(tuple(host(id=f"h{n}") for n in range(4)))
    request = Request((node(count=3),), constraints=(Together(), AtMost(limit=1)))
    decision = place(snapshot, request)
    assert decision.status is Status.INFEASIBLE
    assert decision.explanation is not None
    assert {family.value for family in decision.explanation.conflict} == {"affinity", "anti_affinity"}


@pytest.mark.parametrize("strategy", Strategy)
def test_a_hundred_thousand_nodes_are_placed(strategy: Strategy) -> None:
    snapshot = Snapshot(tuple(host(id=f"h{n}", capacity={"cpu": 1000}) for n in range(110)))
    request = Request((node(count=100_000),), strategy)
    decision = place(snapshot, request, QUICK, stop=_after(200_000))
    assert decision.status in (Status.PLACED, Status.UNKNOWN)
    assert_right(snapshot, request, decision)


def test_thousands_of_sizes_in_awkward_units_stay_bounded() -> None:
    capacity = {f"r{d}": 10**15 + 7 * d for d in range(10)}
    snapshot = Snapshot(tuple(host(id=f"h{n}", capacity=capacity) for n in range(300)))
    nodes = tuple(
        node(id=f"n{n}", demand={f"r{d}": 10**12 + (n * 7919 * (d + 3)) % 10**14 for d in range(10)})
        for n in range(1500)
    )
    request = Request(nodes, Strategy.FEWEST_HOSTS)
    decision = place(snapshot, request, Policy(explain=False, rounds=1, dives=0, branches=0), stop=_after(4000))
    assert decision.status is Status.PLACED
    assert_right(snapshot, request, decision)


def _after(times: int):  # type: ignore[no-untyped-def]
    """A stop that turns true once it was asked `times` times: a deadline without a clock."""
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > times

    return stop
