"""Devices that are out of service while their members restart, their host goes and comes back, or has another name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, fleet_pb2, group_pb2

from tests.service.rpc.lab import reason_of
from tests.support.whole import ENTRY, GIB, ZONE, Whole, config_text, whole

pytestmark = pytest.mark.asyncio
KEYS = ["0000:01:00.0", "0000:02:00.0"]
WITH_GPUS = {
    "transport": "none",
    "options": {"cpu": "8", "memory": "64GiB", "boot_ms": "1", "call_ms": "0", "gpu.h100": "2"},
}


def nodes(*counts: int) -> list[dict[str, Any]]:
    """Members that take so many devices each."""
    node = {"uuid": ENTRY, "zone_uuid": ZONE, "cpu_num": 1, "memory_size": GIB}
    return [node | {"gpus": [{"model": "h100", "count": count}]} for count in counts]


async def told(lab: Whole) -> list[tuple[str, str]]:
    """(state, member) of each device by key."""
    (host,) = (await lab.fleet.ListHosts(fleet_pb2.ListHostsRequest())).inventories
    return [(one.state, one.instance_uuid) for one in sorted(host.devices, key=lambda one: one.key)]


async def last(calls: Any) -> group_pb2.InstanceGroup:
    return [answer.event async for answer in calls][-1].final  # type: ignore[no-any-return]


async def refused(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return reason_of(error.value)


async def test_who_has_a_device_that_is_out_of_service_restarts_with_it_and_nobody_gets_it_after_him(
    tmp_path: Path,
) -> None:
    async with whole(tmp_path, config_text(0)) as lab:
        host = await lab.add_host(name="gpus", connection=WITH_GPUS)
        group = await lab.up(model_services=nodes(1))
        (member,) = group.instances
        assert member.devices == KEYS[:1]
        out = fleet_pb2.QuarantineDeviceRequest(host_uuid=host.uuid, key=KEYS[0], reason="Xid 79")
        await lab.fleet.QuarantineDevice(out)
        for call, request in (
            (lab.deploy.RestartInstanceGroup, deploy_pb2.RestartInstanceGroupRequest),
            (lab.deploy.StopInstanceGroup, deploy_pb2.StopInstanceGroupRequest),
            (lab.deploy.StartInstanceGroup, deploy_pb2.StartInstanceGroupRequest),
        ):
            there = await last(call(request(uuid=group.uuid)))
            assert list(there.instances[0].devices) == KEYS[:1]
            assert await told(lab) == [("quarantined", member.uuid), ("available", "")]
        assert there.status == "Running"
        assert await refused(lab.up(model_services=nodes(2))) == "NO_CAPACITY"
        await last(lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid)))
        assert await told(lab) == [("quarantined", ""), ("available", "")]
        assert [list(one.devices) for one in (await lab.up(model_services=nodes(1))).instances] == [KEYS[1:]]


async def test_a_host_that_is_added_anew_has_its_devices_anew_and_none_that_a_member_has_goes(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(0)) as lab:
        host = await lab.add_host(name="gpus", connection=WITH_GPUS)
        group = await lab.up(model_services=nodes(1))
        await lab.fleet.QuarantineDevice(
            fleet_pb2.QuarantineDeviceRequest(host_uuid=host.uuid, key=KEYS[1], reason="Xid 79")
        )
        assert await refused(lab.fleet.RemoveHost(fleet_pb2.RemoveHostRequest(uuid=host.uuid))) == "WRONG_STATE"
        assert await told(lab) == [("claimed", group.instances[0].uuid), ("quarantined", "")]
        await last(lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid)))
        await lab.fleet.RemoveHost(fleet_pb2.RemoveHostRequest(uuid=host.uuid))
        gone = fleet_pb2.ReleaseDeviceRequest(host_uuid=host.uuid, key=KEYS[1])
        assert await refused(lab.fleet.ReleaseDevice(gone)) == "NOT_FOUND"
        again = await lab.add_host(name="other", connection=WITH_GPUS)
        assert again.uuid != host.uuid
        assert await told(lab) == [("available", "")] * 2, "it is another machine"
        assert list((await lab.up(model_services=nodes(2))).instances[0].devices) == KEYS


async def test_a_device_that_is_out_of_service_is_so_when_its_host_is_removed_and_added_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.drivers.simulated.driver.uuid5", lambda *_: "4c4c4544-0001")  # it is the same machine
    async with whole(tmp_path, config_text(0)) as lab:
        host = await lab.add_host(name="gpus", connection=WITH_GPUS)
        await lab.fleet.QuarantineDevice(
            fleet_pb2.QuarantineDeviceRequest(host_uuid=host.uuid, key=KEYS[1], reason="Xid 79")
        )
        await lab.fleet.RemoveHost(fleet_pb2.RemoveHostRequest(uuid=host.uuid, validate_only=True))
        assert await told(lab) == [("available", ""), ("quarantined", "")]
        for _ in range(2):
            await lab.fleet.RemoveHost(fleet_pb2.RemoveHostRequest(uuid=host.uuid))
            host = await lab.add_host(name="other", connection=WITH_GPUS)
            assert await told(lab) == [("available", ""), ("quarantined", "")]
            assert {one.key: one.reason for one in host.devices}[KEYS[1]] == "Xid 79"
            assert await refused(lab.up(model_services=nodes(2))) == "NO_CAPACITY"
        await lab.fleet.ReleaseDevice(fleet_pb2.ReleaseDeviceRequest(host_uuid=host.uuid, key=KEYS[1]))
        await lab.fleet.RemoveHost(fleet_pb2.RemoveHostRequest(uuid=host.uuid))
        await lab.add_host(name="gpus", connection=WITH_GPUS)
        assert await told(lab) == [("available", "")] * 2, "what was released stays so"


async def test_more_devices_than_any_host_has_are_refused_for_good_and_leave_nothing(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(0)) as lab:
        await lab.add_host(name="gpus", connection=WITH_GPUS)
        for asked in (nodes(3), nodes(1, 64), [nodes(1)[0] | {"gpus": [{"model": "h200", "count": 1}]}]):
            assert await refused(lab.up(model_services=asked)) == "UNSATISFIABLE"
        assert await told(lab) == [("available", "")] * 2
        assert lab.driver("gpus").host.machines == {}
