"""Devices of hosts on the whole service: given by key, told, taken out of service, and never another's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, fleet_pb2
from prometheus_client import generate_latest
from sqlalchemy import delete

from service.drivers.base import HostRejected, MachineIdentity, MachineState
from service.drivers.simulated.host import SimulatedMachine
from service.reconcile import failing_devices, monitor, sweep
from service.store import devices as store_devices
from service.store import events, groups, schema
from tests.service.rpc.lab import reason_of, soon
from tests.service.rpc.test_quarantine import command
from tests.support.whole import ENTRY, GIB, ZONE, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

HOST = """
[[hosts]]
name = "gpus"
zone = "zone-1"
driver = "simulated"
transport = "none"
options = { cpu = 8, memory = "64GiB", boot_ms = 1, call_ms = 0, "gpu.h100" = "3" }
"""
KEYS = ["0000:01:00.0", "0000:02:00.0", "0000:03:00.0"]


def nodes(*counts: int) -> list[dict[str, Any]]:
    """Members that take so many devices."""
    return [
        {
            "uuid": ENTRY, "zone_uuid": ZONE, "cpu_num": 1, "memory_size": GIB,
            "gpus": [{"model": "h100", "count": count}],
        }
        for count in counts
    ]  # fmt: skip


async def devices(lab: Whole) -> Mapping[str, fleet_pb2.HostDevice]:
    return {one.key: one for one in (await lab.host("gpus")).devices}


async def refused(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return reason_of(error.value)


async def test_members_have_devices_of_their_own_and_one_out_of_service_is_nobodys(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1, extra=HOST)) as lab:
        group = await lab.up(model_services=nodes(1, 1))
        assert sorted(key for m in group.instances for key in m.devices) == KEYS[:2]
        told = await devices(lab)
        assert [told[key].state for key in KEYS] == ["claimed", "claimed", "available"]
        assert {told[m.devices[0]].instance_uuid for m in group.instances} == {m.uuid for m in group.instances}
        held = [tuple(m.devices) for m in lab.driver("gpus").host.machines.values()]
        assert sorted(held) == [(key,) for key in KEYS[:2]]
        code, shown = await command(lab, "hosts", "--devices")
        assert code == 0
        assert all(word in shown for word in (*KEYS, "h100", "claimed", "available"))

        code, shown = await command(lab, "hosts", "quarantine-device", "gpus", KEYS[2], "--reason", "Xid 79")
        assert (code, KEYS[2] in shown) == (0, True)
        (of,) = [one for one in (await lab.host("gpus")).capacities if one.resource == "gpu.h100"]
        assert (of.total, of.claimed, of.foreign, of.available) == (3, 2, 1, 0)
        assert (await devices(lab))[KEYS[2]].reason == "Xid 79"
        code, shown = await command(lab, "devices", "--filter", "host:gpus state:quarantined")
        assert (code, [key in shown for key in KEYS]) == (0, [False, False, True])
        assert shown.splitlines()[-1] == "1 quarantined"
        code, shown = await command(lab, "devices", "--filter", f"-state:quarantined of:{group.name}/", "-o", "name")
        assert (code, shown.splitlines()) == (0, [f"gpus {key}" for key in KEYS[:2]])
        code, shown = await command(lab, "devices", "--filter", KEYS[2], "-o", "json")
        (host,) = map(json.loads, shown.splitlines())
        assert (code, host["name"], [one["key"] for one in host["devices"]]) == (0, "gpus", KEYS[2:])
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await lab.up(model_services=nodes(1))
        assert reason_of(error.value) == "NO_CAPACITY"
        uuid = lab.uuid_of("gpus")
        checked = fleet_pb2.ReleaseDeviceRequest(host_uuid=uuid, key=KEYS[2], validate_only=True)
        assert (await lab.fleet.ReleaseDevice(checked)).inventory.state == "available"
        assert (await devices(lab))[KEYS[2]].state == "quarantined"
        code, shown = await command(lab, "hosts", "release-device", "gpus", KEYS[2])
        assert (code, "available" in shown) == (0, True)
        assert [list(m.devices) for m in (await lab.up(model_services=nodes(1))).instances] == [[KEYS[2]]]

        request = deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid)
        _ = [answer async for answer in lab.deploy.DeleteInstanceGroup(request)]
        assert [(await devices(lab))[key].state for key in KEYS] == ["available", "available", "claimed"]

        again = fleet_pb2.ReleaseDeviceRequest(host_uuid=uuid, key=KEYS[2])
        assert await refused(lab.fleet.ReleaseDevice(again)) == "WRONG_STATE"
        nothing = fleet_pb2.QuarantineDeviceRequest(host_uuid=uuid, key="0000:ff:00.0", reason="x")
        assert await refused(lab.fleet.QuarantineDevice(nothing)) == "NOT_FOUND"
        assert await refused(lab.fleet.QuarantineDevice(replaced(nothing, reason=""))) == "INVALID_ARGUMENT"
        assert await refused(lab.fleet.ReleaseDevice(replaced(again, host_uuid="f" * 32))) == "NOT_FOUND"


async def test_a_device_is_out_of_service_by_its_guests_word_and_the_host_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "EVERY_SECONDS", 0.05)
    async with whole(tmp_path, config_text(1, extra=HOST)) as lab:
        group = await lab.up(model_services=nodes(2))
        (machine,) = lab.driver("gpus").host.machines.values()
        machine.ailing = {KEYS[0]: "Xid 79", KEYS[1]: "Xid 48", KEYS[2]: "Xid 79"}
        await soon(lambda: _is(lab, KEYS[0], "quarantined"))
        told = await devices(lab)
        assert [told[key].reason for key in KEYS[:2]] == ["its guest reports Xid 79", "its guest reports Xid 48"]
        assert told[KEYS[2]].state == "available", "it is none of that member's"
        await lab.service.gauges.refresh()
        metrics = generate_latest(lab.service.metrics.registry).decode()
        for name in ("corral_host_devices_reported", "corral_device_reports_total"):
            for kind in ("xid", "ecc"):
                assert f'{name}{{host="gpus",kind="{kind}",zone="zone-1"}} 1.0' in metrics
        host = await lab.host("gpus")
        assert (host.status, host.state) == ("Connected", "Enabled")
        request = deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid)
        _ = [answer async for answer in lab.deploy.DeleteInstanceGroup(request)]
        assert await _amounts(lab) == (3, 0, 2, 1)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await lab.up(model_services=nodes(3))
        assert reason_of(error.value) == "NO_CAPACITY"


async def test_a_guest_that_reports_all_devices_at_each_look_costs_its_own_and_one_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heeded: list[Any] = []
    written: list[Any] = []
    heed, reported = failing_devices.heed, store_devices.reported

    async def count(*asked: Any) -> None:
        await heed(*asked)
        heeded.append(asked)

    def write(*asked: Any) -> Mapping[str, str]:
        written.append(asked)
        return reported(*asked)

    monkeypatch.setattr(sweep, "EVERY_SECONDS", 0.02)
    monkeypatch.setattr(failing_devices, "heed", count)
    monkeypatch.setattr(store_devices, "reported", write)
    async with whole(tmp_path, config_text(1, extra=HOST)) as lab:
        await lab.up(model_services=nodes(2))
        (machine,) = lab.driver("gpus").host.machines.values()
        machine.ailing = dict.fromkeys([*KEYS, "0000:ff:00.0"], "Xid 79")
        await soon(lambda: _is(lab, KEYS[0], "quarantined"))

        async def often() -> bool:
            return len(heeded) >= 20

        await soon(often)
        states = [one.state for one in (await devices(lab)).values()]
        assert sorted(states) == ["available", "quarantined", "quarantined"]
        assert 0 < len(written) < 5, "a transaction may have to be run again"
        # What an operator takes back while the guest still says so is out of service again.
        host = await lab.host("gpus")
        await lab.fleet.ReleaseDevice(fleet_pb2.ReleaseDeviceRequest(host_uuid=host.uuid, key=KEYS[0]))
        await soon(lambda: _is(lab, KEYS[0], "quarantined"))


async def test_what_a_machine_in_quarantine_has_is_nobodys_in_capacity_list_and_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "EVERY_SECONDS", 0.05)
    async with whole(tmp_path, config_text(1, extra=HOST)) as lab:
        stray = MachineIdentity(lab.service.custody.installation.cluster, "a" * 32, "b" * 32, 1)
        holds = {"vcpu": 1, "memory": GIB, "gpu.h100": 1}
        machine = SimulatedMachine(stray, MachineState.RUNNING, resources=holds, devices=(KEYS[0],))
        lab.driver("gpus").host.machines[stray.machine_uuid] = machine
        await soon(lambda: _is(lab, KEYS[0], "quarantined"))
        assert stray.machine_name in (await devices(lab))[KEYS[0]].reason
        assert await _amounts(lab) == (3, 0, 1, 2)
        group = await lab.up(model_services=nodes(2))
        assert [sorted(m.devices) for m in group.instances] == [KEYS[1:]]
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await lab.up(model_services=nodes(1))
        assert reason_of(error.value) == "NO_CAPACITY"
        release = fleet_pb2.ReleaseDeviceRequest(host_uuid=lab.uuid_of("gpus"), key=KEYS[0])
        assert await refused(lab.fleet.ReleaseDevice(release)) == "WRONG_STATE"
        del lab.driver("gpus").host.machines[stray.machine_uuid]
        await soon(lambda: _is(lab, KEYS[0], "available"))
        assert await _amounts(lab) == (3, 2, 0, 1)


async def _is(lab: Whole, key: str, state: str) -> bool:
    return (await devices(lab))[key].state == state


async def _amounts(lab: Whole) -> tuple[float, float, float, float]:
    (of,) = [one for one in (await lab.host("gpus")).capacities if one.resource == "gpu.h100"]
    return of.total, of.claimed, of.foreign, of.available


async def test_a_member_whose_machine_loses_its_device_does_not_go_on(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1, extra=HOST)) as lab:
        group = await lab.up(model_services=nodes(2))
        host = lab.driver("gpus").host
        (machine,) = host.machines.values()
        machine.devices = machine.devices[:1]
        lab.driver("gpus")._hint(machine.identity)

        async def told() -> bool:
            """In an event: what it is at some moment, it may be no more at the next."""
            store = lab.service.store
            return "has lost 1 of 2 device functions" in str(
                await store.read(lambda c: events.after(c, 0, 1000, group_uuid=group.uuid))
            )

        await soon(told)


async def test_a_device_in_anothers_place_is_offered_once_that_one_was_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its host shows what it has shown all the while: nothing new says that it is there."""
    monkeypatch.setattr(monitor, "COMPARE_SECONDS", 0.0)
    async with whole(tmp_path, config_text(1, extra=HOST)) as lab:
        host = lab.uuid_of("gpus")
        let_go = delete(schema.devices).where(schema.devices.c.host_uuid == host, schema.devices.c.key == KEYS[0])
        await lab.service.store.write(lambda c: c.execute(let_go))

        async def offered() -> bool:
            lab.service.reconciler.monitors[host].suspect()
            return KEYS[0] in await devices(lab)

        await soon(offered)


async def test_a_machine_with_what_is_not_its_own_is_never_let_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever changes a machine between its creation and its start: the group fails, and no guest has run."""
    async with whole(tmp_path, config_text(1, extra=HOST)) as lab:
        driver = lab.driver("gpus")
        create, ran = driver.create_paused, list[Any]()

        async def tampered(spec: Any, **budget: Any) -> Any:
            made = await create(spec, **budget)
            machine = driver.host.machines[made.machine_uuid]
            machine.devices = (*machine.devices, KEYS[2])
            return made  # as it was asked for: the change comes right after

        async def resume(identity: Any, **_: Any) -> Any:
            ran.append(identity)
            return replace(driver.host.seen(driver.host.machines[identity.machine_uuid]), state=MachineState.RUNNING)

        monkeypatch.setattr(driver, "create_paused", tampered)
        monkeypatch.setattr(driver, "resume", resume)
        with pytest.raises(grpc.aio.AioRpcError):
            await lab.up(model_services=nodes(1))
        assert not ran


async def test_a_device_that_cannot_be_reset_is_out_of_service_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path, config_text(1, extra=HOST)) as lab:

        async def dirty(*_: Any, **__: Any) -> Any:
            raise HostRejected("device_reset", "the host cannot clean a device of the machine")

        monkeypatch.setattr(lab.driver("gpus"), "create_paused", dirty)
        with pytest.raises(grpc.aio.AioRpcError):
            await lab.up(model_services=nodes(2))
        told = await devices(lab)
        assert [told[key].state for key in KEYS] == ["quarantined", "quarantined", "available"]
        assert "could not reset it" in told[KEYS[0]].reason


async def test_who_has_lost_the_lease_of_a_group_takes_none_of_its_devices_out_of_service(tmp_path: Path) -> None:
    """His call that failed is of before: an operator may have cleaned the device since, and released it."""
    async with whole(tmp_path, config_text(1, extra=HOST)) as lab:
        uuid = (await lab.up(model_services=nodes(1))).uuid
        store = lab.service.store
        group = await store.read(lambda c: groups.load(c, uuid))
        (member,) = group.instances
        (device,) = member.devices
        dirty = HostRejected("device_reset", "the host cannot clean a device of the machine")
        await failing_devices.take_out(store, replace(group, epoch=group.epoch - 1), member, dirty)
        assert (await devices(lab))[device.key].state == "claimed"
        await failing_devices.take_out(store, group, member, dirty)
        assert (await devices(lab))[device.key].state == "quarantined"


def replaced(request: Any, **fields: Any) -> Any:
    made = type(request)()
    made.CopyFrom(request)
    for name, value in fields.items():
        setattr(made, name, value)
    return made
