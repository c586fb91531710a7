"""The image store's directory: what is uploaded arrives there under a temporary name, and is kept under its digest.

Several replicas may share the directory. Whoever works on a digest holds the lock of its temporary file, which is also
the record that the kept file may not be in the catalogue: it is there before the kept file, and goes once a commit says
whether the catalogue has the image. A process that was killed in between leaves it, and `clean` puts that right. All
functions block.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import threading
from collections.abc import Collection
from pathlib import Path

from service.app import image_files
from service.app.image_files import Examined
from service.domain.boot_files import QCOW2_MAGIC
from service.errors import Conflict, InvalidArgument, WrongState

KEEP_SECONDS = 24 * 3600.0
"""For this long an upload that was broken off can be gone on with."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_PART = re.compile(r"\.upload-([0-9a-f]{64})\.part")


class ImageStore:
    """What is uploaded into one directory. `most_bytes`: of one file."""

    def __init__(self, directory: Path, most_bytes: int) -> None:
        self.directory = directory
        self._most_bytes = most_bytes

    def kept(self, sha256: str) -> Path:
        """Where the file with this digest is once it is an image's."""
        return self.directory / f"upload-{sha256}"

    def part(self, sha256: str) -> Path:
        """Where it arrives. No caller can name such a file: RegisterImage takes no name that begins with a dot."""
        return self.directory / f".upload-{sha256}.part"

    def received(self, sha256: str) -> int:
        """How many bytes of it are here."""
        for path in (self.kept(sha256), self.part(sha256)):
            with contextlib.suppress(OSError):
                return path.lstat().st_size
        return 0

    def kept_size(self, sha256: str) -> int | None:
        """Bytes of the file that an image has, None where none has it."""
        with contextlib.suppress(OSError):
            return self.kept(sha256).lstat().st_size
        return None

    def begin(self, sha256: str, size: int, offset: int) -> Arrival:
        """Go on with the upload at `offset`; what lay behind it is forgotten.

        Raises InvalidArgument (size, offset), Conflict (another call uploads it), WrongState (the store is not fit).
        """
        if size > self._most_bytes:
            raise InvalidArgument.of("size", f"may be at most {self._most_bytes} here (catalog.max_upload_size)")
        if offset > size:
            raise InvalidArgument.of("offset", f"may be at most size, which is {size}")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            return self._begin(sha256, size, offset)
        except OSError as error:
            raise _unfit(error) from error

    def _begin(self, sha256: str, size: int, offset: int) -> Arrival:
        # What an image has already is linked to, and not written again.
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            os.link(self.kept(sha256), self.part(sha256))
        handle = self._lock(sha256)
        try:
            there = os.fstat(handle).st_size
            if offset > there:
                raise InvalidArgument.of("offset", f"may be at most {there}: so many bytes are here")
            complete = self._is_kept(sha256, handle)
            if not complete:
                self._require_room(size - offset)
                os.ftruncate(handle, offset)
                os.lseek(handle, offset, os.SEEK_SET)
            return Arrival(handle, size, offset, written=not complete)
        except BaseException:
            os.close(handle)
            raise

    def hold(self, sha256: str) -> Arrival:
        """Keep everybody else from the file until it is closed. Raises Conflict, WrongState."""
        try:
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                os.link(self.kept(sha256), self.part(sha256))
            return Arrival(self._lock(sha256), 0, 0, written=False)
        except OSError as error:
            raise _unfit(error) from error

    def place(self, name: str) -> Arrival:
        """Somewhere to make a file, under a name of 64 hexadecimal digits, and nobody else until it is closed.

        Raises Conflict, WrongState.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            return Arrival(self._lock(name), 0, 0, written=False)
        except OSError as error:
            raise _unfit(error) from error

    def give_up(self, name: str, place: Arrival) -> None:
        """Forget what was made at a place, unless it has another name by now: then that place may be another call's."""
        path = self.part(name)
        with contextlib.suppress(FileNotFoundError):
            if place.is_file(path):
                path.unlink()

    def examine(self, sha256: str, image_format: str, digest_field: str) -> Examined:
        """The one set of checks for every way in, of a file that has arrived. Raises InvalidArgument."""
        return image_files.examine_file(self.part(sha256), image_format, sha256, "data", digest_field)

    def disk_format(self, sha256: str) -> str:
        """As what a disk that has arrived is to be looked at, where nobody said: raw | qcow2. Raises WrongState."""
        try:
            with self.part(sha256).open("rb") as file:
                return "qcow2" if file.read(len(QCOW2_MAGIC)) == QCOW2_MAGIC else "raw"
        except OSError as error:
            raise _unfit(error) from error

    def keep(self, sha256: str) -> None:
        """Give the file that has arrived its name; its temporary one stays until `settle`. Raises WrongState."""
        try:
            with contextlib.suppress(FileExistsError):
                os.link(self.part(sha256), self.kept(sha256))
            self._sync()
        except OSError as error:
            raise _unfit(error) from error

    def settle(self, sha256: str, *, in_use: bool) -> None:
        """The catalogue is known to have the image, or not to have it: the file stays, or goes; no record is needed.

        A kept file goes only where the temporary name leads to it too. Raises WrongState.
        """
        try:
            if not in_use and self._is_kept(sha256, self.part(sha256)):
                self.kept(sha256).unlink(missing_ok=True)
            self.part(sha256).unlink(missing_ok=True)
        except OSError as error:
            raise _unfit(error) from error

    def adopt(self, name: str, sha256: str) -> bool:
        """What was made at the place of `name`, which the caller holds, has arrived as this digest, and is held still.

        False where an image has these bytes already, under a name of their own. Raises Conflict, WrongState.
        """
        try:
            if self.kept_size(sha256) is not None:
                return False
            os.link(self.part(name), self.part(sha256))
            self.part(name).unlink()
        except FileExistsError as error:
            raise Conflict("another call makes these bytes", retry_after_ms=1000) from error
        except OSError as error:
            raise _unfit(error) from error
        return True

    def discard(self, sha256: str) -> None:
        """Forget what has arrived."""
        self.part(sha256).unlink(missing_ok=True)

    def abandoned(self, before: float) -> list[str]:
        """Digests of what nobody has worked on since `before`, in seconds since the epoch."""
        found = []
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.directory):
                match = _PART.fullmatch(entry.name)
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    # A link changes the time of a file's status, and bytes that arrive both.
                    if match is not None and max(status.st_mtime, status.st_ctime) < before:
                        found.append(match[1])
        return found

    def missing(self, paths: Collection[str]) -> list[str]:
        """Those of these files that are not here."""
        return sorted(path for path in paths if not Path(path).is_file())

    def _lock(self, sha256: str) -> int:
        path = self.part(sha256)
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mine, there = os.fstat(handle), path.lstat()
                if not stat.S_ISREG(mine.st_mode):
                    raise OSError(errno.EINVAL, "is no file", str(path))
                if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
                    return handle
            except BlockingIOError as error:
                os.close(handle)
                raise Conflict("another call is uploading these bytes", retry_after_ms=1000) from error
            except FileNotFoundError:
                pass  # whoever had the lock has just put the file away
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)

    def _is_kept(self, sha256: str, other: int | Path) -> bool:
        with contextlib.suppress(OSError):
            return os.path.samestat(self.kept(sha256).lstat(), os.stat(other))
        return False

    def _require_room(self, wanted: int) -> None:
        free = os.statvfs(self.directory)
        if wanted > free.f_bavail * free.f_frsize:
            raise WrongState("the image store", "too full", f"{wanted} free bytes")

    def _sync(self) -> None:
        handle = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class Arrival:
    """An upload under way, which nobody else works on until it is closed. `received`: bytes that are here."""

    def __init__(self, handle: int, size: int, offset: int, *, written: bool) -> None:
        """`written`: not so where the store has the file already, whatever is sent."""
        self.received = offset
        self._handle = handle
        self._size = size
        self._written = written
        self._using = threading.Lock()  # a call that is given up closes the file while a thread may still write
        self._open = True

    @property
    def whole(self) -> bool:
        """Whether all of it is here."""
        return self.received == self._size

    def write(self, data: bytes) -> None:
        """Append. Raises InvalidArgument for more than was announced, WrongState where the store takes no more."""
        if self.received + len(data) > self._size:
            raise InvalidArgument.of("data", f"is longer than size, which is {self._size}")
        with self._using:
            if not self._open:
                return
            rest = memoryview(data) if self._written else memoryview(b"")
            try:
                while rest:
                    rest = rest[os.write(self._handle, rest) :]
            except OSError as error:
                raise _unfit(error) from error
            self.received += len(data)

    def is_file(self, path: Path) -> bool:
        """Whether the path leads to it. Raises FileNotFoundError."""
        with self._using:
            return self._open and os.path.samestat(os.fstat(self._handle), path.lstat())

    def sync(self) -> None:
        """See that all of it is on the disk. Raises WrongState."""
        try:
            with self._using:
                os.fsync(self._handle)
        except OSError as error:
            raise _unfit(error) from error

    def close(self) -> None:
        """Let others work on it."""
        with self._using:
            if self._open:
                self._open = False
                os.close(self._handle)


def _unfit(error: OSError) -> WrongState:
    state = "full" if error.errno in _FULL else f"not fit for it ({error.strerror})"
    return WrongState("the image store", state, "a directory with room that the service may write to")
