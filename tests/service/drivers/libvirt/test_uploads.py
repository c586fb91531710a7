"""Copies of images on a host in memory: brought slice by slice, gone on with after a break, never believed unproven."""

from __future__ import annotations

import asyncio
import hashlib
import random
from pathlib import Path

import pytest

from service.drivers.base import HostRejected, OutcomeUnknown
from service.drivers.copies import Copied, ImageFile, copy_name
from service.drivers.libvirt import uploads
from tests.service.drivers.libvirt.fake import FakeHost
from tests.service.drivers.libvirt.machines import BUDGET, driver_of, staged

pytestmark = pytest.mark.asyncio

CONTENT = random.Random(7).randbytes(5 << 20)


def file_of(path: Path, content: bytes = CONTENT, digest: str = "") -> ImageFile:
    """A registered file."""
    path.write_bytes(content)
    return ImageFile("model", "disk", str(path), len(content), digest or hashlib.sha256(content).hexdigest())


def copy_of(file: ImageFile, token: str = "0123abcd") -> Copied:
    """A copy that has not begun."""
    return Copied(copy_name(file.sha256, token))


@pytest.fixture
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each slice is what is read at once: no time is waited for."""
    monkeypatch.setattr(uploads, "SLICE_SECONDS", 0.0)


@pytest.mark.usefixtures("short_slices")
async def test_a_copy_comes_slice_by_slice_and_each_byte_once(tmp_path: Path) -> None:
    host, file = FakeHost(), file_of(tmp_path / "disk")
    driver, copied, seen = driver_of(host), copy_of(file), [0]
    while not copied.whole:
        assert f"{copied.volume}.ready" not in host.volumes
        copied = await driver.stage(file, copied, budget_seconds=BUDGET)
        seen.append(copied.done)
    assert seen == sorted(set(seen))
    assert len(seen) > 10
    assert copied.done == file.size
    assert host.contents[copied.volume] == CONTENT
    assert f"{copied.volume}.ready" in host.volumes
    assert host.uploaded[copied.volume] == len(CONTENT)


@pytest.mark.usefixtures("short_slices")
@pytest.mark.parametrize("again", ["the same process", "another process"])
async def test_what_was_proven_before_a_break_is_not_sent_again(tmp_path: Path, again: str) -> None:
    host, file = FakeHost(), file_of(tmp_path / "disk")
    driver, copied = driver_of(host), copy_of(file)
    host.link_carries = 3_000_000
    breaks = 0
    while not breaks:
        try:
            copied = await driver.stage(file, copied, budget_seconds=BUDGET)
        except OutcomeUnknown:
            breaks += 1
    assert 0 < copied.done < 3_000_000
    assert not copied.whole
    after = await staged(driver if again == "the same process" else driver_of(host), file, copied)
    assert host.contents[after.volume] == CONTENT
    assert host.uploaded[after.volume] - len(CONTENT) <= 65536, "the slice that broke is sent twice, and nothing else"


@pytest.mark.usefixtures("short_slices")
@pytest.mark.parametrize("harm", ["written over", "cut", "deleted", "another boot", "another file sent"])
async def test_what_is_not_as_it_was_sent_is_sent_anew(tmp_path: Path, harm: str) -> None:
    host, file = FakeHost(), file_of(tmp_path / "disk")
    driver, copied = driver_of(host), copy_of(file)
    for _ in range(8):
        copied = await driver.stage(file, copied, budget_seconds=BUDGET)
    there = bytearray(host.contents[copied.volume])
    if harm == "written over":
        there[copied.done - 4096 : copied.done] = bytes(4096)
        host.contents[copied.volume] = bytes(there)
    elif harm == "cut":
        size = f'<capacity unit="bytes">{file.size}<'
        host.volumes[copied.volume] = host.volumes[copied.volume].replace(size, '<capacity unit="bytes">1000<')
    elif harm == "deleted":
        del host.volumes[copied.volume], host.contents[copied.volume]
    elif harm == "another boot":
        host.networks.clear()
    else:
        copied = Copied(copied.volume, copied.done, "0" * 64, copied.boot_id)
    before = host.uploaded[copied.volume]
    after = await staged(driver_of(host), file, copied)
    assert host.contents[after.volume] == CONTENT
    assert host.uploaded[after.volume] - before == len(CONTENT)


@pytest.mark.usefixtures("short_slices")
async def test_a_file_that_was_exchanged_on_the_way_is_never_taken_for_the_registered_one(tmp_path: Path) -> None:
    host, file = FakeHost(), file_of(tmp_path / "disk")
    copied = copy_of(file)
    for _ in range(8):
        copied = await driver_of(host).stage(file, copied, budget_seconds=BUDGET)
    other = bytearray(CONTENT)
    other[0] ^= 1
    (tmp_path / "disk").write_bytes(bytes(other))
    with pytest.raises(HostRejected) as refusal:
        await staged(driver_of(host), file, copied)
    assert refusal.value.code == "missing_image"
    assert str(tmp_path) not in refusal.value.public
    assert not [name for name in host.volumes if name.startswith("corral-base.")]


async def test_a_slice_that_the_pool_had_no_room_for_is_no_progress(tmp_path: Path) -> None:
    host, file = FakeHost(), file_of(tmp_path / "disk")
    host.pool_full = True
    with pytest.raises(HostRejected) as refusal:
        await driver_of(host).stage(file, copy_of(file), budget_seconds=BUDGET)
    assert refusal.value.code == "no_space"
    assert not [name for name in host.volumes if name.endswith(".ready")]


async def test_a_file_that_ends_in_zeros_is_proven_by_what_is_before_them(tmp_path: Path) -> None:
    host, file = FakeHost(), file_of(tmp_path / "disk", CONTENT + bytes(3 << 20))
    copied = await staged(driver_of(host), file)
    assert host.contents[copied.volume] == CONTENT + bytes(3 << 20)
    host = FakeHost(pool_full=True)
    with pytest.raises(HostRejected, match="storage pool is full"):
        await staged(driver_of(host), file)


async def test_a_file_that_is_shorter_than_it_was_registered_is_refused(tmp_path: Path) -> None:
    file = file_of(tmp_path / "disk")
    (tmp_path / "disk").write_bytes(CONTENT[: 1 << 20])
    with pytest.raises(HostRejected, match="shorter than it was registered"):
        await staged(driver_of(FakeHost()), file)


async def test_names_that_are_no_copies_of_the_content_are_refused(tmp_path: Path) -> None:
    host, file = FakeHost(pool=True), file_of(tmp_path / "disk")
    host.volumes = {"debian.qcow2": ""}
    other = copy_name("0" * 64, "00000000")
    for name in ("debian.qcow2", other, f"{copy_of(file).volume}.ready", "../../etc/passwd"):
        with pytest.raises(HostRejected):
            await driver_of(host).stage(file, Copied(name), budget_seconds=BUDGET)
        if name != other:
            with pytest.raises(HostRejected):
                await driver_of(host).delete_copy(name, budget_seconds=BUDGET)
            with pytest.raises(HostRejected):
                await driver_of(host).withdraw_copy(name, budget_seconds=BUDGET)
    assert list(host.volumes) == ["debian.qcow2"]


async def test_two_processes_that_bring_the_same_copy_do_each_other_no_harm(tmp_path: Path) -> None:
    """The owner of its row was frozen, and goes on after another took over."""
    host, file = FakeHost(), file_of(tmp_path / "disk")
    copies = await asyncio.gather(*(staged(driver_of(host), file, copy_of(file)) for _ in range(2)))
    assert host.contents[copies[0].volume] == CONTENT
    assert all(copied.whole for copied in copies)
