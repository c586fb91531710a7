"""NUMA cells of hosts, as named integer vectors: beside `vcpu` and `memory` stand `cell.<number>.vcpu` and
`cell.<number>.memory`, of which members that are pinned to the cell claim too. Pure.

A member that floats claims of its host alone. Its memory comes from wherever some is free, so that a cell is never
promised to it; the host's own amounts, of which everybody claims, see to it that there is enough for all.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction


class NumaPolicy(StrEnum):
    """Whether members are pinned to one NUMA cell of their host each."""

    NONE = "none"  # they float over their hosts
    PREFERRED = "preferred"  # pinned where the host that they are placed on has a cell with room for all of it
    REQUIRED = "required"  # only placed where a cell has room for all of it


PAGES: Mapping[str, int] = {"2MiB": 2 << 20, "1GiB": 1 << 30}
"""The sizes of huge pages, by the names that members and hosts give them, in bytes."""
PINNED = ("vcpu", "memory")
"""What cells have, and what a member that is pinned takes of its cells."""

_NAME = re.compile(r"cell\.([0-9]{1,5})\.([a-z]+)")


@dataclass(frozen=True, slots=True)
class Cell:
    """One NUMA cell, by the hypervisor's own number. The amounts are as a host's are (`service/domain/fleet.py`), but
    `used` is claimed by members that are pinned to it alone."""

    number: int
    total: Mapping[str, int] = field(default_factory=dict)
    allocatable: Mapping[str, int] = field(default_factory=dict)
    foreign: Mapping[str, int] = field(default_factory=dict)
    used: Mapping[str, int] = field(default_factory=dict)

    def free(self, resource: str) -> int:
        """What can still be claimed of it; never negative."""
        taken = self.used.get(resource, 0) + self.foreign.get(resource, 0)
        return max(0, self.allocatable.get(resource, 0) - taken)


def resource_of(cell: int, resource: str) -> str:
    """What a resource of a cell is called among its host's."""
    return f"cell.{cell}.{resource}"


def read(name: str) -> tuple[int, str] | None:
    """(cell, resource) of the name; None where it is no cell's."""
    match = _NAME.fullmatch(name) if is_of_cell(name) else None
    return (int(match[1]), match[2]) if match else None


def resource_in(name: str) -> str:
    """The resource itself, whether it is a cell's or its host's."""
    of = read(name)
    return name if of is None else of[1]


def is_of_cell(name: str) -> bool:
    """Whether the resource is one of a cell."""
    return name.startswith("cell.")


def without_cells(vector: Mapping[str, int]) -> dict[str, int]:
    """The vector of the host alone."""
    return {name: amount for name, amount in vector.items() if not is_of_cell(name)}


def by_cell(vector: Mapping[str, int]) -> dict[int, dict[str, int]]:
    """Cell -> its part of the vector."""
    found: dict[int, dict[str, int]] = defaultdict(dict)
    for name, amount in vector.items():
        of = read(name)
        if of is not None:
            found[of[0]][of[1]] = amount
    return dict(found)


def cells_in(vector: Mapping[str, int]) -> tuple[int, ...]:
    """The cells that the vector has something of, by number."""
    return tuple(sorted(number for number, amounts in by_cell(vector).items() if any(amounts.values())))


def shares(vector: Mapping[str, int], cells: tuple[int, ...]) -> dict[str, int]:
    """What a member that takes this vector takes of each of the cells that it is pinned to: equal parts, rounded up."""
    return {
        resource_of(cell, name): -(-vector[name] // len(cells)) for cell in cells for name in PINNED if vector.get(name)
    }


def with_cells(vector: Mapping[str, int], cells: tuple[int, ...]) -> dict[str, int]:
    """All that such a member claims."""
    return {**vector, **shares(vector, cells)}


def overridden(total: Mapping[str, int], operators: Mapping[str, int]) -> dict[str, int]:
    """The real amounts, with those of the operator over them. A cell keeps its share of what the host has."""
    after = {**total, **operators}
    sums = _sums(total)
    for name, amount in total.items():
        of = read(name)
        if of is not None and of[1] in operators and sums[of[1]]:
            after[name] = amount * operators[of[1]] // sums[of[1]]
    return after


def kept(total: Mapping[str, int], reserved: Mapping[str, int]) -> dict[str, int]:
    """What of each resource is kept for the host itself; each cell has the share of it that it has of its host, rounded
    up."""
    found: dict[str, int] = {}
    sums = _sums(total)
    for name, amount in total.items():
        resource = resource_in(name)
        found[name] = reserved.get(resource, 0)
        if is_of_cell(name) and found[name]:
            found[name] = -(-found[name] * amount // max(1, sums[resource]))
    return found


def allocatable(
    total: Mapping[str, int], ratios: Mapping[str, Fraction], reserved: Mapping[str, int]
) -> dict[str, int]:
    """floor((total - what is kept) * ratio) of each resource, never negative."""
    found: dict[str, int] = {}
    for name, amount in kept(total, reserved).items():
        left = (total[name] - amount) * ratios.get(resource_in(name), Fraction(1))
        found[name] = max(0, left.numerator // left.denominator)
    return found


def _sums(total: Mapping[str, int]) -> dict[str, int]:
    sums: dict[str, int] = defaultdict(int)
    for amounts in by_cell(total).values():
        for name, amount in amounts.items():
            sums[name] += amount
    return sums
