"""Judges who waits for hosts: nobody behind the first in line takes what becomes free on hosts that are kept for it.

May not import anything of the service: what it expects is written down here a second time, on purpose.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Amounts = Mapping[tuple[str, str], int]
"""By host and resource."""


@dataclass
class _First:
    """The first for whom room is kept: its place in line, what it needs where, and who was there by then, or had a seat
    that was made for it there: what is booked before was given away before."""

    uuid: str
    place: tuple[int, int, str]
    needs: Amounts
    used: Amounts
    there: frozenset[tuple[str, str]]


@dataclass
class Lines:
    """Asked after every commit. `rows`: a query of the database."""

    rows: Callable[..., list[tuple[Any, ...]]]
    _first: _First | None = field(default=None)

    def wrong(self, usable: Amounts) -> Iterator[str]:
        """What is wrong now, in words. `usable`: (host, resource) -> amount."""
        before, self._first = self._first, self._now()
        if before is not None:
            yield from self._passed(before, usable)

    def _passed(self, first: _First, usable: Amounts) -> Iterator[str]:
        came: dict[tuple[str, str], int] = defaultdict(int)
        late = {
            uuid
            for uuid, priority, at, attempts in self.rows(
                "SELECT g.uuid, g.priority, g.created_at, MAX(i.attempt) FROM groups g"
                " JOIN instances i ON i.group_uuid = g.uuid"
                " WHERE g.starts = 0 GROUP BY g.uuid, g.priority, g.created_at"
            )
            if attempts == 1 and (-priority, at, uuid) > first.place
        }
        for host, resource, instance, group, amount in self.rows(
            "SELECT host_uuid, resource, instance_uuid, group_uuid, amount FROM claims"
        ):
            if group in late and (instance, host) not in first.there:
                came[host, resource] += amount
        for (host, resource), amount in came.items():
            need = first.needs.get((host, resource), 0)
            left = usable.get((host, resource), 0) - first.used.get((host, resource), 0) - need
            if need and amount > max(0, left):
                yield f"{amount} {resource} on {host} go to somebody behind {first.uuid}, for whom {need} are kept"

    def _now(self) -> _First | None:
        waiting = self.rows(
            "SELECT -priority, created_at, uuid, waiting FROM groups WHERE waiting_kept > 0 AND phase = 'planning'"
        )
        if not waiting:
            return None
        urgency, at, uuid, text = min(waiting)
        kept = json.loads(text)["kept"]
        if not kept or kept["starts_at"]:
            return None
        sizes = {
            instance: json.loads(spec)
            for instance, spec in self.rows("SELECT uuid, spec FROM instances WHERE group_uuid = ?", uuid)
        }
        needs: dict[tuple[str, str], int] = defaultdict(int)
        for seat in kept["seats"]:
            size = sizes.get(seat["instance_uuid"])
            if size is not None:
                needs[seat["host_uuid"], "vcpu"] += size["cpu_num"]
                needs[seat["host_uuid"], "memory"] += size["memory_size"]
        used: dict[tuple[str, str], int] = defaultdict(int)
        there = set()
        for host, resource, instance, amount in self.rows(
            "SELECT host_uuid, resource, instance_uuid, amount FROM claims"
        ):
            used[host, resource] += amount
            there.add((instance, host))
        there |= {(instance, host) for instance, host in self.rows("SELECT instance_uuid, host_uuid FROM bookings")}
        return _First(uuid, (urgency, at, uuid), needs, used, frozenset(there))
