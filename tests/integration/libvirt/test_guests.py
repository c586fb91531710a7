"""Real guests on two hypervisors: they get their documents, find each other, say how far they are, stop in order."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import math
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.domain.catalog import Image, disk_image
from service.domain.specs import DataDisk
from service.drivers.base import (
    HostRejected,
    LogPiece,
    LogSource,
    MachineIdentity,
    MachineSpec,
    MachineState,
    ObservedMachine,
)
from service.drivers.libvirt.driver import LibvirtDriver
from tests.integration.libvirt.support import driver_for, guest_documents
from tests.lab.fleet import Lab
from tests.lab.hypervisor import Hypervisor
from tests.service.drivers.libvirt.machines import bridged, identity, made, specification

# A boot takes three seconds, and a minute on a machine that is busy with other tests.
pytestmark = [pytest.mark.qemu, pytest.mark.asyncio, pytest.mark.timeout(900)]

BUDGET = 60.0
BOOT_SECONDS = 240.0
LEADER, WORKER = "10.77.2.1", "10.77.2.2"


def member(guest: Image, number: int, address: str, *, rank: int, leader: str = LEADER, **facts: Any) -> MachineSpec:
    documents = guest_documents(identity(number), rank=rank, address=address, leader=leader, **facts)
    return specification(
        number,
        image=guest,
        memory_bytes=96 << 20,
        interfaces=(bridged(number, address),),
        documents=documents,
    )


async def until(
    driver: LibvirtDriver, spec: MachineSpec, wanted: Callable[[ObservedMachine], bool], what: str
) -> ObservedMachine:
    """Observes until it is so. The stages that went by are in the error."""
    stages: list[str] = []
    async with asyncio.timeout(BOOT_SECONDS):
        try:
            while True:
                await driver.list_machines(budget_seconds=BUDGET)  # opens channels that broke
                _, seen = await driver.observe(spec.identity, budget_seconds=BUDGET)
                assert seen is not None
                stage = f"{seen.state}/{seen.report.stage if seen.report else '-'}"
                if not stages or stages[-1] != stage:
                    stages.append(stage)
                if wanted(seen):
                    return seen
                await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            raise AssertionError(f"{spec.display_name} was never {what}: {stages}") from None


def at_stage(stage: str) -> Callable[[ObservedMachine], bool]:
    return lambda seen: seen.report is not None and seen.report.stage == stage


async def launch(driver: LibvirtDriver, spec: MachineSpec) -> None:
    await made(driver, spec, budget_seconds=BUDGET)
    await driver.resume(spec.identity, budget_seconds=BUDGET)


async def test_a_group_comes_up_over_two_hosts_and_stops_in_order(
    lab: Lab, hosts: list[Hypervisor], drivers: list[LibvirtDriver], guest: Image
) -> None:
    head = member(guest, 1, LEADER, rank=0)
    worker = member(guest, 2, WORKER, rank=1)
    await asyncio.gather(launch(drivers[0], head), launch(drivers[1], worker))
    ready = await asyncio.gather(
        until(drivers[0], head, at_stage("ready"), "ready"), until(drivers[1], worker, at_stage("ready"), "ready")
    )
    for seen, address in zip(ready, (LEADER, WORKER), strict=True):
        assert seen.report is not None
        assert (seen.report.address, seen.report.epoch) == (address, 1)

    health = await joined_health(lab, LEADER, 1)
    assert health["machine_uuid"] == head.identity.machine_uuid
    expected = {"status": "ok", "name": "node-0", "role": "leader", "rank": 0, "size": 2, "address": LEADER}
    assert health.items() >= expected.items()
    assert health["instance"] == head.identity.instance
    assert (await asyncio.to_thread(lab.get_json, WORKER))["role"] == "worker"

    # libvirtd goes and comes: a reader that connects later learns the present stage all the same.
    hosts[1].restart_daemon()
    again = await until(
        drivers[1],
        worker,
        lambda seen: seen.report is not None and seen.report.received_at > _received(ready[1]),
        "heard after the restart",
    )
    assert again.report is not None
    assert again.report.stage == "ready"

    await taken_over(hosts[1], drivers[1], worker)
    await asyncio.gather(
        drivers[0].shutdown(head.identity, budget_seconds=BUDGET),
        drivers[1].shutdown(worker.identity, budget_seconds=BUDGET),
    )
    stopped = await until(drivers[0], head, lambda seen: seen.state is MachineState.STOPPED, "stopped")
    await until(drivers[1], worker, lambda seen: seen.state is MachineState.STOPPED, "stopped")
    assert stopped.report is not None
    assert stopped.report.stage == "stopping"

    # The same machine again, from its definition.
    await drivers[0].create_paused(head, budget_seconds=BUDGET)
    _, fresh = await drivers[0].observe(head.identity, budget_seconds=BUDGET)
    assert fresh is not None
    assert fresh.report is None
    await drivers[0].resume(head.identity, budget_seconds=BUDGET)
    await until(drivers[0], head, at_stage("ready"), "ready again")
    for driver, spec in zip(drivers, (head, worker), strict=True):
        await driver.remove(spec.identity, budget_seconds=BUDGET)
        assert await driver.list_volumes(budget_seconds=BUDGET) == ()


async def taken_over(hypervisor: Hypervisor, holder: LibvirtDriver, spec: MachineSpec) -> None:
    """While one client reads a guest's channel, another is refused, and knows it; it hears the guest once it takes the
    channel over, and the first one does not take that for the guest's silence."""
    other = driver_for(hypervisor)
    try:
        refused = await until(other, spec, lambda seen: seen.unheard_seconds > 0, "refused")
        assert refused.report is None
        await other.hear(spec.identity, budget_seconds=BUDGET)
        heard = await until(other, spec, at_stage("ready"), "heard by the other")
        assert heard.unheard_seconds == 0
        told_off = await until(holder, spec, lambda seen: seen.unheard_seconds > 0, "told that it is deaf")
        assert told_off.report is not None
        assert told_off.report.heard_since == math.inf
    finally:
        await other.close()
    since = time.monotonic()
    await holder.hear(spec.identity, budget_seconds=BUDGET)
    await until(holder, spec, lambda seen: seen.report is not None and seen.report.received_at > since, "heard again")


async def joined_health(lab: Lab, address: str, joined: int) -> Any:
    """The leader's health once it counts `joined` workers."""
    async with asyncio.timeout(BOOT_SECONDS):
        while True:
            health = await asyncio.to_thread(lab.get_json, address)
            if health["joined"] == joined:
                return health
            await asyncio.sleep(0.2)


def _received(seen: ObservedMachine) -> float:
    assert seen.report is not None
    return seen.report.received_at


async def test_a_worker_waits_for_its_leader_and_says_so(drivers: list[LibvirtDriver], guest: Image) -> None:
    worker = member(guest, 3, "10.77.2.3", rank=1, leader="10.77.2.4")
    late = replace(worker, documents={**worker.documents})
    late = replace(
        late, documents={**late.documents, "env": late.documents["env"] + "CORRAL_START_DEADLINE_SECONDS=0\n"}
    )
    await launch(drivers[0], late)
    waiting = await until(
        drivers[0], late, lambda s: s.report is not None and "deadline has passed" in s.report.detail, "late"
    )
    assert waiting.report is not None
    assert waiting.report.stage == "joining"
    await launch(drivers[1], member(guest, 4, "10.77.2.4", rank=0))
    await until(drivers[0], late, at_stage("ready"), "ready")
    await asyncio.gather(
        drivers[0].remove(late.identity, budget_seconds=BUDGET),
        drivers[1].remove(identity(4), budget_seconds=BUDGET),
    )


@pytest.mark.slow
async def test_a_member_of_a_past_start_leaves(drivers: list[LibvirtDriver], guest: Image) -> None:
    await launch(drivers[0], member(guest, 5, "10.77.2.5", rank=0, leader="10.77.2.5", epoch=2))
    past = member(guest, 6, "10.77.2.6", rank=1, leader="10.77.2.5", epoch=1)
    await launch(drivers[1], past)
    stopped = await until(drivers[1], past, lambda seen: seen.state is MachineState.STOPPED, "stopped")
    assert stopped.report is not None
    assert "newer epoch" in stopped.report.detail
    await asyncio.gather(
        drivers[0].remove(identity(5), budget_seconds=BUDGET), drivers[1].remove(identity(6), budget_seconds=BUDGET)
    )


@pytest.mark.slow
async def test_the_guest_runs_in_the_size_of_a_big_one(drivers: list[LibvirtDriver], guest: Image) -> None:
    big = replace(member(guest, 7, "10.77.2.7", rank=0), memory_bytes=16 << 30, vcpus=8)
    await launch(drivers[0], big)
    await until(drivers[0], big, at_stage("ready"), "ready")
    await drivers[0].remove(big.identity, budget_seconds=BUDGET)


async def test_what_a_guest_and_its_engine_say_is_kept_by_the_host_and_read_after_their_end(
    lab: Lab, hosts: list[Hypervisor], drivers: list[LibvirtDriver], guest: Image
) -> None:
    driver, word = drivers[0], f"word-{random.randrange(1 << 40):x}"
    spec = member(guest, 7, LEADER, rank=0, size=1)
    told = (
        "CORRAL_READINESS=process\n"
        f"CORRAL_ENGINE_COMMAND=i=0; while [ $i -lt 400 ]; do i=$((i + 1)); echo {word} $i; done; sleep 600\n"
    )
    spec = replace(spec, documents={**spec.documents, "env": spec.documents["env"] + told})
    await launch(driver, spec)
    await until(driver, spec, at_stage("ready"), "ready")

    async def read(source: LogSource, start: int = -65_536) -> LogPiece:
        return await driver.read_log(spec.identity, source, start=start, most=65_536, budget_seconds=BUDGET)

    async with asyncio.timeout(BOOT_SECONDS):
        while f"{word} 400".encode() not in (await read(LogSource.ENGINE)).data:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.2)
    engine = await read(LogSource.ENGINE, 0)
    assert engine.data.split(b"\n")[:-1] == [f"{word} {n}".encode() for n in range(1, 401)]
    assert (engine.start, engine.size) == (0, len(engine.data))
    assert (await read(LogSource.ENGINE, 10)).data == engine.data[10:]
    assert (await read(LogSource.ENGINE, engine.size + 99)).data == b""
    console = (await read(LogSource.CONSOLE)).data
    assert b"stage=booting" in console
    assert word.encode() not in console
    await driver.power_off(spec.identity, budget_seconds=BUDGET)
    assert (await read(LogSource.ENGINE, 0)).data == engine.data, "it outlives the machine's end"
    again = await driver.create_paused(spec, budget_seconds=BUDGET)
    assert again.console_from == (await read(LogSource.CONSOLE)).size > 0, "what comes now is of another run"
    await driver.remove(spec.identity, budget_seconds=BUDGET)
    with pytest.raises(HostRejected) as gone:
        await read(LogSource.CONSOLE)
    assert gone.value.code == "absent"
    assert await driver.list_volumes(budget_seconds=BUDGET) == ()


DISKS = """
for disk in /sys/block/vd*; do
    serial=$(cat "$disk/serial")
    echo "$serial $(cat "$disk/size") $(head -c 1500 "/dev/${disk##*/}" | sha256sum | cut -d" " -f1)"
done
echo written | dd of=/dev/vda conv=fsync,notrunc 2> /dev/null && head -c 7 /dev/vda
echo; echo over
sleep 600
"""


async def test_a_guest_finds_its_data_disks_by_their_serials_with_what_they_begin_with(
    drivers: list[LibvirtDriver], guest: Image, tmp_path: Path
) -> None:
    driver, content = drivers[0], random.randbytes(1500)
    sum_, path = hashlib.sha256(content).hexdigest(), tmp_path / "weights"
    path.write_bytes(content)
    weights = disk_image("weights", str(path), "raw", sum_)
    disks = (DataDisk(0, "a" * 32, weights), DataDisk(1 << 20))
    code = base64.b64encode(DISKS.encode()).decode()
    told = f'CORRAL_READINESS=process\nCORRAL_ENGINE_COMMAND=eval "$(echo {code} | base64 -d)"\n'
    spec = member(guest, 6, "10.77.2.6", rank=0, size=1)
    spec = replace(spec, data_disks=disks, documents={**spec.documents, "env": spec.documents["env"] + told})
    await launch(driver, spec)
    data = b""
    async with asyncio.timeout(BOOT_SECONDS):
        while b"over" not in data:
            await asyncio.sleep(0.2)
            data = (
                await driver.read_log(spec.identity, LogSource.ENGINE, start=0, most=65_536, budget_seconds=BUDGET)
            ).data
    # libvirt makes volumes of whole KiB.
    of_zeros = hashlib.sha256(bytes(1500)).hexdigest()
    first, second, *rest = data.decode().splitlines()
    assert (first, second) == (f"corral-data-0 4 {sum_}", f"corral-data-1 2048 {of_zeros}")
    assert rest[0] == "written", "it is the machine's own"
    await driver.remove(spec.identity, budget_seconds=BUDGET)
    assert await driver.list_volumes(budget_seconds=BUDGET) == ()


AGENT = r"""
for port in /sys/class/virtio-ports/*; do
    [ "$(cat "$port/name")" != org.qemu.guest_agent.0 ] || device=/dev/${port##*/}
done
[ -n "$device" ] && exec 3<> "$device"
pings=0
while [ $pings -lt 3 ]; do
    # While nobody is connected at the host's end, a read is at the end at once.
    IFS= read -r line <&3 || { sleep 0.1; continue; }
    case "$line" in
        *guest-sync*) id=${line##*:}; echo "{\"return\": ${id%%[!0-9 ]*}}" >&3 ;;
        *guest-ping*) pings=$((pings + 1)); echo "{\"return\": {}}" >&3 ;;
    esac
done
sleep 600
"""
"""What the QEMU guest agent says to libvirt's pings, three times: the default guest has no agent of its own."""


async def test_a_guests_agent_is_asked_by_its_host_alone(drivers: list[LibvirtDriver], guest: Image) -> None:
    driver, spec = drivers[0], member(guest, 8, "10.77.2.8", rank=0, size=1)
    code = base64.b64encode(AGENT.encode()).decode()
    told = f'CORRAL_READINESS=agent\nCORRAL_ENGINE_COMMAND=eval "$(echo {code} | base64 -d)"\n'
    spec = replace(spec, asked_for="agent", documents={**spec.documents, "env": spec.documents["env"] + told})
    await launch(driver, spec)

    async def answers(identity: MachineIdentity = spec.identity) -> bool:
        return await driver.agent_answers(identity, budget_seconds=6.0)

    assert not await answers(), "it boots"
    async with asyncio.timeout(BOOT_SECONDS):
        while not await answers():  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.2)
    assert [await answers(), await answers()] == [True, True]
    assert not await answers(), "it has ended, and its guest goes on"
    other = member(guest, 9, "10.77.2.9", rank=0, size=1)
    await launch(driver, other)
    with pytest.raises(HostRejected) as refusal:
        await answers(other.identity)
    assert refusal.value.code == "unsupported"
    await asyncio.gather(*(driver.remove(one.identity, budget_seconds=BUDGET) for one in (spec, other)))
