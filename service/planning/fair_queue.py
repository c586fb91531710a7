"""Places at the planner processes: a fixed number, given out so that one project's work does not hold up another's."""

from __future__ import annotations

import asyncio
from collections import Counter, deque


class FairQueue:
    """Hands out places: to the waiting projects one after the other, within a project in the order of arrival.

    A project that holds a place already is not given the last one that is free: however hard its work is, the next
    project's begins at once. With a single place, it begins after the work that is under way. The operator's own work,
    of project "", may hold all of them.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._held: Counter[str] = Counter()

    async def take(self, project: str) -> None:
        """Wait for a place; `give` it back. A caller that is cancelled while it waits has none."""
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(project, deque()).append(place)
        self._serve()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.give(project)  # it came at the same moment
            else:
                self._forget(project, place)
            raise

    def give(self, project: str) -> None:
        """The project's work is done."""
        self._held[project] -= 1
        self._free += 1
        self._serve()

    def _serve(self) -> None:
        while (project := self._next()) is not None:
            place = self._waiting[project].popleft()
            rest = self._waiting.pop(project)
            if rest:
                self._waiting[project] = rest  # after the other projects
            self._free -= 1
            self._held[project] += 1
            place.set_result(None)

    def _next(self) -> str | None:
        """The project that is served next, if there is a place for anybody."""
        if not self._free:
            return None
        return next((p for p in self._waiting if self._free > 1 or p == "" or not self._held[p]), None)

    def _forget(self, project: str, place: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(project)
        if waiting is not None and place in waiting:
            waiting.remove(place)
            if not waiting:
                del self._waiting[project]
