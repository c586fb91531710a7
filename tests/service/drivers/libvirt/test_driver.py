"""The driver over a host in memory: idempotent steps, the order of ending, and what each failure means."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace

import libvirt
import pytest

from service.drivers.base import (
    DriverError,
    HostRejected,
    HostUnreachable,
    MachineGhost,
    MachineIdentity,
    MachineState,
    OutcomeUnknown,
)
from service.drivers.libvirt import inventory
from tests.service.drivers.libvirt.fake import FakeHost, error, lost
from tests.service.drivers.libvirt.machines import BUDGET, LOGS, driver_of, identity, specification, states

pytestmark = pytest.mark.asyncio

PAUSED = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER)
STARTING = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP)


async def test_a_machine_goes_through_its_life() -> None:
    host, spec = FakeHost(), specification()
    driver = driver_of(host)
    assert (await driver.create_paused(spec, budget_seconds=BUDGET)).state is MachineState.PAUSED
    assert (await driver.resume(spec.identity, budget_seconds=BUDGET)).state is MachineState.RUNNING
    await driver.shutdown(spec.identity, budget_seconds=BUDGET)
    _, asked = await driver.observe(spec.identity, budget_seconds=BUDGET)
    assert asked is not None
    assert asked.state is MachineState.STOPPING
    await driver.power_off(spec.identity, budget_seconds=BUDGET)
    assert (await driver.create_paused(spec, budget_seconds=BUDGET)).state is MachineState.PAUSED
    await driver.remove(spec.identity, budget_seconds=BUDGET)
    assert host.domains == {}
    await driver.close()


async def test_every_step_may_be_repeated() -> None:
    host, spec = FakeHost(), specification(root_disk_bytes=1 << 20)
    driver = driver_of(host)
    for _ in range(2):
        await driver.create_paused(spec, budget_seconds=BUDGET)
    for _ in range(2):
        assert (await driver.resume(spec.identity, budget_seconds=BUDGET)).state is MachineState.RUNNING
    assert (await driver.create_paused(spec, budget_seconds=BUDGET)).state is MachineState.RUNNING
    for _ in range(2):
        await driver.power_off(spec.identity, budget_seconds=BUDGET)
        await driver.shutdown(spec.identity, budget_seconds=BUDGET)
    for _ in range(2):
        await driver.remove(spec.identity, budget_seconds=BUDGET)
    for _ in range(2):
        await driver.entomb(spec.identity, budget_seconds=BUDGET)
    for _ in range(2):
        await driver.clear_tombstone(spec.identity, budget_seconds=BUDGET)
    assert host.effects().count("define") == 2
    assert host.effects().count("create") == 1
    assert (host.domains, host.volumes) == ({}, {})


async def test_a_definition_that_somebody_removed_is_seen_and_made_again() -> None:
    host, spec = FakeHost(), specification()
    driver = driver_of(host)
    await driver.create_paused(spec, budget_seconds=BUDGET)
    await driver.resume(spec.identity, budget_seconds=BUDGET)
    domain = host.domains[spec.identity.machine_uuid]
    domain.persistent = False
    (machine,) = (await driver.list_machines(budget_seconds=BUDGET)).machines
    assert (machine.undefined, machine.state) == (True, MachineState.RUNNING)
    host.calls.clear()
    for _ in range(2):
        await driver.define_again(spec.identity, budget_seconds=BUDGET)
    assert (domain.persistent, host.effects()) == (True, ["define"])
    (machine,) = (await driver.list_machines(budget_seconds=BUDGET)).machines
    assert not machine.undefined
    await driver.remove(spec.identity, budget_seconds=BUDGET)
    await driver.define_again(spec.identity, budget_seconds=BUDGET)
    assert host.domains == {}
    await driver.close()


async def test_the_order_of_ending() -> None:
    host, spec = FakeHost(), specification(root_disk_bytes=1 << 20)
    driver = driver_of(host)
    await driver.create_paused(spec, budget_seconds=BUDGET)
    host.calls.clear()
    await driver.remove(spec.identity, budget_seconds=BUDGET)
    assert host.effects() == ["destroy", "undefine", *["deleteVolume"] * 4]  # disk, documents, two logs


@pytest.mark.parametrize("graceful", [False, True])
async def test_a_channel_ends_before_the_process_behind_it_and_is_not_opened_again_before_the_next_run(
    graceful: bool,
) -> None:
    host, spec = FakeHost(), specification()
    driver = driver_of(host)
    await driver.create_paused(spec, budget_seconds=BUDGET)
    await driver.resume(spec.identity, budget_seconds=BUDGET)
    host.calls.clear()
    if graceful:
        host.domains[spec.identity.machine_uuid].state = (
            libvirt.VIR_DOMAIN_SHUTOFF,
            libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN,
        )
    else:
        host.plant("destroy", lambda: error(libvirt.VIR_ERR_NO_MEMORY))
        with pytest.raises(HostRejected):
            await driver.power_off(spec.identity, budget_seconds=BUDGET)
        await driver.list_machines(budget_seconds=BUDGET)
        assert "openChannel" not in host.calls
    await driver.remove(spec.identity, budget_seconds=BUDGET)
    ended = "undefine" if graceful else "destroy"
    assert host.calls.index("abortStream") < host.calls.index(ended)
    assert host.calls.count("abortStream") == 1
    await driver.create_paused(spec, budget_seconds=BUDGET)
    await driver.resume(spec.identity, budget_seconds=BUDGET)
    assert "openChannel" in host.calls
    await driver.close()


@pytest.mark.parametrize("method", ["define", "create", "createVolume"])
async def test_what_a_refused_create_made_is_removed(method: str) -> None:
    host, spec = FakeHost(), specification(root_disk_bytes=1 << 20)
    host.plant(method, lambda: error(libvirt.VIR_ERR_CONFIG_UNSUPPORTED))
    with pytest.raises(HostRejected) as refusal:
        await driver_of(host).create_paused(spec, budget_seconds=BUDGET)
    assert refusal.value.code == "unsupported"
    assert (host.domains, host.volumes) == ({}, {})


async def test_a_stopped_machine_starts_with_new_documents_on_its_old_disk() -> None:
    host, spec = FakeHost(), specification(root_disk_bytes=1 << 20)
    driver = driver_of(host)
    await driver.create_paused(spec, budget_seconds=BUDGET)
    await driver.power_off(spec.identity, budget_seconds=BUDGET)
    disks = dict(host.volumes)
    again = replace(spec, documents={"env": "CORRAL_GROUP_EPOCH=2\n"})
    assert (await driver.create_paused(again, budget_seconds=BUDGET)).state is MachineState.PAUSED
    (document,) = [name for name in host.volumes if name.endswith(".document-env")]
    assert base64.b64decode(host.contents[document]) == b"CORRAL_GROUP_EPOCH=2\n"
    (root,) = [name for name in host.volumes if name.endswith(".root")]
    assert host.volumes[root] is disks[root]


async def test_a_stopped_machine_whose_start_is_refused_keeps_its_disk() -> None:
    host, spec = FakeHost(), specification(root_disk_bytes=1 << 20)
    driver = driver_of(host)
    await driver.create_paused(spec, budget_seconds=BUDGET)
    await driver.power_off(spec.identity, budget_seconds=BUDGET)
    host.plant("create", lambda: error(libvirt.VIR_ERR_NO_MEMORY))
    with pytest.raises(HostRejected):
        await driver.create_paused(spec, budget_seconds=BUDGET)
    assert {name.rpartition(".")[2] for name in host.volumes} == {"root", "document-env", *LOGS}
    assert await states(host) == [MachineState.STOPPED]


@pytest.mark.parametrize("method", ["define", "create", "createVolume"])
async def test_a_create_whose_reply_was_lost_is_found_done_or_finished_by_the_next(method: str) -> None:
    host, spec = FakeHost(), specification(root_disk_bytes=1 << 20)
    driver = driver_of(host)
    host.plant(method, lost, after=True)
    with pytest.raises(OutcomeUnknown):
        await driver.create_paused(spec, budget_seconds=BUDGET)
    assert (await driver.create_paused(spec, budget_seconds=BUDGET)).state is MachineState.PAUSED
    assert len(host.domains) == 1
    assert {name.rpartition(".")[2] for name in host.volumes} == {"root", "document-env", *LOGS}


@pytest.mark.parametrize("method", ["destroy", "undefine", "deleteVolume"])
@pytest.mark.parametrize("after", [False, True])
async def test_a_removal_that_broke_off_is_finished_by_the_next(method: str, after: bool) -> None:
    host, spec = FakeHost(), specification(root_disk_bytes=1 << 20)
    driver = driver_of(host)
    await driver.create_paused(spec, budget_seconds=BUDGET)
    host.plant(method, lost, after=after)
    with pytest.raises(OutcomeUnknown):
        await driver.remove(spec.identity, budget_seconds=BUDGET)
    await driver.remove(spec.identity, budget_seconds=BUDGET)
    assert (host.domains, host.volumes) == ({}, {})


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (PAUSED, MachineState.PAUSED),
        ((libvirt.VIR_DOMAIN_RUNNING, 1), MachineState.RUNNING),
        ((libvirt.VIR_DOMAIN_BLOCKED, 0), MachineState.RUNNING),
        ((libvirt.VIR_DOMAIN_NOSTATE, 0), MachineState.RUNNING),
        ((libvirt.VIR_DOMAIN_SHUTDOWN, 0), MachineState.STOPPING),
        ((libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN), MachineState.STOPPED),
        ((libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED), MachineState.STOPPED),
        ((libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED), MachineState.CRASHED),
        ((libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_FAILED), MachineState.CRASHED),
        ((libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_CRASHED), MachineState.CRASHED),
        ((libvirt.VIR_DOMAIN_CRASHED, 0), MachineState.CRASHED),
        ((99, 0), MachineState.RUNNING),
    ],
)
async def test_states_in_our_words(seen: tuple[int, int], expected: MachineState) -> None:
    host, spec = FakeHost(), specification()
    await driver_of(host).create_paused(spec, budget_seconds=BUDGET)
    host.domains[spec.identity.machine_uuid].state = seen
    assert await states(host) == [expected]


async def test_a_create_that_never_ends_is_a_ghost(monkeypatch: pytest.MonkeyPatch) -> None:
    host, spec = FakeHost(), specification()
    driver = driver_of(host)
    await driver.create_paused(spec, budget_seconds=BUDGET)
    host.domains[spec.identity.machine_uuid].state = STARTING
    listing = await driver.list_machines(budget_seconds=BUDGET)
    assert [machine.state for machine in listing.machines] == [MachineState.PAUSED]  # it may still come
    monkeypatch.setattr(inventory, "GHOST_SECONDS", 0.0)
    listing = await driver.list_machines(budget_seconds=BUDGET)
    assert [machine.state for machine in listing.machines] == [MachineState.GHOST]
    with pytest.raises(MachineGhost):
        await driver.create_paused(spec, budget_seconds=BUDGET)
    with pytest.raises(MachineGhost):
        await driver.resume(spec.identity, budget_seconds=BUDGET)
    host.plant("destroy", lambda: error(libvirt.VIR_ERR_OPERATION_TIMEOUT))
    with pytest.raises(MachineGhost):
        await driver.remove(spec.identity, budget_seconds=BUDGET)


async def test_a_process_that_does_not_die_is_not_a_ghost() -> None:
    host, spec = FakeHost(), specification()
    driver = driver_of(host)
    await driver.create_paused(spec, budget_seconds=BUDGET)
    host.plant("destroy", lambda: error(libvirt.VIR_ERR_OPERATION_TIMEOUT))
    with pytest.raises(OutcomeUnknown):
        await driver.remove(spec.identity, budget_seconds=BUDGET)
    assert len(host.domains) == 1  # nothing was undefined under it


# --- deadlines and connections ---


async def test_a_hung_step_ends_at_the_budget_and_leaves_the_lists_alone() -> None:
    host, spec = FakeHost(), specification()
    driver = driver_of(host)
    await driver.create_paused(spec, budget_seconds=BUDGET)
    release = host.hang("destroy")
    with pytest.raises(OutcomeUnknown):
        await driver.power_off(spec.identity, budget_seconds=0.1)
    listing = await driver.list_machines(budget_seconds=BUDGET)
    assert [machine.state for machine in listing.machines] == [MachineState.PAUSED]
    release.set()
    await driver.power_off(spec.identity, budget_seconds=BUDGET)


async def test_many_hung_steps_do_not_delay_a_list() -> None:
    host = FakeHost()
    driver = driver_of(host)
    specs = [specification(number) for number in range(1, 9)]
    for spec in specs:
        await driver.create_paused(spec, budget_seconds=BUDGET)
    release = host.hang("destroy", times=len(specs))
    hung = [asyncio.create_task(driver.power_off(spec.identity, budget_seconds=BUDGET)) for spec in specs]
    await asyncio.sleep(0.05)
    assert len((await driver.list_machines(budget_seconds=BUDGET)).machines) == len(specs)
    assert not any(task.done() for task in hung)
    release.set()
    await asyncio.gather(*hung)


async def test_a_host_that_can_not_be_reached() -> None:
    host = FakeHost()
    host.plant("open", lost, times=2)
    driver = driver_of(host)
    for step in (driver.probe(budget_seconds=BUDGET), driver.create_paused(specification(), budget_seconds=BUDGET)):
        with pytest.raises(HostUnreachable):
            await step
    assert host.effects() == []


async def test_the_boot_id_stays_until_the_host_has_booted_again() -> None:
    host = FakeHost()
    first = (await driver_of(host).probe(budget_seconds=BUDGET)).boot_id
    assert (await driver_of(host).list_machines(budget_seconds=BUDGET)).boot_id == first
    host.networks.clear()  # what stands under /run goes with a reboot
    assert (await driver_of(host).list_machines(budget_seconds=BUDGET)).boot_id != first


async def test_the_marker_made_by_another_in_the_same_moment_is_taken() -> None:
    host = FakeHost()

    def made_by_another() -> libvirt.libvirtError:
        host.networks["corral-boot-id"] = "theirs"
        return error(libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_FROM_NETWORK)

    host.plant("networkCreate", made_by_another)
    assert (await driver_of(host).probe(budget_seconds=BUDGET)).boot_id == "theirs"


# --- news ---


async def test_events_become_hints_on_the_event_loop() -> None:
    host, spec = FakeHost(), specification()
    driver = driver_of(host)
    hints: list[tuple[str, MachineIdentity | None]] = []
    driver.subscribe(lambda host_id, machine: hints.append((host_id, machine)))
    await driver.create_paused(spec, budget_seconds=BUDGET)
    await driver.list_machines(budget_seconds=BUDGET)
    await asyncio.sleep(0)
    hints.clear()
    control = next(c for c in host.connections if c._on_event is not None)
    await asyncio.to_thread(control.emit, spec.identity.machine_uuid, libvirt.VIR_DOMAIN_EVENT_STOPPED)
    await asyncio.sleep(0)
    assert hints == [("host-1", spec.identity)]
    hints.clear()
    await driver.resume(spec.identity, budget_seconds=BUDGET)
    _, before = await driver.observe(spec.identity, budget_seconds=BUDGET)
    await asyncio.to_thread(control.reset, spec.identity.machine_uuid)
    await asyncio.sleep(0)
    assert ("host-1", spec.identity) in hints
    _, after = await driver.observe(spec.identity, budget_seconds=BUDGET)
    assert before is not None
    assert after is not None
    assert (before.reset_seconds, after.reset_seconds is not None) == (None, True)
    hints[:] = [("host-1", spec.identity)]
    await asyncio.to_thread(control.break_down)
    await asyncio.sleep(0)
    assert hints[1:] == [("host-1", None)]
    await driver.list_machines(budget_seconds=BUDGET)  # connects again
    await driver.close()


async def test_a_definition_that_changed_is_read_again() -> None:
    host = FakeHost()
    driver = driver_of(host)
    foreign = host.add_foreign("grows", vcpus=1, memory_kib=1024, running=True)
    assert (await driver.probe(budget_seconds=BUDGET)).foreign["vcpu"] == 1
    foreign.xml = foreign.xml.replace("<vcpu>1</vcpu>", "<vcpu>7</vcpu>")
    assert (await driver.probe(budget_seconds=BUDGET)).foreign["vcpu"] == 1  # nobody has said anything
    control = next(c for c in host.connections if c._on_event is not None)
    control.emit(foreign.uuid, libvirt.VIR_DOMAIN_EVENT_DEFINED)
    assert (await driver.probe(budget_seconds=BUDGET)).foreign["vcpu"] == 7


# --- what is refused, and what is told ---


async def test_nothing_is_sent_for_a_specification_that_makes_no_sense() -> None:
    host = FakeHost()
    driver = driver_of(host)
    for spec in (specification(vcpus=0), specification(display_name="\x00")):
        with pytest.raises(HostRejected):
            await driver.create_paused(spec, budget_seconds=BUDGET)
    wrong = replace(identity(), instance="../x")
    for step in (driver.observe, driver.resume, driver.remove, driver.entomb):
        with pytest.raises(DriverError):
            await step(wrong, budget_seconds=BUDGET)
    assert host.calls == []


@pytest.mark.parametrize(
    ("state", "errors", "why"),
    [
        ((libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR), {"vda": 1}, "input or output error"),
        ((libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR), {"vda": 2}, "no space is left"),
        ((libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_WATCHDOG), {}, "watchdog"),
        ((libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_CRASHED), {}, "panicked"),
        ((libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_CRASHED_PANICKED), {}, "panicked"),
        ((libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER), {}, ""),
        ((libvirt.VIR_DOMAIN_RUNNING, 1), {}, ""),
    ],
)
async def test_why_a_machine_does_not_run_is_told_in_words(
    state: tuple[int, int], errors: dict[str, int], why: str
) -> None:
    host, spec = FakeHost(), specification()
    driver = driver_of(host)
    await driver.create_paused(spec, budget_seconds=BUDGET)
    host.domains[spec.identity.machine_uuid].state = state
    host.disk_errors = errors
    _, seen = await driver.observe(spec.identity, budget_seconds=BUDGET)
    assert seen is not None
    assert (why in seen.why) if why else seen.why == ""
