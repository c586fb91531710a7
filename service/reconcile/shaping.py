"""Which of the gangs that a deploy named a group becomes: the first that fits where it is to be placed now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from placement.model import Status
from service.domain.groups import Failure, Group
from service.domain.shapes import PassedOver, told, variants
from service.errors import NoCapacity, Undecided
from service.planning.planner import Planned

Why = tuple[PassedOver, ...]


async def chosen(
    group: Group, decide: Callable[[Group], Awaitable[Planned]], failure: Callable[[Planned, Group], Failure]
) -> tuple[int, Planned, Why]:
    """(which one, where it goes, why not those before it); where none fits the one that it is, and why each does not.

    `failure`: what the caller would be told of a plan that places nothing.
    """
    if group.shapes is None or not group.shapes.all:
        return group.shapes.chosen if group.shapes is not None else 0, await decide(group), ()
    why: list[PassedOver] = []
    plans: list[Planned] = []
    for number, variant in enumerate(variants(group)):
        planned = await decide(variant)
        if planned.decision.status is Status.PLACED:
            return number, planned, tuple(why)
        what = failure(planned, variant)
        why.append(PassedOver(what.code, what.message, what.code != Undecided.reason))
        plans.append(planned)
    return group.shapes.chosen, plans[group.shapes.chosen], tuple(why)


def of_all(failure: Failure, why: Why) -> Failure:
    """The failure with why none of several gangs fits; what may fit later says so for all."""
    if not why:
        return failure
    code = NoCapacity.reason if any(one.reason == NoCapacity.reason for one in why) else failure.code
    return replace(failure, code=code, message=told(why))
