"""`pytest --jitter SEED`: everything that may be late is late at random, so that races come often and not once a week.

Only what a busy machine does anyhow: the event loop stands still for a moment, a timer fires late, a transaction waits
before it begins and its answer before it is heard, a simulated host takes its time, and so does a planner. The order in
which asyncio promises to do things stays as it is. What runs in virtual time is left alone.

Each test has delays of its own, which follow from the seed and the test's name; threads make two runs differ all the
same.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from asyncio import base_events
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from service.drivers.simulated import SimulatedDriver
from service.planning.planner import InlinePlanner
from service.store.engine import Store

STALL = 0.02, 0.02
"""How often the loop stands still before its next round, and for how long at most (s)."""
LATE = 0.3, 0.02
"""How often a timer is late."""
STORE = 0.4, 0.03
"""How often a transaction waits before it begins, and again before its outcome is heard."""
HOST = 0.4, 0.04
"""How often a host's call waits before it is done, and again before its answer."""
PLANNER = 0.5, 0.1
LONG = 0.02, 8
"""How often a delay is so many times as long."""

_random = random.Random()


def seeded(seed: str, name: str) -> None:
    """Begin a test's own delays."""
    _random.seed(f"{seed} {name}")


def install() -> None:
    """Make everything late from now on, in this process."""
    _loop()
    _around(Store, ("read", "write"), STORE, applies=lambda store: not store._inline)
    calls = [name for name in vars(SimulatedDriver) if asyncio.iscoroutinefunction(getattr(SimulatedDriver, name))]
    _around(
        SimulatedDriver, [name for name in calls if not name.startswith("_") and name not in ("close", "reached")], HOST
    )
    planned = [name for name in vars(InlinePlanner) if asyncio.iscoroutinefunction(getattr(InlinePlanner, name))]
    _around(InlinePlanner, planned, PLANNER)


def _delay(kind: tuple[float, float]) -> float:
    """Seconds; mostly 0."""
    often, most = kind
    if _random.random() >= often:
        return 0.0
    rarely, times = LONG
    return _random.uniform(0, most) * (times if _random.random() < rarely else 1)


def _around(
    owner: type, names: Sequence[str], kind: tuple[float, float], applies: Callable[[Any], bool] = lambda _self: True
) -> None:
    """These coroutines of a class wait before they begin and before they end, well or not."""
    for name in names:
        setattr(owner, name, _waiting(getattr(owner, name), kind, applies))


def _waiting(
    plain: Callable[..., Awaitable[Any]], kind: tuple[float, float], applies: Callable[[Any], bool]
) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(plain)
    async def waits(self: Any, *arguments: Any, **named: Any) -> Any:
        if not applies(self) or not _is_real(asyncio.get_running_loop()):
            return await plain(self, *arguments, **named)
        if (before := _delay(kind)) > 0:
            await asyncio.sleep(before)
        try:
            return await plain(self, *arguments, **named)
        finally:
            if (after := _delay(kind)) > 0:
                await asyncio.sleep(after)

    return waits


def _loop() -> None:
    loop: Any = base_events.BaseEventLoop
    run_once, call_at = loop._run_once, loop.call_at

    def stands_still(self: Any) -> None:
        if _is_real(self) and (stall := _delay(STALL)) > 0:
            time.sleep(stall)
        run_once(self)

    def is_late(self: Any, when: float, *arguments: Any, **named: Any) -> asyncio.TimerHandle:
        handle: asyncio.TimerHandle = call_at(self, when + (_delay(LATE) if _is_real(self) else 0), *arguments, **named)
        return handle

    loop._run_once, loop.call_at = stands_still, is_late


def _is_real(loop: Any) -> bool:
    """Whether the loop goes by the machine's clock."""
    return type(loop).time is base_events.BaseEventLoop.time
