"""Huge pages and processors of a machine's own: what a host says it has of them, and who gets which."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.fleet import MEMORY, VCPU, Host, HostAddress, Overcommit, policy
from service.drivers import kinds
from service.drivers.base import HostRejected
from service.drivers.libvirt import confinement
from service.drivers.libvirt.addressing import options_of
from service.drivers.libvirt.confinement import chosen
from service.drivers.libvirt.driver import LibvirtDriver
from service.drivers.libvirt.numa import HostCell
from service.drivers.libvirt.tags import read_domain
from tests.service.drivers.libvirt.fake import FakeHost
from tests.service.drivers.libvirt.machines import BUDGET, CLUSTER, specification

MIB = 1 << 20
TOPOLOGY = """<topology><cells num='2'>
  <cell id='0'><memory unit='KiB'>2097152</memory><pages unit='KiB' size='4'>262144</pages>
    <pages unit='KiB' size='2048'>256</pages><pages unit='KiB' size='1048576'>0</pages>
    <cpus num='4'><cpu id='0' siblings='0'/><cpu id='1' siblings='1'/><cpu id='2' siblings='2'/>
      <cpu id='3' siblings='3'/></cpus></cell>
  <cell id='1'><memory unit='KiB'>2097152</memory><pages unit='KiB' size='4'>0</pages>
    <pages unit='KiB' size='2048'>512</pages><pages unit='KiB' size='1048576'>1</pages>
    <cpus num='2'><cpu id='8' siblings='8'/><cpu id='9' siblings='9'/></cpus></cell>
</cells></topology>"""


def driver(host: FakeHost, **options: str) -> LibvirtDriver:
    return LibvirtDriver("host-1", CLUSTER, HostAddress("libvirt", "unix", options=options), opener=host.open)


def made(host: FakeHost, number: int) -> ElementTree.Element:
    return ElementTree.fromstring(host.domains[specification(number).identity.machine_uuid].xml)


def bound(host: FakeHost, number: int) -> list[int]:
    """Which processor of the host each of a machine's is, in order."""
    return [int(pin.get("cpuset", "")) for pin in made(host, number).findall("cputune/vcpupin")]


@pytest.mark.asyncio
async def test_a_host_of_huge_pages_has_what_is_set_aside_and_its_machines_are_of_it() -> None:
    host = FakeHost(topology=TOPOLOGY)
    facts = await driver(host, huge_pages="2MiB").probe(budget_seconds=BUDGET)
    assert {name: amount for name, amount in facts.total.items() if name.endswith("memory")} == {
        "memory": 1536 * MIB, "cell.0.memory": 512 * MIB, "cell.1.memory": 1024 * MIB,
    }  # fmt: skip
    assert facts.beside == {}, "what QEMU takes beside is of the host's other memory"
    large = await driver(host, huge_pages="1GiB").probe(budget_seconds=BUDGET)
    assert (large.total["memory"], large.total["cell.0.memory"]) == (1 << 30, 0)
    await driver(host, huge_pages="2MiB").create_paused(specification(1, cells=(1,)), budget_seconds=BUDGET)
    page = made(host, 1).find("memoryBacking/hugepages/page")
    assert page is not None
    assert page.attrib == {"size": "2048", "unit": "KiB"}
    assert '<memory mode="strict" nodeset="1" />' in host.domains[specification(1).identity.machine_uuid].xml


@pytest.mark.asyncio
async def test_memory_that_is_not_of_whole_pages_is_refused_and_leaves_nothing() -> None:
    host = FakeHost(topology=TOPOLOGY)
    odd = specification(1, memory_bytes=65 * MIB)
    with pytest.raises(HostRejected, match="multiple of that") as refused:
        await driver(host, huge_pages="2MiB").create_paused(odd, budget_seconds=BUDGET)
    assert (refused.value.code, host.domains, host.volumes) == ("unsupported", {}, {})


@pytest.mark.asyncio
async def test_pages_that_a_machines_cells_cannot_share_alike_are_refused_and_leave_nothing() -> None:
    host = FakeHost(topology=TOPOLOGY)
    uneven = specification(1, vcpus=2, memory_bytes=66 * MIB, cells=(0, 1))
    with pytest.raises(HostRejected, match="33 pages, which 2 cells cannot share alike") as refused:
        await driver(host, huge_pages="2MiB").create_paused(uneven, budget_seconds=BUDGET)
    assert (refused.value.code, host.domains, host.volumes) == ("unsupported", {}, {})
    await driver(host, huge_pages="2MiB").create_paused(replace(uneven, memory_bytes=68 * MIB), budget_seconds=BUDGET)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("relies_on", "enough", "words"),
    [
        ({"dedicated_cpus": "true"}, {"dedicated_cpus": "true"}, "processors of their own"),
        ({"emulator_cpus": ""}, {"dedicated_cpus": "true", "emulator_cpus": "0"}, "for QEMU's own threads"),
        ({"huge_pages": "2MiB"}, {"huge_pages": "2MiB"}, "pages of 2MiB"),
    ],
)
async def test_a_host_that_does_not_give_what_a_machine_must_have_refuses_it(
    relies_on: dict[str, str], enough: dict[str, str], words: str
) -> None:
    """As one whose operator has taken the option back since the member was placed there."""
    host = FakeHost(topology=TOPOLOGY)
    spec = specification(1, memory_bytes=64 * MIB, relies_on=relies_on)
    with pytest.raises(HostRejected, match=words) as refused:
        await driver(host).create_paused(spec, budget_seconds=BUDGET)
    assert (refused.value.code, host.domains, host.volumes) == ("unsupported", {}, {})
    await driver(host, **enough).create_paused(spec, budget_seconds=BUDGET)
    assert list(host.domains) == [spec.identity.machine_uuid]


@pytest.mark.asyncio
async def test_of_others_only_those_count_that_have_such_pages() -> None:
    host = FakeHost(topology=TOPOLOGY)
    pages = "<memoryBacking><hugepages/></memoryBacking>"
    host.add_foreign("of-pages", vcpus=1, memory_kib=1 << 10, running=True, tuning=pages)
    host.add_foreign("ordinary", vcpus=1, memory_kib=1 << 12, running=True)
    facts = await driver(host, huge_pages="2MiB").probe(budget_seconds=BUDGET)
    assert (facts.foreign["memory"], facts.foreign["vcpu"]) == (MIB, 2)
    plain = await driver(host).probe(budget_seconds=BUDGET)
    assert plain.foreign["memory"] >= 4 * MIB
    assert plain.foreign["memory"] % MIB == 0


@pytest.mark.asyncio
async def test_each_machine_has_processors_of_its_own_until_none_is_left() -> None:
    host = FakeHost(topology=TOPOLOGY)
    there = driver(host, dedicated_cpus="true", emulator_cpus="0")
    total = (await there.probe(budget_seconds=BUDGET)).total
    whole = (await driver(host).probe(budget_seconds=BUDGET)).total["vcpu"]
    assert (total["vcpu"], total["cell.0.vcpu"], total["cell.1.vcpu"]) == (whole - 1, 3, 2)
    await there.create_paused(specification(1, vcpus=2, cells=(0,)), budget_seconds=BUDGET)
    await there.create_paused(specification(2, vcpus=2), budget_seconds=BUDGET)
    await there.create_paused(specification(3, vcpus=1), budget_seconds=BUDGET)
    assert (bound(host, 1), bound(host, 2), bound(host, 3)) == ([1, 2], [8, 9], [3])
    for number in (1, 2, 3):
        emulator, vcpu = made(host, number).find("cputune/emulatorpin"), made(host, number).find("vcpu")
        assert emulator is not None
        assert vcpu is not None
        assert emulator.get("cpuset") == "0"
        assert read_domain(f"<domain>{ElementTree.tostring(vcpu).decode()}</domain>").vcpus == len(bound(host, number))
    with pytest.raises(HostRejected, match="0 of the 1") as refused:
        await there.create_paused(specification(4), budget_seconds=BUDGET)
    assert refused.value.code == "no_processors"
    await there.remove(specification(2).identity, budget_seconds=BUDGET)
    await there.create_paused(specification(4), budget_seconds=BUDGET)
    assert bound(host, 4) == [8]


@pytest.mark.asyncio
async def test_processors_that_others_are_bound_to_are_theirs() -> None:
    host = FakeHost(topology=TOPOLOGY)
    theirs = "<cputune><vcpupin vcpu='0' cpuset='0-2'/></cputune>"
    host.add_foreign("theirs", vcpus=1, memory_kib=1024, running=True, tuning=theirs)
    await driver(host, dedicated_cpus="true").create_paused(specification(1, cells=(0,)), budget_seconds=BUDGET)
    assert bound(host, 1) == [3]
    pin = made(host, 1).find("cputune/emulatorpin")
    assert pin is not None
    assert pin.get("cpuset") == "3", "QEMU's own threads run where the machine does where nothing is kept for them"


@pytest.mark.asyncio
async def test_machines_that_are_made_at_the_same_time_share_none() -> None:
    host = FakeHost(topology=TOPOLOGY)
    replicas = [driver(host, dedicated_cpus="true") for _ in range(2)]
    await asyncio.gather(*(replicas[n % 2].create_paused(specification(n), budget_seconds=BUDGET) for n in range(1, 7)))
    assert sorted(cpu for n in range(1, 7) for cpu in bound(host, n)) == [0, 1, 2, 3, 8, 9]


@pytest.mark.asyncio
async def test_what_another_process_chose_in_the_same_moment_is_seen_and_chosen_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = FakeHost(topology=TOPOLOGY)
    await driver(host, dedicated_cpus="true").create_paused(specification(1, cells=(0,)), budget_seconds=BUDGET)
    assert bound(host, 1) == [0]
    looks: list[frozenset[int]] = []
    really = confinement._had_by_others

    def late(connection: Any, machine_uuid: str) -> frozenset[int]:
        looks.append(really(connection, machine_uuid))
        return frozenset() if len(looks) == 1 else looks[-1]

    monkeypatch.setattr(confinement, "_had_by_others", late)
    await driver(host, dedicated_cpus="true").create_paused(specification(2, cells=(0,)), budget_seconds=BUDGET)
    assert bound(host, 2) == [1]


@given(
    st.dictionaries(st.integers(0, 3), st.integers(1, 6), min_size=1),
    st.integers(1, 24),
    st.sets(st.integers(0, 23)),
)
def test_a_machine_gets_as_many_as_it_has_and_none_that_is_taken(
    sizes: dict[int, int], count: int, taken: set[int]
) -> None:
    cells = [HostCell(number, 0, tuple(range(number * 6, number * 6 + size))) for number, size in sizes.items()]
    free = {cpu for cell in cells for cpu in cell.cpus} - taken
    if count > len(free):
        with pytest.raises(HostRejected):
            chosen(cells, (), count, taken)
        return
    given_out = chosen(cells, (), count, taken)
    assert len(set(given_out)) == len(given_out) == count
    assert set(given_out) <= free
    if any(len(set(cell.cpus) - taken) >= count for cell in cells):
        assert len({cpu // 6 for cpu in given_out}) == 1, "of one cell where one has enough"


def test_several_cells_give_equal_parts() -> None:
    cells = [HostCell(0, 0, (0, 1, 2, 3)), HostCell(1, 0, (8, 9))]
    assert chosen(cells, (0, 1), 4, {0}) == (1, 2, 8, 9)
    with pytest.raises(HostRejected, match="3 of the 4"):
        chosen(cells, (0, 1), 4, {8})


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"huge_pages": "4MiB"}, "2MiB, 1GiB"),
        ({"dedicated_cpus": "yes"}, "true or false"),
        ({"dedicated_cpus": "true", "emulator_cpus": "0-"}, "such as 0-1,8"),
        ({"emulator_cpus": "0"}, "dedicated_cpus is not true"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(options: dict[str, str], wrong: str) -> None:
    with pytest.raises(HostRejected, match=wrong):
        options_of(HostAddress("libvirt", "unix", options=options))


def test_what_each_machine_has_for_itself_is_promised_once() -> None:
    fleet = Overcommit({VCPU: Fraction(10), MEMORY: Fraction(2)}, {VCPU: 1, MEMORY: 1 << 30})
    options = {"huge_pages": "2MiB", "dedicated_cpus": "true"}
    host = Host("a" * 32, "one", "z", HostAddress("libvirt", "unix", options=options))
    total = {VCPU: 8, MEMORY: 1 << 31, "cell.0.vcpu": 8, "cell.0.memory": 1 << 31}
    held = policy(fleet, {}, host).allocatable(total)
    assert held == {VCPU: 7, MEMORY: 1 << 31, "cell.0.vcpu": 7, "cell.0.memory": 1 << 31}
    own = Overcommit({MEMORY: Fraction(3, 2)})
    (wrong,) = kinds.whole_violations(host.address, own, "")
    assert (wrong.field, "memory" in wrong.description) == ("resource_policies", True)
    assert list(kinds.whole_violations(HostAddress("libvirt", "unix"), own, "")) == []


@pytest.mark.asyncio
async def test_such_machines_are_not_moved_live() -> None:
    spec = specification(1)
    one, two = (driver(FakeHost(), migration_address="h", migration_transport="tcp") for _ in range(2))
    own = driver(FakeHost(), migration_address="h", migration_transport="tcp", huge_pages="2MiB")
    for each in (one, two, own):
        await each.probe(budget_seconds=BUDGET)
    before = one.can_migrate(spec, two)
    assert not one.can_migrate(spec, own)
    assert not own.can_migrate(spec, one)
    assert before == two.can_migrate(spec, one)
