"""The picture of the fleet: what either log names is told by itself, what none names is told all the same."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from corral.v1 import deploy_pb2, fleet_pb2
from sqlalchemy import update

from service.app import picture as pictures
from service.app.capacity import HostView
from service.app.picture import Look, Picture
from service.domain.fleet import HostState, HostStatus
from service.store import fleet, schema
from service.store.connection import Connection
from tests.support.whole import ZONE, Whole, config_text, whole

pytestmark = pytest.mark.asyncio
VCPU = "vcpu"


class Follower:
    """What somebody knows who follows a picture."""

    def __init__(self, looks: AsyncGenerator[Look, None]) -> None:
        self._looks = looks
        self.hosts: dict[str, HostView] = {}
        self.zones: dict[str, int] = {}
        self.told: list[int] = []

    async def until(self, holds: Callable[[], bool]) -> None:
        """Follow until it holds. The test ends by its own time."""
        while not holds():
            look = await anext(self._looks)
            self.told.append(len(look.hosts))
            self.hosts.update((view.host.uuid, view) for view in look.hosts)
            for uuid in look.removed:
                del self.hosts[uuid]
            if look.zones is not None:
                self.zones = {view.zone.name: view.hosts for view in look.zones}

    def claimed(self, name: str) -> int:
        """vCPUs that are claimed on the host with this name."""
        return next(v.host.used.get(VCPU, 0) for v in self.hosts.values() if v.host.name == name)


@asynccontextmanager
async def followed(lab: Whole) -> AsyncGenerator[Follower, None]:
    service = lab.service
    async with aclosing(Picture(service.store, service.fleet.views, service.feed).watch()) as looks:
        one = Follower(looks)
        await one.until(lambda: len(one.hosts) > 0)
        await one.until(lambda: all(view.host.status is HostStatus.CONNECTED for view in one.hosts.values()))
        yield one


async def as_stored(lab: Whole, one: Follower) -> None:
    """What is known comes to be what is stored."""
    service = lab.service

    def read(connection: Connection) -> dict[str, HostView]:
        views = service.fleet.views(connection, tuple(fleet.hosts(connection).values()))
        return {view.host.uuid: view for view in views}

    stored = await service.store.read(read)
    await one.until(lambda: one.hosts == stored)


@pytest.fixture
def whole_looks(monkeypatch: pytest.MonkeyPatch) -> list[Picture]:
    """Each look at all hosts; after the first there is none that nothing asks for."""
    monkeypatch.setattr(pictures, "WHOLE_SECONDS", 3600.0)
    made: list[Picture] = []
    read = Picture._read_all

    def noted(self: Picture, connection: Connection) -> pictures._Seen:
        made.append(self)
        return read(self, connection)

    monkeypatch.setattr(Picture, "_read_all", noted)
    return made


async def test_claims_moves_and_ends_are_told_by_the_logs_alone(tmp_path: Path, whole_looks: list[Picture]) -> None:
    async with whole(tmp_path, config_text(hosts=3)) as lab, followed(lab) as one:
        whole_looks.clear()
        group = await lab.up(2)
        await one.until(lambda: sum(one.claimed(f"host-{n}") for n in (1, 2, 3)) == 8)
        full = next(f"host-{n}" for n in (1, 2, 3) if one.claimed(f"host-{n}"))
        async for _ in lab.fleet.DrainHost(fleet_pb2.DrainHostRequest(uuid=lab.uuid_of(full))):
            pass
        await one.until(lambda: one.claimed(full) == 0)
        assert sum(one.claimed(f"host-{n}") for n in (1, 2, 3)) == 8
        await one.until(lambda: one.hosts[lab.uuid_of(full)].host.state is HostState.MAINTENANCE)
        await as_stored(lab, one)
        async for _ in lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid)):
            pass
        await one.until(lambda: not any(one.claimed(f"host-{n}") for n in (1, 2, 3)))
        await as_stored(lab, one)
        assert not whole_looks


async def test_only_hosts_that_are_no_longer_as_they_were_are_told(tmp_path: Path, whole_looks: list[Picture]) -> None:
    async with whole(tmp_path, config_text(hosts=4)) as lab, followed(lab) as one:
        whole_looks.clear()
        one.told.clear()
        uuid = lab.uuid_of("host-2")
        await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=uuid))
        await one.until(lambda: one.hosts[uuid].host.state is HostState.DISABLED)
        assert sum(one.told) == 1
        assert not whole_looks


async def test_hosts_that_come_and_go_are_told_with_their_zones(tmp_path: Path, whole_looks: list[Picture]) -> None:
    async with whole(tmp_path, config_text(hosts=1)) as lab, followed(lab) as one:
        added = await lab.add_host(zone_uuid=ZONE)
        await one.until(lambda: added.uuid in one.hosts and one.zones == {"zone-1": 2})
        await lab.fleet.RemoveHost(fleet_pb2.RemoveHostRequest(uuid=added.uuid))
        await one.until(lambda: added.uuid not in one.hosts and one.zones == {"zone-1": 1})


async def test_what_no_log_names_is_seen_by_a_look_at_all_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "WHOLE_SECONDS", 0.0)
    async with whole(tmp_path, config_text(hosts=2)) as lab, followed(lab) as one:
        uuid = lab.uuid_of("host-1")

        def unnamed(connection: Connection) -> None:
            table = schema.hosts
            connection.execute(update(table).where(table.c.uuid == uuid).values(status_reason="by hand"))

        await lab.service.store.write(unnamed)
        await one.until(lambda: one.hosts[uuid].host.status_reason == "by hand")


async def test_a_follower_that_comes_later_is_told_all_of_it(tmp_path: Path, whole_looks: list[Picture]) -> None:
    async with whole(tmp_path, config_text(hosts=2)) as lab:
        picture = Picture(lab.service.store, lab.service.fleet.views, lab.service.feed)
        async with aclosing(picture.watch()) as looks:
            assert (await anext(looks)).whole
        group = await lab.up(1)
        async with aclosing(picture.watch()) as looks:
            one = Follower(looks)
            await one.until(lambda: len(one.hosts) == 2)
            await one.until(lambda: one.claimed("host-1") + one.claimed("host-2") == 4)
            await as_stored(lab, one)
        assert len(group.instances) == 1
        assert len(whole_looks) == 1


class LateClock:
    """The machine's clocks, by which each look at named hosts takes so many seconds and next to no processor."""

    thread_time = staticmethod(time.thread_time)

    def __init__(self) -> None:
        self.late = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.late


async def test_a_look_that_waited_does_not_hold_back_what_comes_next(
    tmp_path: Path, whole_looks: list[Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, read = LateClock(), Picture._read_named

    def waits(self: Picture, connection: Connection, named: frozenset[str]) -> pictures._Seen | None:
        clock.late += 600.0
        return read(self, connection, named)

    async with whole(tmp_path, config_text(hosts=2)) as lab, followed(lab) as one:
        monkeypatch.setattr(pictures, "time", clock)
        monkeypatch.setattr(Picture, "_read_named", waits)
        uuid = lab.uuid_of("host-1")
        await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=uuid))
        await one.until(lambda: one.hosts[uuid].host.state is HostState.DISABLED)
        await lab.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=uuid))
        await one.until(lambda: one.hosts[uuid].host.state is HostState.ENABLED)


@pytest.mark.parametrize(
    ("took", "cost", "rest"),
    [(0.001, 0.001, pictures.APART_SECONDS), (60.0, 0.001, pictures.REST_SECONDS), (0.5, 0.4, 1.2), (0.03, 0.0, 0.09)],
)
async def test_only_a_look_that_took_the_processor_is_followed_by_a_long_rest(
    took: float, cost: float, rest: float
) -> None:
    assert pictures._rest(took, cost) == pytest.approx(rest)
