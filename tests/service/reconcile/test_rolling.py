"""How often a process looks for rolls: seldom where none goes on, at once where it is told."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from service.reconcile.rolling import EVERY_SECONDS, IDLE_SECONDS, Roller
from tests.simulation.loop import SimulatedLoop


class Reads:
    """A store of these rolls, and when they were read."""

    def __init__(self, rolls: list[Any]) -> None:
        self.rolls = rolls
        self.at: list[float] = []

    async def read(self, _work: object) -> list[Any]:
        self.at.append(asyncio.get_running_loop().time())
        return self.rolls


def looks(rolls: list[Any], poked_at: float | None = None) -> list[float]:
    """When it is looked within the first minute, by a process that does nothing else about them."""
    store: Any = Reads(rolls)
    held: Any = SimpleNamespace(held=True)
    none: Any = None
    loop = SimulatedLoop()

    async def work() -> list[float]:
        roller = Roller(store, none, none, none, held, none, none, none)
        task = asyncio.create_task(roller.run())
        began = loop.time()
        if poked_at is not None:
            await asyncio.sleep(poked_at)
            roller.poke()
        await asyncio.sleep(began + 59.5 - loop.time())
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return [at - began for at in store.at]

    try:
        return loop.run_until_complete(work())
    finally:
        loop.close()


@pytest.mark.parametrize(("rolls", "every"), [([], IDLE_SECONDS), ([SimpleNamespace(uuid="r")], EVERY_SECONDS)])
def test_it_is_looked_seldom_where_no_roll_goes_on(rolls: list[Any], every: float) -> None:
    found = looks(rolls)
    assert len(found) == int(59.5 / every) + 1
    assert found[1] == pytest.approx(every)


def test_it_is_looked_at_once_where_something_was_changed() -> None:
    assert looks([], poked_at=1.0)[1] == pytest.approx(1.0)
