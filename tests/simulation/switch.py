"""One replica's way to the BMC of one simulated host."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from service.drivers.base import HostUnreachable, OutcomeUnknown
from service.drivers.power import APART_SECONDS, OFF, PowerSwitch, WrongMachine
from tests.simulation.boards import Board
from tests.simulation.loop import Process

if TYPE_CHECKING:
    from tests.simulation.world import World

LIE_SECONDS = 3.0
ON_AGAIN_SECONDS = (20.0, 60.0, 200.0)


class SimulatedSwitch(PowerSwitch):
    """Has the moods of its board, in faulty times."""

    def __init__(self, world: World, process: Process, board: Board) -> None:
        self._world = world
        self._process = process
        self._board = board

    async def power(self, machine: str, *, budget_seconds: float) -> str:
        """See PowerSwitch."""
        await self._answers(budget_seconds)
        return self._shown(machine)

    async def force_off(self, machine: str, *, budget_seconds: float) -> None:
        """See PowerSwitch."""
        world = self._world
        self._shown(machine)
        world.point("bmc.request")
        await self._answers(budget_seconds)
        if not self._process.alive:
            return
        if self._mood("lies"):  # it says Off for a moment, and nothing happens
            self._board.lies_until = world.loop.time() + LIE_SECONDS
            return
        if self._mood("late"):
            world.loop.outside(world.random.uniform(1.0, 8.0), self._cut)
            raise OutcomeUnknown("the BMC did not answer in time")
        self._cut()
        if self._mood("lost"):
            raise OutcomeUnknown("the BMC gave no answer")

    async def stays_off(self, machine: str, *, budget_seconds: float) -> bool:
        """See PowerSwitch."""
        await self._answers(budget_seconds)
        session = self._board.session
        if self._shown(machine) != OFF:
            return False
        await asyncio.sleep(APART_SECONDS)
        await self._answers(budget_seconds)
        return self._shown(machine) == OFF and self._board.session == session

    async def close(self) -> None:
        """See PowerSwitch."""

    def _mood(self, name: str) -> bool:
        return self._world.faulty and name in self._board.moods and self._world.random.random() < 0.3

    async def _answers(self, budget_seconds: float) -> None:
        world, board = self._world, self._board
        await asyncio.sleep(world.random.uniform(0.05, 1.0))
        if self._mood("silent"):
            board.dead_until = world.loop.time() + world.random.choice((5.0, 40.0, 120.0))
            board.session += 1
        if world.faulty and world.loop.time() < board.dead_until:
            await asyncio.sleep(min(10.0, budget_seconds))
            raise HostUnreachable("the BMC does not answer")

    def _shown(self, machine: str) -> str:
        host = self._board.host
        if host.hypervisor != machine:
            raise WrongMachine("the BMC is of another machine")
        return OFF if not host.up or self._world.loop.time() < self._board.lies_until else "On"

    def _cut(self) -> None:
        world, host = self._world, self._board.host
        if not host.up:
            return
        world.note("bmc off", host.name)
        world.boards.ordered(host)
        world.stats["switched off by BMCs"] += 1
        host.power_off("bmc")
        host.forget_requests(world.loop.time())
        world.boards.watch()
        world.loop.outside(world.random.choice(ON_AGAIN_SECONDS), host.boot, "operator")
