"""What a BMC reads of a seed: its own bytes, or an image of the catalogue with the member's content laid over it.

The bytes are the same by every replica: one that has another file under the image's name serves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from service.domain.seats import BootImage, Seed
from service.drivers.files import digest
from service.errors import Unavailable

PIECE_BYTES = 256 << 10


class SeedImage:
    """The bytes of a seed, read piece by piece."""

    def __init__(self, seed: Seed) -> None:
        """Looks at the image's file, for the first time as a whole. Raises Unavailable where it is not the one."""
        self._seed = seed
        self.size = seed.size
        self.made_at = seed.made_at
        if seed.over is not None:
            _require(seed.over)

    def pieces(self, first: int, last: int) -> Iterator[bytes]:
        """The bytes from `first` to `last`, both of them included."""
        over, content = self._seed.over, self._seed.content
        if over is None:
            yield content[first : last + 1]
            return
        with Path(over.path).open("rb") as file:
            file.seek(first)
            at = first
            while at <= last:
                piece = file.read(min(PIECE_BYTES, last + 1 - at))
                if not piece:
                    raise OSError(f"{over.path} was made shorter while it was read")
                yield _laid(piece, at, content, over.at)
                at += len(piece)


def _laid(piece: bytes, at: int, content: bytes, where: int) -> bytes:
    """The piece, which begins at byte `at`, with the content over it that begins at byte `where`."""
    begin, end = max(at, where), min(at + len(piece), where + len(content))
    if begin >= end:
        return piece
    return piece[: begin - at] + content[begin - where : end - where] + piece[end - at :]


def _require(over: BootImage) -> None:
    try:
        stat = Path(over.path).stat()
        found = digest(over.path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise Unavailable(f"the image that a machine boots from cannot be read: {error}") from error
    if stat.st_size != over.size or found != over.sha256:
        raise Unavailable("the file of the image that a machine boots from is another one by now")
