"""What systemd is told of this process, where it was started by a unit of Type=notify: that it serves, lives, ends."""

from __future__ import annotations

import asyncio
import os
import socket
import time

_ADDRESS, _WATCHDOG, _FOR = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


class Notifier:
    """Sends datagrams to the socket that the environment names; without one does nothing.

    The environment loses the names, so that processes started by this one tell nothing in its place.
    """

    def __init__(self) -> None:
        self._address = os.environ.pop(_ADDRESS, "")
        microseconds, pid = os.environ.pop(_WATCHDOG, ""), os.environ.pop(_FOR, "")
        ours = microseconds.isdecimal() and pid in ("", str(os.getpid()))
        self.beat_seconds = int(microseconds) / 2e6 if ours else 0.0
        """How often systemd wants to hear that the process lives; 0: it does not ask."""

    def ready(self, status: str) -> None:
        """The process serves, or serves again after `reloading`."""
        self._tell(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """The configuration file is being read again."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The process ends."""
        self._tell("STOPPING=1\nSTATUS=draining")

    async def beat(self) -> None:
        """Say again and again that the event loop turns; returns at once where nobody asks."""
        while self.beat_seconds:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self.beat_seconds)

    def _tell(self, message: str) -> None:
        if not self._address:
            return
        # An abstract socket is named with @ in front.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            try:
                sender.connect(address)
                sender.sendall(message.encode())
            except OSError:
                # systemd itself is gone or its socket is; it finds out by the process what it would have been told.
                self._address = ""
