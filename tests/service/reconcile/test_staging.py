"""Members whose image is still on its way to their host: one upload for all who wait, gone on with by whoever comes."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.config.file import parse
from service.domain.events import Event
from service.domain.groups import GroupStatus, InstanceStatus
from service.domain.specs import DeployRequest, FailurePolicy
from service.drivers.base import HostRejected, HostUnreachable, MachineSpec, ObservedMachine
from service.drivers.copies import Copied, ImageFile
from service.drivers.simulated import SimulatedDriver
from service.drivers.staging import NotStaged
from service.errors import CorralError, DeployFailed
from service.planning.planner import InlinePlanner
from service.reconcile import staging
from service.reconcile.monitor import HostMonitor
from service.reconcile.staging import Stagings
from service.store import copies
from service.store.copies import Copy
from service.wiring import Service
from tests.support.builders import host, spec
from tests.support.control_plane import CALLER, ControlPlane, control_plane

pytestmark = pytest.mark.asyncio

SUM = hashlib.sha256(b"image").hexdigest()
FILE = ImageFile("model", "disk", "/images/model", 1000, SUM)


class Host:
    """A host that takes machines once it has the image, and the image in slices, as the test lets them come."""

    def __init__(self, driver: SimulatedDriver, monkeypatch: pytest.MonkeyPatch, slices: int = 4) -> None:
        self.has: set[str] = set()
        self.slices = slices
        self.sent: list[tuple[int, int]] = []
        self.sending = 0
        self.most_at_once = 0
        self.may_send = asyncio.Semaphore(10_000)
        self.breaks: list[Exception] = []
        self._create = driver.create_paused
        monkeypatch.setattr(driver, "create_paused", self.create_paused)
        monkeypatch.setattr(driver, "stage", self.stage)

    async def create_paused(self, spec: MachineSpec, *, budget_seconds: float) -> ObservedMachine:
        if FILE.sha256 not in self.has:
            raise NotStaged((FILE,))
        return await self._create(spec, budget_seconds=budget_seconds)

    async def stage(self, file: ImageFile, copied: Copied, *, budget_seconds: float) -> Copied:
        self.sending += 1
        self.most_at_once = max(self.most_at_once, self.sending)
        try:
            await self.may_send.acquire()
        finally:
            self.sending -= 1
        if self.breaks:
            raise self.breaks.pop(0)
        until = min(file.size, copied.done + file.size // self.slices)
        self.sent.append((copied.done, until))
        whole = until == file.size
        if whole:
            self.has.add(file.sha256)
        return Copied(copied.volume, until, file.sha256 if whole else "part", "boot", whole)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """News come as soon as there are some."""
    monkeypatch.setattr(staging, "NEWS_SECONDS", 0.05)
    monkeypatch.setattr(staging, "LOOK_SECONDS", 0.01)


def staged(events: list[Event]) -> list[Any]:
    """What the stream told of images on their way."""
    return [e.instance.staging for e in events if e.instance is not None and e.instance.staging is not None]


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_two_groups_wait_for_one_upload_and_their_streams_tell_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with control_plane(hosts=(host(1),)) as plane:
        there = Host(plane.drivers[f"{1:032x}"], monkeypatch)
        there.may_send = asyncio.Semaphore(2)
        started = [await plane.groups.deploy(CALLER, DeployRequest(spec(1, name=name))) for name in ("a", "b")]

        async def told(number: int) -> bool:
            (member,) = (await plane.groups.get(CALLER, started[number].group.uuid)).instances
            return member.staging is not None and member.staging.done == 500

        async with asyncio.timeout(60):
            while not (await told(0) and await told(1)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        (member,) = (await plane.groups.get(CALLER, started[0].group.uuid)).instances
        assert member.status is InstanceStatus.CREATING
        assert "500 B of 1000 B" in member.reason
        for _ in range(10):
            there.may_send.release()
        ends = [await plane.follow(one.group, one.after_revision) for one in started]
        for end in ends:
            assert end[-1].group is not None
            assert end[-1].group.status is GroupStatus.RUNNING
            assert [one.total for one in staged(end)] == [1000] * len(staged(end))
            assert staged(end)
            assert all(m.staging is None and not m.reason for m in end[-1].group.instances)
        assert there.sent == [(0, 250), (250, 500), (500, 750), (750, 1000)], "each byte once, for both"
        assert there.most_at_once == 1
        (row,) = await plane.store.read(lambda c: copies.on_host(c, f"{1:032x}"))
        assert (row.whole, row.owner, row.sha256) == (True, "", SUM)
        name = {"host": monitor_of(plane).host.name}
        assert plane.metrics.registry.get_sample_value("corral_image_staged_bytes_total", name) == 1000


async def test_what_breaks_off_goes_on_from_what_was_proven_and_the_member_does_not_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with control_plane(hosts=(host(1),)) as plane:
        there = Host(plane.drivers[f"{1:032x}"], monkeypatch)
        there.may_send = asyncio.Semaphore(2)
        started = await plane.groups.deploy(CALLER, DeployRequest(spec(1, failure_policy=FailurePolicy.FAIL_GROUP)))
        await until(lambda: there.sending and len(there.sent) == 2)
        there.breaks = [HostUnreachable("the connection was lost")]
        for _ in range(10):
            there.may_send.release()
        end = await plane.follow(started.group, started.after_revision)
        assert end[-1].group is not None
        assert end[-1].group.status is GroupStatus.RUNNING
        assert there.sent == [(0, 250), (250, 500), (500, 750), (750, 1000)]
        assert end[-1].group.failures == 0


async def test_an_image_that_is_not_what_was_registered_fails_the_member(monkeypatch: pytest.MonkeyPatch) -> None:
    async with control_plane(hosts=(host(1),)) as plane:
        there = Host(plane.drivers[f"{1:032x}"], monkeypatch)
        # Each time: who waits looks once a second, and begins anew what has ended between two looks.
        there.breaks = [HostRejected("missing_image", "image model: a file is not the one that was registered")] * 99
        with pytest.raises(DeployFailed, match="not the one that was registered"):
            await plane.deploy(DeployRequest(spec(1, failure_policy=FailurePolicy.FAIL_GROUP)))


async def test_a_groups_own_time_does_not_run_while_its_image_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    async with control_plane(hosts=(host(1),)) as plane:
        there = Host(plane.drivers[f"{1:032x}"], monkeypatch)
        there.may_send = asyncio.Semaphore(1)
        started = await plane.groups.deploy(CALLER, DeployRequest(replace(spec(1), deadline_ms=600_000)))
        group = started.group
        first = 0
        async with asyncio.timeout(60):
            while not first or group.deadline_at == started.group.deadline_at:
                group = await plane.groups.get(CALLER, group.uuid)
                (member,) = group.instances
                first = first or (member.staging.at if member.staging is not None else 0)
                await asyncio.sleep(0.01)
        assert member.staging is not None
        assert group.deadline_at - started.group.deadline_at <= member.staging.at - started.group.created_at
        for _ in range(10):
            there.may_send.release()
        end = await plane.follow(started.group, started.after_revision)
        assert end[-1].group is not None
        assert end[-1].group.status is GroupStatus.RUNNING


# --- several processes ----------------------------------------------------------------------------------------------


def monitor_of(plane: ControlPlane) -> HostMonitor:
    return plane.reconciler._context.monitors[f"{1:032x}"]


async def whole(stagings: Stagings, monitor: HostMonitor) -> None:
    async with asyncio.timeout(60):
        while await stagings.bring(monitor, (FILE,)) is not None:
            pass


async def test_two_processes_make_one_upload_and_the_other_sees_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    async with control_plane(hosts=(host(1),)) as plane:
        there = Host(plane.drivers[f"{1:032x}"], monkeypatch)
        there.may_send = asyncio.Semaphore(2)
        one, two = (Stagings(plane.store, plane.metrics, name) for name in ("one", "two"))
        await until_told(one, plane, 500)
        await until_told(two, plane, 500)
        for _ in range(10):
            there.may_send.release()
        await asyncio.gather(whole(one, monitor_of(plane)), whole(two, monitor_of(plane)))
        assert sorted(there.sent) == [(0, 250), (250, 500), (500, 750), (750, 1000), (1000, 1000)][: len(there.sent)]
        assert there.most_at_once == 1
        assert len(await plane.store.read(lambda c: copies.on_host(c, f"{1:032x}"))) == 1


async def until_told(stagings: Stagings, plane: ControlPlane, done: int) -> None:
    async with asyncio.timeout(60):
        while (far := await stagings.bring(monitor_of(plane), (FILE,))) is None or far.done != done:
            pass


@pytest.mark.parametrize("end", ["killed", "closed"])
async def test_another_process_goes_on_where_one_ended(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    async with control_plane(hosts=(host(1),)) as plane:
        there = Host(plane.drivers[f"{1:032x}"], monkeypatch)
        there.may_send = asyncio.Semaphore(2)
        one, two = (Stagings(plane.store, plane.metrics, name) for name in ("one", "two"))
        await until_told(one, plane, 500)
        if end == "killed":
            # Nothing more is heard of it: its rows are as they were, and their time runs out.
            async def nothing(*_: Any) -> None:
                return None

            monkeypatch.setattr(one, "_give_back", nothing)
        await one.close()
        if end == "killed":
            (row,) = await plane.store.read(lambda c: copies.on_host(c, f"{1:032x}"))
            assert row.owner == "one"
            await plane.store.write(lambda c: copies.end_ownership(c, "one"))
        for _ in range(10):
            there.may_send.release()
        await whole(two, monitor_of(plane))
        assert there.sent == [(0, 250), (250, 500), (500, 750), (750, 1000)]


async def test_an_owner_whose_time_is_over_is_taken_over_and_writes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async with control_plane(hosts=(host(1),)) as plane:
        wanted = Copy(f"{1:032x}", f"corral-base.{SUM}.00000001", SUM, "model", 1000)
        first = await plane.store.write(lambda c: copies.take(c, wanted, "one", -1))
        assert first.owner == "one"
        other = replace(wanted, volume=f"corral-base.{SUM}.00000002")
        second = await plane.store.write(lambda c: copies.take(c, other, "two", 45_000))
        assert (second.owner, second.volume) == ("two", wanted.volume), "the copy that has begun, not another one"
        late = replace(first, done=900, whole=True)
        assert not await plane.store.write(lambda c: copies.went_on(c, late, "one", 45_000))
        third = await plane.store.write(lambda c: copies.take(c, other, "three", 45_000))
        assert (third.owner, third.done) == ("two", 0)


async def test_what_is_slower_than_the_least_rate_is_given_up_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "GRACE_MS", 0)
    async with control_plane(hosts=(host(1),)) as plane:
        Host(plane.drivers[f"{1:032x}"], monkeypatch, slices=500)
        slow = Stagings(plane.store, plane.metrics, "one", least_rate=10**9)
        with pytest.raises(HostRejected, match="below the least rate") as refusal:
            await whole(slow, monitor_of(plane))
        assert refusal.value.code == "too_slow"
        (row,) = await plane.store.read(lambda c: copies.on_host(c, f"{1:032x}"))
        assert (row.owner, row.began_at) == ("", 0), "the next one who tries has a time of its own"
        assert row.done > 0
        await whole(Stagings(plane.store, plane.metrics, "two", least_rate=1), monitor_of(plane))


async def test_an_upload_that_nobody_waits_for_any_more_rests_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "UNWANTED_SECONDS", -1.0)
    async with control_plane(hosts=(host(1),)) as plane:
        there = Host(plane.drivers[f"{1:032x}"], monkeypatch)
        stagings = Stagings(plane.store, plane.metrics, "one")
        with pytest.raises((CorralError, Exception), match="nobody waits"):
            await whole(stagings, monitor_of(plane))
        assert there.sent == [(0, 250)]
        (row,) = await plane.store.read(lambda c: copies.on_host(c, f"{1:032x}"))
        assert (row.owner, row.done) == ("", 250)


async def test_the_configured_least_rate_is_what_uploads_are_held_to(tmp_path: Path) -> None:
    zone = '[[zones]]\nuuid = "00000000000000000000000000000001"\nname = "zone"\n'
    text = f'[store]\nurl = "sqlite:///{tmp_path}/db"\n[catalog]\nleast_staging_rate = "3MiB"\n{zone}'
    service = Service(parse(text, tmp_path), planner=InlinePlanner())
    try:
        assert service._calls.stagings._least_rate == 3 << 20
    finally:
        service.store.close()
