"""RemoveHost with `force`: a fenced host that never comes back goes with all that was claimed on it, and should its
machine come back after all, what it still holds is found and removed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from corral.v1 import fleet_pb2
from sqlalchemy import Connection, func, select

from service import wiring
from service.domain.fleet import Host
from service.domain.groups import Seat
from service.drivers.simulated import SimulatedDriver, SimulatedHost, SimulationOptions
from service.store import claims, schema
from tests.service.rpc.lab import reason_of
from tests.service.rpc.test_audit import rows_of
from tests.service.rpc.test_evacuation import LIVE, cut_off, is_silent, soon
from tests.support.postgres import Postgres
from tests.support.whole import Whole, config_text, whole

pytestmark = pytest.mark.asyncio

DOOMED = "doomed"


@pytest.fixture
def metal(monkeypatch: pytest.MonkeyPatch) -> dict[str, SimulatedHost]:
    """The machines by name. One that is taken out of the fleet and added again is the same one, with what it holds."""
    machines: dict[str, SimulatedHost] = {}

    def make(host: Host, _cluster_id: str, _seats: object) -> SimulatedDriver:
        options = SimulationOptions.read({"cpu": "1", "memory": "64GiB", "boot_ms": "1", "call_ms": "0"})
        there = machines.setdefault(host.name, SimulatedHost(host.name, options, time.monotonic))
        return SimulatedDriver(host.uuid, there)

    monkeypatch.setattr(wiring, "make_driver", make)
    return machines


def copies(metal: dict[str, SimulatedHost], instance: str) -> list[tuple[str, str]]:
    """(machine, state) of everything that was made of the member on any metal, in the fleet or not."""
    return sorted(
        (name, made.state.value)
        for name, host in metal.items()
        for made in host.machines.values()
        if made.identity.instance == instance and made.state.value != "tombstone"
    )


@asynccontextmanager
async def never_twice(metal: dict[str, SimulatedHost], instance: str) -> AsyncIterator[None]:
    """Looks at all metal all the time: never two machines of the member of which one may run."""
    broken: list[Any] = []

    async def look() -> None:
        while True:
            found = copies(metal, instance)
            if sum(state in LIVE for _, state in found) > 1:
                broken.append(found)
            await asyncio.sleep(0.001)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert not broken


@contextmanager
def wrong_state() -> Iterator[None]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        yield
    assert reason_of(refused.value) == "WRONG_STATE", refused.value.details()


async def claims_on(lab: Whole, host: str) -> int:
    def count(connection: Connection) -> int:
        return int(connection.scalar(select(func.count()).where(schema.claims.c.host_uuid == host)) or 0)

    return await lab.service.store.read(count)


async def remove(lab: Whole, host: str, **fields: Any) -> None:
    await lab.fleet.RemoveHost(fleet_pb2.RemoveHostRequest(uuid=host, **fields))


async def with_a_member_on_the_doomed(lab: Whole) -> tuple[str, Any]:
    """(host uuid, group): a host of run time that carries a group of one, beside host-1, which is empty and open."""
    other = lab.uuid_of("host-1")
    host = (await lab.add_host(name=DOOMED)).uuid
    await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=other))
    await soon(lambda: _watched(lab, host))
    group = await lab.up()
    assert group.instances[0].host_uuid == host
    await lab.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=other))
    return host, group


async def _watched(lab: Whole, host: str) -> bool:
    return host in lab.service.reconciler.monitors and not lab.service.reconciler.monitors[host].silent


async def fenced(lab: Whole, host: str, group: Any) -> None:
    """The host is silent and fenced, and the member runs on host-1."""
    cut_off(lab.driver(DOOMED))
    await soon(lambda: is_silent(lab, DOOMED))
    await lab.fleet.FenceHost(fleet_pb2.FenceHostRequest(uuid=host))

    async def elsewhere() -> bool:
        member = (await lab.get(group.uuid)).instances[0]
        return bool(member.status == "Running" and member.host_uuid == lab.uuid_of("host-1"))

    await soon(elsewhere)


async def test_force_is_refused_unless_the_host_was_fenced_and_does_not_answer(
    tmp_path: Path, metal: dict[str, SimulatedHost]
) -> None:
    async with whole(tmp_path, config_text(hosts=1)) as lab:
        host, _ = await with_a_member_on_the_doomed(lab)
        with wrong_state():  # it answers and carries a member
            await remove(lab, host, force=True)
        driver = lab.driver(DOOMED)
        cut_off(driver)
        await soon(lambda: is_silent(lab, DOOMED))
        with wrong_state():  # silent, but its member was placed nowhere else
            await remove(lab, host, force=True)
        await lab.fleet.FenceHost(fleet_pb2.FenceHostRequest(uuid=host))
        with wrong_state():  # without the word that it is gone for good
            await remove(lab, host)
        metal[DOOMED].reboot()
        del driver._call

        async def answers() -> bool:
            lab.service.reconciler.monitors[host].suspect()
            return (await lab.host(DOOMED)).status == "Connected"

        await soon(answers)
        with wrong_state():  # it came back: the sweep cleans it
            await remove(lab, host, force=True)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await remove(lab, "e" * 32, force=True)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_host_that_never_returns_goes_with_its_claims_and_leaves_nothing_behind(
    tmp_path: Path, metal: dict[str, SimulatedHost]
) -> None:
    async with whole(tmp_path, config_text(hosts=1)) as lab:
        host, group = await with_a_member_on_the_doomed(lab)
        await fenced(lab, host, group)
        assert await claims_on(lab, host) > 0
        await remove(lab, host, force=True, validate_only=True)
        assert await claims_on(lab, host) > 0
        assert (await lab.host(DOOMED)).uuid == host

        sweep = lab.service.reconciler._sweep
        assert sweep is not None
        sweep._tombstones[host, "0" * 32] = 0.0  # as a sweep before the silence may have noted it
        async with httpx.AsyncClient(base_url=f"http://{lab.http_address}", timeout=60) as http:
            refused = await http.delete(f"/corral/v1/hosts/{host}", params={"force": "false"})
            assert (refused.status_code, refused.json()["error"]["status"]) == (400, "FAILED_PRECONDITION")
            removed = await http.delete(f"/corral/v1/hosts/{host}", params={"force": "true"})
            assert (removed.status_code, removed.json()) == (200, {})
        assert await claims_on(lab, host) == 0
        with pytest.raises(grpc.aio.AioRpcError) as gone:
            await lab.fleet.GetHost(fleet_pb2.GetHostRequest(uuid=host))
        assert gone.value.code() is grpc.StatusCode.NOT_FOUND
        assert (await rows_of(lab.service.store))[-1] == ("anonymous", "RemoveHost(force)", host, "")

        async def forgotten() -> bool:
            return host not in lab.service.reconciler.monitors and not any(key[0] == host for key in sweep._tombstones)

        await soon(forgotten)
        member = (await lab.get(group.uuid)).instances[0]
        assert (member.status, member.host_uuid) == ("Running", lab.uuid_of("host-1"))
        assert (await lab.host("host-1")).instance_count == 1


async def test_a_member_that_was_to_move_live_to_the_host_keeps_its_place_where_it_is(
    tmp_path: Path, metal: dict[str, SimulatedHost]
) -> None:
    """It has a claim on both: on a host that is gone for good it has none any more, and where it runs it still has."""
    async with whole(tmp_path, config_text(hosts=1)) as lab:
        host, group = await with_a_member_on_the_doomed(lab)
        await fenced(lab, host, group)
        member, other = (await lab.get(group.uuid)).instances[0], lab.uuid_of("host-1")
        attempt = max(
            [a for i, a, _ in await lab.service.store.read(lambda c: claims.on_host(c, other)) if i == member.uuid]
        )
        seat = Seat(member.uuid, 0, "node", host, DOOMED, member.zone_uuid, {"vcpu": 1}, attempt)
        await lab.service.store.write(lambda c: claims.take(c, group.uuid, [seat], there=True))
        before = await claims_on(lab, other)
        await remove(lab, host, force=True)
        assert await claims_on(lab, host) == 0
        assert await claims_on(lab, other) == before > 0


@pytest.mark.parametrize("same_uuid", [False, True], ids=["a new uuid", "its old uuid"])
async def test_a_machine_that_comes_back_as_another_host_never_runs_a_second_copy(
    tmp_path: Path, metal: dict[str, SimulatedHost], same_uuid: bool
) -> None:
    async with whole(tmp_path, config_text(hosts=1)) as lab:
        host, group = await with_a_member_on_the_doomed(lab)
        instance = group.instances[0].uuid
        metal[DOOMED].reboot()  # the power went: what it holds is defined, and does not run
        async with never_twice(metal, instance):
            await fenced(lab, host, group)
            await remove(lab, host, force=True)
            assert copies(metal, instance) == [(DOOMED, "stopped"), ("host-1", "running")]
            again = await lab.add_host(name=DOOMED, resource_uuid=host if same_uuid else "")
            assert (again.state, again.status) == ("Enabled", "Connected")
            await soon(lambda: _watched(lab, again.uuid))
            await _swept(lab, metal, instance)
            # It takes new members like any other host.
            await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=lab.uuid_of("host-1")))
            assert (await lab.up()).instances[0].host_uuid == again.uuid


async def test_a_machine_that_ran_on_in_spite_of_the_operators_word_loses_its_copy(
    tmp_path: Path, metal: dict[str, SimulatedHost]
) -> None:
    """The word was wrong and two copies run. The one that nobody wants any more ends, as soon as it can be seen."""
    async with whole(tmp_path, config_text(hosts=1)) as lab:
        host, group = await with_a_member_on_the_doomed(lab)
        instance = group.instances[0].uuid
        await fenced(lab, host, group)
        await remove(lab, host, force=True)
        assert copies(metal, instance) == [(DOOMED, "running"), ("host-1", "running")]
        again = await lab.add_host(name=DOOMED)
        await soon(lambda: _watched(lab, again.uuid))
        await _swept(lab, metal, instance)
        assert (await lab.get(group.uuid)).instances[0].status == "Running"


async def test_of_two_replicas_that_are_told_at_once_one_removes_the_host_and_both_go_by_it(
    tmp_path: Path, metal: dict[str, SimulatedHost], postgres: Postgres, database: str
) -> None:
    text = config_text(hosts=1, url=postgres.url(database))
    async with whole(tmp_path, text) as one, whole(tmp_path, text) as other:
        host, group = await with_a_member_on_the_doomed(one)
        await soon(lambda: _watched(other, host))
        cut_off(other.driver(DOOMED))
        await fenced(one, host, group)
        ends = await asyncio.gather(
            *(remove(replica, host, force=True) for replica in (one, other)), return_exceptions=True
        )
        refusals = [end for end in ends if isinstance(end, grpc.aio.AioRpcError)]
        assert [end.code() for end in refusals] == [grpc.StatusCode.NOT_FOUND], ends
        assert await claims_on(one, host) == 0
        rows = [row for row in await rows_of(one.service.store) if row[1] == "RemoveHost(force)"]
        assert rows == [("anonymous", "RemoveHost(force)", host, "")]

        async def gone() -> bool:
            return all(host not in replica.service.reconciler.monitors for replica in (one, other))

        await soon(gone)
        assert (await other.get(group.uuid)).instances[0].status == "Running"


async def _swept(lab: Whole, metal: dict[str, SimulatedHost], instance: str) -> None:
    """Wait until the copy on host-1 is the only one."""
    sweep = lab.service.reconciler._sweep
    assert sweep is not None

    async def alone() -> bool:
        await sweep.once()
        return copies(metal, instance) == [("host-1", "running")]

    await soon(alone)
