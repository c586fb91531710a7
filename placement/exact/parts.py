"""A host's NUMA cells and pools of devices as rows of the constraint model."""

from __future__ import annotations

from collections.abc import Sequence

from placement.devices import Choice, Devices, Part, choices, pools_for
from placement.exact.cp_sat import Model, Terms
from placement.problem.gang import Gang, takes_parts, want_of


def divide_parts(
    gang: Gang, model: Model, row: int, on_host: Sequence[tuple[int, int]], made: dict[tuple[int, int, Choice], int]
) -> None:
    """Of each kind how many make which choice of cells and partitions, and how their devices divide the pools.

    ``on_host``: (kind, its count's variable) of one host; ``made`` gets a variable for each (kind, row, choice).
    """
    there, which = gang.index.parts()
    part = there[int(which[row])]
    cells: dict[tuple[int, int], Terms] = {}
    pools: dict[int, Terms] = {}
    for k, count in on_host:
        if not takes_parts(gang, k):
            continue
        want, pins = want_of(gang, k), []
        for choice in choices(part, want):
            pin = made[k, row, choice] = model.variable(0, gang.kinds[k].count)
            pins.append((pin, 1))
            for c in choice[0]:
                for d, size in enumerate(want.share):
                    cells.setdefault((c, d), []).append((pin, size))
            for one, partition in zip(want.devices, choice[1], strict=True):
                _served(model, (pin, one.count), part, pools_for(part, one, choice[0], partition), pools)
        model.row([*pins, (count, -1)], 0, 0)
        for name, amount in want.loose:
            _served(model, (count, amount), part, pools_for(part, Devices(name, amount), (), ""), pools)
    for (c, d), terms in cells.items():
        model.row(terms, 0, part.cells[c][d])
    for number, terms in pools.items():
        model.row(terms, 0, part.pools[number].free)


def _served(model: Model, wanted: tuple[int, int], part: Part, numbers: Sequence[int], pools: dict[int, Terms]) -> None:
    """So many devices for each that a variable counts, from these pools in any division."""
    of, each = wanted
    taken = [(model.variable(0, part.pools[number].free), number) for number in numbers]
    for variable, number in taken:
        pools.setdefault(number, []).append((variable, 1))
    model.row([*((variable, 1) for variable, _ in taken), (of, -each)], 0, 0)
