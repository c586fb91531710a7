"""Orders for which room has to be made: small groups that are soon on every host, then some that need a host's all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from service.domain.specs import DeployRequest, GroupSpec, NodeSpec, PlacementPolicy, RoomMoves
from tests.simulation.clients import Order
from tests.simulation.world import World

GIB = 1 << 30
VCPUS = 6
"""Of every host where room is made: a few small members leave no host empty."""
Draw = Callable[[World, str, list[str]], GroupSpec]


def drawn(world: World, length: float, spec: Draw, entry: str) -> list[Order]:
    """All of a seed. `spec`: draws a group; `entry`: the catalogue's."""
    return [*small(world, spec, entry), *_large(world, length, spec, entry)]


def small(world: World, spec: Draw, entry: str) -> list[Order]:
    """Groups of a member or two, which are soon on every host."""
    dice, orders = world.random, []
    for number in range(dice.choice((5, 6, 7, 8))):
        nodes = tuple(
            NodeSpec(f"n{rank}", entry, "", dice.choice((1, 1, 2)), GIB) for rank in range(dice.choice((1, 1, 2)))
        )
        asked = replace(spec(world, f"g{number}", []), nodes=nodes, deadline_ms=0)
        at, ends = dice.uniform(0.5, 6.0), dice.uniform(20.0, 60.0) if dice.random() < 0.15 else None
        managed = dice.random() < 0.15
        orders.append(
            Order(DeployRequest(asked, "", f"request-{number}"), at, ends, dice.random() < 0.5, False, managed)
        )
    return orders


def _large(world: World, length: float, spec: Draw, entry: str) -> list[Order]:
    """Groups that need most of a host for each of their members, after others have spread over all of them."""
    dice = world.random
    orders = []
    for number in range(dice.choice((3, 4, 5, 6))):
        node = NodeSpec("n", entry, "", VCPUS - dice.choice((0, 0, 1, 2)), GIB)
        nodes = tuple(replace(node, name=f"n{rank}") for rank in range(dice.choice((1, 1, 2))))
        asked = replace(spec(world, f"large{number}", []), nodes=nodes, placement=PlacementPolicy())
        moves = dice.choice((RoomMoves.LIVE, RoomMoves.LIVE, RoomMoves.RESTART, RoomMoves.EVICT))
        priority = dice.choice((1, 2)) if moves is RoomMoves.EVICT else 0
        request = DeployRequest(asked, "", f"large-{number}", moves, priority=priority)
        ends = dice.uniform(0.0, 20.0) if dice.random() < 0.8 else None
        orders.append(Order(request, dice.uniform(0.8 * length, 2.8 * length), ends, dice.random() < 0.5, False, False))
    return orders
