"""Devices of hosts whose names, or ways to them, change: rules, partitions, members and what is out of service stay."""

from __future__ import annotations

from pathlib import Path

import pytest
from corral.v1 import deploy_pb2, fleet_pb2

from tests.service.rpc.lab import soon
from tests.service.rpc.test_devices import nodes
from tests.service.rpc.test_devices_out import WITH_GPUS, last
from tests.support.whole import Whole, config_text, whole

pytestmark = pytest.mark.asyncio
KEYS = [f"0000:{number:02x}:00.0" for number in range(1, 5)]
UUID = "5" * 32
FILE = """
[[hosts]]
uuid = "{uuid}"
name = "{name}"
zone = "zone-1"
driver = "simulated"
transport = "none"
options = {{ cpu = 8, memory = "64GiB", boot_ms = 1, call_ms = 0, "gpu.h100" = "4", state_file = "{state}" }}
[[hosts.partitions]]
name = "left"
devices = {partition}
[[devices]]
model = "h100"
vendor = "1b36"
product = "5ed0"
hosts = ["{name}"]
clean = "none"
"""


def text(directory: Path, name: str, state: Path) -> str:
    extra = FILE.format(uuid=UUID, name=name, state=state, partition=KEYS[:2])
    return config_text(0, url=f"sqlite:///{directory}/corral.db", extra=extra)


async def named(lab: Whole, uuid: str, name: str) -> None:
    asked = fleet_pb2.UpdateHostRequest(uuid=uuid, name=name)
    asked.update_mask.paths.append("name")
    await lab.fleet.UpdateHost(asked)


async def states(lab: Whole) -> list[str]:
    (host,) = (await lab.fleet.ListHosts(fleet_pb2.ListHostsRequest())).inventories
    return [f"{one.state} {one.partition}".strip() for one in sorted(host.devices, key=lambda one: one.key)]


async def test_rules_mean_a_host_of_the_file_by_its_name_there_whatever_a_call_has_named_it(tmp_path: Path) -> None:
    async with whole(tmp_path, text(tmp_path, "gpus", tmp_path / "1.json")) as lab:
        group = await lab.up(model_services=nodes(1))
        quarantined = fleet_pb2.QuarantineDeviceRequest(host_uuid=UUID, key=KEYS[3], reason="Xid 79")
        await lab.fleet.QuarantineDevice(quarantined)
        had = KEYS.index(group.instances[0].devices[0])
        before = await states(lab)
        assert [one.split()[0] for one in before].count("claimed") == 1
        recorded = lab.service.reconciler.monitors[UUID]
        await named(lab, UUID, "renamed")

        async def looked_at_anew() -> bool:
            return recorded.host.name == "renamed" and not recorded._record_anew

        await soon(looked_at_anew)
        assert await states(lab) == before
        await last(lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid)))
        assert (await states(lab))[had].startswith("quarantined"), "its rule says that nothing cleans it"


async def test_a_host_that_the_file_names_and_reaches_otherwise_is_the_one_that_it_was(tmp_path: Path) -> None:
    """Its uuid is the same, and its machine answers for that under the new path too."""
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    async with whole(tmp_path, text(tmp_path, "gpus", first)) as lab:
        group = await lab.up(model_services=nodes(2))
        await lab.fleet.QuarantineDevice(
            fleet_pb2.QuarantineDeviceRequest(host_uuid=UUID, key=KEYS[3], reason="Xid 79")
        )
        before, has = await states(lab), sorted(group.instances[0].devices)
    second.symlink_to(first)
    async with whole(tmp_path, text(tmp_path, "renamed", second)) as lab:
        await soon(lambda: connected(lab))
        assert await states(lab) == before
        (member,) = (await lab.get(group.uuid)).instances
        assert (sorted(member.devices), member.host_uuid, member.attempt) == (has, UUID, 1)


async def connected(lab: Whole) -> bool:
    (host,) = (await lab.fleet.ListHosts(fleet_pb2.ListHostsRequest())).inventories
    return bool(host.status == "Connected")


async def test_a_rule_of_a_host_that_a_call_has_added_holds_as_soon_as_it_has_that_name(tmp_path: Path) -> None:
    rule = '\n[[devices]]\nmodel = "h100"\nvendor = "1b36"\nproduct = "5ed0"\nhosts = ["later"]\nclean = "none"\n'
    async with whole(tmp_path, config_text(0, extra=rule)) as lab:
        host = await lab.add_host(name="gpus", connection=WITH_GPUS)

        async def cleans_nothing() -> bool:
            """Whether a member leaves its device out of service."""
            group = await lab.up(model_services=nodes(1))
            key = group.instances[0].devices[0]
            await last(lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid)))
            (there,) = (await lab.fleet.ListHosts(fleet_pb2.ListHostsRequest())).inventories
            return bool({one.key: one.state for one in there.devices}[key] == "quarantined")

        assert not await cleans_nothing()
        await named(lab, host.uuid, "later")
        await soon(cleans_nothing)
