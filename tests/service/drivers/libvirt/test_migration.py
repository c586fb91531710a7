"""Live moves of the driver over two hosts in memory: what is asked of libvirt, and how each end is told."""

from __future__ import annotations

import asyncio
import contextlib
import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import libvirt
import pytest
import pytest_asyncio

from service.domain.catalog import Image
from service.domain.fleet import HostAddress
from service.drivers.base import HostRejected, MachineSpec, MachineState, OutcomeUnknown
from service.drivers.libvirt.driver import LibvirtDriver
from service.drivers.staging import NotStaged
from tests.service.drivers.libvirt.fake import FakeHost, lost, wait_for
from tests.service.drivers.libvirt.machines import BUDGET, CLUSTER, bridged, made, specification, staged

pytestmark = pytest.mark.asyncio

URI = "qemu+tcp://hv2/system"


@dataclass
class Pair:
    """Two hosts and their drivers, and a machine that runs on the first."""

    here: FakeHost
    there: FakeHost
    source: LibvirtDriver
    target: LibvirtDriver
    spec: MachineSpec

    async def migrate(self, seconds: float = BUDGET) -> bool:
        return await self.source.migrate(self.spec, self.target, budget_seconds=seconds)

    async def begin(self, begun: Callable[[], bool] | None = None) -> None:
        """A move that goes on, and whose caller no longer waits. `begun`: how that it goes on is seen."""
        caller = asyncio.create_task(self.migrate())
        assert await asyncio.to_thread(wait_for, begun or (lambda: bool(self.here.moving)))
        caller.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await caller


@pytest_asyncio.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"kernel")
    spec = specification(image=Image("direct", kernel_path=str(kernel)), interfaces=(bridged(1),))
    here, there = FakeHost(), FakeHost()
    here.reachable[URI] = there
    source, target = (
        LibvirtDriver(name, CLUSTER, HostAddress("libvirt", "tcp", name), opener=host.open)
        for name, host in (("hv1", here), ("hv2", there))
    )
    for driver in (source, target):
        await driver.probe(budget_seconds=BUDGET)
    await made(source, spec)
    with pytest.raises(NotStaged) as missing:
        await target.prepare_arrival(spec, budget_seconds=BUDGET)
    for file in missing.value.files:
        await staged(target, file)
    await source.resume(spec.identity, budget_seconds=BUDGET)
    yield Pair(here, there, source, target, replace(spec, interfaces=(replace(bridged(1), source="br-of-hv2"),)))
    here.let_moves_end.set()
    for driver in (source, target):
        await driver.close()


async def test_a_move_is_peer_to_peer_and_takes_the_definition_along(pair: Pair) -> None:
    pair.here.let_moves_end.set()
    assert await pair.migrate()
    assert pair.here.domains == {}
    listing = await pair.target.list_machines(budget_seconds=BUDGET)
    assert [(m.identity, m.state) for m in listing.machines] == [(pair.spec.identity, MachineState.RUNNING)]
    ((uri, parameters, flags),) = pair.here.moves
    wanted = (
        libvirt.VIR_MIGRATE_LIVE
        | libvirt.VIR_MIGRATE_PEER2PEER
        | libvirt.VIR_MIGRATE_PERSIST_DEST
        | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    )
    assert (uri, flags & wanted, flags & libvirt.VIR_MIGRATE_TUNNELLED) == (URI, wanted, 0)
    assert parameters[libvirt.VIR_MIGRATE_PARAM_URI] == "tcp://hv2"
    assert parameters[libvirt.VIR_MIGRATE_PARAM_DEST_XML] == parameters[libvirt.VIR_MIGRATE_PARAM_PERSIST_XML]
    arrived = ElementTree.fromstring(parameters[libvirt.VIR_MIGRATE_PARAM_DEST_XML])
    assert arrived.findtext("os/kernel", "").removeprefix("/pool/") in pair.there.volumes, "the target's own boot file"
    source = arrived.find("devices/interface/source")
    assert source is not None
    assert source.get("bridge") == "br-of-hv2"
    entry = arrived.find("sysinfo/entry")
    assert entry is not None
    assert entry.get("file", "").removeprefix("/pool/") in pair.there.volumes, "the target's own document"
    assert not [name for name in pair.here.volumes if ".document-" in name], "nothing of it stays at its source"


async def test_a_machine_of_an_earlier_version_takes_its_documents_along_as_volumes(pair: Pair) -> None:
    domain = pair.here.domains[pair.spec.identity.machine_uuid]
    root = ElementTree.fromstring(domain.xml)
    entry = root.find("sysinfo/entry")
    assert entry is not None
    del entry.attrib["file"]
    entry.text = "Y2FuYXJ5"
    domain.xml = ElementTree.tostring(root, encoding="unicode")
    pair.here.let_moves_end.set()
    assert await pair.migrate()
    ((_, parameters, _),) = pair.here.moves
    assert "Y2FuYXJ5" not in parameters[libvirt.VIR_MIGRATE_PARAM_DEST_XML]
    assert ".document-env" in parameters[libvirt.VIR_MIGRATE_PARAM_DEST_XML]


async def test_a_machine_whose_documents_the_target_lacks_is_not_sent(pair: Pair) -> None:
    pair.spec = replace(pair.spec, documents={})
    with pytest.raises(HostRejected):
        await pair.migrate()
    assert pair.here.moves == []


async def test_memory_goes_through_the_encrypted_connection_where_that_is_the_way(pair: Pair) -> None:
    target = LibvirtDriver("hv2", CLUSTER, HostAddress("libvirt", "tls", "hv2"), opener=pair.there.open)
    await target.probe(budget_seconds=BUDGET)
    pair.here.reachable["qemu+tls://hv2/system"] = pair.there
    pair.here.let_moves_end.set()
    assert await pair.source.migrate(pair.spec, target, budget_seconds=BUDGET)
    ((_, parameters, flags),) = pair.here.moves
    assert flags & libvirt.VIR_MIGRATE_TUNNELLED
    assert libvirt.VIR_MIGRATE_PARAM_URI not in parameters
    await target.close()


async def test_a_move_that_takes_longer_than_its_caller_waits_goes_on_and_is_begun_once(pair: Pair) -> None:
    await pair.begin()
    assert not await pair.migrate(0.1)
    pair.here.let_moves_end.set()
    assert await pair.migrate()
    assert pair.here.calls.count("migrate") == 1


async def test_another_process_finds_a_move_that_goes_on_and_waits_for_its_end(pair: Pair) -> None:
    await pair.begin()
    heir = LibvirtDriver("hv1", CLUSTER, HostAddress("libvirt", "tcp", "hv1"), opener=pair.here.open)
    await heir.probe(budget_seconds=BUDGET)
    looks = pair.here.calls.count("state")
    waiting = asyncio.create_task(heir.migrate(pair.spec, pair.target, budget_seconds=BUDGET))
    assert await asyncio.to_thread(wait_for, lambda: pair.here.calls.count("state") > looks + 5)
    assert not waiting.done(), "it looks again and again, and the move goes on"
    pair.here.let_moves_end.set()
    assert await waiting
    assert pair.here.calls.count("migrate") == 1
    await heir.close()


async def test_a_tombstone_or_a_missing_way_refuses_and_the_machine_runs_on(pair: Pair) -> None:
    await pair.target.entomb(pair.spec.identity, budget_seconds=BUDGET)
    with pytest.raises(HostRejected):
        await pair.migrate()
    await pair.target.clear_tombstone(pair.spec.identity, budget_seconds=BUDGET)
    del pair.here.reachable[URI]
    with pytest.raises(HostRejected) as refusal:
        await pair.migrate()
    assert "No route" in refusal.value.detail
    assert "No route" not in refusal.value.public
    _, machine = await pair.source.observe(pair.spec.identity, budget_seconds=BUDGET)
    assert machine is not None
    assert machine.state is MachineState.RUNNING


async def test_a_connection_that_breaks_leaves_the_outcome_unknown(pair: Pair) -> None:
    def break_down() -> libvirt.libvirtError:
        for connection in pair.here.connections:
            connection.alive = False
        return lost()

    pair.here.plant("migrate", break_down)
    with pytest.raises(OutcomeUnknown):
        await pair.migrate()


async def test_an_abort_ends_the_move_and_is_done_where_there_is_none(pair: Pair) -> None:
    await pair.source.abort_migration(pair.spec.identity, budget_seconds=BUDGET)
    await pair.begin()
    await pair.source.abort_migration(pair.spec.identity, budget_seconds=BUDGET)
    assert pair.here.moving == set()
    assert pair.there.domains == {}
    _, machine = await pair.source.observe(pair.spec.identity, budget_seconds=BUDGET)
    assert machine is not None
    assert machine.state is MachineState.RUNNING


async def test_what_is_given_up_before_it_is_sent_is_never_sent(pair: Pair) -> None:
    release = pair.here.hang("XMLDesc")
    await pair.begin(lambda: not pair.here.faults["XMLDesc"])
    aborting = asyncio.create_task(pair.source.abort_migration(pair.spec.identity, budget_seconds=BUDGET))
    await asyncio.sleep(0.05)
    release.set()
    await aborting
    assert "migrate" not in pair.here.calls


async def test_a_machine_in_the_middle_of_a_move_is_seen_as_such(pair: Pair) -> None:
    (domain,) = pair.here.domains.values()
    domain.state = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION)
    _, machine = await pair.source.observe(pair.spec.identity, budget_seconds=BUDGET)
    assert machine is not None
    assert machine.state is MachineState.MIGRATING
    assert not machine.state.executing


async def test_only_what_lives_in_memory_goes_and_only_between_hosts_of_one_kind(pair: Pair) -> None:
    source, target, spec = pair.source, pair.target, pair.spec
    assert source.can_migrate(spec, target)
    assert not source.can_migrate(spec, source)
    assert not source.can_migrate(replace(spec, root_disk_bytes=1), target)
    assert not source.can_migrate(replace(spec, image=replace(spec.image, delivery="nocloud")), target)
    assert not source.can_migrate(replace(spec, image=replace(spec.image, disk_path="/disk")), target)
    assert not source.can_migrate(replace(spec, resources={"vcpu": 1, "gpu.any": 1}), target)
    assert not source.can_migrate(replace(spec, interfaces=(replace(bridged(1), kind="network"),)), target)
    unknown = LibvirtDriver("hv3", CLUSTER, HostAddress("libvirt", "tcp", "hv3"), opener=pair.there.open)
    assert not source.can_migrate(spec, unknown), "nobody has asked it what it is"
    wayless = LibvirtDriver("hv4", CLUSTER, HostAddress("libvirt", "unix"), opener=pair.there.open)
    await wayless.probe(budget_seconds=BUDGET)
    assert not source.can_migrate(spec, wayless)
    with pytest.raises(HostRejected):
        await source.migrate(spec, wayless, budget_seconds=BUDGET)
    await wayless.close()
