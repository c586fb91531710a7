"""Where listeners listen: addresses, and what must be out of the way before a socket is bound."""

from __future__ import annotations

import ipaddress
import socket
import stat
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
