"""The driver over libvirt's own test driver: real libvirt objects, no QEMU."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import libvirt
import pytest
import pytest_asyncio

from service.domain.fleet import HostAddress
from service.drivers.base import HostUnreachable, MachineConflict, MachineState
from service.drivers.libvirt.driver import LibvirtDriver
from tests.service.drivers.libvirt.machines import BUDGET, CLUSTER, identity, specification

pytestmark = pytest.mark.asyncio

NODE = """
<node>
  <cpu><mhz>2000</mhz><model>x86_64</model><active>64</active><nodes>1</nodes><sockets>2</sockets><cores>32</cores>
    <threads>1</threads></cpu>
  <memory>1073741824</memory>
  <domain type="test"><name>stranger</name><uuid>11111111-2222-4333-8444-555555555555</uuid>
    <memory>2097152</memory><vcpu>3</vcpu><os><type>hvm</type></os></domain>
</node>
"""


@pytest_asyncio.fixture
async def driver(tmp_path: Path) -> AsyncIterator[LibvirtDriver]:
    """A driver of a node with one stranger's domain that runs."""
    node = tmp_path / "node.xml"
    node.write_text(NODE)
    made = LibvirtDriver("host-1", CLUSTER, HostAddress("libvirt", "test", socket=str(node)))
    yield made
    await made.close()


async def test_what_the_node_is(driver: LibvirtDriver) -> None:
    facts = await driver.probe(budget_seconds=BUDGET)
    assert facts.total == {"vcpu": 64, "memory": 1 << 40}
    assert facts.foreign == {"vcpu": 3, "memory": 2 << 30}
    assert facts.virt_type == "test"
    assert (await driver.probe(budget_seconds=BUDGET)).boot_id == facts.boot_id


async def test_a_machines_life(driver: LibvirtDriver) -> None:
    spec = specification(documents={"env": "A=1\n"})
    for _ in range(2):
        made = await driver.create_paused(spec, budget_seconds=BUDGET)
        assert (made.state, made.spec_hash) == (MachineState.PAUSED, "hash")
    for _ in range(2):
        assert (await driver.resume(spec.identity, budget_seconds=BUDGET)).state is MachineState.RUNNING
    listing = await driver.list_machines(budget_seconds=BUDGET)
    assert [m.identity for m in listing.machines] == [spec.identity]
    for _ in range(2):
        await driver.power_off(spec.identity, budget_seconds=BUDGET)
    _, stopped = await driver.observe(spec.identity, budget_seconds=BUDGET)
    assert stopped is not None
    assert stopped.state is MachineState.STOPPED
    assert (await driver.create_paused(spec, budget_seconds=BUDGET)).state is MachineState.PAUSED
    for _ in range(2):
        await driver.remove(spec.identity, budget_seconds=BUDGET)
    assert (await driver.list_machines(budget_seconds=BUDGET)).machines == ()
    assert (await driver.probe(budget_seconds=BUDGET)).foreign == {"vcpu": 3, "memory": 2 << 30}


async def test_a_tombstone_holds_the_uuid(driver: LibvirtDriver) -> None:
    await driver.entomb(identity(), budget_seconds=BUDGET)
    with pytest.raises(MachineConflict):
        await driver.create_paused(specification(), budget_seconds=BUDGET)
    await driver.clear_tombstone(identity(), budget_seconds=BUDGET)
    await driver.create_paused(specification(), budget_seconds=BUDGET)


async def test_libvirts_own_words_do_not_come_out(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the-first-line-of-a-secret-file\n")
    with pytest.raises(libvirt.libvirtError, match="the-first-line"):
        libvirt.open(f"test://{secret}")  # what makes a caller's URI dangerous
    driver = LibvirtDriver("host-1", CLUSTER, HostAddress("libvirt", "test", socket=str(secret)))
    with pytest.raises(HostUnreachable) as refusal:
        await driver.probe(budget_seconds=BUDGET)
    assert "the-first-line" not in refusal.value.public
    await driver.close()
