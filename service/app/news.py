"""What the feeds have in common: one reader that looks for news, and any number of followers that wait for them."""

from __future__ import annotations

import asyncio
import contextlib


class News:
    """The reader is woken by `poke`, followers by `publish`. `closed`: followers are to end, the process drains."""

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self._wake = asyncio.Event()
        self.closed = False

    def poke(self) -> None:
        """A hint that there may be news: let the reader look at once."""
        self._wake.set()

    async def poked(self, seconds: float) -> bool:
        """Wait for a hint, at most so long; whether there was one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        hinted = self._wake.is_set()
        self._wake.clear()
        return hinted

    def publish(self) -> None:
        """Wake all followers: the present event is set once and replaced, so that nobody can miss it."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    def close(self) -> None:
        """End every follower."""
        self.closed = True
        self.publish()

    @property
    def next(self) -> asyncio.Event:
        """Is set by the next `publish`. Take it before you look, so that nothing falls between."""
        return self._news


async def told(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event was set within so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
