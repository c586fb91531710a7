"""Requests made to hurt: a bounded answer within a gibibyte, or a typed error; never a hang."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from placement.constraints import AtMost, Selector, Together
from placement.engine import place
from placement.model import Cell, Flavour, Host, Member, Node, Policy, Request, Snapshot, Status, Strategy
from placement.resources import MAX_AMOUNT, InvalidPlacementInput
from tests.placement.hostile import CASES, fleet
from tests.support import ROOT

TOO_MUCH = 2**63 - 1
HANGS = 600.0  # seconds


def decided(case: str, strategy: Strategy) -> tuple[str, str, int]:
    """(status, proof, peak MiB) of a case in a process of its own."""
    command = [sys.executable, "-m", "tests.placement.hostile", case, strategy.value]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=HANGS)
    status, proof, peak = done.stdout.split()
    return status, proof, int(peak)


@pytest.mark.parametrize("strategy", [Strategy.FEWEST_HOSTS, Strategy.LEAST_LOST_VALUE])
@pytest.mark.parametrize("case", ["many_kinds", "near_chain", "huge_amounts"])
def test_a_hostile_request_gets_an_answer_within_a_gibibyte(case: str, strategy: Strategy) -> None:
    status, _, peak = decided(case, strategy)
    assert status in ("placed", "infeasible", "unknown")
    assert peak < 1024


@pytest.mark.slow
@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("case", CASES)
def test_every_hostile_request_stays_within_a_gibibyte(case: str, strategy: Strategy) -> None:
    status, _, peak = decided(case, strategy)
    assert status in ("placed", "infeasible", "unknown")
    assert peak < 1024


def test_a_hundred_thousand_different_nodes_are_refused_by_name() -> None:
    nodes = tuple(Node(f"n{n}", {"cpu": 1, "mem": n}) for n in range(100_000))
    with pytest.raises(InvalidPlacementInput, match="100000 different kinds") as caught:
        place(fleet(10), Request(nodes))
    assert caught.value.field == "request.nodes"


@pytest.mark.parametrize(
    "build",
    [
        lambda: Node("n", {"cpu": TOO_MUCH}),
        lambda: Host("h", "z", {"cpu": TOO_MUCH}),
        lambda: Host("h", "z", {"cpu": 1}, {"cpu": TOO_MUCH}),
        lambda: Cell({"cpu": TOO_MUCH}),
        lambda: Cell({"cpu": 1}, {"cpu": TOO_MUCH}),
        lambda: Member("m", {"cpu": TOO_MUCH}),
        lambda: Flavour({"cpu": TOO_MUCH}),
        lambda: Node("n", {"cpu": 1}, count=TOO_MUCH),
        lambda: AtMost(limit=TOO_MUCH),
        lambda: AtMost(weight=TOO_MUCH),
        lambda: Policy(branches=TOO_MUCH),
    ],
)
def test_values_at_the_end_of_64_bits_are_refused(build: object) -> None:
    with pytest.raises(InvalidPlacementInput):
        build()  # type: ignore[operator]


def test_the_largest_values_that_are_allowed_are_compared_exactly() -> None:
    snapshot = Snapshot((Host("h", "z", {"cpu": MAX_AMOUNT}),))
    fits = Request((Node("n", {"cpu": MAX_AMOUNT}),))
    assert place(snapshot, fits).status is Status.PLACED
    used = Snapshot((Host("h", "z", {"cpu": MAX_AMOUNT}, {"cpu": 1}),))
    assert place(used, fits).status is Status.INFEASIBLE


def test_after_the_stop_no_family_is_said_to_be_innocent() -> None:
    """What was not tried any more stays among the families that may be in conflict."""
    request = Request(
        tuple(Node(f"n{n}", {"cpu": 1}, zone="z1", labels={"g": "x"}) for n in range(5)),
        constraints=(Together(Selector(labels={"g": "x"})), AtMost(Selector(labels={"g": "x"}), 1)),
    )
    whole = place(fleet(40), request)
    assert whole.explanation is not None
    assert whole.status is Status.INFEASIBLE
    for patience in range(40):
        asked = 0

        def stop(patience: int = patience) -> bool:
            nonlocal asked
            asked += 1
            return asked > patience

        cut = place(fleet(40), replace(request), stop=stop)
        if cut.explanation is not None and cut.explanation.conflict:
            assert set(whole.explanation.conflict) <= set(cut.explanation.conflict)
