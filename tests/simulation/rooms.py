"""Judges room in the making, rolls, and rebalances: what is kept for some others do not claim, and nobody moves for
what nobody wants.

May not import anything of the service: what it expects is written down here a second time, on purpose.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.simulation.arrivals import Arrivals
from tests.simulation.rolled import Rolled


class Rooms:
    """Asked after every commit. `rows`: a query of the database; `now`: seconds."""

    def __init__(self, rows: Callable[..., list[tuple[Any, ...]]], now: Callable[[], float]) -> None:
        self._rows = rows
        self.arrivals = Arrivals(rows, now)
        self._rolled = Rolled(rows)
        self._moving: set[str] = set()
        self._wanted: set[str] = set()
        self._ends: dict[str, set[tuple[str, str]]] = {}
        """Room -> the seats that groups leave for it. Who moves to one keeps a booking until it is told that the room
        is wanted no more; whoever was to leave it stays meanwhile, and nobody else gets what both hold."""

    def wrong(self, usable: Mapping[tuple[str, str], int]) -> Iterator[str]:
        """What is wrong now, in words. `usable`: (host, resource) -> amount."""
        self.arrivals.look()
        yield from self._rolled.wrong()
        plans = [json.loads(text)["plan"] for (text,) in self._rows("SELECT room FROM groups WHERE room IS NOT NULL")]
        plans = [plan for plan in plans if plan]
        moving = set(self._rows("SELECT uuid, room FROM instances WHERE move = 'going' AND room != ''"))
        rows = self._rows("SELECT uuid, body FROM rebalances WHERE called_off_at = 0")
        begun = {uuid for uuid, body in rows if not json.loads(body)["advised"]}
        wanted = {plan["uuid"] for plan in plans} | begun
        for uuid, room in sorted(moving):
            if uuid not in self._moving and room not in wanted | self._wanted:
                yield f"member {uuid} begins to move for a room that nobody wants"
        self._moving, self._wanted = {uuid for uuid, _ in moving}, wanted
        sums: dict[tuple[str, str], int] = defaultdict(int)
        kept = self._rows("SELECT host_uuid, resource, SUM(amount) FROM bookings GROUP BY host_uuid, resource")
        if not kept:
            return
        leaving = {(move["instance_uuid"], move["source_host_uuid"]) for plan in plans for move in plan["moves"]}
        self._ends |= {p["uuid"]: {s for one in p["evictions"] for s in one["seats"].items()} for p in plans}
        still = {room for (room,) in self._rows("SELECT DISTINCT room FROM bookings")}
        self._ends = {room: seats for room, seats in self._ends.items() if room in still}
        leaving |= {seat for seats in self._ends.values() for seat in seats}
        claims = self._rows("SELECT host_uuid, resource, instance_uuid, amount FROM claims")
        for host, resource, instance, amount in claims:
            if (instance, host) not in leaving:
                sums[host, resource] += amount
        for host, resource, amount in kept:
            if sums[host, resource] + amount > usable.get((host, resource), 0):
                yield f"{amount} {resource} are kept on {host} and others have claimed {sums[host, resource]}"
