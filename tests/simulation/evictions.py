"""Judges groups that end so that others fit: only for one of a higher priority, not before the time that they were
told, for room that is wanted; and what becomes of them is what they were told.

May not import anything of the service: what it expects is written down here a second time, on purpose.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

LATE_SECONDS = 6.0
"""A time is reckoned before the commit that tells it, which may take as long where the database is slow."""
_OVER = ("deleting", "deleted", "cleaning", "failed")


@dataclass
class Evictions:
    """Asked after every commit. `rows`: a query of the database; `now`: seconds."""

    rows: Callable[..., list[tuple[Any, ...]]]
    now: Callable[[], float]
    _told: dict[str, tuple[dict[str, Any], float, bool]] = field(default_factory=dict)
    """Group -> (what it was told, since when, whether it ran until it began to leave)."""
    _rooms: set[str] = field(default_factory=set)

    def wrong(self) -> Iterator[str]:
        """What is wrong now, in words."""
        asked = dict(self.rows("SELECT uuid, eviction FROM groups WHERE eviction IS NOT NULL"))
        if not asked and not self._told:
            self._rooms = set()
            return
        plans = [json.loads(text)["plan"] for (text,) in self.rows("SELECT room FROM groups WHERE room IS NOT NULL")]
        rooms = {plan["uuid"]: plan for plan in plans if plan}
        for uuid, text in asked.items():
            yield from self._one(uuid, json.loads(text), rooms)
        for uuid in sorted(set(self._told) - set(asked)):
            eviction, _, ran = self._told.pop(uuid)
            yield from self._over(uuid, eviction, ran)
        self._rooms = set(rooms)

    def _one(self, uuid: str, eviction: dict[str, Any], rooms: dict[str, dict[str, Any]]) -> Iterator[str]:
        before, since, ran = self._told.get(uuid, (None, self.now(), True))
        if not eviction["begun"]:
            phase, restarting = self.rows("SELECT phase, restarting FROM groups WHERE uuid = ?", uuid)[0]
            ran = phase != "stopped" and (phase != "stopping" or bool(restarting))
        self._told[uuid] = eviction, since, ran
        if before is None:
            ((mine,), (theirs,)) = (
                self.rows("SELECT priority FROM groups WHERE uuid = ?", one)[0] for one in (uuid, eviction["by_group"])
            )
            if mine >= theirs:
                yield f"group {uuid} of priority {mine} is to end for {eviction['by_group']} of priority {theirs}"
        if eviction["begun"] and not (before or {}).get("begun"):
            passed = self.now() - since
            if passed < eviction["notice_ms"] / 1000 - LATE_SECONDS:
                yield f"group {uuid} ends {passed:.1f} s after it was told, its notice is {eviction['notice_ms']} ms"
            if eviction["room"] not in rooms.keys() | self._rooms:
                yield f"group {uuid} ends for a room that nobody wants"
            elif eviction["room"] in rooms:
                yield from self._moved_first(uuid, rooms[eviction["room"]])

    def _moved_first(self, uuid: str, plan: dict[str, Any]) -> Iterator[str]:
        """Who moves to a host that nobody leaves, and behind nobody of its group who does not, has gone by now."""
        left = {host for one in plan["evictions"] for host in one["seats"].values()}
        waiting = set()
        for move in plan["moves"]:
            if move["target_host_uuid"] in left or move["group_uuid"] in waiting:
                waiting.add(move["group_uuid"])
            elif self.rows(
                "SELECT 1 FROM claims WHERE instance_uuid = ? AND host_uuid = ?",
                move["instance_uuid"],
                move["source_host_uuid"],
            ):
                yield f"group {uuid} ends before member {move['instance_uuid']} has moved for the same room"

    def _over(self, uuid: str, eviction: dict[str, Any], ran: bool) -> Iterator[str]:
        if not eviction["begun"]:
            return
        phase, waiting = self.rows("SELECT phase, waiting FROM groups WHERE uuid = ?", uuid)[0]
        fine = {
            "stopped": phase == "stopped",
            "waiting": bool(waiting) if ran else phase == "stopped",
            "deleted": False,
        }
        if phase not in _OVER and not fine[eviction["becomes"]]:
            yield f"group {uuid} was to be {eviction['becomes']} after it ended, and is {phase}"
