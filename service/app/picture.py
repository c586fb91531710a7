"""The fleet as many people look at it at once: read for all of them together, and only what has changed.

A watch of the fleet tells what its operators and hosts say; what members claim is no change of it. Whoever draws hosts
wants both, and soon. So a picture looks at the marks of all hosts every now and then, as long as somebody follows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Hashable, Mapping
from dataclasses import dataclass

from service.app.capacity import HostView
from service.app.zones import ZoneView
from service.domain.fleet import Host
from service.store import fleet
from service.store.connection import Connection
from service.store.engine import Store

Views = Callable[[Connection, tuple[Host, ...]], tuple[HostView, ...]]

LOOK_SECONDS = 0.5
_SHARE = 20
"""At most one part in this many of a processor is spent on looking."""
_MANY = 2_000
"""With this many changed hosts or more, all are read: no statement names so many."""


@dataclass(frozen=True, slots=True)
class Look:
    """What has changed since the look before. `removed`: uuids of hosts; `zones`: all of them, None where none changed;
    `whole`: it is the first look, and tells all."""

    hosts: tuple[HostView, ...] = ()
    removed: tuple[str, ...] = ()
    zones: tuple[ZoneView, ...] | None = None
    whole: bool = False


class Picture:
    """The process's picture of the fleet; `watch` it."""

    def __init__(self, store: Store, views: Views) -> None:
        """`views`: hosts with what they carry, as the use cases tell it."""
        self._store = store
        self._read_views = views
        self._marks: Mapping[str, Hashable] = {}
        self._views: dict[str, HostView] = {}
        self._zones: tuple[ZoneView, ...] = ()
        self._change = 0
        self._changed: dict[str, int] = {}
        self._zones_changed = 0
        self._looking = asyncio.Lock()
        self._next_look = 0.0

    async def watch(self) -> AsyncGenerator[Look, None]:
        """First the whole fleet, then whatever changed, at most every LOOK_SECONDS, without end. Raises Unavailable."""
        await self._look()
        told = self._change
        yield Look(tuple(self._views.values()), (), self._zones, whole=True)
        while True:
            await asyncio.sleep(max(LOOK_SECONDS / 5, self._next_look - time.monotonic()))
            await self._look()
            if self._change == told:
                continue
            news = self._since(told)
            told = self._change
            yield news

    def _since(self, change: int) -> Look:
        changed = [uuid for uuid, at in self._changed.items() if at > change]
        return Look(
            tuple(self._views[uuid] for uuid in changed if uuid in self._views),
            tuple(uuid for uuid in changed if uuid not in self._views),
            self._zones if self._zones_changed > change else None,
        )

    async def _look(self) -> None:
        """Look again where nobody has for a while. Several followers look once."""
        async with self._looking:
            if time.monotonic() < self._next_look:
                return
            started = time.monotonic()
            marks, zones, views = await self._store.read(self._read)
            removed = self._views.keys() - marks.keys()
            if views or removed or zones != self._zones:
                self._change += 1
            for uuid in removed:
                del self._views[uuid]
            self._views.update((view.host.uuid, view) for view in views)
            self._changed.update(dict.fromkeys((*removed, *(view.host.uuid for view in views)), self._change))
            if zones != self._zones:
                self._zones, self._zones_changed = zones, self._change
            self._marks = marks
            took = time.monotonic() - started
            self._next_look = time.monotonic() + max(LOOK_SECONDS, took * _SHARE)

    def _read(
        self, connection: Connection
    ) -> tuple[Mapping[str, Hashable], tuple[ZoneView, ...], tuple[HostView, ...]]:
        marks = fleet.marks(connection)
        counts = fleet.hosts_of(connection)
        zones = tuple(ZoneView(zone, counts.get(uuid, 0)) for uuid, zone in sorted(fleet.zones(connection).items()))
        others = [uuid for uuid, mark in marks.items() if self._marks.get(uuid) != mark]
        if zones != self._zones:
            others = list(marks)  # a zone's policy holds for its hosts
        if not others:
            return marks, zones, ()
        hosts = fleet.hosts(connection, others if len(others) < _MANY else None)
        return marks, zones, self._read_views(connection, tuple(hosts.values()))
