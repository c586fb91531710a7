"""Machines whose BMCs do what they were told late, or not at all: whose the claim is, and who runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from corral.v1 import deploy_pb2, fleet_pb2

from service.drivers.redfish import bmc as bmc_module
from service.reconcile import sweep
from tests.service.rpc.lab import soon
from tests.service.rpc.test_bare_metal import node
from tests.service.rpc.test_machines import free_port, host, one_machine
from tests.support.bmc import GIB, Bmc
from tests.support.whole import Whole, config_text, whole

pytestmark = pytest.mark.asyncio
UUIDS = tuple(f"44454c4c-0000-1000-8000-00000000000{n}" for n in (1, 2))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bmc_module, "OFF_TWICE_SECONDS", 0.05)
    monkeypatch.setattr(bmc_module, "POLL_SECONDS", 0.05)
    for name, seconds in (("EVERY_SECONDS", 0.2), ("GRACE_SECONDS", 0.0), ("TOMBSTONE_SECONDS", 0.0)):
        monkeypatch.setattr(sweep, name, seconds)


async def delete(lab: Whole, group: str) -> None:
    async for _ in lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=group)):
        pass


async def test_a_claim_stays_until_the_drive_of_its_machine_is_empty(tmp_path: Path) -> None:
    bmc = Bmc(tmp_path)
    bmc.guests = True
    try:
        async with one_machine(tmp_path, bmc) as lab:
            group = await lab.up(model_services=[node("BareMetal", 8, 32)])
            bmc.faults["eject_ignored"] = 1 << 20
            deleting = asyncio.create_task(delete(lab, group.uuid))

            async def refused_twice() -> bool:
                return bmc.faults["eject_ignored"] <= (1 << 20) - 2

            await soon(refused_twice, 60)
            assert bmc.image
            assert {c.claimed for c in (await lab.host("metal")).capacities} == {16, 64 * GIB, 1}
            assert not deleting.done()
            bmc.faults["eject_ignored"] = 0
            await deleting
            assert (bmc.power, bmc.image) == ("Off", "")
            assert {c.claimed for c in (await lab.host("metal")).capacities} == {0}
    finally:
        bmc.close()


async def test_an_insert_and_an_order_that_come_once_the_member_runs_elsewhere_start_nothing(tmp_path: Path) -> None:
    first, second = (Bmc(tmp_path, uuid) for uuid in UUIDS)
    listener = free_port()
    text = config_text(0, extra=host(first, "first", listener) + host(second, "second", listener))
    text = text.replace('kernel = "kernel"', 'kernel = "kernel"\ndelivery = "nocloud"')
    text = text.replace("[store]", f'machines = "127.0.0.1:{listener}"\n[store]')
    first.guests = second.guests = True
    try:
        async with whole(tmp_path, text) as lab:

            async def connected() -> bool:
                return {(await lab.host(name)).status for name in ("first", "second")} == {"Connected"}

            await soon(connected, 60)
            await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=lab.uuid_of("second")))
            first.faults.update({"hold On": 1, "lose Reset": 1})
            deploying = asyncio.create_task(lab.up(model_services=[node("BareMetal", 8, 32)]))

            async def held() -> bool:
                return first.held == 1

            await soon(held, 60)
            seed = first.image
            await lab.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=lab.uuid_of("second")))
            await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=lab.uuid_of("first")))
            group = await deploying
            assert (group.status, [i.host_name for i in group.instances]) == ("Running", ["second"])

            async def left() -> bool:
                return not first.image and {c.claimed for c in (await lab.host("first")).capacities} == {0}

            await soon(left, 60)
            first.image = seed  # the insert of then, and the order
            first.late()

            async def ended() -> bool:
                return (first.power, first.image) == ("Off", "")

            await soon(ended, 60)
            assert 204 not in {code for _, code in first.reports}, "it was never ready"
            assert (second.power, second.resets) == ("On", ["On"])
            get = deploy_pb2.GetInstanceGroupRequest(uuid=group.uuid)
            assert (await lab.deploy.GetInstanceGroup(get)).inventory.status == "Running"
    finally:
        first.close()
        second.close()
