"""Files of the image store, looked at before they are registered.

Only plain files right inside the store are taken, and no disk that would make a hypervisor read another file.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from service.domain import boot_files
from service.errors import InvalidArgument

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,254}")


@dataclass(frozen=True, slots=True)
class Examined:
    """A file of the store: its size in bytes and its SHA-256 digest in hex."""

    path: Path
    size: int
    sha256: str


def examine(directory: Path, name: str, image_format: str, sha256: str, name_field: str, digest_field: str) -> Examined:
    """Read the whole file `name` of the store; `image_format`: raw | qcow2 | kernel | initrd.

    Raises InvalidArgument that names `name_field` or `digest_field`: no such file, not of the format, another digest.
    """
    if not _NAME.fullmatch(name):
        raise InvalidArgument.of(name_field, "must be a file's name: letters, digits and ._+-, a letter or digit first")
    return examine_file(directory / name, image_format, sha256, name_field, digest_field)


def require_seed(path: Path, name_field: str) -> None:
    """That bare metal can boot from the file. Raises InvalidArgument that names the field."""
    try:
        with path.open("rb") as file:
            wrong = boot_files.seed_problem(file)
    except OSError as error:
        raise InvalidArgument.of(name_field, "is no file of the image store that can be read") from error
    if wrong:
        raise InvalidArgument.of(name_field, wrong)


def examine_file(path: Path, image_format: str, sha256: str, name_field: str, digest_field: str) -> Examined:
    """The same of a file whose name is the service's own."""
    try:
        # Opened without following a link, and asked on the open file, so that nobody can change it in between.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidArgument.of(name_field, "is no file of the image store that can be read") from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidArgument.of(name_field, "is no file of the image store that can be read")
        with os.fdopen(handle, "rb", closefd=False) as file:
            wrong = boot_files.problem(file, status.st_size, image_format)
            if wrong:
                raise InvalidArgument.of(name_field, wrong)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    finally:
        os.close(handle)
    if sha256 and sha256 != digest:
        raise InvalidArgument.of(digest_field, "is not the digest of the file in the image store")
    return Examined(path, status.st_size, digest)
