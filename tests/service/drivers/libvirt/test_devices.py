"""PCI functions of a host: as libvirt tells them, given to a machine for itself alone, and refused in exact words."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import libvirt
import pytest

from service.domain.devices import DeviceRule, DeviceState, HeldDevice, HeldFunction, RuleKind, units
from service.drivers.base import HostRejected, MachineSpec, MachineState
from service.drivers.libvirt import inventory
from service.drivers.libvirt.inventory import Inventory
from service.drivers.libvirt.machines import _ailing
from service.drivers.libvirt.nodedev import NodeDevices, function_of, really_had
from service.drivers.libvirt.tags import read_domain
from service.drivers.reports import GuestReport
from tests.service.drivers.libvirt.fake import FakeHost
from tests.service.drivers.libvirt.fake_devices import Function
from tests.service.drivers.libvirt.machines import BUDGET, driver_of, identity, specification

GPU, SOUND, OTHER, ROOT = "0000:65:00.0", "0000:65:00.1", "0000:66:00.0", "0000:64:00.0"


def machine_room() -> FakeHost:
    """Two accelerators, the first with its sound in one group, behind a port that is in it too."""
    host = FakeHost()
    for function in (
        Function(ROOT, "8086:2030", "060400", cell=None, home="pcieport", driver="pcieport"),
        Function(GPU),
        Function(SOUND, "10de:22bc", "040300", home="", driver=""),
        Function(OTHER, group=12, cell=1),
    ):
        host.functions[function.address] = function
    return host


def device(*addresses: str, ids: str = "10de:2330") -> HeldDevice:
    functions = tuple(HeldFunction(a, "10de:22bc" if a == SOUND else ids) for a in addresses)
    return HeldDevice(addresses[0], "h100", functions, 0)


pytestmark = pytest.mark.asyncio
WITH_GPU = specification(1, devices=(device(GPU, SOUND),))


async def test_functions_are_told_with_class_ids_group_cell_and_driver() -> None:
    host = machine_room()
    host.functions["0000:66:00.4"] = Function("0000:66:00.4", group=13, physical=OTHER)
    host.add_foreign("theirs", vcpus=1, memory_kib=1024, running=True, tuning=hostdev(OTHER))
    facts = await driver_of(host).probe(budget_seconds=BUDGET)
    assert facts.functions is not None
    told = {f.address: f for f in facts.functions}
    assert set(told) == set(host.functions)
    gpu = told[GPU]
    assert (gpu.vendor, gpu.product, gpu.device_class) == ("10de", "2330", "030200")
    assert (gpu.group, gpu.cell, gpu.driver, gpu.foreign) == (11, 0, "nvidia", False)
    assert (told[ROOT].cell, told[OTHER].foreign, told["0000:66:00.4"].virtual_of) == (None, True, OTHER)


async def test_what_a_machine_has_is_read_at_each_look_and_the_rest_seldom() -> None:
    host = machine_room()
    driver = driver_of(host)
    await driver.create_paused(WITH_GPU, budget_seconds=BUDGET)
    await driver.probe(budget_seconds=BUDGET)
    host.calls.clear()
    host.functions[GPU].cell = 1
    facts = await driver.probe(budget_seconds=BUDGET)
    assert {f.address: f.cell for f in facts.functions or ()}[GPU] == 1
    assert host.calls.count("deviceXML") == 2


async def test_what_is_pulled_from_under_a_machine_its_host_shows_no_more_though_libvirt_lists_it() -> None:
    """Its driver tells, which while a machine starts, and once it has ended, is not VFIO's either."""
    host = machine_room()
    driver = driver_of(host)

    async def shown() -> bool:
        return GPU in {f.address for f in (await driver.probe(budget_seconds=BUDGET)).functions or ()}

    machine = host.domains[(await driver.create_paused(WITH_GPU, budget_seconds=BUDGET)).machine_uuid]
    assert await shown()
    host.functions[GPU].driver = ""
    machine.state = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP)
    assert await shown()
    machine.state = (libvirt.VIR_DOMAIN_RUNNING, 1)
    assert not await shown()
    machine.state = (libvirt.VIR_DOMAIN_SHUTOFF, 0)
    assert await shown()


async def test_a_machine_that_ends_while_its_functions_are_read_has_lost_none() -> None:
    host = machine_room()
    made = await driver_of(host).create_paused(WITH_GPU, budget_seconds=BUDGET)
    connection, devices = host.open(""), NodeDevices()
    (seen,) = Inventory("c").read_all(connection)
    host.functions[GPU].driver = "nvidia"
    host.domains[made.machine_uuid].state = (libvirt.VIR_DOMAIN_SHUTOFF, 0)
    assert GPU in {f.address for f in devices.read(connection, [seen], ()) or ()}
    del host.domains[made.machine_uuid]
    assert GPU in {f.address for f in devices.read(connection, [seen], ()) or ()}


async def test_a_function_that_comes_or_goes_has_its_host_looked_at_at_once() -> None:
    host = machine_room()
    driver = driver_of(host)
    hints: list[tuple[str, object]] = []
    heard = asyncio.Event()

    def hint(host_id: str, machine: object) -> None:
        hints.append((host_id, machine))
        heard.set()

    driver.subscribe(hint)
    await driver.probe(budget_seconds=BUDGET)
    hints.clear()
    heard.clear()
    (control,) = host.connections
    host.functions[GPU].ids = "10de:20b0"
    await asyncio.to_thread(control.tell_of, "net_vnet0_52_54_00_00_00_01")
    await asyncio.to_thread(control.tell_of, host.functions[GPU].name)
    await heard.wait()
    assert hints == [(driver.host_id, None)], "network devices come and go with machines"
    facts = await driver.probe(budget_seconds=BUDGET)
    assert {f.address: f.product for f in facts.functions or ()}[GPU] == "20b0"


async def test_a_libvirt_that_tells_of_no_devices_is_heard_of_its_machines_all_the_same() -> None:
    host = machine_room()
    host.plant("listenDevices", lambda: planted(libvirt.VIR_ERR_NO_SUPPORT))
    driver = driver_of(host)
    assert (await driver.probe(budget_seconds=BUDGET)).functions
    await driver.close()


async def test_what_is_no_pci_function_is_none() -> None:
    assert function_of("<device><name>net_eth0</name><capability type='net'/></device>") is None


async def test_libvirt_itself_tells_functions_as_the_host_in_memory_does(tmp_path: Path) -> None:
    """By its test driver, which reads a host from a file, and binds no drivers."""
    host = machine_room()
    node = tmp_path / "node.xml"
    described = "".join(f.xml().replace("<driver", "<parent>computer</parent><driver") for f in host.functions.values())
    node.write_text(f"<node>{described}</node>")
    connection = libvirt.open(f"test://{node}")
    try:
        told = NodeDevices().read(connection, [], [OTHER])
        mine = (await driver_of(host).probe(budget_seconds=BUDGET)).functions
        assert told == tuple(replace(f, driver="", foreign=f.address == OTHER) for f in mine or ())
        assert really_had(connection, [GPU, "0000:99:00.0"]) == ()
    finally:
        connection.close()


async def test_a_libvirt_that_tells_no_devices_leaves_what_is_known() -> None:
    host = machine_room()
    host.plant("devices", lambda: planted(libvirt.VIR_ERR_NO_SUPPORT))
    assert (await driver_of(host).probe(budget_seconds=BUDGET)).functions is None


async def test_a_machine_gets_all_functions_of_its_devices_and_is_seen_with_them() -> None:
    host = machine_room()
    driver = driver_of(host)
    made = await driver.create_paused(WITH_GPU, budget_seconds=BUDGET)
    assert (made.state, made.devices) == (MachineState.PAUSED, (GPU, SOUND))
    xml = ElementTree.fromstring(host.domains[made.machine_uuid].xml)
    given = xml.findall("devices/hostdev")
    assert [dict(one.attrib) for one in given] == [{"mode": "subsystem", "type": "pci", "managed": "yes"}] * 2
    address = given[0].find("source/address")
    assert address is not None
    assert address.attrib == {"domain": "0x0000", "bus": "0x65", "slot": "0x00", "function": "0x0"}
    machine = xml.find("os/type")
    assert machine is not None
    assert machine.get("machine") == "q35"
    assert {host.functions[a].driver for a in (GPU, SOUND)} == {"vfio-pci"}
    await driver.remove(identity(1), budget_seconds=BUDGET)
    assert [host.functions[a].driver for a in (GPU, SOUND)] == ["nvidia", ""]
    await driver.create_paused(specification(2), budget_seconds=BUDGET)
    (plain,) = (await driver.list_machines(budget_seconds=BUDGET)).machines
    assert plain.devices == ()


async def test_a_function_that_is_pulled_from_under_a_machine_is_seen_to_be_missing() -> None:
    host = machine_room()
    driver = driver_of(host)
    await driver.create_paused(WITH_GPU, budget_seconds=BUDGET)
    await driver.resume(identity(1), budget_seconds=BUDGET)
    del host.functions[SOUND]
    host.functions[GPU].driver = ""  # the domain's XML keeps both, and it is said to run
    (machine,) = (await driver.list_machines(budget_seconds=BUDGET)).machines
    assert (machine.state, machine.devices) == (MachineState.RUNNING, ())


async def test_what_a_guest_says_of_its_devices_is_about_those_of_the_host() -> None:
    """It knows them by other addresses than the host: those of its own buses."""
    seats = {GPU: "0000:06:00.0", SOUND: "0000:07:00.0"}
    assert _seats_of(seats) == {seat: address for address, seat in seats.items()}
    said = GuestReport("ready", "", 1, "", 0.0, ailing=(("0000:06:00.0", "Xid 79"), ("0000:01:00.0", "Xid 48")))
    assert _ailing(said, _running(seats)) == {GPU: "Xid 79"}, "what it has not is no device of the host"
    alone = _running({GPU: "0000:09:00.0"})
    assert _ailing(said, alone) == {GPU: "Xid 48"}, "of one that has one device, whatever number its bus has"


def _running(seats: Mapping[str, str]) -> Any:
    given = "".join(
        f"<hostdev type='pci'><source>{_address(host)}</source>{_address(seat)}</hostdev>"
        for host, seat in seats.items()
    )
    record = read_domain(f"<domain><name>m</name><devices>{given}</devices></domain>")
    return SimpleNamespace(record=record)


def _seats_of(seats: Mapping[str, str]) -> Mapping[str, str]:
    found: Mapping[str, str] = _running(seats).record.seats
    return found


def _address(text: str) -> str:
    domain, bus, slot, function = text.replace(".", ":").split(":")
    return f"<address type='pci' domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'/>"


async def test_libvirts_refusals_are_told_apart_and_leave_nothing() -> None:
    """Of a device that is in use libvirt says what it says of a machine that is active already (code 55)."""

    async def refusal(host: FakeHost) -> str:
        with pytest.raises(HostRejected) as refused:
            await driver_of(host).create_paused(WITH_GPU, budget_seconds=BUDGET)
        assert WITH_GPU.identity.machine_uuid not in host.domains
        return refused.value.code

    busy = machine_room()
    busy.add_foreign("theirs", vcpus=1, memory_kib=1024, running=True, tuning=hostdev(SOUND))
    assert await refusal(busy) == "device_busy"
    gone = machine_room()
    del gone.functions[GPU]
    assert await refusal(gone) == "device_gone"
    late = machine_room()  # between the look and the start
    late.plant("deviceXML", lambda: planted(libvirt.VIR_ERR_NO_NODE_DEVICE))
    assert await refusal(late) == "device_gone"
    other = machine_room()
    other.functions[GPU].ids = "10de:20b0"
    assert await refusal(other) == "device_gone"
    kept = machine_room()
    kept.functions["0000:65:00.2"] = Function("0000:65:00.2", "10de:1ad8", "0c0330", home="xhci_hcd", driver="xhci_hcd")
    assert await refusal(kept) == "device_group"
    dirty = machine_room()
    dirty.functions[GPU].resets = False
    assert await refusal(dirty) == "device_reset"


async def test_a_machine_whose_memory_is_held_for_its_devices_may_start_for_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another process creates it: half a tebibyte takes minutes to be touched and held."""
    monkeypatch.setattr(inventory, "GHOST_SECONDS", 0.0)
    host = machine_room()
    driver = driver_of(host)
    large = replace(WITH_GPU, memory_bytes=1 << 39)
    for spec in (large, specification(2, memory_bytes=1 << 39)):
        await driver.create_paused(spec, budget_seconds=BUDGET)
        starting = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP)
        host.domains[spec.identity.machine_uuid].state = starting
    machines = (await driver.list_machines(budget_seconds=BUDGET)).machines
    assert {m.identity: m.state for m in machines} == {
        large.identity: MachineState.PAUSED, specification(2).identity: MachineState.GHOST,
    }  # fmt: skip
    monkeypatch.setattr(inventory, "LEAST_BYTES_A_SECOND", 1 << 60)
    machines = (await driver.list_machines(budget_seconds=BUDGET)).machines
    assert {m.state for m in machines} == {MachineState.GHOST}


async def test_a_start_that_another_control_plane_has_made_meanwhile_is_success() -> None:
    host = machine_room()
    driver = driver_of(host)
    await driver.create_paused(WITH_GPU, budget_seconds=BUDGET)
    assert (await driver.create_paused(WITH_GPU, budget_seconds=BUDGET)).devices == (GPU, SOUND)


def hostdev(address: str) -> str:
    """What a domain has that is given this function."""
    domain, bus, slot, function = address.replace(".", ":").split(":")
    parts = f"domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'"
    return f"<devices><hostdev mode='subsystem' type='pci'><source><address {parts}/></source></hostdev></devices>"


def planted(code: int) -> libvirt.libvirtError:
    made = libvirt.libvirtError("planted")
    made.err = (code, libvirt.VIR_FROM_NODEDEV, "planted", libvirt.VIR_ERR_ERROR, None, None, None, 0, 0)
    return made


async def test_virtual_functions_of_a_network_card_are_given_one_by_one_and_the_card_stays_its_hosts() -> None:
    host, card = FakeHost(), "0000:02:00.0"
    virtual = [f"0000:02:10.{number}" for number in (0, 2, 4)]
    host.functions[card] = Function(card, "8086:10c9", "020000", 12, 0, "igb", "igb")
    for number, at in enumerate(virtual):
        host.functions[at] = Function(at, "8086:10ca", "020000", 30 + number, 0, "igbvf", "igbvf", physical=card)
    driver = driver_of(host)
    told = (await driver.probe(budget_seconds=BUDGET)).functions
    rules = (
        DeviceRule(RuleKind.GPU, "nic-vf", "8086", "10ca"),
        DeviceRule(RuleKind.GPU, "nic", "8086", "10c9"),
    )
    offered = {unit.key: unit for unit in units(rules, "host-1", told or ())}
    assert (offered[card].state, offered[card].reason) == (
        DeviceState.BLOCKED,
        "it has virtual functions, which would go with it",
    )
    assert [(offered[at].state, offered[at].virtual_of) for at in virtual] == [(DeviceState.AVAILABLE, card)] * 3

    def member(number: int, at: str) -> MachineSpec:
        held = HeldDevice(at, "nic-vf", offered[at].functions, offered[at].cell)
        return specification(number, devices=(held,))

    made = await driver.create_paused(member(1, virtual[0]), budget_seconds=BUDGET)
    assert made.devices == (virtual[0],)
    assert [host.functions[at].driver for at in (card, *virtual)] == ["igb", "vfio-pci", "igbvf", "igbvf"]
    with pytest.raises(HostRejected) as busy:
        await driver.create_paused(member(2, virtual[0]), budget_seconds=BUDGET)
    assert busy.value.code == "device_busy"
    await driver.create_paused(member(3, virtual[1]), budget_seconds=BUDGET)
    await driver.remove(identity(1), budget_seconds=BUDGET)
    assert [host.functions[at].driver for at in (card, *virtual)] == ["igb", "igbvf", "vfio-pci", "igbvf"]
