"""The driver over real hypervisors. Most of the domains stay paused, and cost no processor time."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import libvirt
import pytest

from service.domain.catalog import Image
from service.domain.cells import by_cell, cells_in
from service.drivers.base import (
    HostRejected,
    HostUnreachable,
    MachineConflict,
    MachineGhost,
    MachineState,
    NetworkInterface,
    OutcomeUnknown,
)
from service.drivers.libvirt import probing
from service.drivers.libvirt.addressing import Options
from service.drivers.libvirt.connection import Work
from service.drivers.libvirt.domain_xml import Platform
from service.drivers.libvirt.driver import LibvirtDriver
from service.drivers.libvirt.event_loop import ensure_event_loop
from service.drivers.libvirt.storage import Storage
from tests.integration.libvirt.support import driver_for
from tests.lab.fleet import Lab
from tests.lab.hypervisor import Hypervisor
from tests.service.drivers.libvirt.machines import CLUSTER, bridged, identity, specification
from tests.service.drivers.libvirt.machines import made as put
from tests.support import ROOT

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio]

BUDGET = 60.0


async def states(driver: LibvirtDriver) -> dict[int, MachineState]:
    listing = await driver.list_machines(budget_seconds=BUDGET)
    return {int(machine.identity.instance, 16): machine.state for machine in listing.machines}


async def test_a_machine_goes_through_its_life(hosts: list[Hypervisor], drivers: list[LibvirtDriver]) -> None:
    driver, spec = drivers[0], specification(1, interfaces=(bridged(1),), root_disk_bytes=1 << 20)
    for _ in range(2):
        made = await driver.create_paused(spec, budget_seconds=BUDGET)
        assert made.state is MachineState.PAUSED
    assert list(hosts[0].guests()) == [spec.identity.machine_name]
    for _ in range(2):
        assert (await driver.resume(spec.identity, budget_seconds=BUDGET)).state is MachineState.RUNNING
    for _ in range(2):
        await driver.power_off(spec.identity, budget_seconds=BUDGET)
    assert hosts[0].guests() == {}
    assert await states(driver) == {1: MachineState.STOPPED}
    assert (await driver.create_paused(spec, budget_seconds=BUDGET)).state is MachineState.PAUSED
    for _ in range(2):
        await driver.remove(spec.identity, budget_seconds=BUDGET)
    assert await states(driver) == {}
    assert await driver.list_volumes(budget_seconds=BUDGET) == ()
    assert hosts[0].guests() == {}


async def test_many_machines_are_created_at_once_on_both_hosts(drivers: list[LibvirtDriver]) -> None:
    creates = [d.create_paused(specification(n), budget_seconds=BUDGET) for d in drivers for n in range(1, 5)]
    made = await asyncio.gather(*creates)
    assert {machine.state for machine in made} == {MachineState.PAUSED}
    await asyncio.gather(*(d.remove(identity(n), budget_seconds=BUDGET) for d in drivers for n in range(1, 5)))
    for driver in drivers:
        assert await states(driver) == {}


async def test_what_the_host_is(hosts: list[Hypervisor], drivers: list[LibvirtDriver]) -> None:
    facts = await drivers[0].probe(budget_seconds=BUDGET)
    assert facts.hostname == hosts[0].name
    assert facts.total["vcpu"] >= 1
    assert facts.total["memory"] > 1 << 28
    assert facts.virt_type in ("kvm", "qemu")
    assert facts.virt_note
    assert facts.hypervisor_version.startswith("QEMU ")


def bound_to(process: int, cell: int) -> list[str]:
    """The parts of a process's memory that must be of one NUMA cell."""
    return [line for line in Path(f"/proc/{process}/numa_maps").read_text().splitlines() if f" bind:{cell}" in line]


async def test_a_pinned_machine_is_confined_to_its_cell(hosts: list[Hypervisor], drivers: list[LibvirtDriver]) -> None:
    facts = await drivers[0].probe(budget_seconds=BUDGET)
    cells = by_cell(facts.total)
    assert sum(of["vcpu"] for of in cells.values()) == facts.total["vcpu"]
    number = min(cells)
    spec = specification(1, cells=(number,))
    made = await drivers[0].create_paused(spec, budget_seconds=BUDGET)
    assert made.state is MachineState.PAUSED
    assert (cells_in(made.resources), made.resources[f"cell.{number}.memory"]) == ((number,), spec.memory_bytes)
    (process,) = hosts[0].guests().values()
    assert bound_to(process, number), "its memory is bound to the cell"
    connection = libvirt.open(hosts[0].uri)
    domain = connection.lookupByUUIDString(spec.identity.machine_uuid)
    assert domain.numaParameters(0)["numa_nodeset"] == str(number)
    allowed = [sum(cpus) for cpus in domain.vcpuPinInfo()]
    assert allowed == [cells[number]["vcpu"]]
    connection.close()
    with pytest.raises(HostRejected, match="no NUMA cell 63"):
        await drivers[0].create_paused(specification(2, cells=(63,)), budget_seconds=BUDGET)
    assert await states(drivers[0]) == {1: MachineState.PAUSED}


async def test_others_are_counted_and_left_alone(hosts: list[Hypervisor], drivers: list[LibvirtDriver]) -> None:
    before = (await drivers[0].probe(budget_seconds=BUDGET)).foreign
    connection = libvirt.open(hosts[0].uri)
    stranger = connection.createXML(
        "<domain type='qemu'><name>stranger</name><memory unit='MiB'>48</memory><vcpu>2</vcpu>"
        "<os><type>hvm</type></os><devices><controller type='usb' model='none'/></devices></domain>",
        libvirt.VIR_DOMAIN_START_PAUSED,
    )
    await drivers[0].create_paused(specification(1), budget_seconds=BUDGET)
    other = driver_for(hosts[0], "other-cluster")
    facts = await drivers[0].probe(budget_seconds=BUDGET)
    taken = 96 << 20  # by its QEMU for itself; of ours it is told beside
    assert (facts.beside, facts.guests) == ({"memory": 96 << 20}, 1)
    assert {name: facts.foreign[name] - before[name] for name in before} == {"vcpu": 2, "memory": (48 << 20) + taken}
    assert (await other.probe(budget_seconds=BUDGET)).foreign["vcpu"] == before["vcpu"] + 3
    assert (await other.list_machines(budget_seconds=BUDGET)).machines == ()
    await drivers[0].remove(identity(1), budget_seconds=BUDGET)
    assert stranger.isActive()
    stranger.destroy()
    await other.close()
    connection.close()


@pytest.mark.parametrize(
    ("interface", "code"),
    [
        (NetworkInterface("bridge", "no-such-br", "52:54:00:00:00:01"), "missing_network"),
        (NetworkInterface("network", "no-such", "52:54:00:00:00:01"), "missing_network"),
    ],
)
async def test_a_create_that_the_host_refuses_leaves_nothing(
    drivers: list[LibvirtDriver], interface: NetworkInterface, code: str
) -> None:
    spec = specification(1, interfaces=(interface,), root_disk_bytes=1 << 20)
    with pytest.raises(HostRejected) as refusal:
        await drivers[0].create_paused(spec, budget_seconds=BUDGET)
    assert refusal.value.code == code
    assert "no-such" not in refusal.value.public
    assert await states(drivers[0]) == {}
    assert await drivers[0].list_volumes(budget_seconds=BUDGET) == ()


async def test_disks_stand_on_the_registered_image(
    hosts: list[Hypervisor], drivers: list[LibvirtDriver], tmp_path: Path
) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"image" + bytes(1 << 20))
    image = Image("disk", disk_path=str(disk), disk_format="raw", delivery="nocloud")
    specs = [specification(n, image=image, root_disk_bytes=4 << 20, interfaces=(bridged(n),)) for n in (1, 2)]
    await asyncio.gather(*(put(drivers[0], spec, budget_seconds=BUDGET) for spec in specs))
    pool = hosts[0].directory / "var/lib/libvirt/corral"
    assert len([p for p in pool.iterdir() if p.name.startswith("corral-base.") and p.suffix != ".ready"]) >= 1
    volumes = await drivers[0].list_volumes(budget_seconds=BUDGET)
    assert {name.rpartition(".")[2] for name in volumes} == {"root", "seed", "log-console", "log-engine"}
    assert len(volumes) == 8
    root = next(name for name in volumes if name.endswith(".root"))
    described = hosts[0].namespace.run("qemu-img", "info", "-U", f"/var/lib/libvirt/corral/{root}")
    assert re.search(r"virtual size: 4 MiB", described)
    assert re.search(r"backing file format: raw", described)
    assert b"cidata" in (pool / next(n for n in volumes if n.endswith("seed"))).read_bytes()
    for spec in specs:
        await drivers[0].remove(spec.identity, budget_seconds=BUDGET)
    assert await drivers[0].list_volumes(budget_seconds=BUDGET) == ()


async def test_a_tombstone_refuses_a_late_create(drivers: list[LibvirtDriver]) -> None:
    spec = specification(1)
    await drivers[0].entomb(spec.identity, budget_seconds=BUDGET)
    with pytest.raises(MachineConflict):
        await drivers[0].create_paused(spec, budget_seconds=BUDGET)
    assert await states(drivers[0]) == {1: MachineState.TOMBSTONE}
    await drivers[0].clear_tombstone(spec.identity, budget_seconds=BUDGET)
    assert await states(drivers[0]) == {}


async def test_two_control_planes_that_create_the_same_machine_make_one(
    hosts: list[Hypervisor], drivers: list[LibvirtDriver]
) -> None:
    twin = driver_for(hosts[0])
    spec = specification(1, root_disk_bytes=1 << 20)
    made = await asyncio.gather(
        drivers[0].create_paused(spec, budget_seconds=BUDGET), twin.create_paused(spec, budget_seconds=BUDGET)
    )
    assert {machine.machine_uuid for machine in made} == {spec.identity.machine_uuid}
    assert len(hosts[0].guests()) == 1
    await twin.close()


async def test_libvirtd_restarts_under_the_driver(hosts: list[Hypervisor], drivers: list[LibvirtDriver]) -> None:
    driver, spec = drivers[0], specification(1)
    hints: list[object] = []
    driver.subscribe(lambda _host, machine: hints.append(machine))
    await driver.create_paused(spec, budget_seconds=BUDGET)
    before = await driver.list_machines(budget_seconds=BUDGET)
    guests = hosts[0].guests()
    hosts[0].kill_daemon()
    with pytest.raises(HostUnreachable):
        await driver.list_machines(budget_seconds=5)
    hosts[0].start_daemon()
    after = await driver.list_machines(budget_seconds=BUDGET)
    assert after == before  # the same boot id too: disconnected is not dead
    assert hosts[0].guests() == guests
    assert None in hints
    assert (await driver.resume(spec.identity, budget_seconds=BUDGET)).state is MachineState.RUNNING


async def test_a_reboot_is_noticed_and_the_machine_is_stopped(
    hosts: list[Hypervisor], drivers: list[LibvirtDriver]
) -> None:
    spec = specification(1, root_disk_bytes=1 << 20)
    await drivers[1].create_paused(spec, budget_seconds=BUDGET)
    before = await drivers[1].list_machines(budget_seconds=BUDGET)
    hosts[1].reboot()
    after = await drivers[1].list_machines(budget_seconds=BUDGET)
    assert after.boot_id != before.boot_id
    assert [machine.state for machine in after.machines] == [MachineState.STOPPED]
    assert (await drivers[1].create_paused(spec, budget_seconds=BUDGET)).state is MachineState.PAUSED


async def test_a_killed_guest_is_seen_crashed(hosts: list[Hypervisor], drivers: list[LibvirtDriver]) -> None:
    spec = specification(1)
    news = asyncio.Event()
    await drivers[0].create_paused(spec, budget_seconds=BUDGET)
    await drivers[0].list_machines(budget_seconds=BUDGET)
    drivers[0].subscribe(lambda _host, machine: news.set() if machine == spec.identity else None)
    hosts[0].signal_guest(spec.identity.machine_name, signal.SIGKILL)
    await asyncio.wait_for(news.wait(), 120)
    assert await states(drivers[0]) == {1: MachineState.CRASHED}
    await drivers[0].remove(spec.identity, budget_seconds=BUDGET)


async def test_the_work_over_tcp_needs_nothing_but_libvirtd(lab: Lab, hosts: list[Hypervisor]) -> None:
    script = """
import asyncio, sys
from service.drivers.libvirt.driver import LibvirtDriver
from service.domain.fleet import HostAddress
from tests.service.drivers.libvirt.machines import CLUSTER, specification
async def main():
    driver = LibvirtDriver("h", CLUSTER, HostAddress("libvirt", "tcp", sys.argv[1]))
    spec = specification(1, root_disk_bytes=1 << 20)
    made = await driver.create_paused(spec, budget_seconds=60)
    await driver.remove(spec.identity, budget_seconds=60)
    print(made.state, len((await driver.list_machines(budget_seconds=60)).machines))
    await driver.close()
asyncio.run(main())
"""
    done = await asyncio.to_thread(
        subprocess.run,
        lab.command(sys.executable, "-c", script, hosts[0].address),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["paused", "0"], done.stderr


async def test_the_probe_guest_tells_what_runs_from_what_hangs(
    hosts: list[Hypervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_event_loop()
    connection = libvirt.open(hosts[0].uri)
    storage, platform = Storage(Options()), Platform("qemu", "x86_64")

    def runs() -> bool:
        return probing.runs_guests(connection, Work(60), platform, CLUSTER, storage)

    assert await asyncio.to_thread(runs)
    monkeypatch.setattr(probing, "RESET_SECTOR", bytes([0xFA, 0xF4, 0xEB, 0xFD]).ljust(510, b"\0") + b"\x55\xaa")
    monkeypatch.setattr(probing, "PROBE_SECONDS", 2.0)
    assert not await asyncio.to_thread(runs)  # halted for ever, as a guest does where KVM only pretends
    monkeypatch.setattr(probing, "PROBE_SECONDS", 30.0)
    ended = asyncio.create_task(asyncio.to_thread(_end_probes, hosts[0], _destroyed))
    with pytest.raises(OutcomeUnknown):  # somebody ended it: that says nothing of the host
        await asyncio.to_thread(runs)
    await ended
    ended = asyncio.create_task(asyncio.to_thread(_end_probes, hosts[0], _killed))
    assert not await asyncio.to_thread(runs), "its process failed"
    await ended
    assert hosts[0].guests() == {}
    assert storage.machine_volumes(connection, CLUSTER) == ()
    connection.close()


def _destroyed(_host: Hypervisor, domain: libvirt.virDomain) -> None:
    domain.destroy()


def _killed(host: Hypervisor, domain: libvirt.virDomain) -> None:
    host.signal_guest(domain.name(), signal.SIGKILL)


def _end_probes(host: Hypervisor, end: Callable[[Hypervisor, libvirt.virDomain], None]) -> None:
    """Ends each try of a probe guest once it runs."""
    connection, ended = libvirt.open(host.uri), set[str]()
    while len(ended) < probing.PROBE_TRIES:
        for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_RUNNING):
            if domain.name().startswith("corral-probe-") and domain.name() not in ended:
                ended.add(domain.name())
                end(host, domain)
        time.sleep(0.02)
    connection.close()


@pytest.mark.slow
async def test_a_frozen_guest_holds_up_nobody_and_can_be_removed(
    hosts: list[Hypervisor], drivers: list[LibvirtDriver]
) -> None:
    for number in (1, 2):
        await drivers[0].create_paused(specification(number), budget_seconds=BUDGET)
    await drivers[0].resume(identity(1), budget_seconds=BUDGET)
    hosts[0].signal_guest(identity(1).machine_name, signal.SIGSTOP)
    # libvirt sees nothing wrong with it, and answers for it and for all others.
    assert await states(drivers[0]) == {1: MachineState.RUNNING, 2: MachineState.PAUSED}
    await drivers[0].probe(budget_seconds=BUDGET)
    await drivers[0].remove(identity(2), budget_seconds=BUDGET)
    assert await states(drivers[0]) == {1: MachineState.RUNNING}
    await drivers[0].remove(identity(1), budget_seconds=BUDGET)
    assert await states(drivers[0]) == {}
    assert hosts[0].guests() == {}


@pytest.mark.slow
async def test_a_frozen_libvirtd_costs_its_own_callers_alone(
    hosts: list[Hypervisor], drivers: list[LibvirtDriver]
) -> None:
    spec = specification(1)
    await drivers[0].create_paused(spec, budget_seconds=BUDGET)
    await drivers[0].probe(budget_seconds=BUDGET)
    hosts[0].signal_daemon(signal.SIGSTOP)
    try:
        # No deadline ends these calls: keepalive ends those that were sent, and the one that then needs a new
        # connection finds that none can be opened.
        hung = asyncio.gather(
            drivers[0].probe(budget_seconds=BUDGET),
            drivers[0].resume(spec.identity, budget_seconds=BUDGET),
            drivers[0].power_off(spec.identity, budget_seconds=BUDGET),
            return_exceptions=True,
        )
        await drivers[1].create_paused(spec, budget_seconds=BUDGET)
        await drivers[1].remove(spec.identity, budget_seconds=BUDGET)
        assert not hung.done()
        read, resumed, stopped = await hung
        assert isinstance(read, HostUnreachable)
        assert isinstance(resumed, HostUnreachable)
        assert isinstance(stopped, OutcomeUnknown)
        with pytest.raises(HostUnreachable):
            await drivers[0].list_machines(budget_seconds=1)  # open does not return
    finally:
        hosts[0].signal_daemon(signal.SIGCONT)
    after = await drivers[0].list_machines(budget_seconds=BUDGET)
    assert len(after.machines) == 1


@pytest.mark.slow
async def test_libvirtd_killed_around_a_create_leaves_something_that_can_be_told(
    hosts: list[Hypervisor], drivers: list[LibvirtDriver]
) -> None:
    for number, delay in enumerate((0.0, 0.02, 0.05, 0.1, 0.2), start=1):
        spec = replace(specification(number), identity=replace(identity(number), instance=uuid.uuid4().hex))
        create = asyncio.create_task(drivers[0].create_paused(spec, budget_seconds=BUDGET))
        await asyncio.sleep(delay)
        hosts[0].kill_daemon()
        outcome = (await asyncio.gather(create, return_exceptions=True))[0]
        hosts[0].start_daemon()
        _, seen = await drivers[0].observe(spec.identity, budget_seconds=BUDGET)
        if not isinstance(outcome, BaseException):
            assert seen is not None
        else:
            assert isinstance(outcome, OutcomeUnknown | HostUnreachable)
        if isinstance(outcome, HostUnreachable):
            assert seen is None
        try:
            await drivers[0].remove(spec.identity, budget_seconds=BUDGET)
        except MachineGhost:
            continue  # the uuid is burnt on this host, and the driver says so
        assert spec.identity.machine_name not in hosts[0].guests()
        assert (await drivers[0].observe(spec.identity, budget_seconds=BUDGET))[1] is None
