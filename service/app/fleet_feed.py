"""Changes of zones and hosts as a stream.

One reader for the process asks whether anything changed; followers then read what it is, each from its own revision on,
and always as it is now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from service.app.capacity import HostView
from service.app.feed import Bookmark
from service.app.fleet import Fleet
from service.app.news import News, told
from service.app.zones import ZoneView
from service.errors import NotFound, RevisionUnavailable, Unavailable
from service.store import events, fleet, fleet_events
from service.store.connection import Connection
from service.store.engine import Store
from service.store.fleet_events import FleetChange, FleetEvent

logger = logging.getLogger(__name__)

BATCH = 256
POLL_SECONDS = 1.0
BOOKMARK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class FleetUpdate:
    """One change: exactly one of `host`, `zone`, `removed_host`, `removed_zone` (uuids) is there. `time`: ms since the
    epoch."""

    revision: int
    time: int
    host: HostView | None = None
    zone: ZoneView | None = None
    removed_host: str = ""
    removed_zone: str = ""


class FleetFeed:
    """Watches of the fleet. `run` looks for changes until cancelled, whichever replica made them."""

    def __init__(self, store: Store, fleet_cases: Fleet) -> None:
        self._store = store
        self._fleet = fleet_cases
        self._head = 0
        self._news = News()
        self._listeners: list[Callable[[], Awaitable[None]]] = []

    def listen(self, listener: Callable[[], Awaitable[None]]) -> None:
        """Call `listener` after every change of fleet or catalogue, before watches are told."""
        self._listeners.append(listener)

    def poke(self) -> None:
        """This process has just changed something."""
        self._news.poke()

    def close(self) -> None:
        """End every watch with Unavailable: the process drains."""
        self._news.close()

    async def start(self) -> None:
        """Find the newest revision of the log. Raises Unavailable."""
        self._head = await self._store.read(fleet_events.newest)

    async def run(self) -> None:
        """Look every POLL_SECONDS, or when poked."""
        while True:
            await self._news.poked(POLL_SECONDS)
            try:
                newest = await self._store.read(fleet_events.newest)
                if newest != self._head:
                    for listener in self._listeners:
                        await listener()
                    self._head = newest
                    self._news.publish()
            except Unavailable as error:
                logger.warning("changes of the fleet are not seen for now: %s", error)

    async def watch(self, revision: int | None, zone_uuid: str = "") -> AsyncGenerator[FleetUpdate | Bookmark, None]:
        """From `revision` on; with None first all that is there now, then a bookmark, then every change, without end.

        Changes of the same thing that were not told yet are told once, as it is now. Claims of members are no change.
        Raises NotFound (zone), RevisionUnavailable, Unavailable (draining).
        """
        if revision is None:
            standing, cursor = await self._store.read(lambda c: self._standing(c, zone_uuid))
            for update in standing:
                yield update
            yield Bookmark(cursor, initial_state_complete=True)
        else:
            oldest, current = await self._store.read(events.head)
            if not oldest <= revision <= current:
                raise RevisionUnavailable(revision, oldest, current)
            cursor = revision
        loop = asyncio.get_running_loop()
        due = loop.time() + BOOKMARK_SECONDS
        while not self._news.closed:
            news = self._news.next
            updates, last = await self._store.read(lambda c, after=cursor: self._after(c, after, zone_uuid))  # type: ignore[misc]
            for update in updates:
                yield update
            if updates:
                due = loop.time() + BOOKMARK_SECONDS
            elif loop.time() >= due:
                yield Bookmark(max(cursor, last))
                due = loop.time() + BOOKMARK_SECONDS
            if last > cursor:
                cursor = last
                continue
            await told(news, max(0.0, due - loop.time()))
        raise Unavailable("the service is shutting down")

    def _standing(self, connection: Connection, zone_uuid: str) -> tuple[list[FleetUpdate], int]:
        _, head = events.head(connection)
        zones = fleet.zones(connection)
        if zone_uuid and zone_uuid not in zones:
            raise NotFound("zone", zone_uuid, "zone_uuid")
        counts = fleet.hosts_of(connection)
        updates = [
            FleetUpdate(head, zone.updated_at, zone=ZoneView(zone, counts.get(uuid, 0)))
            for uuid, zone in sorted(zones.items(), key=lambda item: (item[1].name, item[0]))
            if zone_uuid in ("", uuid)
        ]
        hosts = tuple(h for h in fleet.hosts(connection).values() if zone_uuid in ("", h.zone_uuid))
        views = sorted(self._fleet.views(connection, hosts), key=lambda v: (v.host.name, v.host.uuid))
        return updates + [FleetUpdate(head, v.host.updated_at, host=v) for v in views], head

    def _after(self, connection: Connection, revision: int, zone_uuid: str) -> tuple[list[FleetUpdate], int]:
        """What changed after `revision`, and the revision of the last change that was read."""
        found = fleet_events.after(connection, revision, BATCH)
        last = found[-1].revision if found else revision
        newest = {e.uuid: e for e in found if e.kind is not FleetChange.CATALOGUE and zone_uuid in ("", e.zone_uuid)}
        updates = (self._update(connection, event) for event in sorted(newest.values(), key=lambda e: e.revision))
        return [update for update in updates if update is not None], last

    def _update(self, connection: Connection, event: FleetEvent) -> FleetUpdate | None:
        """The change as it is now; None where the thing is gone meanwhile, which a later event tells."""
        if event.kind is FleetChange.HOST_REMOVED:
            return FleetUpdate(event.revision, event.time, removed_host=event.uuid)
        if event.kind is FleetChange.ZONE_REMOVED:
            return FleetUpdate(event.revision, event.time, removed_zone=event.uuid)
        try:
            if event.kind is FleetChange.HOST:
                (view,) = self._fleet.views(connection, (fleet.host(connection, event.uuid),))
                return FleetUpdate(event.revision, event.time, host=view)
            zone = fleet.zone(connection, event.uuid)
        except NotFound:
            return None
        count = fleet.hosts_of(connection).get(zone.uuid, 0)
        return FleetUpdate(event.revision, event.time, zone=ZoneView(zone, count))
