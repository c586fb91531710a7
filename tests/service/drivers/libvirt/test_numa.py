"""NUMA cells as libvirt tells them, and whose domains hold what of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.drivers.base import HostRejected
from service.drivers.libvirt import numa
from service.drivers.libvirt.domain_xml import Boot, arriving_xml
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
