"""Registered images as volumes on a host: uploaded once, named by their content, proven before each use.

An upload that broke off leaves a volume without its `ready` marker, which is never used. All functions block.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import threading
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from service.domain.catalog import Image
from service.drivers.base import HostRejected
from service.drivers.libvirt import volumes
from service.drivers.libvirt.connection import Work
from service.drivers.libvirt.errors import Abandoned

_log = logging.getLogger(__name__)

_BASE = re.compile(r"corral-base\.([0-9a-f]{64})\.([0-9a-f]{8})(\.ready)?")
# An upload that is not ready after this long was given up by whoever made it.
STALE_UPLOAD_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class _Source:
    """A file of the control plane's machine, checked: size in bytes, hex sha256."""

    path: Path
    size: int
    sha256: str


class BaseImages:
    """The images of one host's pool. Remembers no volumes: it asks each time, because others can delete them."""

    def __init__(self) -> None:
        self._uploading = threading.Lock()
        self._digests: dict[tuple[str, int, int], str] = {}

    def volume(self, pool: Any, work: Work, image: Image, role: str, path: str, *, known_as: str = "") -> Any:
        """The volume with the content of a registered file, uploaded where the host does not have it.

        `known_as`: the name that it must have because a machine's disk stands on it; it counts where it is one of this
        content's. Raises HostRejected `missing_image` when the file is not there or is not what was registered.
        """
        source = self._source(image, role, path)
        match = _BASE.fullmatch(known_as)
        name = known_as if match is not None and match[1] == source.sha256 and not match[3] else ""
        found = _usable(pool, source, name)
        if found is not None:
            return found
        # One upload at a time a host; whoever waited finds it done.
        if not self._uploading.acquire(timeout=work.remaining):
            raise Abandoned
        try:
            found = _usable(pool, source, name)
            if found is not None:
                return found
            _delete_stale_uploads(pool, work)
            _delete_useless(pool, work, source)
            return _upload(pool, work, image, source, name or f"corral-base.{source.sha256}.{secrets.token_hex(4)}")
        finally:
            self._uploading.release()

    def _source(self, image: Image, role: str, path: str) -> _Source:
        file = Path(path)
        try:
            status = file.stat()
            key = (path, status.st_mtime_ns, status.st_size)
            # The registered sum names the volume; the upload proves that the bytes have it.
            digest = image.sha256.get(role, "").lower() or self._digests.get(key) or _sha256(file)
        except OSError as error:
            raise HostRejected("missing_image", f"image {image.name}: its {role} cannot be read", str(error)) from error
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise HostRejected("bad_request", f"image {image.name}: the sha256 of its {role} is malformed")
        self._digests[key] = digest
        return _Source(file, status.st_size, digest)


def _ready_names(pool: Any, source: _Source) -> list[str]:
    """Names of the volumes that were once uploaded whole, as the pool remembers them."""
    matches = (_BASE.fullmatch(name) for name in pool.listVolumes())
    return [m[0].removesuffix(".ready") for m in matches if m is not None and m[1] == source.sha256 and m[3]]


def _usable(pool: Any, source: _Source, name: str) -> Any | None:
    """A volume whose file is there in its whole size; `name`: that one alone, empty for any."""
    for known in _ready_names(pool, source):
        volume = volumes.find(pool, known) if name in ("", known) else None
        if volume is not None and volumes.capacity(volume) == source.size:
            return volume
    return None


def _delete_useless(pool: Any, work: Work, source: _Source) -> None:
    """What the pool remembers of earlier uploads of the content whose files are gone, or not as they were."""
    for name in _ready_names(pool, source):
        volume = volumes.find(pool, name)
        if volume is None or volumes.capacity(volume) != source.size:
            _log.warning("base volume %s is gone, or not as it was uploaded: it is uploaded again", name)
            volumes.delete(pool, work, f"{name}.ready")  # first: what has no marker is never used
            volumes.delete(pool, work, name)


def _upload(pool: Any, work: Work, image: Image, source: _Source, name: str) -> Any:
    # Read by many machines, as whatever user QEMU has there; a machine's own volumes libvirt hands to that user.
    volume = volumes.make(pool, work, name, source.size, "raw", mode="0644")
    stream = pool.connect().newStream(0)
    volume.upload(stream, 0, source.size, 0)
    digest = hashlib.sha256()
    with source.path.open("rb") as file:
        volumes.send(stream, _reader(file, digest, work))
    if digest.hexdigest() != source.sha256:
        volumes.delete(pool, work, name)
        text = f"image {image.name}: a file is not the one that was registered"
        raise HostRejected("missing_image", text, f"{source.path}: {digest.hexdigest()}")
    volumes.make(pool, work, f"{name}.ready", 0, "raw")
    return volume


def _delete_stale_uploads(pool: Any, work: Work) -> None:
    names = set(pool.listVolumes())
    for name in names:
        match = _BASE.fullmatch(name)
        if match is None or match[3] or f"{name}.ready" in names:
            continue
        volume = volumes.find(pool, name)
        if volume is None or volumes.capacity(volume) is None:
            volumes.delete(pool, work, name)
            continue
        changed = ElementTree.fromstring(volume.XMLDesc(0)).findtext("target/timestamps/mtime", "0")
        if time.time() - float(changed) > STALE_UPLOAD_SECONDS:
            _log.info("deleting upload %s, which was never finished", name)
            volumes.delete(pool, work, name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reader(file: BinaryIO, digest: Any, work: Work) -> Any:
    def read(_stream: Any, count: int, _opaque: Any) -> bytes:
        work.check()
        part = file.read(count)
        digest.update(part)
        return part

    return read
