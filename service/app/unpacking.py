"""The process that makes a file system of a container image's layers: `python -m service.app.unpacking`.

A stranger's archives are read here and not in the service, with bounds on memory, processor time and what is written.
One JSON object comes by standard input, one goes out by standard output; once the service's end of the input is closed,
also by its death, this process and what it started end. `sqfstar` (Debian's squashfs-tools) writes owners and modes
that the user who runs it could not give to files.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from service.app import layers
from service.app.layer_files import Budget, Layer
from service.app.layers import RESERVED
from service.domain import environment
from service.domain.containers import Unusable

WRITER = "sqfstar"
PACKAGE = "squashfs-tools"
MEMORY_BYTES = 4 << 30
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made. `output`: an existing file; sizes in bytes; the rest as the image's configuration has it."""

    layers: Sequence[Layer]
    output: str
    most_unpacked: int
    most_bytes: int
    most_seconds: int
    user: str = ""
    directory: str = ""
    environment: Sequence[str] = ()

    def text(self) -> str:
        """In one line."""
        return json.dumps(asdict(self))


def parsed(text: str) -> Order:
    """The order of a line."""
    told: dict[str, Any] = json.loads(text)
    return Order(**{**told, "layers": [Layer(**layer) for layer in told["layers"]]})


@dataclass(frozen=True, slots=True)
class User:
    """Who runs it. `as_told`: `uid` or `uid:gid`; `added`: a line that /etc/passwd lacks."""

    as_told: str = "0"
    home: str = "/"
    added: str = ""


def user_of(wanted: str, passwd: str, group: str) -> User:
    """The image's user, looked up in its own files as container runtimes do. Raises Unusable.

    A number that has no line is given one, since programs look for it; its group is 0.
    """
    name, _, of_group = wanted.partition(":")
    people = [line.split(":") for line in passwd.splitlines() if line.count(":") >= 6]
    found = next((one for one in people if (name or "0") in (one[0], one[2])), None)
    if found is None and not _is_number(name or "0"):
        raise Unusable(f"runs as user {name!a}, whom its /etc/passwd does not have")
    uid, home = (found[2], found[5]) if found is not None else (name or "0", "/")
    added = "" if found is not None else f"corral-{uid}:x:{uid}:0::/:/bin/sh\n"
    gid = ""
    if of_group:
        groups = [line.split(":") for line in group.splitlines() if line.count(":") >= 3]
        gid = next((one[2] for one in groups if of_group in (one[0], one[2])), of_group)
    for number in (uid, gid or "0"):
        if not _is_number(number) or int(number) > 0xFFFFFFFE:
            raise Unusable(f"runs as user {wanted!a}, which its /etc/passwd and /etc/group do not lead to a number")
    return User(f"{uid}:{gid}" if gid else uid, home or "/", added)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def variables(given: Sequence[str], home: str) -> str:
    """The image's environment as lines of `NAME=value`, without what Corral plans and what is no line."""
    found = {"PATH": DEFAULT_PATH, "HOME": home}
    for one in given:
        name, separator, value = one.partition("=")
        # By itself: a reference to a secret is one here as little as anywhere in an image.
        if separator and not list(environment.problems({name: "", **({} if environment.is_line(value) else {"": ""})})):
            found[name] = value
    return "".join(f"{name}={value}\n" for name, value in found.items())


def make(order: Order) -> Mapping[str, object]:
    """Write the file system; says how much it is of. Raises Unusable, OSError, WriterFailed."""
    budget = Budget(order.most_unpacked)
    tree = layers.read(order.layers, budget)
    texts = {}
    for name in ("etc/passwd", "etc/group"):
        found = layers.contents_of(tree, order.layers, name)
        texts[name] = found or b""
    passwd = texts["etc/passwd"].decode("utf-8", "surrogateescape")
    user = user_of(order.user, passwd, texts["etc/group"].decode("utf-8", "surrogateescape"))
    extra = {
        f"{RESERVED}/user": user.as_told.encode(),
        f"{RESERVED}/directory": (order.directory or "/").encode("utf-8", "surrogateescape"),
        f"{RESERVED}/environment": variables(order.environment, user.home).encode("utf-8", "surrogateescape"),
    }
    tree.directory((RESERVED,)).own.mode = 0o700
    if user.added:
        tree.directory(("etc",))
        before = passwd if not passwd or passwd.endswith("\n") else f"{passwd}\n"
        extra["etc/passwd"] = f"{before}{user.added}".encode("utf-8", "surrogateescape")
    _written(order, tree, extra)
    return {"files": budget.entries, "unpacked": budget.unpacked}


class WriterFailed(Exception):
    """sqfstar did not write it; the text is its last line."""


def _written(order: Order, tree: layers.Tree, extra: Mapping[str, bytes]) -> None:
    program = shutil.which(WRITER)
    if program is None:
        raise WriterFailed(f"{WRITER} is not here")
    root = tree.root.own
    # lz4: 740 MB in 1.6 s; zstd and gzip, whose level this program does not let one choose, took 105 s and 120 s.
    command = [program, "-quiet", "-no-progress", "-exit-on-error", "-force", "-comp", "lz4", "-noI", "-mkfs-time", "1"]
    command += ["-mem", "256M", "-processors", "2", "-root-mode", f"{root.mode:o}", "-root-uid", str(root.uid)]
    command += ["-root-gid", str(root.gid), order.output]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={"PATH": DEFAULT_PATH}
    )
    told: list[bytes] = []
    listener = threading.Thread(target=lambda: told.append(_last_line(cast(BinaryIO, process.stderr))), daemon=True)
    listener.start()
    broken = None
    with contextlib.closing(cast(BinaryIO, process.stdin)) as pipe:
        try:
            layers.write(tree, order.layers, extra, pipe)
            pipe.flush()
        except BrokenPipeError as error:
            broken = error
        except BaseException:
            process.kill()
            raise
    code = process.wait()
    listener.join()
    if code or broken is not None:
        line = (told[0] if told else b"").decode("ascii", "replace").strip()
        raise WriterFailed(line or f"{WRITER} ended with {code}")
    with Path(order.output).open("r+b") as made:
        date_root(made)


def date_root(made: BinaryIO) -> None:
    """Give the root directory a time of its own: sqfstar has it made now, and the same layers are to give the same
    bytes, so that replicas and repeated imports share one file.

    Squashfs 4.0 (Linux, fs/squashfs/squashfs_fs.h): the superblock has the root's place at byte 32 and the table of
    inodes at 64; of an inode the bytes 8 to 11 are its time. The table is written plain, in blocks of 8 KiB with two
    bytes before.
    """
    made.seek(0)
    superblock = made.read(96)
    (place,), (table,) = struct.unpack_from("<Q", superblock, 32), struct.unpack_from("<Q", superblock, 64)
    block, offset = place >> 16, place & 0xFFFF
    for number in range(offset + 8, offset + 12):
        made.seek(table + block + 2 + number + (2 if number >= 8192 else 0))
        made.write(b"\0")


def _last_line(stream: BinaryIO) -> bytes:
    last = b""
    for line in stream:
        last = line[:300] if line.strip() else last
    return last


def main() -> int:
    """One order. Answers {"files", "unpacked"}, {"unusable"} or {"failed"}."""
    order = parsed(sys.stdin.readline())
    threading.Thread(target=_end_with_the_service, daemon=True).start()
    _bound(order)
    try:
        answer = make(order)
    except Unusable as error:
        answer = {"unusable": str(error)}
    except MemoryError:
        answer = {"unusable": f"needs more than {MEMORY_BYTES} bytes of memory to be read"}
    except (WriterFailed, OSError) as error:
        answer = {"failed": str(error)}
    print(json.dumps(answer), flush=True)
    return 0


def _bound(order: Order) -> None:
    # What is written over the limit fails, and does not kill: sqfstar says so.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (order.most_bytes, order.most_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (order.most_seconds, order.most_seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    os.nice(10)


def _end_with_the_service() -> None:
    """Nobody waits for it any more once the other end is closed: it and the writer, which are a group, end."""
    while os.read(0, 1 << 10):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
