"""NUMA cells as libvirt tells them, and whose domains hold what of them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.devices import HeldDevice, HeldFunction
from service.drivers.base import HostRejected
from service.drivers.libvirt import guest_cells, numa
from service.drivers.libvirt.domain_xml import Boot, Platform, arriving_xml, machine_xml
from service.drivers.libvirt.tags import read_domain
from tests.service.drivers.libvirt.fake import FakeHost
from tests.service.drivers.libvirt.machines import BUDGET, driver_of, specification

TOPOLOGY = """<topology><cells num='3'>
  <cell id='8'><memory unit='KiB'>4194304</memory><pages unit='KiB' size='4'>524288</pages>
    <pages unit='KiB' size='1048576'>2</pages>
    <cpus num='3'><cpu id='5' siblings='5'/><cpu id='4' siblings='4'/><cpu id='6'/></cpus></cell>
  <cell id='0'><memory unit='KiB'>2097152</memory>
    <cpus num='4'><cpu id='0' siblings='0'/><cpu id='1' siblings='1'/><cpu id='2' siblings='2'/>
      <cpu id='9' siblings='9'/></cpus></cell>
  <cell id='9'><memory unit='KiB'>16777216</memory><cpus num='0'/></cell>
</cells></topology>"""
CAPABILITIES = f"<capabilities><host>{TOPOLOGY}</host></capabilities>"

DOMAIN = """<domain><name>other</name><uuid>c7a5fdbd-cdaf-9455-926a-d65c16db1809</uuid>
  <memory unit='KiB'>1048576</memory><vcpu>2</vcpu>{}<os><type>hvm</type></os></domain>"""


def test_cells_without_processors_are_none_and_processors_that_are_off_do_not_count() -> None:
    cells = numa.cells_of(CAPABILITIES)
    assert [(cell.number, cell.cpuset) for cell in cells] == [(0, "0-2,9"), (8, "4-5")]
    assert numa.amounts(cells) == {
        "cell.0.vcpu": 4, "cell.0.memory": 2 << 30, "cell.8.vcpu": 2, "cell.8.memory": 2 << 30,
    }  # fmt: skip
    assert numa.cells_of("<capabilities><host/></capabilities>") == ()


@given(st.sets(st.integers(0, 300), min_size=1))
def test_sets_of_numbers_are_read_as_they_are_written(members: set[int]) -> None:
    assert set(numa.numbers(numa.ranges(members))) == members


def test_numbers_are_taken_out_of_a_set() -> None:
    assert numa.numbers("0-4,^2, 8") == (0, 1, 3, 4, 8)


@pytest.mark.parametrize(
    ("tuning", "cells"),
    [
        ("<numatune><memory mode='strict' nodeset='1'/></numatune>", (1,)),
        ("<numatune><memory nodeset='0-1'/></numatune>", (0, 1)),
        ("<numatune><memory mode='preferred' nodeset='1'/></numatune>", ()),
        ("<numatune><memory mode='strict' placement='auto'/></numatune>", ()),
        ("", ()),
    ],
)
def test_a_domain_holds_of_the_cells_that_its_memory_must_be_of(tuning: str, cells: tuple[int, ...]) -> None:
    record = read_domain(DOMAIN.format(tuning))
    assert record.cells == cells
    assert record.held["memory"] == 1 << 30
    assert {name for name in record.held if name.startswith("cell.")} == {
        f"cell.{cell}.{name}" for cell in cells for name in ("vcpu", "memory")
    }


@pytest.mark.asyncio
async def test_a_foreign_machine_that_is_pinned_takes_of_its_cell() -> None:
    host = FakeHost(topology=TOPOLOGY)
    strict = "<numatune><memory mode='strict' nodeset='8'/></numatune>"
    host.add_foreign("theirs", vcpus=2, memory_kib=1 << 20, running=True, tuning=strict)
    facts = await driver_of(host).probe(budget_seconds=BUDGET)
    assert {name: facts.total[name] for name in ("cell.0.vcpu", "cell.8.vcpu")} == {"cell.0.vcpu": 4, "cell.8.vcpu": 2}
    assert (facts.foreign["cell.8.vcpu"], facts.foreign["cell.8.memory"]) == (2, 1 << 30)
    assert "cell.0.memory" not in facts.foreign


@pytest.mark.asyncio
async def test_a_pinned_machine_is_confined_to_its_cell_and_says_so() -> None:
    host, spec = FakeHost(topology=TOPOLOGY), specification(cells=(8,))
    seen = await driver_of(host).create_paused(spec, budget_seconds=BUDGET)
    assert seen.resources == {"vcpu": 1, "memory": 64 << 20, "cell.8.vcpu": 1, "cell.8.memory": 64 << 20}
    xml = host.domains[spec.identity.machine_uuid].xml
    assert '<vcpu placement="static" cpuset="4-5">1</vcpu>' in xml
    assert '<numatune><memory mode="strict" nodeset="8" /></numatune>' in xml


@pytest.mark.asyncio
async def test_a_cell_that_the_host_has_not_refuses_the_machine_and_leaves_nothing() -> None:
    host = FakeHost(topology=TOPOLOGY)
    with pytest.raises(HostRejected, match="no NUMA cell 9") as refusal:
        await driver_of(host).create_paused(specification(cells=(9,)), budget_seconds=BUDGET)
    assert (refusal.value.code, host.domains, host.volumes) == ("unsupported", {}, {})


def test_a_machine_that_arrives_is_confined_as_its_new_host_is_to_have_it() -> None:
    came = DOMAIN.replace("<vcpu>", "<vcpu placement='static' cpuset='0-1'>").format(
        "<numatune><memory mode='strict' nodeset='0'/></numatune>"
    )
    pinned = arriving_xml(came, Boot(), (), numa.pinning(CAPABILITIES, (0, 8)))
    assert '<vcpu placement="static" cpuset="0-2,4-5,9">2</vcpu>' in pinned
    assert (pinned.count("<numatune>"), 'nodeset="0,8"' in pinned) == (1, True)
    floating = arriving_xml(came, Boot(), ())
    assert '<vcpu placement="static">2</vcpu>' in floating
    assert "numatune" not in floating
    assert "numatune" not in arriving_xml(DOMAIN.format(""), Boot(), ())


def test_a_machine_over_two_cells_has_two_of_its_own_with_the_devices_of_each_beside_it() -> None:
    def card(key: str, cell: int, functions: int) -> HeldDevice:
        held = tuple(HeldFunction(f"{key}.{number}", "10de:2330") for number in range(functions))
        return HeldDevice(f"{key}.0", "h100", held, cell)

    devices = (card("0000:41:00", 0, 2), card("0000:81:00", 8, 1), card("0000:82:00", 8, 1), card("0000:c1:00", -1, 1))
    spec = specification(vcpus=5, memory_bytes=65 << 20, cells=(0, 8), devices=devices)
    xml = machine_xml(spec, Platform("kvm", "x86_64"), Boot(), numa.pinning(CAPABILITIES, (0, 8)))
    assert '<vcpu placement="static" cpuset="0-2,4-5,9">5</vcpu>' in xml
    assert (
        '<numatune><memory mode="strict" nodeset="0,8" /><memnode cellid="0" mode="strict" nodeset="0" />'
        '<memnode cellid="1" mode="strict" nodeset="8" /></numatune>'
    ) in xml
    assert (
        '<cpu mode="host-passthrough"><numa><cell id="0" cpus="0-1" memory="32" unit="MiB" />'
        '<cell id="1" cpus="2-4" memory="33" unit="MiB" /></numa></cpu>'
    ) in xml
    root = ElementTree.fromstring(xml)
    assert [(p.get("vcpu"), p.get("cpuset")) for p in root.findall("cputune/vcpupin")] == [
        *((str(number), "0-2,9") for number in range(2)),
        *((str(number), "4-5") for number in range(2, 5)),
    ]
    buses = root.findall("devices/controller[@type='pci']")
    assert [(b.get("index"), b.get("model")) for b in buses] == [
        ("0", "pcie-root"),
        ("1", "pcie-expander-bus"),
        ("2", "pcie-root-port"),
        ("3", "pcie-expander-bus"),
        ("4", "pcie-root-port"),
        ("5", "pcie-root-port"),
    ]
    assert [(b.get("busNr"), b.findtext("node")) for b in root.findall("devices/controller/target")] == [
        ("64", "0"),
        ("160", "1"),
    ]
    ports = [b.find("address") for b in buses if b.get("model") == "pcie-root-port"]
    assert [(p.get("bus"), p.get("slot")) for p in ports if p is not None] == [
        ("0x01", "0x00"),
        ("0x03", "0x00"),
        ("0x03", "0x01"),
    ]
    places = [given.find("address") for given in root.findall("devices/hostdev")]
    assert [None if p is None else (p.get("bus"), p.get("function"), p.get("multifunction")) for p in places] == [
        ("0x02", "0x0", "on"),
        ("0x02", "0x1", None),
        ("0x04", "0x0", None),
        ("0x05", "0x0", None),
        None,  # its host does not know where it is: libvirt places it
    ]
    # On another host the machine keeps its own cells, which are bound to that one's.
    there = arriving_xml(xml.replace("0-2,9", "0-3"), Boot(), (), numa.pinning(CAPABILITIES, (0, 8)))
    assert (there.count("memnode"), there.count('cpuset="0-2,9"'), there.count('cpuset="4-5"')) == (2, 2, 3)


@pytest.mark.asyncio
async def test_a_machine_has_a_processor_for_each_of_its_cells_and_whole_pages_in_each() -> None:
    host = FakeHost(topology=TOPOLOGY)
    with pytest.raises(HostRejected, match="vcpus: 2 or more"):
        await driver_of(host).create_paused(specification(cells=(0, 8)), budget_seconds=BUDGET)
    assert (host.domains, host.volumes) == ({}, {})


@pytest.mark.parametrize(("cells", "most"), [(2, 32), (8, 23)])
def test_more_devices_of_a_cell_than_its_bus_has_room_for_go_where_libvirt_puts_them(cells: int, most: int) -> None:
    held = [HeldDevice(f"0000:{n:02x}:00.0", "x", (HeldFunction(f"0000:{n:02x}:00.0", "1:1"),), 1) for n in range(64)]
    pinning = numa.Pinning(nodes=tuple((number, "0") for number in range(cells)))
    placed = guest_cells.buses(ElementTree.Element("devices"), held, pinning)
    assert len(placed) == most
    assert guest_cells.buses(ElementTree.Element("devices"), held, numa.Pinning()) == {}
