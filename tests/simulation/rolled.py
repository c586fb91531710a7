"""Judges rolls: no more hosts are under way than were asked for, and who is told to be empty is.

May not import anything of the service: what it expects is written down here a second time, on purpose.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

BUSY = ("moving", "draining", "drained")


class Rolled:
    """Asked after every commit. `rows`: a query of the database."""

    def __init__(self, rows: Callable[..., list[tuple[Any, ...]]]) -> None:
        self._rows = rows
        self._stages: dict[tuple[str, str], str] = {}

    def wrong(self) -> Iterator[str]:
        """What is wrong now, in words."""
        before, self._stages = self._stages, {}
        for uuid, text in self._rows("SELECT uuid, body FROM rolls WHERE ended_at = 0 ORDER BY created_at, uuid"):
            told = json.loads(text)
            stages = {host["uuid"]: host.get("stage", "waiting") for host in told["hosts"]}
            busy = [host for host, stage in stages.items() if stage in BUSY]
            if len(busy) > told["wish"].get("at_once", 1):
                yield f"{len(busy)} hosts of roll {uuid} are under way at once"
            begun = [host for host in busy if before.get((uuid, host)) == "waiting"]
            if begun and any(before.get((uuid, host)) in BUSY for host in busy):
                yield f"host {begun[0]} is begun by roll {uuid} before those before it are enabled again"
            for host, stage in stages.items():
                self._stages[uuid, host] = stage
                if stage == "drained" and before.get((uuid, host)) in ("moving", "draining"):
                    yield from self._empty(host)

    def _empty(self, host: str) -> Iterator[str]:
        held = self._rows("SELECT DISTINCT instance_uuid FROM claims WHERE host_uuid = ?", host)
        if held:
            yield f"host {host} is told to be empty, and {len(held)} members have claims there"
