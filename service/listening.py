"""Where listeners listen: addresses, and what must be out of the way before a socket is bound."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where a listener listens: `host` and `port` (0 = any free one), or the `path` of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        """As it is written in the file, and as gRPC takes it."""
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


PRIVATE = 0o600
"""The mode of a unix socket that its owner and root alone may use."""
_PERMISSIONS = 0o777
_SO_PEERGROUPS = 59  # the socket module has no name for it
_GROUPS_BYTES = 1024  # what the socket module can read: 256 groups


@contextlib.contextmanager
def socket_mode(mode: int) -> Iterator[None]:
    """What is bound inside has this mode from its first moment on: nobody comes in before it is set."""
    before = os.umask(_PERMISSIONS & ~mode)
    try:
        yield
    finally:
        os.umask(before)


@dataclass(frozen=True, slots=True)
class UnixPeer:
    """Who is at the other end of a unix socket, by the kernel's word. `admitted`: the socket is for them, by its
    owner, group and mode as they are now; or they are root, or the service's own user."""

    uid: int
    admitted: bool


def unix_peer(connection: socket.socket) -> UnixPeer:
    """Raises OSError where the kernel does not say, or the socket's file is gone, or the peer is in too many groups."""
    size = struct.calcsize("3i")
    _, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    if uid in (0, os.geteuid()):
        return UnixPeer(uid, admitted=True)
    place = os.stat(connection.getsockname())
    groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    members = {gid, *struct.unpack(f"{len(groups) // 4}I", groups)}
    by_group = bool(place.st_mode & stat.S_IWGRP) and place.st_gid in members
    return UnixPeer(uid, admitted=uid == place.st_uid or by_group)


class AddressUnavailable(Exception):
    """A listener cannot be opened: the address is taken, or not this machine's. The message names it."""


def remove_stale_socket(address: ListenAddress) -> None:
    """Take away the socket file that a crash left; a listener that still answers on it is never replaced.

    Raises AddressUnavailable where another process listens there, or where the file is no socket.
    """
    path = Path(address.path)
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise AddressUnavailable(f"{address}: there is a file which is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(address.path) == 0:
            raise AddressUnavailable(f"{address} is in use by another process")
    path.unlink()
