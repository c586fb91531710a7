"""Orders of which some end so that others fit: small groups of low priorities, some of which may wait, on all hosts;
then more important ones that need most of a host, and come while others do."""

from __future__ import annotations

from dataclasses import replace

from service.domain.specs import DeployRequest, MayWait, NodeSpec, PlacementPolicy, RoomMoves
from tests.simulation.clients import Order
from tests.simulation.priorities import hurried
from tests.simulation.room_orders import GIB, VCPUS, Draw
from tests.simulation.world import World

LONG_MS = 7 * 24 * 3_600_000


def drawn(world: World, length: float, spec: Draw, entry: str) -> list[Order]:
    """All of a seed. `spec`: draws a group; `entry`: the catalogue's."""
    dice = world.random
    orders = _firm(world, spec, entry) if hurried(world.seed) else []
    for number in range(dice.choice((5, 6, 7, 8))):
        node = NodeSpec("n", entry, "", dice.choice((2, 3)), GIB)
        nodes = tuple(replace(node, name=f"n{rank}") for rank in range(dice.choice((1, 2))))
        asked = replace(spec(world, f"g{number}", []), nodes=nodes, deadline_ms=0, placement=PlacementPolicy())
        wait = MayWait(for_ms=LONG_MS) if dice.random() < 0.5 else None
        request = DeployRequest(asked, "", f"request-{number}", wait=wait, priority=dice.choice((0, 0, 1, 3)))
        ends = dice.uniform(0.5 * length, 2.5 * length) if dice.random() < 0.3 else None
        orders.append(Order(request, dice.uniform(0.5, 6.0), ends, dice.random() < 0.5, False, dice.random() < 0.2))
    for number in range(dice.choice((3, 4, 5))):
        smaller = 0 if hurried(world.seed) else dice.choice((0, 0, 1, 2))
        node = NodeSpec("n", entry, "", VCPUS - smaller, GIB)
        nodes = tuple(replace(node, name=f"n{rank}") for rank in range(dice.choice((1, 1, 2))))
        asked = replace(spec(world, f"large{number}", []), nodes=nodes, placement=PlacementPolicy(), deadline_ms=0)
        wait = MayWait(for_ms=dice.choice((LONG_MS, 40_000))) if dice.random() < 0.7 else None
        priority = dice.choice((0, 1, 2, 2, 3, 5))
        fewer = ((replace(node, name="less", cpu_num=2),),) if dice.random() < 0.4 else ()
        request = DeployRequest(
            asked, "", f"large-{number}", RoomMoves.EVICT, wait, priority=priority, alternatives=fewer
        )
        ends = dice.uniform(0.0, 60.0) if dice.random() < 0.6 else None
        orders.append(Order(request, dice.uniform(10.0, 2.0 * length), ends, dice.random() < 0.5, False, False))
    for number in range(dice.choice((2, 3, 4))):  # they would take what is kept for those
        node = NodeSpec("n", entry, "", dice.choice((1, 2, 3)), GIB)
        asked = replace(spec(world, f"late{number}", []), nodes=(node,), placement=PlacementPolicy(), deadline_ms=0)
        request = DeployRequest(asked, "", f"late-{number}", wait=MayWait(for_ms=LONG_MS), priority=dice.choice((0, 9)))
        ends = dice.uniform(5.0, 40.0) if dice.random() < 0.6 else None
        orders.append(Order(request, dice.uniform(10.0, 2.0 * length), ends, dice.random() < 0.5, False, False))
    return orders


def _firm(world: World, spec: Draw, entry: str) -> list[Order]:
    """Small ones that end for nobody, on most hosts before all others: whoever needs a whole host has them moved."""
    dice, orders = world.random, []
    for number in range(len(world.hosts)):
        node = NodeSpec("n", entry, "", 1, GIB)
        asked = replace(spec(world, f"firm{number}", []), nodes=(node,), placement=PlacementPolicy(), deadline_ms=0)
        request = DeployRequest(asked, "", f"firm-{number}", priority=9)
        orders.append(Order(request, dice.uniform(0.1, 0.4), None, dice.random() < 0.5, False, False))
    return orders
