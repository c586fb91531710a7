"""Calls begin in the order in which they arrive, and only so many are in their beginning at once.

A thousand calls that arrive together would else take each of their steps together, and one that comes later, health
among them, would wait for all the others at every step of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque

from service.errors import Overloaded

AT_ONCE = 16
"""Enough to keep the store's threads busy, little enough for the event loop to get round in milliseconds."""
LONGEST_SECONDS = 0.1
"""A beginning that takes longer is a plan or a commit: the event loop is free meanwhile, and the next may begin."""


class Turn:
    """A call's beginning, which ends with the first answer, with the call, or after LONGEST_SECONDS."""

    __slots__ = ("_timer", "_turns")

    def __init__(self, turns: Turns) -> None:
        self._turns: Turns | None = turns
        self._timer = asyncio.get_running_loop().call_later(turns.longest_seconds, self.end)

    def end(self) -> None:
        """Let the next call begin; more than once is as good as once."""
        if self._turns is not None:
            turns, self._turns = self._turns, None
            self._timer.cancel()
            turns.ended()


class Turns:
    """Who may begin. `most_waiting`: calls that have not begun; `longest_seconds`: of one turn."""

    def __init__(self, most_waiting: int, at_once: int = AT_ONCE, longest_seconds: float = LONGEST_SECONDS) -> None:
        self.longest_seconds = longest_seconds
        self._most_waiting = most_waiting
        self._free = at_once
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> Turn:
        """Wait for this call's turn. Raises Overloaded at once where too many wait already."""
        if self._free and not self._waiting:
            self._free -= 1
            return Turn(self)
        if len(self._waiting) >= self._most_waiting:
            raise Overloaded(f"{self._most_waiting} calls wait to begin already")
        given = asyncio.get_running_loop().create_future()
        self._waiting.append(given)
        try:
            await given
        except asyncio.CancelledError:
            if not given.cancelled():  # it was given in the moment in which the client left
                self.ended()
            raise
        return Turn(self)

    def ended(self) -> None:
        """A turn is free: for Turn alone."""
        self._free += 1
        while self._free and self._waiting:
            given = self._waiting.popleft()
            if not given.done():
                given.set_result(None)
                self._free -= 1
