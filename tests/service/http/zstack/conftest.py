"""One running service for all tests of a module: they look only at what they made themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from .lab import Lab, lab


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def zstack() -> AsyncIterator[Lab]:
    async with lab() as made:
        yield made
