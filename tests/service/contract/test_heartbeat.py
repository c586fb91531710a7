"""Signs of life in a stream: silence is broken, nothing is lost, and the stream ends as its source does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from service.contract.heartbeat import beating

pytestmark = pytest.mark.asyncio


async def test_silence_is_broken_and_nothing_is_lost() -> None:
    go = asyncio.Event()

    async def source() -> AsyncGenerator[int, None]:
        yield 1
        await go.wait()
        yield 2

    seen: list[int | None] = []
    async with asyncio.timeout(60):
        async for item in beating(source(), 0.01):
            seen.append(item)
            if seen.count(None) == 2:
                go.set()
    assert [item for item in seen if item is not None] == [1, 2]
    assert seen.count(None) >= 2


async def test_a_sources_error_is_the_streams() -> None:
    async def source() -> AsyncGenerator[int, None]:
        yield 1
        raise ValueError("no more")

    stream = beating(source(), 60)
    assert await anext(stream) == 1
    with pytest.raises(ValueError, match="no more"):
        await anext(stream)


async def test_a_stream_that_is_left_leaves_its_source() -> None:
    left = asyncio.Event()

    async def source() -> AsyncGenerator[int, None]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            left.set()

    stream = beating(source(), 0.01)
    assert await anext(stream) == 1
    assert await anext(stream) is None
    await stream.aclose()
    assert left.is_set()
