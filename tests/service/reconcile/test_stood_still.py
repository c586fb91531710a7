"""A process that stood still while the database's clock was set, and set back, holds stored times to the present."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select

from service.domain.specs import DeployRequest
from service.store import clock, groups, schema
from service.store.clock import UNSEEN_SECONDS, StoreClock
from tests.support.builders import spec
from tests.support.control_plane import control_plane

pytestmark = pytest.mark.asyncio

HOUR_MS = 3_600_000


async def test_what_was_stored_under_a_clock_that_was_ahead_meanwhile_is_not_waited_for() -> None:
    watch = StoreClock()
    async with control_plane(clock=watch) as plane:
        uuid = (await plane.deploy(DeployRequest(spec(1))))[-1].group_uuid
        while plane.reconciler.working:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        ahead = await plane.store.read(clock.now) + HOUR_MS
        await plane.store.write(lambda c: groups.due(c, uuid, ahead))

        async def due() -> int:
            at = await plane.store.read(lambda c: c.scalar(select(schema.groups.c.due_at)))
            assert isinstance(at, int)
            return at

        assert await due() == ahead
        assert watch._last is not None
        read, asked_at, answered_at = watch._last
        ago = 4 * UNSEEN_SECONDS  # as if nothing of it had run for so long
        watch._last = read - int(ago * 1000), asked_at - ago, answered_at - ago
        while await due() > ahead - HOUR_MS // 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
