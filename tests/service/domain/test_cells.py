"""NUMA cells as named amounts: shares, what a host keeps for itself, and an operator's amounts."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from service.domain import cells

GIB = 1 << 30
AMOUNTS = st.integers(0, 1 << 50)
OF_CELLS = st.dictionaries(st.integers(0, 40), st.tuples(AMOUNTS, AMOUNTS), min_size=1, max_size=8)


def vector(of_cells: dict[int, tuple[int, int]]) -> dict[str, int]:
    """A host that has all that its cells have."""
    whole = {"vcpu": sum(v for v, _ in of_cells.values()), "memory": sum(m for _, m in of_cells.values())}
    for number, (vcpus, memory) in of_cells.items():
        whole |= {cells.resource_of(number, "vcpu"): vcpus, cells.resource_of(number, "memory"): memory}
    return whole


@given(OF_CELLS)
def test_names_are_read_as_they_are_written(of_cells: dict[int, tuple[int, int]]) -> None:
    whole = vector(of_cells)
    assert set(cells.without_cells(whole)) == {"vcpu", "memory"}
    assert {n: (v["vcpu"], v["memory"]) for n, v in cells.by_cell(whole).items()} == of_cells
    assert cells.cells_in(whole) == tuple(sorted(n for n, amounts in of_cells.items() if any(amounts)))
    assert not any(cells.is_of_cell(name) for name in ("vcpu", "memory", "gpu.cell", "gpu.h100"))


@given(AMOUNTS, AMOUNTS, st.sets(st.integers(0, 40), min_size=1, max_size=8))
def test_what_is_pinned_takes_all_of_it_from_its_cells_and_less_than_a_unit_more(
    vcpus: int, memory: int, pinned: set[int]
) -> None:
    chosen = tuple(sorted(pinned))
    taken = cells.shares({"vcpu": vcpus, "memory": memory, "gpu.h100": 3}, chosen)
    for name, amount in (("vcpu", vcpus), ("memory", memory)):
        held = [taken.get(cells.resource_of(number, name), 0) for number in chosen]
        assert amount <= sum(held) < amount + len(chosen)
    assert not any("gpu" in name for name in taken)
    assert cells.shares({"vcpu": vcpus}, ()) == {}


@given(OF_CELLS, st.integers(0, 1 << 50), st.fractions(Fraction(1, 10), 10))
def test_cells_together_are_promised_no_more_than_their_host(
    of_cells: dict[int, tuple[int, int]], reserved: int, ratio: Fraction
) -> None:
    usable = cells.allocatable(vector(of_cells), {"memory": ratio}, {"memory": reserved})
    for name in ("vcpu", "memory"):
        parts = sum(amount for key, amount in usable.items() if key.startswith("cell.") and key.endswith(name))
        assert 0 <= parts <= usable[name]


def test_an_operators_amount_is_divided_as_the_hosts_own_is() -> None:
    whole = vector({0: (8, 10 * GIB), 1: (8, 30 * GIB)})
    after = cells.overridden(whole, {"memory": 8 * GIB, "gpu.h100": 2})
    assert (after["memory"], after["cell.0.memory"], after["cell.1.memory"]) == (8 * GIB, 2 * GIB, 6 * GIB)
    assert (after["cell.0.vcpu"], after["gpu.h100"]) == (8, 2)
    assert cells.kept(after, {"memory": GIB})["cell.1.memory"] == -(-GIB * 3 // 4)
