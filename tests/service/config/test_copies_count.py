"""What the file says of copies of images in a zone is what its hosts show."""

from __future__ import annotations

from pathlib import Path

import pytest
from corral.v1 import fleet_pb2

from tests.support.whole import config_text, whole


@pytest.mark.asyncio
async def test_a_zones_budget_of_copies_is_what_its_hosts_show(tmp_path: Path) -> None:
    text = config_text(1, cpu=8).replace('name = "zone-1"\n', 'name = "zone-1"\nimage_copies_budget = "3GiB"\n', 1)
    async with whole(tmp_path, text) as lab:
        (zone,) = (await lab.fleet.ListZones(fleet_pb2.ListZonesRequest())).inventories
        (host,) = (await lab.fleet.ListHosts(fleet_pb2.ListHostsRequest())).inventories
        told = (await lab.fleet.GetHost(fleet_pb2.GetHostRequest(uuid=host.uuid))).inventory
        assert (zone.image_copies_budget, told.image_copies.budget) == (3 << 30, 3 << 30)
