"""A stop that comes while a native solver searches ends it: a deadline holds whatever stage it falls into."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from placement.check import check
from placement.constraints import Apart, AtMost, Scope, Selector, SpreadOver
from placement.engine import place
from placement.exact import constraint_model, cp_sat, master
from placement.exact.interrupt import run_until
from placement.model import Host, Node, Policy, Request, Snapshot, Status, Strategy
from placement.problem.gang import collapse
from placement.search import constrained, strategies
from tests.placement.wild import sockets

ENDLESS = Policy(branches=100_000_000, explain=False)


class WhileSearching:
    """Turns true once a module's native search has begun, and stays so."""

    def __init__(self, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self.searching = False
        monkeypatch.setattr(module, "run_until", self._run_until)

    def _run_until(self, *arguments: Any) -> Any:
        self.searching = True
        return run_until(*arguments)

    def __call__(self) -> bool:
        return self.searching


def with_rules(strategy: Strategy) -> tuple[Snapshot, Request]:
    """A gang whose rules only the constraint solver holds, and whose proof takes minutes."""
    r = random.Random(5)
    hosts = tuple(
        Host(f"h{i}", "z", {"cpu": r.randint(7, 40), "memory": r.randint(11, 90)}, {}, f"r{i % 7}") for i in range(40)
    )
    nodes = tuple(
        Node(f"n{i}", {"cpu": r.randint(2, 13), "memory": r.randint(3, 29)}, labels={"g": r.choice("abc")})
        for i in range(60)
    )
    first, second = Selector(labels={"g": "a"}), Selector(labels={"g": "b"})
    rules = (
        AtMost(first, 3, Scope.RACK),
        Apart(first, second, Scope.HOST, 2),
        SpreadOver(Selector(), Scope.RACK, 6, 3),
    )
    return Snapshot(hosts), Request(nodes, strategy, rules)


@pytest.mark.parametrize("module", [cp_sat, master])
@pytest.mark.parametrize("strategy", [Strategy.CLOSE, Strategy.LEAST_LOST_VALUE, Strategy.FEWEST_HOSTS])
def test_a_stop_ends_the_native_solvers(
    module: ModuleType, strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, request = with_rules(strategy)
    stop = WhileSearching(module, monkeypatch)
    decision = place(snapshot, request, ENDLESS, stop)
    assert stop.searching
    assert decision.stopped
    assert decision.status is not Status.INFEASIBLE
    assert check(snapshot, request, decision) == ()
    assert_ended()


def assert_ended() -> None:
    """Every search that was told to end does, soon after its answer at the latest."""
    for thread in threading.enumerate():
        if thread.name.startswith("placement-"):
            thread.join(timeout=60)
            assert not thread.is_alive()


def test_a_search_that_is_slow_to_end_is_not_waited_for() -> None:
    may_end, asked = threading.Event(), threading.Event()

    def search() -> str:
        may_end.wait(60)
        return "late"

    assert run_until(search, asked.set, lambda: True, lambda: "the best so far") == "the best so far"
    assert not may_end.is_set()
    asked.clear()
    assert asked.wait(60), "it is still asked to end"
    may_end.set()
    assert_ended()
    assert run_until(lambda: "in time", asked.set, lambda: True, lambda: "the best so far") == "in time"


def test_a_search_without_another_answer_is_waited_for() -> None:
    told = threading.Event()

    def search() -> str:
        told.wait(60)
        return "its own"

    assert run_until(search, told.set, lambda: True) == "its own"


def test_what_was_found_before_the_stop_is_kept_when_the_search_is_slow_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unpunctual(search: Callable[[], Any], interrupt: Callable[[], object], stop: object, instead: Any) -> Any:
        search()
        return instead()

    monkeypatch.setattr(cp_sat, "run_until", unpunctual)
    model = cp_sat.Model()
    one, other = model.variable(0, 10), model.variable(0, 10)
    model.row([(one, 2), (other, 3)], 7, 100)
    model.minimise([(one, 1), (other, 2)])
    found = model.solve(1.0, 0, lambda: False)
    assert found.status == model.library.FEASIBLE
    assert 2 * found.solution[one] + 3 * found.solution[other] >= 7
    assert found.objective_value == found.solution[one] + 2 * found.solution[other]


def test_a_stop_is_heard_while_a_model_is_still_being_written(monkeypatch: pytest.MonkeyPatch) -> None:
    gang = collapse(*with_rules(Strategy.LEAST_LOST_VALUE))
    monkeypatch.setattr(cp_sat, "run_until", lambda *_: pytest.fail("the search began"))
    asked = 0

    def third_time() -> bool:
        nonlocal asked
        asked += 1
        return asked >= 3

    verdict = constraint_model.solve_model(gang, range(40), Strategy.LEAST_LOST_VALUE, 1.0, 0, third_time)
    assert asked == 3
    assert (verdict.landed, verdict.infeasible) == (None, False)


@pytest.mark.parametrize("weight", [None, 10])
@pytest.mark.parametrize("strategy", list(Strategy))
def test_a_stop_in_the_relaxation_leaves_what_the_greedy_placed(
    strategy: Strategy, weight: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = tuple(Host(f"h{i}", "z", {"cpu": 16, "memory": 64}, {}, f"r{i % 5}") for i in range(30))
    nodes = tuple(Node(f"n{i}", {"cpu": 1 + i % 4, "memory": 3 + i % 7}) for i in range(40))
    rules = (AtMost(limit=12, scope=Scope.RACK), SpreadOver(scope=Scope.RACK, minimum=4, weight=weight))
    snapshot, request = Snapshot(hosts), Request(nodes, strategy, rules)
    stopped_in_the_relaxation(snapshot, request, monkeypatch)


@pytest.mark.parametrize("strategy", list(Strategy))
def test_on_a_large_fleet_too_a_stop_in_the_relaxation_leaves_an_answer(
    strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, request = sockets(5000, strategy, 1)
    assert request.size * len(snapshot.hosts) > constrained.QUICK_SIZE
    stopped_in_the_relaxation(snapshot, request, monkeypatch)


def stopped_in_the_relaxation(snapshot: Snapshot, request: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    relaxing = False

    def relax(*arguments: Any) -> Any:
        nonlocal relaxing
        relaxing = True
        return relaxation(*arguments)

    relaxation = strategies.fewest
    monkeypatch.setattr(constrained, "fewest", relax)
    decision = place(snapshot, request, ENDLESS, lambda: relaxing)
    assert relaxing
    assert decision.status is Status.PLACED
    assert check(snapshot, request, decision) == ()
