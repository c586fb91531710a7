"""Orders that wait for hosts: small groups that fill the fleet and go one after the other, and some that need most
of a host and come meanwhile. Some waits end before there is room; the others have all the time that there is."""

from __future__ import annotations

from dataclasses import replace

from service.domain.specs import DeployRequest, MayWait, NodeSpec, PlacementPolicy
from tests.simulation.clients import Order
from tests.simulation.room_orders import GIB, VCPUS, Draw
from tests.simulation.world import World

LONG_MS = 7 * 24 * 3_600_000


def drawn(world: World, length: float, spec: Draw, entry: str) -> list[Order]:
    """All of a seed. `spec`: draws a group; `entry`: the catalogue's."""
    dice, orders = world.random, []
    for number in range(dice.choice((6, 7, 8, 9))):
        node = NodeSpec("n", entry, "", dice.choice((2, 3)), GIB)
        nodes = tuple(replace(node, name=f"n{rank}") for rank in range(dice.choice((1, 2))))
        asked = replace(spec(world, f"g{number}", []), nodes=nodes, deadline_ms=0, placement=PlacementPolicy())
        ends = dice.uniform(10.0, 2.0 * length) if dice.random() < 0.8 else None
        wait = MayWait(for_ms=LONG_MS) if dice.random() < 0.3 else None
        request = DeployRequest(asked, "", f"request-{number}", wait=wait)
        orders.append(Order(request, dice.uniform(0.5, 6.0), ends, dice.random() < 0.5, False, False))
    for number in range(dice.choice((3, 4, 5))):
        node = NodeSpec("n", entry, "", VCPUS - dice.choice((0, 0, 1, 2)), GIB)
        nodes = tuple(replace(node, name=f"n{rank}") for rank in range(dice.choice((1, 1, 2))))
        asked = replace(spec(world, f"large{number}", []), nodes=nodes, placement=PlacementPolicy())
        length_ms = dice.choice((LONG_MS, LONG_MS, LONG_MS, 20_000, 60_000))
        request = DeployRequest(asked, "", f"large-{number}", wait=MayWait(for_ms=length_ms))
        ends = dice.uniform(10.0, 40.0) if dice.random() < 0.6 else None
        orders.append(Order(request, dice.uniform(6.0, 1.5 * length), ends, dice.random() < 0.5, False, False))
    return orders
