"""What is to become free in the NUMA cells of a host so that a pinned node fits, and that it then does."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from placement import codec
from placement.engine import place
from placement.model import Cell, CureKind, Host, Node, Request, Shortage, Snapshot, Status
from tests.placement.families import cured, fits


def host(name: str, *used: int, other: int = 0, size: int = 8) -> Host:
    cells = tuple(Cell({"cpu": size, "memory": 4 * size}, {"cpu": amount}) for amount in used)
    total = {"cpu": size * len(used), "memory": 4 * size * len(used)}
    return Host(name, "z", total, {"cpu": sum(used) + other}, cells=cells)


def freed(snapshot: Snapshot, node: Node) -> tuple[str | None, tuple[Shortage, ...]]:
    explanation = place(snapshot, Request((node,))).explanation
    assert explanation is not None
    (cure,) = [cure for cure in explanation.cures if cure.kind is CureKind.FREE]
    assert place(*cured((snapshot, Request((node,))), cure)).status is Status.PLACED
    return cure.host, cure.amounts


def test_what_a_cell_lacks_is_named_with_the_cell() -> None:
    fleet = Snapshot((host("a", 7, 7), host("b", 7, 6)))
    assert freed(fleet, Node("n", {"cpu": 4, "memory": 1}, cells=1)) == ("b", (Shortage("cpu", 2, None, "cell 1", 1),))


def test_each_of_several_cells_and_the_rest_of_the_host_are_named() -> None:
    two = Snapshot((host("a", 6, 5),))
    first, second = Shortage("cpu", 2, None, "cell 0", 0), Shortage("cpu", 1, None, "cell 1", 1)
    assert freed(two, Node("n", {"cpu": 8}, cells=2)) == ("a", (second, first))
    beside = Snapshot((host("a", 7, 4, other=5),))
    assert freed(beside, Node("n", {"cpu": 5}, cells=1)) == ("a", (second, Shortage("cpu", 4)))


def test_a_cell_that_is_too_small_is_no_cure_and_the_form_travels() -> None:
    explanation = place(Snapshot((host("a", 1, 1),)), Request((Node("n", {"cpu": 9}, cells=1),))).explanation
    assert explanation is not None
    assert all(cure.kind is not CureKind.FREE for cure in explanation.cures)
    decision = place(Snapshot((host("a", 7, 7),)), Request((Node("n", {"cpu": 2}, cells=1),)))
    assert codec.read_decision(codec.loads(codec.dumps(codec.write_decision(decision)))) == decision


@pytest.mark.parametrize("block", range(4))
def test_every_such_cure_applied_places(block: int) -> None:
    found = 0
    for seed in range(40 * block, 40 * block + 40):
        r = random.Random(seed)
        hosts = []
        for number in range(r.randint(1, 3)):
            one = host(f"h{number}", *(r.randint(3, 9) for _ in range(r.randint(1, 3))), other=r.randint(0, 2))
            cells = tuple(replace(c, used={**c.used, "memory": r.randint(0, 30)}) for c in one.cells)
            memory = sum(c.used["memory"] for c in cells)
            hosts.append(replace(one, cells=cells, used={**one.used, "memory": memory}))
        wanted = r.choice([1, 1, 2])
        node = Node("n", {"cpu": r.randint(2, 8) * wanted, "memory": r.randint(1, 32) * wanted}, cells=wanted)
        case = Snapshot(tuple(hosts)), Request((node,))
        explanation = place(*case).explanation
        for cure in explanation.cures if explanation is not None else ():
            if cure.kind is CureKind.FREE:
                found += any(short.cell is not None for short in cure.amounts)
                assert fits(cured(case, cure)), cure
    assert found >= 5, "too few of them say which cell"
