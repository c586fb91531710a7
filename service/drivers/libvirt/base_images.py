"""Registered images as volumes on a host: brought there once, named by their content, looked at before each use.

A volume is in use for new machines while its marker `<name>.ready` stands beside it, and its file has its whole size.
All functions block.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.domain.catalog import Image
from service.drivers.base import HostRejected
from service.drivers.copies import COPY, Copied, ImageFile, SeenCopy
from service.drivers.libvirt import backing, uploads, volumes
from service.drivers.libvirt.connection import Work
from service.drivers.staging import NotStaged

_log = logging.getLogger(__name__)

_BASE = re.compile(rf"{COPY.pattern}(\.ready)?")
# What nobody has on record, as an earlier version left it: not ready after this long, it was given up by whoever made
# it. What is on record goes by its record.
STALE_UPLOAD_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file of an image that a machine is made of: that of `role`. `key`: what it is to the machine. `known_as`: the
    name that it must have because the machine's disk stands on it; it counts where it is one of this content's."""

    key: str
    image: Image
    role: str
    known_as: str = ""

    @property
    def path(self) -> str:
        """Where it is on this machine."""
        image = self.image
        return {"kernel": image.kernel_path, "initrd": image.initrd_path, "disk": image.disk_path}[self.role]


class BaseImages:
    """The images of one host's pool. Remembers no volumes: it asks each time, because others can delete them."""

    def __init__(self) -> None:
        self._digests: dict[tuple[str, int, int], str] = {}
        self._sent = uploads.Sent()
        self._staging = threading.Lock()

    def volumes(self, pool: Any, wanted: Sequence[Wanted]) -> dict[str, Any]:
        """The volume of each of these files by its key.

        Raises NotStaged for those that the host does not have, before anything is made; HostRejected `missing_image`
        where a file is not there to be brought.
        """
        files = {one.key: self._file(one) for one in wanted}
        found = {key: _usable(pool, file) for key, file in files.items()}
        missing = dict.fromkeys(file for key, file in files.items() if found[key] is None)
        if missing:
            raise NotStaged(tuple(missing))
        return found

    def stage(self, pool: Any, work: Work, file: ImageFile, copied: Copied, boot_id: str) -> Copied:
        """See HostDriver.stage."""
        match = _BASE.fullmatch(copied.volume)
        if match is None or match[1] != file.sha256 or match[3]:
            raise HostRejected("bad_request", "the copy's name is not one of the file's content")
        found = _usable(pool, file)
        if found is not None and (not file.volume or found.name() == file.volume):
            return Copied(found.name(), file.size, file.sha256, boot_id, whole=True)
        if copied.whole:
            there = volumes.find(pool, copied.volume)
            if there is not None and volumes.capacity(there) == file.size:  # it was withdrawn
                volumes.make(pool, work, f"{copied.volume}.ready", 0, "raw")
                return copied
            copied = Copied(copied.volume)
        _delete_useless(pool, work, file)
        _delete_stale_uploads(pool, work, copied.volume)
        # Two of one process would only wait for each other at the host.
        if not self._staging.acquire(timeout=work.remaining):
            work.check()
        try:
            after = self._sent.go_on(pool, work, file, copied, boot_id)
        finally:
            self._staging.release()
        if after.whole:
            volumes.make(pool, work, f"{copied.volume}.ready", 0, "raw")
        return after

    def _file(self, wanted: Wanted) -> ImageFile:
        image, file = wanted.image, Path(wanted.path)
        try:
            status = file.stat()
            key = (wanted.path, status.st_mtime_ns, status.st_size)
            # The registered sum names the volume; the upload proves that the bytes have it.
            digest = image.sha256.get(wanted.role, "").lower() or self._digests.get(key) or _sha256(file)
        except OSError as error:
            text = f"image {image.name}: its {wanted.role} cannot be read"
            raise HostRejected("missing_image", text, str(error)) from error
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise HostRejected("bad_request", f"image {image.name}: the sha256 of its {wanted.role} is malformed")
        self._digests[key] = digest
        match = _BASE.fullmatch(wanted.known_as)
        known_as = wanted.known_as if match is not None and match[1] == digest and not match[3] else ""
        return ImageFile(image.name, wanted.role, wanted.path, status.st_size, digest, known_as)


def seen(connection: Any, pool: Any) -> tuple[SeenCopy, ...]:
    """See HostDriver.list_copies."""
    names = set(pool.listVolumes())
    bases = {name: match for name in names if (match := _BASE.fullmatch(name)) is not None and not match[3]}
    if not bases:
        return ()
    stood_on = backing.stood_on(connection)
    found = []
    for name, match in sorted(bases.items()):
        volume = volumes.find(pool, name)
        size = None if volume is None else volumes.capacity(volume)
        if volume is not None and size is not None:
            whole = f"{name}.ready" in names
            found.append(SeenCopy(name, match[1], size, whole, volume.path() in stood_on))
    return tuple(found)


def withdraw(pool: Any, work: Work, name: str) -> None:
    """See HostDriver.withdraw_copy."""
    _check_name(name)
    volumes.delete(pool, work, f"{name}.ready")


def delete(connection: Any, pool: Any, work: Work, name: str) -> None:
    """See HostDriver.delete_copy."""
    _check_name(name)
    volume = volumes.find(pool, name)
    if volume is None:
        return
    if volumes.find(pool, f"{name}.ready") is not None:
        raise HostRejected("in_use", "machines may be made of the copy: it is not withdrawn")
    if volume.path() in backing.stood_on(connection):
        raise HostRejected("in_use", "a machine stands on the copy")
    volumes.delete(pool, work, name)


def _check_name(name: str) -> None:
    match = _BASE.fullmatch(name)
    if match is None or match[3]:
        raise HostRejected("bad_request", "the volume is no copy of an image")


def _ready_names(pool: Any, sha256: str) -> list[str]:
    """Names of the volumes that were once brought whole, as the pool remembers them."""
    matches = (_BASE.fullmatch(name) for name in pool.listVolumes())
    return [m[0].removesuffix(".ready") for m in matches if m is not None and m[1] == sha256 and m[3]]


def _usable(pool: Any, file: ImageFile) -> Any | None:
    """A volume whose file is there in its whole size; with a name that it must have: that one alone."""
    for known in _ready_names(pool, file.sha256):
        volume = volumes.find(pool, known) if file.volume in ("", known) else None
        if volume is not None and volumes.capacity(volume) == file.size:
            return volume
    return None


def _delete_useless(pool: Any, work: Work, file: ImageFile) -> None:
    """What the pool remembers of earlier copies of the content whose files are gone, or not as they were."""
    for name in _ready_names(pool, file.sha256):
        volume = volumes.find(pool, name)
        if volume is None or volumes.capacity(volume) != file.size:
            _log.warning("base volume %s is gone, or not as it was brought: it is brought again", name)
            volumes.delete(pool, work, f"{name}.ready")  # first: what has no marker is never used
            volumes.delete(pool, work, name)


def _delete_stale_uploads(pool: Any, work: Work, kept: str) -> None:
    names = set(pool.listVolumes())
    for name in names - {kept}:
        match = _BASE.fullmatch(name)
        if match is None or match[3] or f"{name}.ready" in names:
            continue
        volume = volumes.find(pool, name)
        if volume is not None and volumes.capacity(volume) is not None:
            changed = ElementTree.fromstring(volume.XMLDesc(0)).findtext("target/timestamps/mtime", "0")
            if time.time() - float(changed) <= STALE_UPLOAD_SECONDS:
                continue
            if volume.path() in backing.stood_on(pool.connect()):
                continue  # withdrawn, and machines stand on it
            _log.info("deleting upload %s, which was never finished", name)
        volumes.delete(pool, work, name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
