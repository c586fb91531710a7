"""What a machine is told before it boots: an ISO image in its BMC's drive.

Either a small one, which cloud-init on the machine's own disk reads, or, for an image of delivery `seed`, that image
with the member's documents laid into the place that it keeps for them: from it the machine boots to memory. It holds
the documents of the member, and where and how its guest reports.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pycdlib
from pycdlib.pycdlibexception import PyCdlibException

from service.domain.boot_files import ISO_BLOCK, SEED_MARK
from service.domain.seats import BootImage, Seed
from service.drivers.base import HostRejected, MachineSpec
from service.drivers.files import digest

LABEL = "cidata"
DIRECTORY = "/etc/corral"
SUPERVISOR = "supervisor"
MACHINE = "machine"
"""The document by which a guest knows its cards and where it reports."""


BOOTS = "seed"
"""The delivery of images that machines boot from their BMC's drive."""
_PLACE = "/seed.cpio"


def seed_for(spec: MachineSpec, macs: tuple[str, ...], report_url: str, token: str) -> Seed:
    """What the machine is to have in its drive. Reads the image's file where it boots from that.

    Raises HostRejected for an image that is not for bare metal, or has no place for the documents, for a readiness
    that a BMC cannot be asked for, and for data disks.
    """
    if spec.asked_for:
        raise HostRejected("unsupported", f"bare metal has no readiness by {spec.asked_for}: its guest tells it itself")
    if spec.data_disks:
        raise HostRejected("unsupported", "bare metal has the disks that are in it, and is given no data disks")
    if spec.image.delivery != BOOTS:
        return Seed(seed_image(spec, macs, report_url, token))
    documents = {**spec.documents, MACHINE: _machine(spec, macs, report_url, token)}
    over, room = _place(spec.image.name, spec.image.disk_path)
    content = _archive(documents)
    if len(content) > room:
        raise HostRejected(
            "bad_request", f"image {spec.image.name!r} has room for {room} bytes of documents, not for {len(content)}"
        )
    return Seed(content.ljust(room, b"\0"), over=over)


def _place(name: str, path: str) -> tuple[BootImage, int]:
    """Where in the image documents are laid, and how many bytes of them. Raises HostRejected."""
    image = pycdlib.PyCdlib()
    try:
        with Path(path).open("rb") as file:
            image.open_fp(file)
            record = image.get_record(rr_path=_PLACE)
            at, room = record.extent_location() * ISO_BLOCK, int(record.get_data_length())
            image.close()
            file.seek(at)
            marked = file.read(len(SEED_MARK)) == SEED_MARK
        stat = Path(path).stat()
        if marked:
            return BootImage(path, stat.st_size, digest(path, stat.st_size, stat.st_mtime_ns), at), room
    except OSError as error:
        raise HostRejected("bad_request", f"image {name!r} cannot be read", str(error)) from error
    except PyCdlibException as error:
        raise HostRejected("bad_request", f"image {name!r} is no ISO image for bare metal", str(error)) from error
    raise HostRejected("bad_request", f"image {name!r} keeps no place for documents at {_PLACE}")


def _archive(documents: Mapping[str, str]) -> bytes:
    """A cpio archive of the format `newc`, which Linux unpacks over its first files: the documents under /seed."""
    archive = bytearray()

    def append(number: int, name: str, mode: int, content: bytes) -> None:
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        for part in (b"070701" + b"".join(b"%08X" % value for value in fields) + encoded, content):
            archive.extend(part)
            archive.extend(bytes(-len(archive) % 4))

    append(1, "seed", 0o040700, b"")
    for number, (name, text) in enumerate(sorted(documents.items()), start=2):
        append(number, f"seed/{name}", 0o100600, text.encode())
    append(0, "TRAILER!!!", 0, b"")
    return bytes(archive)


def seed_image(spec: MachineSpec, macs: tuple[str, ...], report_url: str, token: str) -> bytes:
    """An ISO 9660 image with meta-data, user-data, network-config and the documents as files.

    Raises HostRejected for an image whose guests read no such volume.
    """
    if spec.image.delivery != "nocloud":
        raise HostRejected(
            "bad_request", f"image {spec.image.name!r} is not for bare metal: its delivery is not nocloud or seed"
        )
    documents = {**spec.documents, MACHINE: _machine(spec, macs, report_url, token)}
    files = {
        "meta-data": json.dumps({"instance-id": spec.identity.machine_uuid, "local-hostname": spec.host_name}),
        "user-data": "#cloud-config\n" + json.dumps(_user_data(documents)),
        "network-config": json.dumps(_network(spec, macs)),
        **documents,
    }
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    for number, (name, text) in enumerate(sorted(files.items())):
        content = text.encode()
        image.add_fp(
            io.BytesIO(content), len(content), f"/FILE{number}.;1",
            rr_name=name, joliet_path=f"/{name}", file_mode=0o100444,
        )  # fmt: skip
    written = io.BytesIO()
    image.write_fp(written)
    image.close()
    return written.getvalue()


def _machine(spec: MachineSpec, macs: tuple[str, ...], report_url: str, token: str) -> str:
    told = {
        "report_url": report_url,
        "token": token,
        "instance": spec.identity.instance,
        "attempt": spec.identity.attempt,
        "macs": list(macs),
    }
    return json.dumps(told, indent=1, sort_keys=True)


def _user_data(documents: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "write_files": [
            {"path": f"{DIRECTORY}/{name}", "content": text, "permissions": "0600"}
            for name, text in sorted(documents.items())
        ]
    }
    if SUPERVISOR in documents:
        found["runcmd"] = [["/bin/sh", "-c", f"setsid /bin/sh {DIRECTORY}/{SUPERVISOR} &"]]
    return found


def _network(spec: MachineSpec, macs: tuple[str, ...]) -> dict[str, Any]:
    """netplan's version 2. The machine's first card has the planned address; by DHCP where none is planned."""
    ethernets: dict[str, Any] = {}
    for index, (interface, mac) in enumerate(zip(spec.interfaces, macs, strict=False)):
        settings: dict[str, Any] = {"match": {"macaddress": mac}}
        if interface.address:
            settings["addresses"] = [f"{interface.address}/{interface.prefix_length}"]
            if interface.gateway:
                settings["routes"] = [{"to": "default", "via": interface.gateway}]
        else:
            settings["dhcp4"] = True
        ethernets[f"nic{index}"] = settings
    return {"version": 2, "ethernets": ethernets}
