"""What other control planes and other people have on a host, over a host in memory."""

from __future__ import annotations

import uuid
from dataclasses import replace

import libvirt
import pytest

from service.drivers.base import (
    HostRejected,
    MachineConflict,
    MachineState,
    NetworkInterface,
)
from service.drivers.libvirt.domain_xml import tombstone_xml
from tests.service.drivers.libvirt.fake import Domain, FakeHost, error
from tests.service.drivers.libvirt.machines import BUDGET, LOGS, driver_of, identity, specification, states

pytestmark = pytest.mark.asyncio

PAUSED = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER)


async def test_a_refused_create_leaves_the_machine_that_another_control_plane_started() -> None:
    host, spec = FakeHost(), specification(root_disk_bytes=1 << 20)

    def full() -> libvirt.libvirtError:
        """The other's machine has taken the memory."""
        host.domains[spec.identity.machine_uuid].state = (libvirt.VIR_DOMAIN_PAUSED, 1)
        return error(libvirt.VIR_ERR_NO_MEMORY)

    host.plant("create", full)
    with pytest.raises(HostRejected):
        await driver_of(host).create_paused(spec, budget_seconds=BUDGET)
    assert await states(host) == [MachineState.PAUSED]
    assert {name.rpartition(".")[2] for name in host.volumes} == {"root", "document-env", *LOGS}


async def test_already_started_by_another_is_success() -> None:
    host, spec = FakeHost(), specification()

    def started_by_another() -> libvirt.libvirtError:
        host.domains[spec.identity.machine_uuid].state = PAUSED
        return error(libvirt.VIR_ERR_OPERATION_INVALID)

    host.plant("create", started_by_another)
    assert (await driver_of(host).create_paused(spec, budget_seconds=BUDGET)).state is MachineState.PAUSED


async def test_the_code_of_already_started_is_no_success_of_a_machine_that_is_not() -> None:
    code = libvirt.VIR_ERR_OPERATION_INVALID
    host, spec = FakeHost(networks={"lan": str(uuid.uuid4())}, inactive_networks={"lan"}), specification()
    spec = replace(spec, interfaces=(NetworkInterface("network", "lan", "52:54:00:00:00:01"),))
    host.plant("create", lambda: error(code, libvirt.VIR_FROM_NETWORK, "network 'lan' is not active"))
    with pytest.raises(HostRejected, match="network lan is defined and not started") as refusal:
        await driver_of(host).create_paused(spec, budget_seconds=BUDGET)
    assert refusal.value.code == "missing_network"
    assert (host.domains, host.volumes) == ({}, {})


async def test_the_code_of_already_stopped_is_no_success_of_a_machine_that_runs() -> None:
    host, spec = FakeHost(), specification()
    driver = driver_of(host)
    await driver.create_paused(spec, budget_seconds=BUDGET)
    await driver.resume(spec.identity, budget_seconds=BUDGET)
    for step in ("shutdown", "destroy"):
        host.plant(step, lambda: error(libvirt.VIR_ERR_OPERATION_INVALID))
        call = driver.shutdown if step == "shutdown" else driver.power_off
        with pytest.raises(HostRejected):
            await call(spec.identity, budget_seconds=BUDGET)
    listing = await driver.list_machines(budget_seconds=BUDGET)
    assert [machine.state for machine in listing.machines] == [MachineState.RUNNING]


async def test_the_code_of_a_taken_name_is_no_conflict_where_nothing_has_it() -> None:
    host, spec = FakeHost(), specification()
    host.plant("define", lambda: error(libvirt.VIR_ERR_OPERATION_FAILED), times=2)
    with pytest.raises(HostRejected):
        await driver_of(host).create_paused(spec, budget_seconds=BUDGET)
    with pytest.raises(HostRejected):
        await driver_of(host).entomb(spec.identity, budget_seconds=BUDGET)
    assert host.domains == {}


async def test_what_qemu_takes_for_itself_is_measured_and_counts_for_every_guest() -> None:
    host = FakeHost()
    host.add_foreign("runs", vcpus=1, memory_kib=1024, running=True)
    host.add_foreign("stopped", vcpus=1, memory_kib=1024, running=False)
    driver = driver_of(host)
    for number in (1, 2):
        await driver.create_paused(specification(number, documents={}), budget_seconds=BUDGET)
    least = 96 << 20  # 64 MiB, and 32 MiB of translated code
    first = await driver.probe(budget_seconds=BUDGET)
    assert (first.foreign["memory"], first.beside, first.guests) == ((1 << 20) + least, {"memory": least}, 2)
    # One of them has used all of its 64 MiB, and QEMU takes 130 MiB beside: 144 in whole steps.
    host.resident_kib = {identity(1).machine_uuid: 194 << 10, identity(2).machine_uuid: 10 << 10}
    grown = await driver.probe(budget_seconds=BUDGET)
    assert (grown.foreign["memory"], grown.beside) == ((1 << 20) + (144 << 20), {"memory": 144 << 20})


async def test_what_qemu_takes_is_known_of_a_host_that_has_no_guest_yet() -> None:
    empty = await driver_of(FakeHost()).probe(budget_seconds=BUDGET)
    assert (empty.foreign["memory"], empty.beside, empty.guests) == (0, {"memory": 96 << 20}, 0)


# --- tombstones, conflicts, strangers ---


async def test_a_tombstone_refuses_a_late_create() -> None:
    host, spec = FakeHost(), specification()
    driver = driver_of(host)
    await driver.entomb(spec.identity, budget_seconds=BUDGET)
    assert await states(host) == [MachineState.TOMBSTONE]
    with pytest.raises(MachineConflict):
        await driver.create_paused(spec, budget_seconds=BUDGET)
    assert host.effects().count("define") == 1  # the tombstone's own
    with pytest.raises(HostRejected) as refusal:
        await driver.resume(spec.identity, budget_seconds=BUDGET)
    assert refusal.value.code == "absent"
    await driver.remove(spec.identity, budget_seconds=BUDGET)
    assert await states(host) == [MachineState.TOMBSTONE]
    await driver.clear_tombstone(spec.identity, budget_seconds=BUDGET)
    await driver.create_paused(spec, budget_seconds=BUDGET)


async def test_a_tombstone_put_between_look_and_define_still_refuses() -> None:
    host, spec = FakeHost(), specification(root_disk_bytes=1 << 20)
    name = f"corral-tombstone-{spec.identity.instance}-{spec.identity.attempt}"

    def entombed() -> libvirt.libvirtError:
        machine_uuid = spec.identity.machine_uuid
        host.domains[machine_uuid] = Domain(name, machine_uuid, tombstone_xml(spec.identity, "qemu"))
        return error(libvirt.VIR_ERR_OPERATION_FAILED)

    host.plant("define", entombed)
    with pytest.raises(MachineConflict):
        await driver_of(host).create_paused(spec, budget_seconds=BUDGET)
    assert [domain.name for domain in host.domains.values()] == [name]
    assert host.volumes == {}


async def test_a_machine_is_not_entombed_alive() -> None:
    host, spec = FakeHost(), specification()
    driver = driver_of(host)
    await driver.create_paused(spec, budget_seconds=BUDGET)
    with pytest.raises(MachineConflict):
        await driver.entomb(spec.identity, budget_seconds=BUDGET)
    with pytest.raises(MachineConflict):
        await driver.clear_tombstone(spec.identity, budget_seconds=BUDGET)
    assert await states(host) == [MachineState.PAUSED]


async def test_strangers_are_counted_and_never_touched() -> None:
    host = FakeHost()
    host.add_foreign("runs", vcpus=2, memory_kib=1024, running=True)
    host.add_foreign("stopped", vcpus=4, memory_kib=4096, running=False)
    host.add_foreign("starts-with-the-host", vcpus=1, memory_kib=2048, running=False, autostart=True)
    other = driver_of(host, "other-cluster")
    await other.create_paused(specification(2, identity=identity(2, cluster="other-cluster")), budget_seconds=BUDGET)
    driver = driver_of(host)
    await driver.create_paused(specification(1), budget_seconds=BUDGET)
    facts = await driver.probe(budget_seconds=BUDGET)
    taken = 2 * (96 << 20)  # by their QEMUs for themselves; of the one that is ours it is told beside
    assert facts.foreign == {"vcpu": 4, "memory": (1024 + 2048 << 10) + (64 << 20) + taken}
    assert facts.total == {"vcpu": 8, "memory": 64 << 30}
    listing = await driver.list_machines(budget_seconds=BUDGET)
    assert [machine.identity for machine in listing.machines] == [identity(1)]
    await driver.remove(identity(1), budget_seconds=BUDGET)
    assert len(host.domains) == 4


@pytest.mark.parametrize("step", ["create_paused", "resume", "shutdown", "power_off", "remove", "entomb"])
async def test_a_strangers_domain_under_our_uuid_is_left_alone(step: str) -> None:
    host, spec = FakeHost(), specification()
    stranger = host.add_foreign("stranger", vcpus=1, memory_kib=1024, running=True)
    stranger.uuid = spec.identity.machine_uuid
    host.domains = {stranger.uuid: stranger}
    argument = spec if step == "create_paused" else spec.identity
    with pytest.raises(MachineConflict):
        await getattr(driver_of(host), step)(argument, budget_seconds=BUDGET)
    assert host.domains == {stranger.uuid: stranger}
    assert set(host.effects()) <= {"networkCreate"}


async def test_a_strangers_domain_under_our_name_is_left_alone() -> None:
    host, spec = FakeHost(), specification(root_disk_bytes=1 << 20)
    host.add_foreign(spec.identity.machine_name, vcpus=1, memory_kib=1024, running=True)
    with pytest.raises(MachineConflict):
        await driver_of(host).create_paused(spec, budget_seconds=BUDGET)
    assert (len(host.domains), host.volumes) == (1, {})


async def test_attempts_share_nothing() -> None:
    host = FakeHost()
    driver = driver_of(host)
    first, second = (specification(identity=identity(1, attempt), root_disk_bytes=1 << 20) for attempt in (1, 2))
    await driver.create_paused(first, budget_seconds=BUDGET)
    await driver.create_paused(second, budget_seconds=BUDGET)
    await driver.remove(first.identity, budget_seconds=BUDGET)
    listing = await driver.list_machines(budget_seconds=BUDGET)
    assert [machine.identity.attempt for machine in listing.machines] == [2]
    assert {name.rpartition(".")[2] for name in host.volumes} == {"root", "document-env", *LOGS}
