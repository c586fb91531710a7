"""The cheapest items that together reach what is needed of several resources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf

MOST_STEPS = 4_000


def cheapest_cover(
    sizes: Sequence[Sequence[int]], costs: Sequence[int], need: Sequence[int], steps: int = MOST_STEPS
) -> tuple[int, int, tuple[int, ...]]:
    """(lower, cost, who): the cheapest of some items whose sizes together reach ``need`` in every resource.

    All of them together must reach it. Depth first, the items that give most of what is needed for their cost first;
    after ``steps`` the best so far, and as ``lower`` a bound that still holds.
    """
    wanted = [r for r, amount in enumerate(need) if amount > 0]
    if not wanted:
        return 0, 0, ()
    worth = [
        sum(min(size[r], need[r]) / need[r] for r in wanted) / (cost + 1e-9)
        for size, cost in zip(sizes, costs, strict=True)
    ]
    order = sorted((item for item in range(len(sizes)) if worth[item]), key=lambda item: (-worth[item], item))
    some = _Items(
        [tuple(sizes[item][r] for r in wanted) for item in order],
        [costs[item] for item in order],
    )
    lower, cost, who = some.search(tuple(need[r] for r in wanted), steps)
    return lower, cost, tuple(sorted(order[place] for place in who))


@dataclass(slots=True, eq=False)
class _Items:
    """Items in the order in which they are tried. ``sizes``: by needed resource alone."""

    sizes: list[tuple[int, ...]]
    costs: list[int]

    def search(self, need: tuple[int, ...], steps: int) -> tuple[int, int, tuple[int, ...]]:
        """As ``cheapest_cover``, by places in the order."""
        rest = self._rest(len(need))
        by_ratio = [sorted(range(len(self.sizes)), key=lambda place: self._ratio(place, r)) for r in range(len(need))]
        best_cost, best = sum(self.costs), tuple(range(len(self.sizes)))
        floor = max(0, self._bound(by_ratio, 0, need))
        stack: list[tuple[int, tuple[int, ...], int, tuple[int, ...]]] = [(0, need, 0, ())]
        while stack and steps:
            place, missing, cost, who = stack.pop()
            steps -= 1
            if all(part <= 0 for part in missing):
                if cost < best_cost:
                    best_cost, best = cost, who
                continue
            if any(part > most for part, most in zip(missing, rest[place], strict=True)):
                continue
            if cost + self._bound(by_ratio, place, missing) >= best_cost:
                continue
            stack.append((place + 1, missing, cost, who))
            after = tuple(part - size for part, size in zip(missing, self.sizes[place], strict=True))
            stack.append((place + 1, after, cost + self.costs[place], (*who, place)))
        return (min(floor, best_cost) if stack else best_cost), best_cost, best

    def _rest(self, resources: int) -> list[tuple[int, ...]]:
        """What the items from each place on reach together, with a row for the end."""
        rest = [(0,) * resources]
        for size in reversed(self.sizes):
            rest.append(tuple(part + more for part, more in zip(size, rest[-1], strict=True)))
        return rest[::-1]

    def _ratio(self, place: int, resource: int) -> float:
        size = self.sizes[place][resource]
        return self.costs[place] / size if size else inf

    def _bound(self, by_ratio: Sequence[Sequence[int]], first: int, missing: Sequence[int]) -> int:
        """At least what the items from ``first`` on cost: the dearest fractional cover of one resource."""
        worst = 0.0
        for resource, left in enumerate(missing):
            cost = 0.0
            for place in by_ratio[resource]:
                size = self.sizes[place][resource]
                if left <= 0 or not size:
                    break
                if place >= first:
                    cost += self.costs[place] * min(1.0, left / size)
                    left -= size
            worst = max(worst, cost)
        return ceil(worst * (1 - 1e-9) - 1e-6)
