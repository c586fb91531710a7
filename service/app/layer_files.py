"""Files of a container image's layers, read as a stranger's: what is no archive, or is too much, ends the reading.

All functions block.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

import zstandard

from service.domain.containers import Unusable

MOST_ENTRIES = 1_000_000
MOST_HEADER_BYTES = 1 << 20
MOST_WINDOW_BYTES = 1 << 27
"""What a layer of zstd may make its reader remember: as much as the program `zstd` takes without being told to."""
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's file. `digest`: of its bytes; `contents`: of the plain tar; SHA-256 in hex. `packed`: see Blob."""

    path: str
    digest: str
    packed: str
    contents: str


class Budget:
    """How much the layers of one image may still be. Raises Unusable where it is spent."""

    def __init__(self, most_bytes: int, most_entries: int = MOST_ENTRIES) -> None:
        self.unpacked = self.entries = 0
        self._most_bytes = most_bytes
        self._most_entries = most_entries

    def spend(self, count: int) -> None:
        """So many bytes more come out of a layer."""
        self.unpacked += count
        if self.unpacked > self._most_bytes:
            raise Unusable(f"unpacks to more than {self._most_bytes} bytes (catalog.max_unpacked_size)")

    def one_more(self) -> None:
        """Another header."""
        self.entries += 1
        if self.entries > self._most_entries:
            raise Unusable(f"has more than {self._most_entries} files")


class _Header(tarfile.TarInfo):
    """A header of a stranger's archive: one that is not one ends the reading, instead of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            found = super().frombuf(buf, encoding, errors)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]  # the archive's end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error
        long = found.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)
        if found.size < 0 or (long and found.size > MOST_HEADER_BYTES):
            raise tarfile.ReadError("a header is too long")
        return found


_BLOCK = 512


class Measured(io.RawIOBase):
    """A file that is hashed and counted, also by its budget, as it is read."""

    def __init__(self, file: BinaryIO, budget: Budget | None = None) -> None:
        self._file = file
        self._budget = budget
        self._hash = hashlib.sha256()
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        data = self._file.read(len(memoryview(buffer)))  # type: ignore[arg-type]  # a buffer, as RawIOBase says
        if self._budget is not None:
            self._budget.spend(len(data))
        self._hash.update(data)
        self.count += len(data)
        memoryview(buffer)[: len(data)] = data  # type: ignore[arg-type]
        return len(data)

    def digest(self) -> str:
        """Of all of it: what was not read yet is."""
        while self.read(_PIECE):
            pass
        return self._hash.hexdigest()


class _Padded(io.RawIOBase):
    """A tar whose last block is whole: umoci leaves out what fills it up, and readers are to bear that."""

    def __init__(self, plain: Measured) -> None:
        self._plain = plain
        self._filled = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        count = self._plain.readinto(buffer)
        lacks = -self._plain.count % _BLOCK
        if count or self._filled or not lacks:
            return count
        self._filled = True
        memoryview(buffer)[:lacks] = bytes(lacks)  # type: ignore[arg-type]
        return lacks


@contextmanager
def opened(layer: Layer, number: int, budget: Budget | None) -> Iterator[tuple[tarfile.TarFile, Measured]]:
    """A layer's archive, and the tar that it is read from. With a budget its digests are compared at the end.

    Raises Unusable, OSError.
    """
    which = f"layer {number + 1}"
    try:
        with open(layer.path, "rb") as file:  # a path of the service's own
            packed = Measured(file)
            plain = Measured(_unpacked(packed, layer.packed), budget)
            padded = cast(BinaryIO, _Padded(plain))
            with tarfile.open(fileobj=padded, mode="r|", tarinfo=_Header, errors="surrogateescape") as archive:
                yield archive, plain
            if budget is None:
                return
            contents = plain.digest()
            if packed.digest() != layer.digest:
                raise Unusable(f"is damaged: {which} is not the one that its manifest names")
            if contents != layer.contents:
                raise Unusable(f"is damaged: {which} does not hold what the image's configuration says")
    except (tarfile.TarError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError, EOFError) as error:
        raise Unusable(f"is damaged: {which} cannot be unpacked ({type(error).__name__})") from error
    except (UnicodeError, ValueError, OverflowError) as error:
        raise Unusable(f"is damaged: a header of {which} cannot be read ({type(error).__name__})") from error


def _unpacked(packed: Measured, how: str) -> BinaryIO:
    """What a layer holds. Of zstd all frames are read, and those that hold no data are passed over (RFC 8878)."""
    if how == "zstd":
        reader = zstandard.ZstdDecompressor(max_window_size=MOST_WINDOW_BYTES)
        return cast(BinaryIO, reader.stream_reader(cast(BinaryIO, packed), read_across_frames=True))
    return cast(BinaryIO, gzip.GzipFile(fileobj=packed) if how == "gzip" else packed)


def members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Its headers, one after the other."""
    for member in archive:
        yield member
        archive.members = []  # type: ignore[attr-defined]  # it would keep them all
