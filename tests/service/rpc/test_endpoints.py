"""One address a group that a surge does not change: over gRPC on the whole service, with a pool of addresses."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from corral.v1 import deploy_pb2, fleet_pb2

from service.domain.groups import Group
from service.domain.isolation import isolation_of
from service.domain.network import mac_address
from service.drivers.simulated import SimulatedDriver
from service.store import addresses, fleet, groups
from tests.service.rpc.test_networks import node, zone_of
from tests.service.rpc.test_rollouts import rolled, state, taken_back
from tests.support.whole import Whole, config_text, whole

pytestmark = pytest.mark.asyncio

FIRST = "10.8.0.8"
URL = f"http://{FIRST}:8080"


async def held(lab: Whole) -> int:
    zones = (await lab.fleet.ListZones(fleet_pb2.ListZonesRequest())).inventories
    return sum(pool.held for zone in zones for pool in zone.pools)


def called(lab: Whole, instance: str) -> list[str]:
    """The addresses beside its own of every machine of the member."""
    drivers = (monitor.driver for monitor in lab.service.reconciler.monitors.values())
    hosts = [driver.host for driver in drivers if isinstance(driver, SimulatedDriver)]
    return [m.endpoint for h in hosts for m in h.machines.values() if m.identity.instance == instance and m.endpoint]


async def answering(lab: Whole, uuid: str, instance: str) -> Any:
    """The group's head, once its guest says that it has the address."""
    async with asyncio.timeout(60):
        while True:
            stored: Group = await lab.service.store.read(lambda c: groups.load(c, uuid))
            if stored.serving[0].uuid == instance and stored.serving[0].holds == FIRST:
                return stored
            await asyncio.sleep(0.05)


async def test_a_groups_url_is_the_same_after_a_surge_another_and_taking_it_back(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=0)) as lab:
        zone = await zone_of(lab, "lan", f"{FIRST}-10.8.0.20")
        # In another zone there is more room; the address is of this one.
        await zone_of(lab, "other", "10.7.0.8-10.7.0.20", subnet="10.7.0.0/24", gateway="")
        old = await lab.up(model_services=[node(0, zone.uuid), node(1, zone.uuid)])
        assert (old.endpoint, old.instances[0].url, await held(lab)) == (URL, URL, 2)
        events = await rolled(lab, old.uuid, {"startup_parameters": "--fast"})
        urls = {e.final.endpoint for e in events if e.WhichOneof("change") == "final"}
        assert urls == {URL}
        new = await state(lab, old.uuid)
        assert new.instances[0].uuid != old.instances[0].uuid
        assert (new.endpoint, new.instances[0].url) == (URL, URL)
        assert new.instances[0].addresses[0] != FIRST, "its own is another"
        stored = await answering(lab, old.uuid, new.instances[0].uuid)
        assert called(lab, new.instances[0].uuid) == [FIRST]
        assert await held(lab) == 3, "the members' own, and the group's"

        zones = await lab.service.store.read(fleet.zones)
        isolation = isolation_of(stored, zones[zone.uuid], zones)
        assert isolation is not None
        own = new.instances[0].addresses[0]
        assert isolation.lent == ((mac_address(own, new.instances[0].uuid), FIRST, 8080),)

        back = (await taken_back(lab, old.uuid))[-1].final
        assert (back.endpoint, back.update.undoes) == (URL, 1)
        await answering(lab, old.uuid, back.instances[0].uuid)
        assert await held(lab) == 3

        async for _ in lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=old.uuid)):
            pass
        assert await held(lab) == 0, "with the group its address is free"
        assert (
            await lab.service.store.read(lambda c: addresses.free_addresses(c, zone.uuid, zones[zone.uuid].network, 1))
        ) == [FIRST]


async def test_a_head_that_starts_again_has_the_address_by_its_documents(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=0)) as lab:
        zone = await zone_of(lab, "lan", f"{FIRST}-10.8.0.20")
        old = await lab.up(model_services=[node(0, zone.uuid)])
        await rolled(lab, old.uuid, {"startup_parameters": "--fast"})
        head = (await state(lab, old.uuid)).instances[0].uuid
        await answering(lab, old.uuid, head)
        async for _ in lab.deploy.RestartInstanceGroup(deploy_pb2.RestartInstanceGroupRequest(uuid=old.uuid)):
            pass
        again = await state(lab, old.uuid)
        assert (again.instances[0].uuid, again.endpoint) == (head, URL)
        assert called(lab, head) == [FIRST]
