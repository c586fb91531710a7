"""Themes that have orders of their own in place of the usual ones."""

from tests.simulation import evict_orders, room_orders, wait_orders
from tests.simulation.clients import Order
from tests.simulation.room_orders import Draw
from tests.simulation.world import World

EVICT = "evict"
_BY_THEME = {"room": room_orders.drawn, "wait": wait_orders.drawn, EVICT: evict_orders.drawn}


def own(world: World, length: float, spec: Draw, entry: str) -> list[Order]:
    """Those of the seed's theme, if it has any. `spec`: draws a group; `entry`: the catalogue's."""
    drawn = _BY_THEME.get(world.theme)
    return drawn(world, length, spec, entry) if drawn is not None else []
