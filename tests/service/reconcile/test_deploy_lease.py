"""A deploy's own commit takes the lease; a group that nobody heard of, or whose owner died, is worked on as well."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import select

from service.app.groups import Groups
from service.domain.groups import Group, GroupPhase
from service.domain.specs import DeployRequest
from service.errors import Unavailable
from service.reconcile.worker import LEASE_MS
from service.store import clock, groups, schema
from service.transactions.holding import Offer
from tests.support.builders import spec
from tests.support.control_plane import CALLER, CLUSTER, ControlPlane, control_plane

pytestmark = pytest.mark.asyncio

GROUPS = schema.groups


class Died:
    """A process that offers to work on what is deployed, and ends right after the commit."""

    def __init__(self) -> None:
        self.held: list[Group] = []

    def offer(self) -> Offer | None:
        return Offer("died", LEASE_MS, asyncio.get_running_loop().time())

    def hold(self, offer: Offer, group: Group, now: int, *, fresh: bool) -> None:
        self.held.append(group)

    def unsure(self, uuids: Sequence[str]) -> None:
        raise AssertionError(f"the commit of {uuids} was answered")


async def _lease(plane: ControlPlane, uuid: str) -> Any:
    asked = select(GROUPS.c.owner, GROUPS.c.epoch, GROUPS.c.lease_until).where(GROUPS.c.uuid == uuid)
    return await plane.store.read(lambda c: c.execute(asked).one())


async def _ready(plane: ControlPlane) -> None:
    """The reconciler has looked at the database once: from then on it takes what is deployed."""
    while plane.reconciler.offer() is None:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def _dying(plane: ControlPlane) -> tuple[Groups, Died]:
    died = Died()
    return Groups(plane.store, plane.feed, plane.groups._planner, cluster=CLUSTER, holder=died), died


async def test_the_group_is_leased_in_the_commit_that_is_the_answer_and_known_as_it_is_stored() -> None:
    async with control_plane() as plane:
        dying, died = _dying(plane)
        started = await dying.deploy(CALLER, DeployRequest(spec(2)))
        stored = await plane.store.read(lambda c: groups.load(c, started.group.uuid))
        lease = await _lease(plane, started.group.uuid)
    assert died.held == [started.group]
    assert (lease.owner, lease.epoch, stored) == ("died", 1, started.group)


async def test_this_process_works_on_what_it_deploys_under_the_first_lease() -> None:
    async with control_plane() as plane:
        await _ready(plane)
        events = await plane.deploy(DeployRequest(spec(2)))
        assert events[-1].group is not None
        assert events[-1].group.phase is GroupPhase.RUNNING
        assert (await _lease(plane, events[-1].group_uuid)).epoch == 1, "nobody had to take it again"


async def test_one_whose_owner_died_right_after_is_taken_over_when_its_lease_is_over() -> None:
    async with control_plane() as plane:
        dying, _ = _dying(plane)
        uuid = (await dying.deploy(CALLER, DeployRequest(spec(1)))).group.uuid
        lease = await _lease(plane, uuid)
        now = await plane.store.read(clock.now)
        assert 0 < lease.lease_until - now <= LEASE_MS

        def taken(at: int) -> Any:
            return plane.store.write(lambda c: groups.take_due(c, "heir", at, LEASE_MS, 8))

        assert await taken(lease.lease_until - 1) == ()
        assert await taken(lease.lease_until) == (groups.Lease(uuid, 2, left_behind=True),)


@pytest.mark.parametrize("cancelled", [True, False])
async def test_one_whose_commit_nobody_heard_of_is_worked_on_all_the_same(
    cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with control_plane() as plane:
        await _ready(plane)
        write, committed, uuids = plane.store.write, asyncio.Event(), []

        async def unheard(work: Any) -> Any:
            result = await write(work)
            if work.__qualname__ != "Groups.deploy.<locals>.intent":
                return result
            uuids.append(result[0].group.uuid)
            committed.set()
            if cancelled:
                await asyncio.Event().wait()
            raise Unavailable("the connection was lost while the transaction was committed")

        monkeypatch.setattr(plane.store, "write", unheard)
        call = asyncio.create_task(plane.groups.deploy(CALLER, DeployRequest(spec(1))))
        await committed.wait()
        if cancelled:
            call.cancel()
        with pytest.raises(asyncio.CancelledError if cancelled else Unavailable):
            await call
        group = await plane.store.read(lambda c: groups.load(c, uuids[0]))
        events = await plane.follow(group, group.revision)
        assert events[-1].group is not None
        assert events[-1].group.phase is GroupPhase.RUNNING
        assert (await _lease(plane, uuids[0])).epoch == 2, "the first lease was set free, and taken again"


async def test_a_process_that_stops_offers_nothing() -> None:
    async with control_plane() as plane:
        await _ready(plane)
        await plane.reconciler.stop(1.0)
        assert plane.reconciler.offer() is None
