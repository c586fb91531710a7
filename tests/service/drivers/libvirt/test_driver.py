"""The driver over a host of memory: idempotent steps, the order of ending, and what each failure means."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
from dataclasses import replace
from pathlib import Path

import libvirt
import pytest

from service.drivers.base import (
    DriverError,
    HostRejected,
    HostUnreachable,
    Image,
    MachineConflict,
    MachineGhost,
    MachineIdentity,
    MachineState,
    OutcomeUnknown,
)
from service.drivers.libvirt import inventory
from service.drivers.libvirt.domain_xml import tombstone_xml
from tests.service.drivers.libvirt.fake import Domain, FakeHost, error, lost
from tests.service.drivers.libvirt.machines import BUDGET, CLUSTER, driver_of, identity, specification

pytestmark = pytest.mark.asyncio

PAUSED = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER)
STARTING = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP)


async def states(host: FakeHost) -> list[MachineState]:
    listing = await driver_of(host).list_machines(budget_seconds=BUDGET)
    return [machine.state for machine in listing.machines]


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


async def test_the_order_of_ending() -> None:
    host, spec = FakeHost(), specification(root_disk_bytes=1 << 20)
    driver = driver_of(host)
    await driver.create_paused(spec, budget_seconds=BUDGET)
    host.calls.clear()
    await driver.remove(spec.identity, budget_seconds=BUDGET)
    assert host.effects() == ["destroy", "undefine", "deleteVolume"]


@pytest.mark.parametrize("method", ["define", "create", "createVolume"])
async def test_what_a_refused_create_made_is_removed(method: str) -> None:
    host, spec = FakeHost(), specification(root_disk_bytes=1 << 20)
    host.plant(method, lambda: error(libvirt.VIR_ERR_CONFIG_UNSUPPORTED))
    with pytest.raises(HostRejected) as refusal:
        await driver_of(host).create_paused(spec, budget_seconds=BUDGET)
    assert refusal.value.code == "unsupported"
    assert (host.domains, host.volumes) == ({}, {})


async def test_a_disk_that_another_control_plane_is_making_is_waited_for() -> None:
    host, spec = FakeHost(), specification(root_disk_bytes=1 << 20)
    host.plant("createVolume", lost, after=True)
    with pytest.raises(OutcomeUnknown):
        await driver_of(host).create_paused(spec, budget_seconds=BUDGET)
    host.plant("downloadVolume", lambda: error(libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_FROM_STORAGE), times=3)
    assert (await driver_of(host).create_paused(spec, budget_seconds=BUDGET)).state is MachineState.PAUSED
    assert host.calls.count("downloadVolume") == 4
    assert len(host.volumes) == 1


async def test_a_pool_whose_directory_another_control_plane_is_making_is_waited_for() -> None:
    def absent() -> libvirt.libvirtError:
        return error(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_STORAGE, number=errno.ENOENT)

    host, spec = FakeHost(pool_active=False), specification(root_disk_bytes=1 << 20)
    host.plant("startPool", absent, times=3)
    assert (await driver_of(host).create_paused(spec, budget_seconds=BUDGET)).state is MachineState.PAUSED
    assert host.pool_active


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
    assert len(host.volumes) == 1


async def test_a_stopped_machine_starts_with_new_documents_on_its_old_disk() -> None:
    host, spec = FakeHost(), specification(root_disk_bytes=1 << 20)
    driver = driver_of(host)
    await driver.create_paused(spec, budget_seconds=BUDGET)
    await driver.power_off(spec.identity, budget_seconds=BUDGET)
    disks = dict(host.volumes)
    again = replace(spec, documents={"env": "CORRAL_GROUP_EPOCH=2\n"})
    assert (await driver.create_paused(again, budget_seconds=BUDGET)).state is MachineState.PAUSED
    assert base64.b64encode(b"CORRAL_GROUP_EPOCH=2\n").decode() in host.domains[spec.identity.machine_uuid].xml
    assert host.volumes == disks


async def test_a_stopped_machine_whose_start_is_refused_keeps_its_disk() -> None:
    host, spec = FakeHost(), specification(root_disk_bytes=1 << 20)
    driver = driver_of(host)
    await driver.create_paused(spec, budget_seconds=BUDGET)
    await driver.power_off(spec.identity, budget_seconds=BUDGET)
    host.plant("create", lambda: error(libvirt.VIR_ERR_NO_MEMORY))
    with pytest.raises(HostRejected):
        await driver.create_paused(spec, budget_seconds=BUDGET)
    assert len(host.volumes) == 1
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
    assert len(host.volumes) == 1


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


async def test_already_started_by_another_is_success() -> None:
    host, spec = FakeHost(), specification()

    def started_by_another() -> libvirt.libvirtError:
        host.domains[spec.identity.machine_uuid].state = PAUSED
        return error(libvirt.VIR_ERR_OPERATION_INVALID)

    host.plant("create", started_by_another)
    assert (await driver_of(host).create_paused(spec, budget_seconds=BUDGET)).state is MachineState.PAUSED


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
    assert facts.foreign == {"vcpu": 4, "memory": (1024 + 2048 << 10) + (64 << 20)}
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
    assert len(host.volumes) == 1


# --- ghosts and crashes ---


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
    hung = [asyncio.create_task(driver.power_off(spec.identity, budget_seconds=20)) for spec in specs]
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


# --- images ---


def registered(path: Path, content: bytes, digest: str = "") -> Image:
    path.write_bytes(content)
    return Image("guest", kernel_path=str(path), sha256={"kernel": digest or hashlib.sha256(content).hexdigest()})


async def test_an_image_is_uploaded_once_for_all_machines(tmp_path: Path) -> None:
    host = FakeHost()
    image = registered(tmp_path / "kernel", b"kernel" * 50_000)
    driver = driver_of(host)
    await asyncio.gather(
        *(driver.create_paused(specification(n, image=image), budget_seconds=BUDGET) for n in range(1, 5))
    )
    assert host.effects().count("upload") == 1
    await driver_of(host).create_paused(specification(9, image=image), budget_seconds=BUDGET)
    assert host.effects().count("upload") == 1
    assert b"kernel" * 50_000 in host.contents.values()
    assert await driver.list_volumes(budget_seconds=BUDGET) == ()


async def test_an_image_that_is_not_what_was_registered_is_refused(tmp_path: Path) -> None:
    host = FakeHost()
    image = registered(tmp_path / "kernel", b"tampered", hashlib.sha256(b"registered").hexdigest())
    with pytest.raises(HostRejected) as refusal:
        await driver_of(host).create_paused(specification(image=image), budget_seconds=BUDGET)
    assert refusal.value.code == "missing_image"
    assert str(tmp_path) not in refusal.value.public
    assert (host.domains, host.volumes) == ({}, {})


async def test_an_upload_that_broke_off_is_never_used_and_goes_at_the_next(tmp_path: Path) -> None:
    host = FakeHost()
    image = registered(tmp_path / "kernel", b"kernel")
    driver = driver_of(host)
    host.plant("upload", lost)
    with pytest.raises(OutcomeUnknown):
        await driver.create_paused(specification(image=image), budget_seconds=BUDGET)
    (broken,) = host.volumes
    await driver.create_paused(specification(image=image), budget_seconds=BUDGET)
    assert broken not in host.volumes
    assert len(host.volumes) == 2  # the image and the mark that it is whole


async def test_a_missing_image_file_is_a_rejection(tmp_path: Path) -> None:
    image = Image("guest", kernel_path=str(tmp_path / "nothing"))
    with pytest.raises(HostRejected) as refusal:
        await driver_of(FakeHost()).create_paused(specification(image=image), budget_seconds=BUDGET)
    assert refusal.value.code == "missing_image"


async def test_volumes_of_others_can_not_be_deleted() -> None:
    host = FakeHost(pool=True)
    driver = driver_of(host)
    names = ["debian.qcow2", "corral-base." + "0" * 64 + ".00000000", f"corral.other.{'0' * 32}.1.root"]
    host.volumes = dict.fromkeys(names, "")
    assert await driver.list_volumes(budget_seconds=BUDGET) == ()
    for name in [*names, "../../etc/passwd", ""]:
        with pytest.raises(HostRejected):
            await driver.delete_volume(name, budget_seconds=BUDGET)
    assert list(host.volumes) == names


async def test_an_orphaned_volume_can_be_found_and_deleted() -> None:
    host, spec = FakeHost(), specification(root_disk_bytes=1 << 20)
    driver = driver_of(host)
    await driver.create_paused(spec, budget_seconds=BUDGET)
    host.domains.clear()
    (name,) = await driver.list_volumes(budget_seconds=BUDGET)
    assert name == f"corral.{CLUSTER}.{spec.identity.instance}.1.root"
    for _ in range(2):
        await driver.delete_volume(name, budget_seconds=BUDGET)
    assert host.volumes == {}


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
