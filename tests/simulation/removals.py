"""Hosts leave the fleet by their operator's word, for good as he thinks, and come back after all, as themselves or as
another host of the fleet."""

from __future__ import annotations

import asyncio

from service.app.host_requests import NewHost
from service.domain.fleet import Host, HostAddress
from service.errors import AlreadyExists, NotFound, WrongState
from tests.simulation.hosts import SimulatedMachineHost
from tests.simulation.operators import ME, Operator
from tests.simulation.world import World

PATIENCE = 15.0
TRIES = 150
"""So often, a second apart, a host that is off and fenced may refuse to be taken out: a replica that has just started
has not found it silent yet."""
LEFT = 2
"""So many hosts stay in the fleet, however many leave it."""


class Remover(Operator):
    """Takes out what is off, by force; what is empty, without; and at times by force what is neither, which has to be
    refused."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._out: list[SimulatedMachineHost] = []
        self._added = 0

    def _in_fleet(self) -> list[SimulatedMachineHost]:
        return [host for host in self.world.hosts.values() if host not in self._out]

    async def _more(self) -> None:
        dice = self.world.random
        if self._out and (len(self._in_fleet()) <= LEFT or dice.random() < 0.5):
            await self._bring_back(self._out[0])
        elif dice.random() < 0.4:
            await self._take_out(dice.choice(self._in_fleet()), force=dice.random() < 0.7, sure=False)

    async def _fenced(self, host: SimulatedMachineHost) -> None:
        """It is off, and said to be so. Meanwhile groups of its members may end."""
        await asyncio.sleep(self.world.random.uniform(0.0, 20.0) if self.world.faulty else 0.0)
        if self.world.random.random() < 0.7:
            await self._take_out(host, force=True, sure=True)

    async def _on_again(self, host: SimulatedMachineHost) -> None:
        """The word comes too late: the host answers again, and may still have what was claimed on it."""
        if host not in self._out and self.world.random.random() < 0.5:
            await asyncio.sleep(self.world.random.uniform(0.0, 8.0))
            await self._take_out(host, force=True, sure=False)

    async def _take_out(self, host: SimulatedMachineHost, *, force: bool, sure: bool) -> None:
        """`sure`: it is off and was fenced, so that it has to be possible."""
        if len(self._in_fleet()) <= LEFT:
            return
        world = self.world
        if world.database.rows("SELECT 1 FROM hosts WHERE uuid = ? AND configured != ''", host.uuid):
            sure = False  # the file would bring it back
        world.note("take out", host.name, "by force" if force else "", "sure" if sure else "")
        for _ in range(TRIES if sure else 1):
            try:
                await self.insist(lambda r: r.fleet_cases.remove_host(ME, host.uuid, force=force), PATIENCE)
            except NotFound:
                break  # an answer was lost
            except WrongState as refused:
                world.stats["removals refused"] += 1
                world.note("not taken out", host.name, str(refused))
                await asyncio.sleep(1.0)
            else:
                break
        else:
            if sure:
                world.observer.violated("I5", f"host {host.name} is off and fenced, and cannot be taken out")
            return
        world.note("taken out", host.name)
        world.stats["removals by force" if force else "removals"] += 1
        self._out.append(host)
        if force:
            if host.up:
                host.power_off("operator")  # what he said is true, at the latest now
            host.forget_requests(world.loop.time())

    async def _bring_back(self, host: SimulatedMachineHost) -> None:
        world = self.world
        host.kept_off = False
        host.boot("operator")
        if world.random.random() < 0.5:
            world.rename(host, world.new_uuid())
        self._added += 1
        request = NewHost(
            Host(host.uuid, host.name, host.zone, HostAddress("simulated")), request_id=f"add-{self._added}"
        )
        world.note("bring back", host.name, host.uuid)
        try:
            await self.insist(lambda r: r.fleet_cases.add_host(ME, request), PATIENCE)
        except AlreadyExists as there:
            world.observer.violated("I7", f"host {host.name} cannot be added again: {there}")
        self._out.remove(host)
        world.stats["hosts brought back"] += 1

    async def restore_fleet(self) -> None:
        """See Operator."""
        while self._out:
            await self._bring_back(self._out[0])
