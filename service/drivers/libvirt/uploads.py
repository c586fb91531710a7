"""One copy of a file on its way to a volume, slice by slice, each proven before the next is sent. Blocks.

What counts as there. libvirt's stream is ended after each slice; that it ended well is no proof: libvirt 9.0 was seen
to say so of a small upload that the file system had no room for. libvirt writes a stream in order and stops at the
first error, so that the last piece of a slice that is not all zeros is read back: where that is right, what was written
before it is. Zeros that are missing are a hole, which reads as zeros. So each slice costs the link a few bytes in the
other direction; to read all of the volume back, which would prove the same, would take as long as to send it again.

Where a copy goes on. How far it had come is on record with the sum of those bytes as they were sent. The file is read
to there again, here, where it costs no link: a file that was exchanged since has another sum, and the copy begins anew.
The last piece is read back as above. After another boot of the host nothing counts: what was written may not have
reached the disk. The sum of the whole is taken over every byte that was sent, and has to be the registered one.

What it costs. A sender waits for the host with every piece, and a sum takes a third of the time of a local link: it is
taken by a second thread, of what is on its way already.
"""

from __future__ import annotations

import hashlib
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from service.drivers.base import HostRejected
from service.drivers.copies import Copied, ImageFile
from service.drivers.libvirt import volumes
from service.drivers.libvirt.connection import Work

_log = logging.getLogger(__name__)

SLICE_SECONDS = 3.0
"""For so long one slice is sent. What is sent twice after a break is at most one slice."""
PIECE = 64 << 10
"""Bytes that are read back of a slice; libvirt never takes more at once."""
_READ = 1 << 20
_AT_ONCE = 1 << 20
"""Bytes that are handed to the thread of the sum together: smaller ones would cost more in wake-ups than they save."""


class _SummedBehind:
    """A sum of bytes that another thread takes while the caller sends them. It is whole once the block has ended.

    At most twice `_AT_ONCE` wait to be summed: a sender that is faster waits here.
    """

    def __init__(self, digest: Any) -> None:
        self._digest = digest
        self._thread = ThreadPoolExecutor(1, "image-sum")
        self._parts: list[bytes] = []
        self._bytes = 0
        self._summing: Future[None] | None = None

    def add(self, part: bytes) -> None:
        """Bytes that follow those before."""
        self._parts.append(part)
        self._bytes += len(part)
        if self._bytes >= _AT_ONCE:
            self._hand_over()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hand_over()
        self._thread.shutdown()
        assert self._summing is not None
        self._summing.result()

    def _hand_over(self) -> None:
        if self._summing is not None:
            self._summing.result()
        parts, self._parts, self._bytes = self._parts, [], 0
        self._summing = self._thread.submit(self._sum, parts)

    def _sum(self, parts: list[bytes]) -> None:
        for part in parts:
            self._digest.update(part)


class Sent:
    """What this process has sent to one host: sums that go on with the next slice. One slice at a time."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[int, Any]] = {}

    def go_on(self, pool: Any, work: Work, file: ImageFile, copied: Copied, boot_id: str) -> Copied:
        """Send one slice more. Raises HostRejected `missing_image` where the file is not what was registered."""
        try:
            with Path(file.path).open("rb") as source:
                return self._go_on(pool, work, source, file, copied, boot_id)
        except OSError as error:
            text = f"image {file.image}: its {file.role} cannot be read"
            raise HostRejected("missing_image", text, str(error)) from error

    def _go_on(self, pool: Any, work: Work, source: BinaryIO, file: ImageFile, copied: Copied, boot_id: str) -> Copied:
        name = copied.volume
        digest = self._sum_to(work, source, copied)
        done = copied.done
        volume = volumes.find(pool, name)
        there = None if volume is None else volumes.capacity(volume)
        if volume is None or there != file.size or copied.boot_id != boot_id or digest is None:
            done = 0
        elif not _is_there(pool, work, volume, source, 0, done):
            _log.warning("copy %s is not as it was sent: it is sent again", name)
            done = 0
        if done == 0 or digest is None:
            done, digest = 0, hashlib.sha256()
        if volume is not None and there != file.size:
            volumes.delete(pool, work, name)
            volume = None
        if volume is None:
            # Read by many machines, as whatever user QEMU has there; libvirt gives that user a machine's own volumes.
            volume = volumes.make(pool, work, name, file.size, "raw", mode="0644")
        self._sums.pop(name, None)
        source.seek(done)
        until = done + _send(pool, work, volume, source, done, file.size, digest)
        if not _is_there(pool, work, volume, source, done, until):
            raise volumes.not_kept(pool)
        if until == done and until < file.size:
            raise HostRejected(
                "missing_image", f"image {file.image}: its {file.role} is shorter than it was registered"
            )
        whole = until == file.size
        if whole and digest.hexdigest() != file.sha256:
            volumes.delete(pool, work, name)
            text = f"image {file.image}: a file is not the one that was registered"
            raise HostRejected("missing_image", text, f"{file.path}: {digest.hexdigest()}")
        if not whole:
            self._sums[name] = (until, digest)
        return Copied(name, until, digest.hexdigest(), boot_id, whole)

    def _sum_to(self, work: Work, source: BinaryIO, copied: Copied) -> Any | None:
        """The sum of the file's beginning, to go on with; None where it is not the one that was sent."""
        known = self._sums.get(copied.volume)
        if known is not None and known[0] == copied.done:
            digest = known[1].copy()
        else:
            digest = hashlib.sha256()
            left = copied.done
            while left and (part := source.read(min(_READ, left))):
                work.check()
                digest.update(part)
                left -= len(part)
        return digest if copied.done and digest.hexdigest() == copied.digest else None


def _send(pool: Any, work: Work, volume: Any, source: BinaryIO, start: int, size: int, digest: Any) -> int:
    """Sends what there is time for; returns how many bytes that were."""
    ends = time.monotonic() + min(SLICE_SECONDS, work.remaining / 3)
    sent = 0
    if start >= size:
        return 0

    def read(_stream: Any, count: int, _opaque: Any) -> bytes:
        nonlocal sent
        work.check()
        if sent and time.monotonic() >= ends:
            return b""
        part = source.read(min(count, size - start - sent))
        summed.add(part)
        sent += len(part)
        return part

    with _SummedBehind(digest) as summed:
        volumes.upload(pool, work, volume, start, size - start, read)
    return sent


def _is_there(pool: Any, work: Work, volume: Any, source: BinaryIO, start: int, end: int) -> bool:
    """Whether the last piece between these bytes that is not all zeros is in the volume as it is in the file."""
    at = end
    while at > start:
        first = max(start, at - PIECE)
        source.seek(first)
        piece = source.read(at - first)
        if any(piece):
            return volumes.read(pool, work, volume, first, len(piece)) == piece
        at = first
    return True
