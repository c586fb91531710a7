"""A group that does not fit waits, if its caller said so: in line, woken by what others give back, and not for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.app.groups import Started
from service.domain.events import Event
from service.domain.groups import Group, GroupStatus
from service.domain.specs import DeployRequest, MayWait
from service.domain.tenants import Caller, Quota
from service.drivers.simulated import SimulatedHost, SimulationOptions
from service.errors import InvalidArgument, NoCapacity, QuotaExceeded, Unsatisfiable
from service.reconcile.standing_in_line import Line
from service.store import groups, quotas
from tests.support.builders import host, node, spec
from tests.support.control_plane import CALLER, ControlPlane, control_plane

pytestmark = pytest.mark.asyncio

LONG = MayWait(for_ms=3_600_000)


def wanted(cpu: int, *, wait: MayWait | None = LONG, ends_in_ms: int = 0, members: int = 1) -> DeployRequest:
    nodes = tuple(node(cpu_num=cpu) for _ in range(members))
    ends_at = int(time.time() * 1000) + ends_in_ms if ends_in_ms else 0
    return DeployRequest(spec(members, nodes=nodes), wait=wait, ends_at=ends_at)


@asynccontextmanager
async def full(cpu: str = "10") -> AsyncIterator[tuple[ControlPlane, str]]:
    """One host that a group fills."""
    async with control_plane(hosts=(host(1),), size={"cpu": cpu, "memory": "64GiB"}) as plane:
        (*_, final) = await plane.deploy(wanted(int(cpu)))
        yield plane, final.group_uuid


async def stored(plane: ControlPlane, uuid: str) -> Group:
    return await plane.store.read(lambda c: groups.load(c, uuid))


async def soon(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(120):
        while not await true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def waits(plane: ControlPlane, request: DeployRequest, caller: Caller = CALLER) -> Started:
    """Deployed, and seen to wait."""
    started = await plane.groups.deploy(caller, request)
    await soon(lambda: _is(plane, started.group.uuid, GroupStatus.WAITING))
    return started


async def _is(plane: ControlPlane, uuid: str, status: GroupStatus) -> bool:
    return (await stored(plane, uuid)).status is status


async def followed(plane: ControlPlane, started: Started) -> list[Event]:
    async with asyncio.timeout(120):
        return await plane.follow(started.group, started.after_revision)


async def test_it_waits_with_its_reason_and_place_and_is_placed_when_room_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rests = Line.rests_until

    def until_it_is_woken(line: Line, group: Group, now: int) -> int:
        return group.waiting.until if rests(line, group, now) and group.waiting is not None else 0

    monkeypatch.setattr(Line, "rests_until", until_it_is_woken)  # it looks at nothing by itself
    async with full() as (plane, there):
        started = await waits(plane, wanted(10))
        waiting = await stored(plane, started.group.uuid)
        assert waiting.waiting is not None
        assert waiting.waiting.position == 1
        assert waiting.waiting.failure is not None
        assert waiting.waiting.failure.code == "NO_CAPACITY"
        assert waiting.reason.startswith("waits: ")
        await plane.delete(there)
        events = await followed(plane, started)
        final = events[-1].group
        assert final is not None
        assert (final.status, final.reason, final.waiting) == (GroupStatus.RUNNING, "", None)
        statuses = [e.group.status for e in events if e.group is not None]
        assert GroupStatus.WAITING in statuses
        assert plane.metrics.wait_duration.labels("placed")._sum.get() > 0


async def test_without_it_the_answer_is_no_at_once() -> None:
    async with full() as (plane, _):
        with pytest.raises(NoCapacity):
            await plane.deploy(wanted(10, wait=None))


async def test_its_time_over_it_ends_with_the_typed_no_and_its_explanation() -> None:
    async with full() as (plane, _):
        started = await plane.groups.deploy(CALLER, wanted(10, wait=MayWait(for_ms=3000)))
        with pytest.raises(NoCapacity, match="it waited for") as error:
            await followed(plane, started)
        assert error.value.explanation is not None
        assert (await stored(plane, started.group.uuid)).status is GroupStatus.FAILED


async def test_what_could_never_fit_is_refused_at_once() -> None:
    async with full() as (plane, _):
        with pytest.raises(Unsatisfiable):
            await plane.deploy(wanted(11))


async def test_one_that_is_deleted_while_it_waits_is_gone() -> None:
    async with full() as (plane, _):
        started = await waits(plane, wanted(10))
        assert (await plane.delete(started.group.uuid))[-1].group is not None
        assert (await stored(plane, started.group.uuid)).status is GroupStatus.DELETED


async def test_a_time_that_has_passed_is_refused() -> None:
    async with full() as (plane, _):
        with pytest.raises(InvalidArgument, match=r"wait\.until"):
            await plane.groups.deploy(CALLER, wanted(10, wait=MayWait(until=1)))
        with pytest.raises(InvalidArgument, match="expected_end"):
            await plane.groups.deploy(CALLER, DeployRequest(spec(1), ends_at=1))


async def test_who_has_waited_longer_goes_first_and_a_later_one_that_fits_goes_beside_him() -> None:
    async with full() as (plane, there):
        first = await waits(plane, wanted(8))
        second = await waits(plane, wanted(8))
        assert ((await stored(plane, second.group.uuid)).waiting or first.group.waiting).position == 2  # type: ignore[union-attr]
        await plane.delete(there)
        assert (await followed(plane, first))[-1].group.status is GroupStatus.RUNNING  # type: ignore[union-attr]
        assert (await stored(plane, second.group.uuid)).status is GroupStatus.WAITING
        small = await plane.deploy(wanted(2))
        assert small[-1].group is not None
        assert small[-1].group.status is GroupStatus.RUNNING


async def test_whose_project_uses_a_smaller_share_goes_before_one_that_has_waited_longer() -> None:
    other = Caller("o", "other", "operator")
    async with control_plane(hosts=(host(1), host(2)), size={"cpu": "10", "memory": "64GiB"}) as plane:
        mine = (await plane.deploy(wanted(10)))[-1].group_uuid
        await plane.deploy(wanted(10))
        longer = await waits(plane, wanted(10))
        late = await waits(plane, wanted(10), other)
        await plane.delete(mine)
        assert (await followed(plane, late))[-1].group.status is GroupStatus.RUNNING  # type: ignore[union-attr]
        assert (await stored(plane, longer.group.uuid)).status is GroupStatus.WAITING


async def test_it_waits_for_its_quota_unless_it_is_more_than_there_ever_is() -> None:
    async with control_plane(hosts=(host(1),), size={"cpu": "10", "memory": "64GiB"}) as plane:
        await plane.store.write(lambda c: quotas.put(c, [Quota(CALLER.project, {"vcpu": 6})]))
        mine = (await plane.deploy(wanted(4)))[-1].group_uuid
        with pytest.raises(QuotaExceeded):
            await plane.groups.deploy(CALLER, wanted(7))
        started = await waits(plane, wanted(4))
        waiting = (await stored(plane, started.group.uuid)).waiting
        assert waiting is not None
        assert waiting.failure is not None
        assert waiting.failure.code == "QUOTA_EXCEEDED"
        await plane.delete(mine)
        assert (await followed(plane, started))[-1].group.status is GroupStatus.RUNNING  # type: ignore[union-attr]


async def test_the_ends_that_others_have_stated_tell_by_when_there_is_room() -> None:
    async with control_plane(hosts=(host(1), host(2)), size={"cpu": "10", "memory": "64GiB"}) as plane:
        soonest = (await plane.deploy(wanted(5, ends_in_ms=600_000)))[-1].group
        later = (await plane.deploy(wanted(5, ends_in_ms=1_200_000)))[-1].group
        await plane.deploy(wanted(10))
        assert soonest is not None
        assert later is not None
        started = await waits(plane, wanted(10))
        waiting = (await stored(plane, started.group.uuid)).waiting
        assert waiting is not None
        assert waiting.starts_at == later.ends_at, "both of one host have to go"
        behind = await waits(plane, wanted(3))
        assert ((await stored(plane, behind.group.uuid)).waiting or waiting).starts_at == 0, "it is not the first"


async def test_it_goes_on_waiting_under_the_next_process(tmp_path: Path) -> None:
    size = {"cpu": "10", "memory": "64GiB", "boot_ms": "10", "call_ms": "0"}
    url = f"sqlite:///{tmp_path}/state.db"
    there = {host(1).uuid: SimulatedHost("host-1", SimulationOptions.read(size), time.monotonic)}
    async with control_plane(hosts=(host(1),), url=url, there=there) as plane:
        full = (await plane.deploy(wanted(10)))[-1].group_uuid
        started = await waits(plane, wanted(10))
        until = (await stored(plane, started.group.uuid)).waiting
    async with control_plane(hosts=(host(1),), url=url, there=there) as plane:
        waiting = await stored(plane, started.group.uuid)
        assert waiting.status is GroupStatus.WAITING
        assert waiting.waiting is not None
        assert until is not None
        assert (waiting.waiting.since, waiting.waiting.until) == (until.since, until.until)
        await plane.delete(full)
        await soon(lambda: _is(plane, started.group.uuid, GroupStatus.RUNNING))


async def test_a_small_one_passes_the_first_only_where_its_proven_start_stands() -> None:
    async with control_plane(hosts=(host(1),), size={"cpu": "10", "memory": "64GiB"}) as plane:
        going = (await plane.deploy(wanted(8, ends_in_ms=600_000)))[-1].group
        assert going is not None
        first = await waits(plane, wanted(10))
        waiting = (await stored(plane, first.group.uuid)).waiting
        assert waiting is not None
        assert waiting.kept is not None
        assert {seat.host_uuid for seat in waiting.kept.seats} == {host(1).uuid}
        with pytest.raises(NoCapacity, match="kept for a group before it"):
            await plane.deploy(wanted(2, wait=None))
        with pytest.raises(NoCapacity, match="kept for a group before it"):
            await plane.deploy(wanted(2, wait=None, ends_in_ms=900_000))
        short = (await plane.deploy(wanted(2, wait=None, ends_in_ms=300_000)))[-1].group
        assert short is not None
        assert short.status is GroupStatus.RUNNING
        assert ((await stored(plane, first.group.uuid)).waiting or waiting).starts_at == going.ends_at


async def test_where_nobody_says_when_he_goes_what_becomes_free_is_kept_for_who_has_waited_long() -> None:
    async with control_plane(hosts=(host(1), host(2)), size={"cpu": "10", "memory": "64GiB"}) as plane:
        plane.reconciler._context.kept_after_ms = 1
        await plane.deploy(DeployRequest(spec(1, nodes=(node(cpu_num=10, memory_size=4 << 30),))))
        two = (await plane.deploy(wanted(3)))[-1].group_uuid
        first = await waits(plane, wanted(10))

        async def is_kept() -> bool:
            plane.reconciler.poke(first.group.uuid)
            waiting = (await stored(plane, first.group.uuid)).waiting
            return waiting is not None and waiting.kept is not None

        await soon(is_kept)
        await waits(plane, wanted(4))
        assert plane.metrics.backfill.labels("held_back")._value.get() > 0
        await plane.delete(two)
        assert (await followed(plane, first))[-1].group.status is GroupStatus.RUNNING  # type: ignore[union-attr]
