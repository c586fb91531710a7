"""WatchFleet over gRPC: what stands, then every change in order, from a revision on, of one zone."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from corral.v1 import fleet_pb2

from service.store import events, fleet_events
from tests.service.rpc.lab import refused
from tests.support.whole import whole

pytestmark = pytest.mark.asyncio

UNKNOWN = "e" * 32


async def test_a_watch_tells_what_stands_and_then_every_change_in_order(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        watch = lab.fleet.WatchFleet(fleet_pb2.WatchFleetRequest())
        standing = [await watch.read() for _ in range(4)]
        assert [m.WhichOneof("change") for m in standing] == ["zone", "host", "host", "bookmark"]
        assert [m.host.name for m in standing[1:3]] == ["host-1", "host-2"]
        assert standing[3].bookmark.initial_state_complete
        zone = (await lab.fleet.CreateZone(fleet_pb2.CreateZoneRequest(name="north"))).inventory
        told = [await watch.read()]
        host = await lab.add_host(zone_uuid=zone.uuid)
        while told[-1].WhichOneof("change") != "host":
            told.append(await watch.read())
        assert told[0].zone.name == "north"
        assert (told[-1].host.uuid, told[-1].host.status) == (host.uuid, "Connected")
        await lab.fleet.RemoveHost(fleet_pb2.RemoveHostRequest(uuid=host.uuid))
        await lab.fleet.DeleteZone(fleet_pb2.DeleteZoneRequest(uuid=zone.uuid))
        while told[-1].removed_zone_uuid != zone.uuid:
            told.append(await watch.read())
        assert host.uuid in [m.removed_host_uuid for m in told]
        revisions = [m.revision for m in told]
        assert revisions == sorted(set(revisions))
        watch.cancel()

        resumed = lab.fleet.WatchFleet(fleet_pb2.WatchFleetRequest(start_revision=standing[3].revision))
        first = await resumed.read()
        assert first.revision > standing[3].revision
        resumed.cancel()
        future = lab.fleet.WatchFleet(fleet_pb2.WatchFleetRequest(start_revision=10**9))
        await refused(future.read(), grpc.StatusCode.OUT_OF_RANGE, "REVISION_UNAVAILABLE")


async def test_a_watch_from_a_revision_that_is_no_longer_kept_is_refused_and_later_ones_go_on(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        before = await lab.service.store.read(fleet_events.newest)
        await lab.fleet.CreateZone(fleet_pb2.CreateZoneRequest(name="north"))
        kept = await lab.service.store.read(fleet_events.newest)
        await lab.service.store.write(lambda c: events.compact(c, kept))
        gone = lab.fleet.WatchFleet(fleet_pb2.WatchFleetRequest(start_revision=before))
        await refused(gone.read(), grpc.StatusCode.OUT_OF_RANGE, "REVISION_UNAVAILABLE")
        watch = lab.fleet.WatchFleet(fleet_pb2.WatchFleetRequest(start_revision=kept))
        await lab.fleet.CreateZone(fleet_pb2.CreateZoneRequest(name="south"))
        assert (await watch.read()).zone.name == "south"
        watch.cancel()


async def test_a_watch_of_one_zone_hears_of_no_other(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        zone = (await lab.fleet.CreateZone(fleet_pb2.CreateZoneRequest(name="north"))).inventory
        watch = lab.fleet.WatchFleet(fleet_pb2.WatchFleetRequest(zone_uuid=zone.uuid))
        assert [(await watch.read()).WhichOneof("change") for _ in range(2)] == ["zone", "bookmark"]
        await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=lab.uuid_of("host-1")))
        host = await lab.add_host(zone_uuid=zone.uuid)
        assert (await watch.read()).host.uuid == host.uuid
        watch.cancel()
        unknown = lab.fleet.WatchFleet(fleet_pb2.WatchFleetRequest(zone_uuid=UNKNOWN))
        await refused(unknown.read(), grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
