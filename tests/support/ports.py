"""Ports of loopback that a test names before a program listens there, or while it is being started again.

A port that the kernel chose is anybody's again as soon as it is let go: whoever connects or listens next may get it.
These are none that it chooses from, and no two processes of tests give out the same one.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

_LOWEST = 20000
_BLOCK = 100


def own_port() -> int:
    """A port that nobody else has or is given while this process runs. Raises RuntimeError where none is left."""
    for port in _mine:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue  # a program's that is no test's
        return port
    raise RuntimeError("no port is left outside of net.ipv4.ip_local_port_range")


def _of_blocks() -> Iterator[int]:
    """Each once, block by block. A block's mark is an abstract unix socket: as ports are, it is a network namespace's
    own, and it is gone with its process."""
    ports = _outside()
    marks = []
    for first in range(0, len(ports), _BLOCK):
        mark = socket.socket(socket.AF_UNIX)
        try:
            mark.bind(f"\0corral-tests-ports-{ports[first]}")
        except OSError:
            mark.close()
            continue  # another process's
        marks.append(mark)
        yield from ports[first : first + _BLOCK]


def _outside() -> list[int]:
    """Those that the kernel never chooses, in ascending order."""
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    return [port for port in range(_LOWEST, 1 << 16) if not first <= port <= last]


_mine = _of_blocks()
