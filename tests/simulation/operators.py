"""The operator of a run: drains hosts, switches some off and says so, and takes them back in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from service.domain.fleet import HostState
from service.domain.tenants import Caller
from service.errors import Conflict, NoCapacity, NotFound, Unavailable, Unsatisfiable, WrongState
from tests.simulation.hosts import RUNNING, SimulatedMachineHost
from tests.simulation.replica import Broken, Replica
from tests.simulation.world import World

T = TypeVar("T")
ME = Caller()
FENCE_SECONDS = 1_000.0
"""An operator who says that a host is off keeps it off until the call has certainly ended, however late."""
REFUSALS = (WrongState, NoCapacity, Unsatisfiable, NotFound)


class Operator:
    """One person: one thing at a time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._requests = 0
        gentle = world.theme in ("moves", "room", "balance")
        self._fences, self._enables, self._longest = (0.1, 0.8, 10.0) if gentle else (0.35, 0.3, 40.0)

    async def run(self) -> None:
        """Until faults stop."""
        dice = self.world.random
        while self.world.faulty:
            await asyncio.sleep(dice.uniform(1.0, 8.0))
            if self._calm():
                return
            await self._more()
            closed = self._closed()
            if 2 * len(closed) >= len(self.world.hosts):  # groups need some room
                await self.enable(dice.choice(closed), tries=10)
                continue
            hosts = self._in_fleet()
            host = dice.choice([h for h in hosts if self._carries(h) and dice.random() < 0.8] or hosts)
            if dice.random() < self._fences:
                await self._power_off_and_fence(host)
            else:
                await self._drain(host)
            if dice.random() < self._enables and host in self._in_fleet():
                await asyncio.sleep(dice.uniform(0.0, 10.0))
                await self.enable(host.uuid, tries=10)

    def _carries(self, host: SimulatedMachineHost) -> bool:
        """Whether there is something to drain; where moves are the theme, something that can be moved live."""
        if self.world.theme not in ("moves", "room", "balance"):
            return bool(host.machines)
        return any(machine.state == RUNNING for machine in host.machines.values())

    def _in_fleet(self) -> list[SimulatedMachineHost]:
        return list(self.world.hosts.values())

    async def _more(self) -> None:
        """What else this one does now and then."""

    async def _fenced(self, host: SimulatedMachineHost) -> None:
        """The host is off, and is fenced."""

    async def _on_again(self, host: SimulatedMachineHost) -> None:
        """The host was off, and is on again."""

    async def restore_fleet(self) -> None:
        """At peace: every host that was taken out of the fleet comes back into it."""

    def _calm(self) -> bool:
        """Whether faults have stopped, as they may while this one sleeps."""
        return not self.world.faulty

    async def enable(self, uuid: str, *, tries: int) -> bool:
        """Take the host into the fleet again; what was left behind on it may have to be cleared away first."""
        for _ in range(tries):
            try:
                await self.insist(lambda r: r.fleet_cases.set_state(ME, uuid, HostState.ENABLED), 10.0)
            except WrongState:
                await asyncio.sleep(2.0)
                continue
            self.world.note("enabled", uuid)
            return True
        return False

    async def enable_all(self) -> None:
        """At peace: every host that was drained or fenced comes back."""
        for uuid in self._closed():
            if not await self.enable(uuid, tries=150):
                self.world.observer.violated("I5", f"host {uuid} cannot be enabled at peace")

    async def delete(self, uuid: str) -> None:
        """Delete a group of which no client knows."""
        with contextlib.suppress(NotFound):
            await self.insist(lambda r: r.groups.delete(ME, uuid), 10.0)

    def _closed(self) -> list[str]:
        rows = self.world.database.rows("SELECT uuid FROM hosts WHERE state != 'Enabled' ORDER BY uuid")
        return [uuid for (uuid,) in rows]

    async def _drain(self, host: SimulatedMachineHost) -> None:
        self._requests += 1
        request, uuid = f"drain-{self._requests}", host.uuid

        async def drain(replica: Replica) -> None:
            async with aclosing(replica.evacuation.drain(ME, uuid, "", request)) as steps:
                async for _ in steps:
                    pass

        self.world.note("drain", host.name)
        try:
            # Who gives up waiting gives up the report only: the host is emptied all the same.
            await self.insist(drain, self.world.random.uniform(5.0, self._longest), once=True)
        except REFUSALS as refused:
            self.world.note("drain refused", host.name, type(refused).__name__)
            return
        self.world.stats["drains"] += 1

    async def _power_off_and_fence(self, host: SimulatedMachineHost) -> None:
        world = self.world
        if not host.up or host.kept_off:
            return
        world.note("power off", host.name)
        host.power_off("operator")
        host.kept_off = True
        try:
            for _ in range(20):
                await asyncio.sleep(1.0)
                try:
                    await self.insist(lambda r: r.evacuation.fence(ME, host.uuid), FENCE_SECONDS)
                except WrongState:
                    continue  # nobody has noticed yet that it does not answer
                world.stats["fences"] += 1
                world.note("fenced", host.name)
                await self._fenced(host)
                break
            await asyncio.sleep(world.random.uniform(0.0, 30.0) if world.faulty else 0.0)
        finally:
            host.kept_off = False
            host.boot("operator")
        await self._on_again(host)

    async def insist(
        self,
        call: Callable[[Replica], Coroutine[Any, Any, T]],
        patience: float,
        *,
        once: bool = False,
        tries: int = 1_000_000,
    ) -> T | None:
        """Call one replica after the other until one answers; `once`: an answer that does not come in time is none.

        `tries`: after so many refusals that may pass, the last one is raised.
        """
        while True:
            replica = self.world.random.choice(self.world.replicas)
            if not replica.serving or not replica.process.alive:
                await asyncio.sleep(0.2)
                continue
            try:
                return await replica.call(call(replica), patience)
            except TimeoutError:
                if once:
                    return None
            except (Broken, Unavailable, Conflict) as refused:
                tries -= 1
                if not tries and not isinstance(refused, Broken):
                    raise
                tries = max(1, tries)
                await asyncio.sleep(self.world.random.uniform(0.1, 1.0))
