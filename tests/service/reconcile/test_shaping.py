"""Which of several gangs is taken, beside an enumeration that shares no code with the planner."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product

import pytest

from placement.model import Host, Policy, Snapshot, Status
from service.domain.groups import Failure, Group
from service.domain.shapes import Shape, Shapes, as_shape
from service.domain.specs import PlacementPolicy
from service.errors import NoCapacity
from service.planning import translate
from service.planning.planner import InlinePlanner, Planned
from service.reconcile.shaping import chosen, of_all
from tests.support.builders import group, node

pytestmark = pytest.mark.asyncio
GIB = 1 << 30


def shape(number: int, cpu: int, count: int) -> Shape:
    nodes = tuple(node(rank, cpu_num=cpu, memory_size=GIB, zone_uuid="") for rank in range(count))
    uuids = tuple(f"{number + 1:016x}{rank:016x}" for rank in range(count))
    return Shape(nodes, False, "", "", (), "", uuids, (0,) * count, (0,) * count)


def fits(free: list[int], cpu: int, count: int, most: int) -> bool:
    """By every way to put the members on hosts."""
    for where in product(range(len(free)), repeat=count):
        sums = [where.count(number) for number in range(len(free))]
        if all(n * cpu <= free[h] and (not most or n <= most) for h, n in enumerate(sums)):
            return True
    return False


async def test_it_is_the_first_that_fits_by_every_way_to_place_it() -> None:
    dice, planner, taken = random.Random(15), InlinePlanner(), set()
    for _ in range(60):
        free = [dice.randint(0, 8) for _ in range(dice.randint(1, 3))]
        most = dice.choice((0, 0, 1, 2))
        asked = [(dice.randint(1, 6), dice.randint(1, 4)) for _ in range(dice.randint(2, 4))]
        shapes = tuple(shape(number, *one) for number, one in enumerate(asked))
        first = group(1, placement=PlacementPolicy(max_per_host=most))
        wanted = as_shape(replace(first, shapes=Shapes(shapes)), len(shapes) - 1)
        labels = {translate.TYPE_LABEL: "VirtualMachine"}
        hosts = tuple(
            Host(f"{n:032x}", "z" * 32, {"vcpu": 8, "memory": 64 * GIB}, {"vcpu": 8 - cpus}, labels=labels)
            for n, cpus in enumerate(free)
        )
        fleet = Snapshot(hosts)

        async def decide(one: Group, fleet: Snapshot = fleet) -> Planned:
            return await planner.place(fleet, translate.request(one, fleet), Policy(), budget_seconds=5.0)

        def failure(planned: Planned, one: Group) -> Failure:
            assert planned.decision.status is Status.INFEASIBLE
            return Failure(NoCapacity.reason, f"{len(one.instances)} do not fit")

        number, planned, why = await chosen(wanted, decide, failure)
        by_hand = [number for number, one in enumerate(asked) if fits(free, *one, most)]
        if not by_hand:
            assert (number, planned.decision.status, len(why)) == (len(asked) - 1, Status.INFEASIBLE, len(asked))
            assert of_all(Failure("UNSATISFIABLE", "x"), why).code == NoCapacity.reason
        else:
            assert (number, planned.decision.status) == (by_hand[0], Status.PLACED)
            assert [one.message for one in why] == [f"{count} do not fit" for _, count in asked[:number]]
        taken.add(by_hand[0] if by_hand else None)
    assert {None, 0, 1, 2} <= taken
