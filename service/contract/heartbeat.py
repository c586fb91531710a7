"""Signs of life in streams: proxies end a stream in which nothing was sent for a while, however well it goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TypeVar

SECONDS = 10.0
"""After how long a silence a stream says something. Proxies commonly wait for a minute, some for fifteen seconds."""

T = TypeVar("T")


async def beating(source: AsyncGenerator[T, None], seconds: float) -> AsyncGenerator[T | None, None]:
    """What `source` gives, and None whenever it has given nothing for `seconds`. Closes `source` at the end."""
    following: asyncio.Task[T] | None = None
    try:
        while True:
            following = following or asyncio.ensure_future(anext(source))
            done, _ = await asyncio.wait({following}, timeout=seconds)
            if not done:
                yield None
                continue
            came, following = following, None
            try:
                item = came.result()
            except StopAsyncIteration:
                return
            yield item
    finally:
        if following is not None:
            following.cancel()
            # However it ends: who left the stream, or why it broke, is known already.
            await asyncio.gather(following, return_exceptions=True)
        await source.aclose()
