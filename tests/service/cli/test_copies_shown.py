"""The `corral` command shows copies of images, and sets what they may take."""

from __future__ import annotations

from pathlib import Path

import pytest
from corral.v1 import fleet_pb2

from service.cli import errors
from service.store import copies
from service.store.copies import Copy
from tests.service.cli.test_on_a_service import corral
from tests.support.whole import config_text, whole


@pytest.mark.asyncio
async def test_what_copies_of_images_may_take_is_set_by_zone_and_shown_with_a_host(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1)) as lab:
        (host,) = (await lab.fleet.ListHosts(fleet_pb2.ListHostsRequest())).inventories
        copy = Copy(host.uuid, "corral-base.one", "a" * 64, "engine", 3 << 30, done=1 << 30)
        await lab.service.store.write(lambda c: copies.take(c, copy, "a process", 1000))
        assert "copies of images: 1 GiB\n" in (await corral(lab, "host", "show", host.name))[1]
        assert (await corral(lab, "zones", "set", "zone-1", "--image-budget", "2GiB"))[0] == errors.OK
        assert "2 GiB" in (await corral(lab, "zones"))[1]
        _, out, _ = await corral(lab, "host", "show", host.name)
        assert "copies of images: 1 GiB of 2 GiB\n" in out
        assert "engine: 3 GiB, Arriving (1 GiB of it have come), last used " in out
        assert (await corral(lab, "zones", "set", "zone-1", "--no-image-budget"))[0] == errors.OK
        assert "copies of images: 1 GiB\n" in (await corral(lab, "host", "show", host.name))[1]
