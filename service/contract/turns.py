"""Calls begin in the order in which they arrive, and only AT_ONCE of them are in their beginning at a time.

Otherwise a thousand calls that arrive together would take each of their steps together, and a later one, such as a
health check, would wait for all the others at each of its own steps.
"""

from __future__ import annotations

import asyncio

from service.errors import Overloaded

AT_ONCE = 16
"""Enough to keep the store's threads busy, few enough that the event loop gets to each within milliseconds."""
LONGEST_SECONDS = 0.1
"""A beginning that takes longer waits for a plan or a commit: the event loop is free, and the next call may begin."""


class Turn:
    """A call's beginning, which ends with the first answer, with the call, or after `longest_seconds`."""

    __slots__ = ("_free", "_timer")

    def __init__(self, free: asyncio.Semaphore, longest_seconds: float) -> None:
        self._free = free
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(longest_seconds, self.end)

    def end(self) -> None:
        """Let the next call begin; more than once is as good as once."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._free.release()


class Turns:
    """Gives calls their turns. `most_waiting`: calls that have not begun; `longest_seconds`: of one turn."""

    def __init__(self, most_waiting: int, at_once: int = AT_ONCE, longest_seconds: float = LONGEST_SECONDS) -> None:
        self._most_waiting = most_waiting
        self._longest_seconds = longest_seconds
        self._free = asyncio.Semaphore(at_once)  # first come, first served
        self._waiting = 0

    async def take(self) -> Turn:
        """Wait for this call's turn. Raises Overloaded at once where too many wait already."""
        if self._free.locked() and self._waiting >= self._most_waiting:
            raise Overloaded(f"{self._most_waiting} calls wait to begin already")
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        return Turn(self._free, self._longest_seconds)
