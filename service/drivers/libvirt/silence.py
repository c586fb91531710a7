"""Looks for guests that have fallen silent, and hints at each: of a group at rest nobody would look for ten seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from service.drivers.libvirt.channels import Channels

SELDOM_SECONDS = 5.0
"""How often it looks where no guest can fall silent sooner."""
# The loop's timers may be a little early.
_AFTER_SECONDS = 0.02


class Silence:
    """Of the guests of one host. Asks nobody: it goes by what was heard."""

    def __init__(self, channels: Channels, changed: Callable[[str], None]) -> None:
        """`changed(machine_uuid)`: called once when the silence of a guest begins to count."""
        self._channels = channels
        self._changed = changed
        self._told: dict[str, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """From now on. On the event loop; more calls do nothing."""
        if self._timer is None:
            self._look()

    def end(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        now, told, wait = time.monotonic(), {}, SELDOM_SECONDS
        for machine_uuid, report in self._channels.reports().items():
            if report.silent_at > now:
                wait = min(wait, report.silent_at - now)
                continue
            told[machine_uuid] = report.silent_at
            if self._told.get(machine_uuid) != report.silent_at:
                self._changed(machine_uuid)
        self._told = told
        self._timer = asyncio.get_running_loop().call_later(wait + _AFTER_SECONDS, self._look)
