"""Copies of registered images on hosts: what has to be there, how far it has come, and how a host is asked for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

COPY = re.compile(r"corral-base\.([0-9a-f]{64})\.([0-9a-f]{8})")


def copy_name(sha256: str, token: str) -> str:
    """The name on its host of a copy of this content; `token`: eight hex digits, unlike those of any other."""
    return f"corral-base.{sha256}.{token}"


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file of a registered image that a host has to have before a machine is made of it.

    `path`: of the control plane's machine; `size`: bytes; `sha256`: hex, of the whole content. `volume`: the name that
    the copy must have there, since a machine's disk stands on it; empty: any.
    """

    image: str
    role: str
    path: str
    size: int
    sha256: str
    volume: str = ""


@dataclass(frozen=True, slots=True)
class Copied:
    """How far a copy has come. `volume`: its name on the host, without meaning for anybody else.

    `done`: bytes from its beginning that were written and seen to be there; `digest`: hex sha256 of these bytes as they
    were sent; `boot_id`: the boot of the host in which they were written. `whole`: all of it is there, it has the sum
    that was registered, and machines may be made of it.
    """

    volume: str
    done: int = 0
    digest: str = ""
    boot_id: str = ""
    whole: bool = False


@dataclass(frozen=True, slots=True)
class SeenCopy:
    """A copy as its host shows it. `size`: bytes; `whole`: as above, not withdrawn; `used`: some machine, running or
    not, whoever made it, stands on it."""

    volume: str
    sha256: str
    size: int
    whole: bool
    used: bool


class HostCopies(Protocol):
    """The part of `drivers.base.HostDriver` that concerns copies; its rules hold here too."""

    async def stage(self, file: ImageFile, copied: Copied, *, budget_seconds: float) -> Copied:
        """Go on with a copy of the file from where it is proven to have come, for a few seconds; returns how far it is
        now. Call again until it is whole. What is sent when a call breaks off is sent again; nothing else is.

        Raises HostRejected `missing_image` where the file is not what was registered.
        """
        ...

    async def list_copies(self, *, budget_seconds: float) -> tuple[SeenCopy, ...]:
        """All copies of images on the host that bear our name, whichever installation made them.

        Raises HostRejected `undecided` where the host does not show what its machines stand on.
        """
        ...

    async def withdraw_copy(self, volume: str, *, budget_seconds: float) -> None:
        """From now on no machine is made of this copy; what stands on it stays, and so does the copy. `stage` takes a
        withdrawn one into use again. Absent is success."""
        ...

    async def delete_copy(self, volume: str, *, budget_seconds: float) -> None:
        """Delete a copy that is withdrawn, or was never whole. Absent is success.

        Raises HostRejected `in_use` where it is in use, or may be.
        """
        ...
