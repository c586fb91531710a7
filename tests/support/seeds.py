"""What a machine of bare metal reads of the image in its BMC's drive."""

from __future__ import annotations

import io

import pycdlib


def document(content: bytes, name: str) -> str:
    """A file of an ISO image."""
    image = pycdlib.PyCdlib()
    image.open_fp(io.BytesIO(content))
    out = io.BytesIO()
    image.get_file_from_iso_fp(out, joliet_path=f"/{name}")
    image.close()
    return out.getvalue().decode()


def documents(content: bytes) -> dict[str, str]:
    """What is laid into an image that a machine boots from, or the files of one that cloud-init reads."""
    image = pycdlib.PyCdlib()
    image.open_fp(io.BytesIO(content))
    try:
        if not image.has_joliet():
            out = io.BytesIO()
            image.get_file_from_iso_fp(out, rr_path="/seed.cpio")
            return _archived(out.getvalue())
    finally:
        image.close()
    names = ("machine", "rendezvous", "env")
    return {name: document(content, name) for name in names}


def _archived(archive: bytes) -> dict[str, str]:
    """The files of a cpio archive of format `newc`, by their names without directories."""
    found: dict[str, str] = {}
    at = 0
    while archive[at : at + 6] == b"070701":
        size, named = (int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in (6, 11))
        name = archive[at + 110 : at + 109 + named].decode()
        begin = (at + 110 + named + 3) // 4 * 4
        if name.startswith("seed/"):
            found[name.removeprefix("seed/")] = archive[begin : begin + size].decode()
        at = (begin + size + 3) // 4 * 4
    return found
