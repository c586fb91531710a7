"""Images that machines boot from their BMC's drive: documents laid in, the same bytes by all, and what is refused."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import replace
from pathlib import Path

import pycdlib
import pytest

from service.app.seats import StoredSeats
from service.app.seed_images import SeedImage
from service.domain.catalog import Image
from service.domain.seats import Seed, boots, token_in
from service.drivers.base import HostRejected, MachineSpec, MachineState, OutcomeUnknown
from service.errors import Unavailable
from tests.service.drivers.redfish.test_redfish import HOST, SECONDS, Lab, lab, spec

__all__ = ["lab"]

pytestmark = pytest.mark.asyncio

ROOM = 16 << 10
MARK = b"corral seed, to be laid in\n"


def image(path: Path, *, place: bytes = MARK.ljust(ROOM, b"\0"), name: str = "seed.cpio") -> Image:
    """A boot image, of which the firmware's part is left out."""
    made = pycdlib.PyCdlib()
    made.new(interchange_level=3, rock_ridge="1.09", vol_ident="cidata")
    for number, (file, content) in enumerate([("vmlinuz", os.urandom(300_000)), (name, place), ("z", b"z" * 5000)]):
        made.add_fp(io.BytesIO(content), len(content), f"/FILE{number}.;1", rr_name=file)
    made.write(str(path))
    made.close()
    return Image("metal", disk_path=str(path), delivery="seed")


def booted(path: Path, **changes: object) -> MachineSpec:
    """A member whose image is there."""
    return replace(spec(), image=image(path), **changes)  # type: ignore[arg-type]


async def served(seats: StoredSeats, url: str) -> tuple[Seed, bytes]:
    seed = await seats.seed(token_in(url))
    assert seed is not None
    laid = SeedImage(seed)
    return seed, b"".join(laid.pieces(0, laid.size - 1))


async def test_a_machine_boots_to_memory_with_its_documents_laid_in(lab: Lab, tmp_path: Path) -> None:
    one = booted(tmp_path / "metal.iso")
    assert await lab.create(one) is MachineState.PAUSED
    assert boots(lab.bmc.image)
    assert lab.bmc.boot == {"BootSourceOverrideEnabled": "Continuous", "BootSourceOverrideTarget": "Cd"}
    seed, content = await served(lab.seats, lab.bmc.image)
    plain = (tmp_path / "metal.iso").read_bytes()
    assert seed.over is not None
    begin, end = seed.over.at, seed.over.at + ROOM
    assert (content[:begin], content[end:]) == (plain[:begin], plain[end:])
    told = content[begin:end]
    assert told.startswith(b"070701")
    for name, text in {**one.documents, "machine": lab.address.options["seed_url"]}.items():
        assert f"seed/{name}\0".encode() in told
        assert text.encode() in told
    assert await lab.resume(one) is MachineState.RUNNING
    assert lab.bmc.resets == ["On"]
    await lab.driver.remove(one.identity, budget_seconds=SECONDS)
    assert (lab.bmc.image, lab.bmc.boot["BootSourceOverrideEnabled"]) == ("", "Disabled")


async def test_any_range_is_the_same_by_every_replica(lab: Lab, tmp_path: Path) -> None:
    await lab.create(booted(tmp_path / "metal.iso"))
    other = StoredSeats(lab.seats._store)
    seed, content = await served(lab.seats, lab.bmc.image)
    again, same = await served(other, lab.bmc.image)
    assert (hashlib.sha256(same).digest(), again.made_at) == (hashlib.sha256(content).digest(), seed.made_at)
    assert seed.over is not None
    at = seed.over.at
    ends = [(0, 0), (at - 1, at), (at, at), (at + ROOM - 1, at + ROOM), (at - 9, at + ROOM + 9), (7, seed.size - 1)]
    for first, last in ends:
        pieces = [b"".join(SeedImage(one).pieces(first, last)) for one in (seed, again)]
        assert pieces == [content[first : last + 1]] * 2


async def test_a_replica_with_another_file_under_the_images_name_serves_nothing(lab: Lab, tmp_path: Path) -> None:
    await lab.create(booted(tmp_path / "metal.iso"))
    image(tmp_path / "metal.iso")
    with pytest.raises(Unavailable, match="another one by now"):
        await served(lab.seats, lab.bmc.image)
    (tmp_path / "metal.iso").unlink()
    with pytest.raises(Unavailable, match="cannot be read"):
        await served(lab.seats, lab.bmc.image)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda path: image(path, place=b"\0" * ROOM), "keeps no place"),
        (lambda path: image(path, name="other"), "no ISO image for bare metal"),
        (lambda path: image(path, place=MARK), "has room for 27 bytes"),
        (lambda path: Image("metal", disk_path=str(path), delivery="seed"), "cannot be read"),
    ],
    ids=["no mark", "no file", "too small", "not there"],
)
async def test_an_image_without_a_place_for_documents_is_refused(
    lab: Lab, tmp_path: Path, made: object, words: str
) -> None:
    with pytest.raises(HostRejected, match=words):
        await lab.create(replace(spec(), image=made(tmp_path / "metal.iso")))  # type: ignore[operator]
    assert (await lab.seats.on(HOST), lab.bmc.image) == ((), "")


@pytest.mark.parametrize("fault", ["override_ignored", "lose PATCH"])
async def test_a_machine_that_would_start_from_its_disk_is_not_let_run(lab: Lab, tmp_path: Path, fault: str) -> None:
    one = booted(tmp_path / "metal.iso")
    lab.bmc.faults[fault] = 2
    with pytest.raises((HostRejected, OutcomeUnknown)):
        await lab.create(one)
    if fault == "override_ignored":
        with pytest.raises(HostRejected):
            await lab.resume(one)
        assert lab.bmc.resets == []
    lab.bmc.faults[fault] = 0
    assert await lab.create(one) is MachineState.PAUSED
    assert await lab.resume(one) is MachineState.RUNNING
    assert (lab.bmc.resets, lab.bmc.boot["BootSourceOverrideTarget"]) == (["On"], "Cd")
