"""The operator's other half: who says what is to become of hosts that are left alone and of what is in quarantine."""

from __future__ import annotations

import asyncio

from service.errors import Conflict, InvalidArgument, NotFound, Unavailable, WrongState
from tests.simulation import restoring
from tests.simulation.operators import ME, Operator
from tests.simulation.world import World

REFUSALS = (WrongState, NotFound, InvalidArgument)
PATIENCE = 15.0


class Warden:
    """Acts when there is something to decide, each thing until it is done."""

    def __init__(self, world: World, operator: Operator) -> None:
        self.world = world
        self._operator = operator
        self._recovers = world.random.random() < 0.5
        self._adopts = world.random.random() < 0.6

    async def run(self, *, until_peace: bool) -> None:
        """While faults last, now and then; afterwards until cancelled."""
        dice = self.world.random
        while not until_peace or self.world.faulty:
            await asyncio.sleep(dice.uniform(8.0, 40.0) if until_peace else 3.0)
            if until_peace and (not self.world.faulty or dice.random() < 0.5):
                continue
            await self.decide()

    async def decide(self) -> None:
        """One look at all there is to decide."""
        left = self._rows("SELECT uuid, status FROM hosts WHERE status IN ('Foreign', 'Ahead', 'Mismatched')")
        if self._recovers and any(status == "Ahead" for _, status in left):
            self._recovers = False
            restoring.recover(self.world)
            return
        for uuid, status in left:
            await self._claim(uuid, status)
        if any(status == "Ahead" for _, status in left):
            return
        for host, key, group, holding in self._rows(
            "SELECT host_uuid, key, group_uuid, holding FROM quarantine WHERE NOT removal ORDER BY host_uuid, key"
        ):
            if not (self._adopts and holding == "machine" and await self._adopt(group)):
                await self._remove(host, key)

    async def _claim(self, uuid: str, status: str) -> None:
        self.world.note("claim host", uuid, status)
        self.world.stats["hosts claimed"] += 1
        try:
            await self._operator.insist(lambda r: r.quarantine.claim_host(ME, uuid), PATIENCE)
        except REFUSALS as refused:
            self.world.note("claim refused", uuid, str(refused))

    async def _adopt(self, group: str) -> bool:
        adopted = self.world.observer.adopted
        known = group in adopted
        adopted.add(group)
        try:
            await self._operator.insist(lambda r: r.quarantine.adopt(ME, group), PATIENCE, tries=3)
        except (*REFUSALS, Conflict, Unavailable) as refused:
            self.world.note("adoption refused", group, str(refused))
            if not known:
                adopted.discard(group)
            return False
        self.world.note("adopted", group)
        self.world.stats["adopted"] += 1
        return True

    async def _remove(self, host: str, key: str) -> None:
        self.world.note("removal ordered", host, key)
        self.world.stats["removals ordered"] += 1
        try:
            await self._operator.insist(lambda r: r.quarantine.remove(ME, host, key), PATIENCE)
        except REFUSALS as refused:
            self.world.note("removal refused", host, key, str(refused))

    def _rows(self, query: str) -> list[tuple[str, ...]]:
        return self.world.database.rows(query)
