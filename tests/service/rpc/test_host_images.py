"""Copies of images on hosts: what they may take by the zone, and what of them is shown."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import fleet_pb2

from service.store import copies
from service.store.copies import Copy
from tests.service.rpc.lab import refused
from tests.support.whole import config_text, whole


@pytest.mark.asyncio
async def test_a_zones_budget_of_copies_holds_for_its_hosts_which_show_their_copies(tmp_path: Path) -> None:
    async with whole(
        tmp_path, config_text().replace("[catalog]\n", '[catalog]\nimage_copies_budget = "7KiB"\n')
    ) as lab:
        stub = lab.fleet
        request = fleet_pb2.CreateZoneRequest(name="north", image_copies_budget=5)
        assert (await stub.CreateZone(request)).inventory.image_copies_budget == 5
        (one, *_) = (await stub.ListHosts(fleet_pb2.ListHostsRequest())).inventories
        assert not one.HasField("image_copies"), "a list tells none"

        async def shown() -> Any:
            return (await stub.GetHost(fleet_pb2.GetHostRequest(uuid=one.uuid))).inventory.image_copies

        async def zone(**fields: Any) -> Any:
            return (await stub.UpdateZone(fleet_pb2.UpdateZoneRequest(uuid=one.zone_uuid, **fields))).inventory

        assert ((await shown()).budget, list((await shown()).copies)) == (7 << 10, [])
        assert (await zone(image_copies_budget=9000)).image_copies_budget == 9000
        assert (await shown()).budget == 9000
        assert (await zone(image_copies_budget=0)).HasField("image_copies_budget")
        assert (await shown()).budget == 0
        assert not (await zone(update_mask={"paths": ["image_copies_budget"]})).HasField("image_copies_budget")
        assert (await shown()).budget == 7 << 10
        await refused(zone(image_copies_budget=-1), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
        for name, done in (("whole", 100), ("arriving", 40)):
            copy = Copy(one.uuid, f"corral-base.{name}", "a" * 64, name, 100, done=done, whole=done == 100)
            await lab.service.store.write(partial(copies.take, wanted=copy, owner="a process", for_ms=1000, named=True))
        there = await shown()
        assert there.size == 140
        assert {(c.image, c.size, c.received, c.status) for c in there.copies} == {
            ("whole", 100, 100, "Whole"),
            ("arriving", 100, 40, "Arriving"),
        }
        assert all(c.last_used_date.seconds and c.sha256 == "a" * 64 for c in there.copies)
