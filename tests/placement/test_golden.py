"""Recorded decisions are made again, byte for byte. ``python -m tests.placement.test_golden`` records them."""

from __future__ import annotations

from pathlib import Path

import pytest

from placement import codec
from placement.check import check
from placement.constraints import AtMost, Scope, SpreadOver
from placement.engine import place
from placement.model import Flavour, Host, Node, Policy, Request, Snapshot, Strategy
from tests.placement.instances import tiny
from tests.placement.test_laws import SIZES, medium

GOLDEN = Path(__file__).parent / "golden"


def cases() -> dict[str, tuple[Snapshot, Request, Policy]]:
    """What is recorded: each strategy, rules, NUMA, as many as possible, and failures with their explanation."""
    made: dict[str, tuple[Snapshot, Request, Policy]] = {}
    for strategy in Strategy:
        snapshot, request = medium(11, strategy)
        flavours = tuple(Flavour({"cpu": c, "memory": m}) for c, m in SIZES)
        made[strategy.value] = (Snapshot(snapshot.hosts, flavours), request, Policy(seed=3))
    for seed in (6, 21, 33):
        made[f"rules_{seed}"] = (*tiny(seed), Policy())
        made[f"numa_{seed}"] = (*tiny(seed, numa=True), Policy())
    hosts = tuple(Host(f"h{n}", "z", {"cpu": 8}, {"cpu": n % 3}, f"r{n // 4}") for n in range(12))
    rules = (AtMost(limit=2, scope=Scope.RACK), SpreadOver(scope=Scope.RACK, minimum=3))
    made["racks"] = (Snapshot(hosts), Request((Node("n", {"cpu": 3}, count=6),), constraints=rules), Policy())
    made["too_many"] = (Snapshot(hosts), Request((Node("n", {"cpu": 3}, count=7),), constraints=rules), Policy())
    made["shortage"] = (Snapshot(hosts), Request((Node("n", {"cpu": 5}, count=20),)), Policy())
    made["as_many_as_fit"] = (Snapshot(hosts), made["shortage"][1], Policy(max_placed=True))
    return made


def record() -> None:
    """Writes every case's dump."""
    GOLDEN.mkdir(exist_ok=True)
    for name, (snapshot, request, policy) in cases().items():
        dump = codec.write_dump(snapshot, request, policy, place(snapshot, request, policy))
        (GOLDEN / f"{name}.json").write_text(codec.dumps(dump) + "\n", encoding="utf-8")


@pytest.mark.parametrize("name", sorted(cases()))
def test_a_recorded_decision_is_made_again(name: str) -> None:
    recorded = (GOLDEN / f"{name}.json").read_text(encoding="utf-8")
    snapshot, request, policy, decision = codec.read_dump(codec.loads(recorded))
    assert (snapshot, request, policy) == cases()[name], "the record is of another question"
    again = place(snapshot, request, policy)
    assert codec.dumps(codec.write_dump(snapshot, request, policy, again)) + "\n" == recorded
    assert check(snapshot, request, decision) == ()


def test_every_record_belongs_to_a_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(cases())


if __name__ == "__main__":
    record()
