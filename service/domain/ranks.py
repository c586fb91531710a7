"""Who is the initial node and which rank each node has: one set of rules for every way in. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from service.errors import FieldViolation


@dataclass(frozen=True, slots=True)
class Wish:
    """What a node of a request says of its place. `rank` None: nothing."""

    initial: bool = False
    rank: int | None = None


def violations(wishes: Sequence[Wish], path: str = "model_services") -> Iterator[FieldViolation]:
    """What is wrong with the wishes of a group's nodes, by fields below `path`.

    At most one node is the initial one; ranks are given to all nodes or to none, each once, 0 to the initial node.
    """
    marked = [position for position, wish in enumerate(wishes) if wish.initial]
    for position in marked[1:]:
        yield FieldViolation(
            f"{path}[{position}].is_initial_node",
            f"at most one node may be the initial node; {path}[{marked[0]}] is already",
        )
    if any(wish.rank is not None for wish in wishes):
        yield from _rank_violations(wishes, path)
    for position, wish in enumerate(wishes):
        if wish.initial and wish.rank not in (None, 0):
            yield FieldViolation(f"{path}[{position}].node_rank", "must be 0 for the initial node")


def _rank_violations(wishes: Sequence[Wish], path: str) -> Iterator[FieldViolation]:
    seen: dict[int, int] = {}
    for position, wish in enumerate(wishes):
        field = f"{path}[{position}].node_rank"
        if wish.rank is None:
            yield FieldViolation(field, "is required where another node has one")
        elif not 0 <= wish.rank < len(wishes):
            yield FieldViolation(field, f"must be from 0 to {len(wishes) - 1}, not {wish.rank}")
        elif wish.rank in seen:
            yield FieldViolation(field, f"is the rank of {path}[{seen[wish.rank]}] already")
        else:
            seen[wish.rank] = position


def order(wishes: Sequence[Wish]) -> tuple[int, ...]:
    """Positions by rank: the ranks that were given, else as they stand with the initial node first.

    For wishes without violations.
    """
    if any(wish.rank is not None for wish in wishes):
        return tuple(sorted(range(len(wishes)), key=lambda position: wishes[position].rank or 0))
    return tuple(sorted(range(len(wishes)), key=lambda position: not wishes[position].initial))


def joining_violations(wishes: Sequence[Wish], path: str = "model_services") -> Iterator[FieldViolation]:
    """What is wrong with the wishes of nodes that join a group: it has its initial node already."""
    for position, wish in enumerate(wishes):
        if wish.initial or wish.rank == 0:
            field = "is_initial_node" if wish.initial else "node_rank"
            yield FieldViolation(f"{path}[{position}].{field}", "may not be set for a worker that is added")
