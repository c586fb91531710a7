"""Several replicas on one PostgreSQL: whichever of them changes fleet or catalogue, all of them go by it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from corral.v1 import catalog_pb2, deploy_pb2, fleet_pb2

from service.domain.catalog import configured_image_uuid
from tests.support.postgres import Postgres
from tests.support.whole import GIB, Whole, config_text, whole

pytestmark = pytest.mark.asyncio


async def soon(true: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until something is so; fails where it never comes."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110  # the other replica finds it out by itself
            await asyncio.sleep(0.02)


async def test_a_host_and_an_entry_that_one_replica_takes_in_serve_at_once_through_the_other(
    tmp_path: Path, postgres: Postgres, database: str
) -> None:
    text = config_text(hosts=0, url=postgres.url(database))
    async with whole(tmp_path, text) as one, whole(tmp_path, text) as other:
        watch = other.fleet.WatchFleet(fleet_pb2.WatchFleetRequest())
        while (await watch.read()).WhichOneof("change") != "bookmark":
            pass
        host = await one.add_host()
        made = await one.catalog.CreateModelService(
            catalog_pb2.CreateModelServiceRequest(
                name="fresh", image_uuid=configured_image_uuid("guest"), default_memory_size=GIB, stop_grace=1
            )
        )
        node = {"uuid": made.inventory.uuid, "name": "n", "type": "VirtualMachine"}
        group = await other.up(model_services=[node])
        assert (group.status, group.instances[0].host_uuid) == ("Running", host.uuid)
        assert (await watch.read()).host.uuid == host.uuid
        watch.cancel()
        await soon(lambda: host.uuid in other.service.reconciler.monitors)

        delete = deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid)
        assert [e async for e in one.deploy.DeleteInstanceGroup(delete)]
        await one.fleet.RemoveHost(fleet_pb2.RemoveHostRequest(uuid=host.uuid))
        await soon(lambda: host.uuid not in other.service.reconciler.monitors)


async def test_a_replica_whose_file_says_another_overcommit_goes_by_the_newest_and_says_so(
    tmp_path: Path, postgres: Postgres, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    def file(cpu: int) -> str:
        return config_text(hosts=1, cpu=4, url=postgres.url(database), extra=f"[overcommit]\ncpu = {cpu}\n")

    async def given_out(replica: Whole) -> int:
        (host,) = (await replica.fleet.ListHosts(fleet_pb2.ListHostsRequest())).inventories
        return next(int(r.allocatable) for r in host.capacities if r.resource == "vcpu")

    async with whole(tmp_path, file(2)) as one:
        await soon(lambda: one.service.directory.hosts[one.uuid_of("host-1")].allocatable.get("vcpu") == 8)
        assert await health(one) == {"status": "SERVING", "failing": {}}
        async with whole(tmp_path, file(3)) as other:
            assert await given_out(other) == await given_out(one) == 12
            await soon(lambda: bool(one.service.health.notes))
            told = (await health(one))["notes"]["overcommit"]
            own, in_force = told.split(", but ")
            assert "vcpu x 2" in own
            assert "vcpu x 3" in in_force
            assert [r.getMessage() for r in caplog.records if "[overcommit]" in r.getMessage()]
            assert "notes" not in await health(other)
        async with whole(tmp_path, file(2)):
            await soon(lambda: not one.service.health.notes)
            assert await given_out(one) == 8


async def health(replica: Whole) -> Any:
    async with httpx.AsyncClient(timeout=60) as http:
        return (await http.get(f"http://{replica.http_address}/healthz")).json()


async def test_a_request_id_is_known_to_every_replica(tmp_path: Path, postgres: Postgres, database: str) -> None:
    text = config_text(hosts=0, url=postgres.url(database))
    async with whole(tmp_path, text) as one, whole(tmp_path, text) as other:
        calls = [(one if number % 2 else other).add_host(request_id="same") for number in range(6)]
        hosts = {host.uuid for host in await asyncio.gather(*calls)}
        assert len(hosts) == 1
        listed = await one.fleet.ListHosts(fleet_pb2.ListHostsRequest())
        assert {h.uuid for h in listed.inventories} == hosts
        assert (await other.add_host(request_id="same")).uuid in hosts


async def test_the_same_request_at_the_same_moment_is_answered_alike_by_all(
    tmp_path: Path, postgres: Postgres, database: str
) -> None:
    text = config_text(hosts=0, url=postgres.url(database))
    async with whole(tmp_path, text) as one, whole(tmp_path, text) as other:
        for turn in range(10):
            request = fleet_pb2.CreateZoneRequest(name=f"zone-{turn}", request_id=f"turn-{turn}")
            calls = [replica.fleet.CreateZone(request) for replica in (one, other) * 4]
            assert len({answer.inventory.uuid for answer in await asyncio.gather(*calls)}) == 1
