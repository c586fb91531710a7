"""Images on their way to real libvirtds: over slow links, links that break, daemons that are killed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from service.domain.catalog import Image
from service.domain.fleet import HostAddress
from service.drivers.base import DriverError, HostRejected
from service.drivers.copies import Copied, ImageFile, copy_name
from service.drivers.libvirt import uploads
from service.drivers.libvirt.driver import LibvirtDriver
from tests.integration.libvirt.support import driver_for
from tests.lab.hypervisor import Hypervisor
from tests.lab.link import Link
from tests.service.drivers.libvirt.machines import CLUSTER, made, specification

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio, pytest.mark.timeout(300)]

BUDGET = 60.0
SIZE = 48 << 20


def image_of(directory: Path, seed: int, size: int = SIZE) -> ImageFile:
    content = random.Random(seed).randbytes(size)
    path = directory / "image"
    path.write_bytes(content)
    return ImageFile("model", "disk", str(path), size, hashlib.sha256(content).hexdigest())


def content_of(host: Hypervisor, copied: Copied) -> str:
    """The sum of what is on the host, read past libvirt."""
    path = host.directory / "var/lib/libvirt/corral" / copied.volume
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def brought(
    driver: LibvirtDriver, file: ImageFile, copied: Copied, on_the_way: Callable[[Copied], None] = lambda _: None
) -> tuple[Copied, list[Copied], int]:
    """The copy, whole; all that was told on the way; how often it broke off."""
    told, breaks = [copied], 0
    while not told[-1].whole:
        try:
            told.append(await driver.stage(file, told[-1], budget_seconds=BUDGET))
        except HostRejected:
            raise
        except DriverError:
            breaks += 1
        on_the_way(told[-1])
    return told[-1], told, breaks


async def test_an_upload_over_a_slow_link_that_breaks_goes_on_and_sends_nothing_else_twice(
    hosts: list[Hypervisor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "SLICE_SECONDS", 0.3)
    file = image_of(tmp_path, 1)
    async with Link(tmp_path / "link", hosts[0].socket, rate=12 << 20) as link:
        link.cut_at = SIZE // 2
        driver = LibvirtDriver("host-1", CLUSTER, HostAddress("libvirt", "unix", socket=str(link.socket)))
        copied, told, breaks = await brought(driver, file, Copied(copy_name(file.sha256, "00000001")))
        await driver.close()
        sent = link.sent
    assert breaks == 1
    assert len(told) > 5, "it took more than one slice"
    assert content_of(hosts[0], copied) == file.sha256
    slices = [later.done - sooner.done for sooner, later in pairwise(told)]
    assert min(slices) > 0
    # What the broken slice had sent, and what the link and both ends had taken in.
    assert sent - SIZE <= max(slices) + (8 << 20)


async def test_a_daemon_that_is_killed_in_the_middle_and_another_process_lose_nothing_that_was_proven(
    hosts: list[Hypervisor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "SLICE_SECONDS", 0.02)
    file = image_of(tmp_path, 2)
    harmed: list[int] = []

    def harm(now: Copied) -> None:
        if not harmed and now.done > SIZE // 3:
            harmed.append(now.done)
            hosts[0].kill_daemon()
            hosts[0].start_daemon()

    first = driver_for(hosts[0])
    copied = Copied(copy_name(file.sha256, "00000002"))
    while copied.done <= SIZE // 4:
        copied = await first.stage(file, copied, budget_seconds=BUDGET)
    await first.close()
    second = driver_for(hosts[0])
    whole, told, _ = await brought(second, file, copied, harm)
    await second.close()
    assert harmed
    assert [one.done for one in told] == sorted(one.done for one in told), "nothing that was proven is begun anew"
    assert content_of(hosts[0], whole) == file.sha256


async def test_a_copy_that_was_harmed_on_the_host_is_not_believed(
    hosts: list[Hypervisor], drivers: list[LibvirtDriver], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "SLICE_SECONDS", 0.02)
    file = image_of(tmp_path, 3, 16 << 20)
    copied = await drivers[0].stage(file, Copied(copy_name(file.sha256, "00000003")), budget_seconds=BUDGET)
    assert 0 < copied.done < file.size
    path = hosts[0].directory / "var/lib/libvirt/corral" / copied.volume
    with path.open("r+b") as there:
        there.seek(copied.done - 1000)
        there.write(bytes(1000))
    whole, _, _ = await brought(driver_for(hosts[0]), file, copied)
    assert content_of(hosts[0], whole) == file.sha256


async def test_a_copy_that_a_machine_stands_on_is_seen_as_used_and_is_not_deleted(
    hosts: list[Hypervisor], drivers: list[LibvirtDriver], tmp_path: Path
) -> None:
    driver, file = drivers[0], image_of(tmp_path, 4, 4 << 20)
    image = Image("model", disk_path=file.path, disk_format="raw", delivery="nocloud", sha256={"disk": file.sha256})
    spec = specification(1, image=image)
    await made(driver, spec, budget_seconds=BUDGET)

    async def used() -> dict[str, bool]:
        found = await driver.list_copies(budget_seconds=BUDGET)
        return {copy.volume: copy.used for copy in found if copy.sha256 == file.sha256}

    for state in ("paused", "stopped"):
        assert list((await used()).values()) == [True], state
        (name,) = await used()
        await driver.withdraw_copy(name, budget_seconds=BUDGET)
        with pytest.raises(HostRejected) as refusal:
            await driver.delete_copy(name, budget_seconds=BUDGET)
        assert refusal.value.code == "in_use", state
        await driver.power_off(spec.identity, budget_seconds=BUDGET)
    back = Copied(name, file.size, file.sha256, "another boot", whole=True)
    assert (await driver.stage(file, back, budget_seconds=BUDGET)).whole, "taken into use again"
    await driver.remove(spec.identity, budget_seconds=BUDGET)
    assert await used() == {name: False}
    with pytest.raises(HostRejected, match="not withdrawn"):
        await driver.delete_copy(name, budget_seconds=BUDGET)
    await driver.withdraw_copy(name, budget_seconds=BUDGET)
    for _ in range(2):
        await driver.delete_copy(name, budget_seconds=BUDGET)
    assert await used() == {}
    assert not (hosts[0].directory / "var/lib/libvirt/corral" / name).exists()
