"""A database that was an older copy goes on: by each way in which it does, the time that it lost ends nobody."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from corral.v1 import fleet_pb2
from sqlalchemy import text

from service.store import ownership
from service.transactions import recovery
from service.transactions.recovery_plan import RecoveryPlan
from tests.service.rpc.test_evacuation import cut_off, is_silent, soon
from tests.support.whole import Whole, config_text, whole

pytestmark = pytest.mark.asyncio


async def fence(lab: Whole, uuid: str) -> None:
    await lab.fleet.FenceHost(fleet_pb2.FenceHostRequest(uuid=uuid))


async def remove(lab: Whole, uuid: str) -> None:
    """As an operator has to: one that is off for certain, and for good."""
    await lab.fleet.FenceHost(fleet_pb2.FenceHostRequest(uuid=uuid))
    await lab.service.store.write(lambda c: ownership.all_known(c, (), [uuid]))
    await expire(lab)
    await lab.fleet.RemoveHost(fleet_pb2.RemoveHostRequest(uuid=uuid, force=True))


async def recover(lab: Whole, uuid: str) -> None:
    others = [h for h in lab.service.directory.hosts if h != uuid]

    def settle(connection: Any) -> None:
        installation = ownership.installation(connection)
        assert installation is not None
        recovery.settle_identity(connection, installation, RecoveryPlan(above=1_000_000), 7_000_000, others)

    await lab.service.store.write(settle)


async def expire(lab: Whole) -> None:
    """All groups came up in the first millisecond, as the copy has it."""
    await lab.service.store.write(lambda c: c.execute(text("UPDATE groups SET running_since = 1")))


@pytest.mark.parametrize("goes_on", [fence, remove, recover])
async def test_the_time_that_an_older_copy_lost_does_not_count(
    tmp_path: Path, goes_on: Callable[[Whole, str], Awaitable[None]]
) -> None:
    async with whole(tmp_path, config_text(hosts=1)) as lab:
        silent = await lab.add_host()

        async def is_known() -> bool:
            return silent.uuid in lab.service.directory.hosts and silent.uuid in lab.service.reconciler.monitors

        await soon(is_known)
        cut_off(lab.driver("added"))
        await soon(lambda: is_silent(lab, "added"))
        group = await lab.up()
        store = lab.service.store

        async def began() -> int:
            query = text("SELECT running_since FROM groups WHERE uuid = :of")
            return int(await store.read(lambda c: c.scalar(query, {"of": group.uuid})))

        await expire(lab)
        if goes_on is fence:  # of a host of which nothing is missed it is no such word
            await fence(lab, silent.uuid)
            assert await began() == 1
        await store.write(lambda c: ownership.all_known(c, (), [silent.uuid]))
        await goes_on(lab, silent.uuid)
        assert await began() > 1
