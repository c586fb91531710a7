"""Devices by real VFIO: guests compute on the very ones that the service says they have, and nobody shares one."""

from __future__ import annotations

import math
import re
import secrets
import time
import urllib.request
from pathlib import Path

import grpc
import pytest
from corral.v1 import fleet_pb2, group_pb2, placement_pb2

from tests.devices.machine import Machine
from tests.devices.service import (
    CARD,
    EDU,
    ENTRY,
    MEMORY,
    SOUND,
    ZONE,
    Guest,
    configuration,
    devices_of,
    failure_of,
    host_of,
    member,
    running,
    said_by,
    started,
    states_of,
    sweep,
    wait_until,
)
from tests.support.process import CorralProcess

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_each_guest_computes_on_the_very_device_that_its_member_is_said_to_have(
    machine: Machine, probe: Path, tmp_path: Path
) -> None:
    placed = {one.address: one for one in machine.placed().values()}
    with started(tmp_path, configuration(machine, probe, EDU.format(clean="reset"))) as corral:
        group = corral.follow(corral.deploy("two", [member(), member()]))
        members = running(group)
        addresses = [address for one in members for address in one.devices]
        assert len(set(addresses)) == len(addresses) == 2
        locked = 0
        for instance in members:
            number = 5 + secrets.randbelow(7)  # chosen now; twelve is the most that 32 bits hold
            with Guest(machine, instance) as guest:
                assert guest.factorial(number) == [math.factorial(number)]
            # Its memory is held for its device, and all that is held so is what the host may give out.
            (held,) = map(int, re.findall(r"VmLck:\s+(\d+) kB", machine.status(instance.vm_instance_uuid)))
            locked += held << 10
            # The device itself, asked from outside: what was computed stands in its register.
            (address,) = instance.devices
            assert machine.word(placed[address].registers + 8) == math.factorial(number)
        (memory,) = [one for one in host_of(corral).capacities if one.resource == "memory"]
        assert 2 * MEMORY <= locked <= memory.allocatable, locked
        assert {d.state for d in devices_of(corral).values()} == {"claimed"}
        with pytest.raises(grpc.RpcError) as refused:
            list(corral.deploy("third", [member()]))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, refused.value.details()
        assert "edu" in str(refused.value.details())
        corral.delete(group.uuid)
        wait_until("both are given back", lambda: all(d.state == "available" for d in devices_of(corral).values()))
        third = corral.follow(corral.deploy("third", [member()]))
        (instance,) = running(third)
        assert instance.devices[0] in addresses


def test_what_a_device_without_a_reset_holds_the_next_member_does_not_get_to_read(
    machine: Machine, probe: Path, tmp_path: Path
) -> None:
    """The "edu" keeps what was copied into it, whatever resets it."""
    with started(tmp_path, configuration(machine, probe, EDU.format(clean="none"))) as corral:
        group = corral.follow(corral.deploy("first", [member()]))
        (first,) = running(group)
        with Guest(machine, first) as guest:
            guest.say("w 65")
            assert guest.say("r") == ["holds 414141"]
        corral.delete(group.uuid)
        (key,) = first.devices
        wait_until("it is out of service", lambda: devices_of(corral)[key].state == "quarantined")
        again = corral.follow(corral.deploy("second", [member()]))
        (second,) = running(again)
        assert second.devices[0] != key
        with pytest.raises(grpc.RpcError) as refused:
            list(corral.deploy("third", [member()]))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, refused.value.details()
        corral.delete(again.uuid)
        corral.fleet.ReleaseDevice(fleet_pb2.ReleaseDeviceRequest(host_uuid=host_of(corral).uuid, key=key), timeout=60)
        wait_until("it is in service", lambda: devices_of(corral)[key].state == "available")


def test_an_accelerator_is_given_with_its_fellow_or_not_at_all(machine: Machine, probe: Path, tmp_path: Path) -> None:
    placed = machine.placed()
    card, sound = placed["gpu0"].address, placed["sound0"].address
    alone, both = tmp_path / "alone", tmp_path / "both"
    alone.mkdir()
    both.mkdir()
    with started(alone, configuration(machine, probe, CARD)) as corral:
        told = devices_of(corral)[card]
        assert (told.state, sound in told.reason) == ("blocked", True)
        with pytest.raises(grpc.RpcError) as refused:
            list(corral.deploy("card", [member("card")]))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, refused.value.details()
    sweep(machine)
    with started(both, configuration(machine, probe, CARD + SOUND)) as corral:
        group = corral.follow(corral.deploy("card", [member("card")]))
        (instance,) = running(group)
        text = said_by(machine, instance)
        assert ("1234:1111" in text, "8086:293e" in text) == (True, True), text
        corral.delete(group.uuid)
        wait_until("it is given back", lambda: devices_of(corral)[card].state == "available")


def test_a_device_that_is_pulled_from_under_a_member_is_gone_and_its_member_fails(
    machine: Machine, probe: Path, tmp_path: Path
) -> None:
    with started(tmp_path, configuration(machine, probe, EDU.format(clean="reset"))) as corral:
        group = corral.follow(corral.deploy("one", [member()]))
        (instance,) = running(group)
        (key,) = instance.devices
        machine.run(f"(echo 1 > /sys/bus/pci/devices/{key}/remove) > /dev/null 2>&1 &")
        pulled = time.monotonic()
        try:
            # Once its member has let it go, what is gone is forgotten.
            wait_until("it is gone", lambda: states_of(corral).get(key, "gone") == "gone")
            print(f"\na device that was pulled was gone for the service after {time.monotonic() - pulled:.1f} s")
            failed = wait_until("its member fails", lambda: failure_of(corral, group.uuid))
            assert "device" in failed
            assert "edu" in _refused(corral, [member(), member()]), "one is left"
            corral.delete(group.uuid)
            wait_until("it is forgotten", lambda: key not in devices_of(corral))
        finally:
            sweep(machine)
            machine.run("sleep 3; echo 1 > /sys/bus/pci/rescan")
        wait_until("it is there again", lambda: states_of(corral).get(key) == "available")


def test_a_device_that_somebody_takes_by_hand_is_nobodys_to_plan(machine: Machine, probe: Path, tmp_path: Path) -> None:
    with started(tmp_path, configuration(machine, probe, EDU.format(clean="reset"))) as corral:
        first, second = sorted(devices_of(corral))
        machine.take(first)
        wait_until("it is somebody else's", lambda: devices_of(corral)[first].state == "foreign")
        with pytest.raises(grpc.RpcError) as refused:
            list(corral.deploy("two", [member(), member()]))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, refused.value.details()
        group = corral.follow(corral.deploy("one", [member()]))
        assert running(group)[0].devices == [second]
        corral.delete(group.uuid)


def test_a_device_that_is_taken_from_a_member_by_hand_is_told_and_its_member_does_not_run(
    machine: Machine, probe: Path, tmp_path: Path
) -> None:
    with started(tmp_path, configuration(machine, probe, EDU.format(clean="reset"))) as corral:
        group = corral.follow(corral.deploy("one", [member()]))
        (instance,) = running(group)
        (key,) = instance.devices
        machine.end(instance.vm_instance_uuid)
        machine.take(key)
        told = wait_until("it is somebody else's", lambda: _foreign(corral, key))
        assert told.instance_uuid in ("", instance.uuid)
        assert "not ours" in told.reason
        assert wait_until("its member does not run", lambda: failure_of(corral, group.uuid))
        metrics = urllib.request.urlopen(f"{corral.http}/metrics", timeout=60).read().decode()
        assert re.search(r'^corral_host_devices{[^}]*state="foreign"[^}]*} 1', metrics, re.MULTILINE), "counted"
        corral.delete(group.uuid)
        sweep(machine)
        wait_until("it is free", lambda: devices_of(corral)[key].state == "available")


def _refused(corral: CorralProcess, nodes: list[group_pb2.NodeSpec]) -> str:
    """Why they cannot be placed, now or ever."""
    with pytest.raises(grpc.RpcError) as refused:
        list(corral.deploy("refused", nodes))
    assert refused.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.FAILED_PRECONDITION)
    return str(refused.value.details())


def _foreign(corral: CorralProcess, key: str) -> fleet_pb2.HostDevice | None:
    device = devices_of(corral)[key]
    return device if device.state == "foreign" else None


def test_two_devices_of_two_cells_are_refused_where_one_cell_is_required_and_given_where_it_is_preferred(
    machine: Machine, probe: Path, tmp_path: Path
) -> None:
    def asks(policy: placement_pb2.NumaPolicy.ValueType) -> group_pb2.NodeSpec:
        gpus = [group_pb2.GpuRequest(model="edu", count=2, numa_policy=policy)]
        return group_pb2.NodeSpec(uuid=ENTRY, zone_uuid=ZONE, cpu_num=1, memory_size=MEMORY, gpus=gpus)

    with started(tmp_path, configuration(machine, probe, EDU.format(clean="reset"))) as corral:
        assert "1 + 1" in _refused(corral, [asks(placement_pb2.NUMA_POLICY_REQUIRED)])
        group = corral.follow(corral.deploy("far", [asks(placement_pb2.NUMA_POLICY_PREFERRED)]))
        (instance,) = running(group)
        there = devices_of(corral)
        assert {there[key].numa_cell for key in instance.devices} == {0, 1}
        with Guest(machine, instance) as guest:
            assert guest.factorial(8) == [math.factorial(8)] * 2
        corral.delete(group.uuid)


def test_a_member_that_is_pinned_runs_on_its_cell_alone_with_its_memory(
    machine: Machine, probe: Path, tmp_path: Path
) -> None:
    with started(tmp_path, configuration(machine, probe, EDU.format(clean="reset"))) as corral:
        policy = group_pb2.PlacementPolicy(numa=placement_pb2.NUMA_POLICY_REQUIRED)
        group = corral.follow(corral.deploy("pinned", [member()], placement_policy=policy))
        (instance,) = running(group)
        (cell,) = instance.numa_cells
        processors = machine.run(f"cat /sys/devices/system/node/node{cell}/cpulist")
        status = machine.of_guest(instance.vm_instance_uuid, "status")
        assert set(re.findall(r"Cpus_allowed_list:\t(.*)", status)) == {processors}
        assert set(re.findall(r"Mems_allowed_list:\t(.*)", status)) == {str(cell)}
        (key,) = instance.devices
        assert machine.run(f"cat /sys/bus/pci/devices/{key}/numa_node") == str(cell)
        corral.delete(group.uuid)


def test_a_guest_over_two_cells_sees_each_device_on_a_bus_of_its_cell(
    machine: Machine, probe: Path, tmp_path: Path
) -> None:
    with started(tmp_path, configuration(machine, probe, EDU.format(clean="reset"))) as corral:
        spread = member(count=2, cpus=2)
        spread.numa_cells = 2
        group = corral.follow(corral.deploy("spread", [spread]))
        (instance,) = running(group)
        assert list(instance.numa_cells) == [0, 1]
        # Bus numbers from 64 are of the guest's first node, those from 160 of its second.
        buses = sorted(
            int(bus, 16) for bus in re.findall(r"pci ([0-9a-f]{2}):\S+ 1234:11e8", said_by(machine, instance))
        )
        first, second = buses
        assert 64 < first < 160 < second, buses
        with Guest(machine, instance) as guest:
            assert guest.factorial(6) == [math.factorial(6)] * 2
        nodes = [machine.run(f"cat /sys/devices/system/node/node{cell}/cpulist") for cell in (0, 1)]
        allowed = re.findall(r"Cpus_allowed_list:\t(.*)", machine.of_guest(instance.vm_instance_uuid, "status"))
        assert set(nodes) <= set(allowed), "a processor of each cell runs there"
        bound = re.findall(r"bind:(\d)", machine.of_guest(instance.vm_instance_uuid, "numa_maps"))
        assert {"0", "1"} <= set(bound), "memory of each"
        corral.delete(group.uuid)


def test_memory_of_huge_pages_and_processors_of_its_own_are_what_a_machine_really_has(
    machine: Machine, probe: Path, tmp_path: Path
) -> None:
    # 64 pages of each node are set aside.
    options = 'huge_pages = "2MiB", dedicated_cpus = "true", emulator_cpus = "0"'
    text = configuration(machine, probe, "", options=options)
    with started(tmp_path, text, devices=False) as corral:
        group = corral.follow(corral.deploy("two", [member(count=0, cpus=1) for _ in range(2)]))
        had: list[str] = []
        for instance in running(group):
            status = machine.of_guest(instance.vm_instance_uuid, "status")
            lists = set(re.findall(r"Cpus_allowed_list:\t(.*)", status))
            assert "0" in lists, "QEMU's own threads"
            (own,) = lists - {"0"}
            had.append(own)
        assert len(set(had)) == 2, had
        free = machine.run("cat /sys/devices/system/node/node*/hugepages/hugepages-2048kB/free_hugepages").split()
        assert sum(map(int, free)) == 2 * 64 - 2 * MEMORY // (2 << 20)
        with pytest.raises(grpc.RpcError) as refused:
            list(corral.deploy("more", [member(count=0) for _ in range(3)]))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, refused.value.details()
        corral.delete(group.uuid)
        free = machine.run("cat /sys/devices/system/node/node*/hugepages/hugepages-2048kB/free_hugepages").split()
        assert sum(map(int, free)) == 2 * 64


def test_a_host_that_gives_its_memory_out_twice_gives_no_devices(machine: Machine, probe: Path, tmp_path: Path) -> None:
    more = "[hosts.overcommit]\nmemory = 2.0"
    with started(tmp_path, configuration(machine, probe, EDU.format(clean="reset"), more)) as corral:
        with pytest.raises(grpc.RpcError) as refused:
            list(corral.deploy("one", [member()]))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, refused.value.details()
        group = corral.follow(corral.deploy("none", [member(count=0)]))
        running(group)
        corral.delete(group.uuid)


def test_virtual_functions_are_given_as_devices_are_and_their_parent_is_not(
    machine: Machine, probe: Path, tmp_path: Path
) -> None:
    parent = machine.placed()["nvme0"].address
    machine.run(f"echo 2 > /sys/bus/pci/devices/{parent}/sriov_numvfs")
    try:
        rule = '[[devices]]\nmodel = "nvme"\nvendor = "1b36"\nproduct = "0010"\n'
        with started(tmp_path, configuration(machine, probe, rule)) as corral:
            told = devices_of(corral)
            assert told[parent].state == "blocked"
            assert "virtual functions" in told[parent].reason
            functions = {key: one for key, one in told.items() if key != parent}
            assert [one.state for one in functions.values()] == ["available"] * 2
            group = corral.follow(corral.deploy("disk", [member("nvme")]))
            (instance,) = running(group)
            assert instance.devices[0] in functions
            assert "1b36:0010" in said_by(machine, instance)
            corral.delete(group.uuid)
            wait_until("it is given back", lambda: devices_of(corral)[instance.devices[0]].state == "available")
    finally:
        sweep(machine)
        machine.run(f"echo 0 > /sys/bus/pci/devices/{parent}/sriov_numvfs")
