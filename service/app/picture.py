"""The fleet as many people look at it at once: read for all of them together, and only what has changed.

A watch of the fleet tells what its operators and hosts say; what members claim is no change of it. Whoever draws hosts
wants both, and soon. So a picture follows the log of the fleet and the log of the groups, which name the hosts that
they touch, and reads these alone, within a fraction of a second. Now and then it asks which of all hosts have changed
(`store.changed_hosts`): what no log names is seen then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from service.app.capacity import HostView
from service.app.feed import Feed
from service.app.news import News, told
from service.app.zones import ZoneView
from service.domain.events import Event
from service.domain.fleet import Host
from service.domain.groups import Instance, InstanceStatus
from service.store import changed_hosts, fleet, fleet_events
from service.store.changed_hosts import Moment
from service.store.connection import Connection
from service.store.engine import Store
from service.store.fleet_events import FleetChange
from service.store.transaction import T, Work

Views = Callable[[Connection, tuple[Host, ...]], tuple[HostView, ...]]

POLL_SECONDS = 0.1
"""So often the fleet's log is asked whether another replica, or a host, has added to it: one row, for all who look."""
APART_SECONDS = 0.05
"""The least time between two looks."""
WHOLE_SECONDS = 5.0
_SHARE = 20
"""At most one part in this many of a processor is spent on looking at all hosts,"""
_SHARE_NAMED = 4
"""and one in this many on those that the logs name."""
REST_SECONDS = 0.2
"""The longest rest after a look that waited (for a disk, a lock, another process, the database's own processor) and
took little of a processor here: what happens meanwhile is told late by the wait already."""
_MOST_NAMED = 500
"""Where the logs name more hosts than this, all are looked at."""
_MOST_EVENTS = 1_000
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


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was read: hosts that may have changed, those that are gone, and how far the fleet's log was read.
    `moment` and `zones`: where it was of all hosts that was asked which have changed."""

    hosts: tuple[HostView, ...]
    removed: tuple[str, ...]
    revision: int
    moment: Moment | None = None
    zones: tuple[ZoneView, ...] | None = None


class Picture:
    """The process's picture of the fleet; `watch` it."""

    def __init__(self, store: Store, views: Views, feed: Feed) -> None:
        """`views`: hosts with what they carry, as the use cases tell it. `feed`: the log of the groups."""
        self._store = store
        self._read_views = views
        self._feed = feed
        self._news = News()
        self._poked = False
        self._moment: Moment | None = None  # of the newest look at all hosts
        self._views: dict[str, HostView] = {}
        self._zones: tuple[ZoneView, ...] = ()
        self._change = 0
        self._changed: dict[str, int] = {}
        self._zones_changed = 0
        self._revision = 0  # of the fleet's log
        self._cursor = 0  # in the log of the groups
        self._seats: dict[str, frozenset[str]] = {}
        self._looking = asyncio.Lock()
        self._next_look = self._next_whole = 0.0

    def poke(self) -> None:
        """A hint that there may be news: let those who follow look at once."""
        self._poked = True
        self._news.publish()

    async def watch(self) -> AsyncGenerator[Look, None]:
        """First the whole fleet, then whatever changed, without end. Raises Unavailable."""
        with self._feed.watched():
            await self._look()
            known = self._change
            yield Look(tuple(self._views.values()), (), self._zones, whole=True)
            while True:
                await self._wait()
                await self._look()
                if self._change == known:
                    continue
                news = self._since(known)
                known = self._change
                yield news

    def _since(self, change: int) -> Look:
        changed = [uuid for uuid, at in self._changed.items() if at > change]
        return Look(
            tuple(self._views[uuid] for uuid in changed if uuid in self._views),
            tuple(uuid for uuid in changed if uuid not in self._views),
            self._zones if self._zones_changed > change else None,
        )

    async def _wait(self) -> None:
        """Wait until it may be looked again, and then for a hint or a while."""
        if (rest := self._next_look - time.monotonic()) > 0:
            await asyncio.sleep(rest)
        news = self._news.next
        if not self._poked:
            await told(news, POLL_SECONDS)

    async def _look(self) -> None:
        """Look again where nobody has since this one may. Several followers look once."""
        async with self._looking:
            started = time.monotonic()
            if started < self._next_look:
                return
            self._poked = False
            # Where this look fails, the next one is at all hosts: what the logs named now is not named again.
            next_whole, self._next_whole = self._next_whole, 0.0
            cursor, named = self._feed.head, self._named()
            found, cost = None, 0.0
            if named is not None and started < next_whole:
                found, cost = await self._store.read(_costed(lambda c: self._read_named(c, named)))
            if found is None:
                seen, more = await self._store.read(_costed(self._read_all))
                cost += more
            else:
                seen = found
            self._take(seen)
            self._cursor = cursor
            now = time.monotonic()
            self._next_whole = next_whole if seen.moment is None else now + max(WHOLE_SECONDS, cost * _SHARE)
            self._next_look = now + (_rest(now - started, cost) if seen.hosts else APART_SECONDS)

    def _take(self, seen: _Seen) -> None:
        """Keep what was read; what is as it was is no change."""
        hosts = [view for view in seen.hosts if self._views.get(view.host.uuid) != view]
        removed = [uuid for uuid in seen.removed if uuid in self._views]
        others = seen.zones is not None and seen.zones != self._zones
        if hosts or removed or others:
            self._change += 1
        for uuid in removed:
            del self._views[uuid]
        self._views.update((view.host.uuid, view) for view in hosts)
        self._changed.update(dict.fromkeys((*removed, *(view.host.uuid for view in hosts)), self._change))
        if seen.zones is not None and others:
            self._zones, self._zones_changed = seen.zones, self._change
        if seen.moment is not None:
            self._moment = seen.moment
        self._revision = seen.revision

    def _named(self) -> frozenset[str] | None:
        """The hosts that the groups' log names since the last look: those that members are on, go to or have left.
        None where it is not known any more."""
        events = self._feed.since(self._cursor)
        if events is None:
            self._seats.clear()
            return None
        touched: set[str] = set()
        for event in events:
            for member in _members(event):
                here = frozenset({member.host_uuid, member.target_host_uuid} - {""})
                touched |= here | self._seats.pop(member.uuid, frozenset())
                if here and member.status is not InstanceStatus.REMOVED:
                    self._seats[member.uuid] = here
        return frozenset(touched)

    def _read_named(self, connection: Connection, named: frozenset[str]) -> _Seen | None:
        """The hosts that either log names; None where only a look at all of them tells what has changed."""
        found = fleet_events.after(connection, self._revision, _MOST_EVENTS)
        if len(found) == _MOST_EVENTS or any(e.kind in (FleetChange.ZONE, FleetChange.ZONE_REMOVED) for e in found):
            return None
        kinds = (FleetChange.HOST, FleetChange.HOST_REMOVED)
        wanted = sorted(named | {event.uuid for event in found if event.kind in kinds})
        # How many hosts a zone has stands with the zone.
        if len(wanted) > _MOST_NAMED or any(uuid not in self._views for uuid in wanted):
            return None
        revision = found[-1].revision if found else self._revision
        if not wanted:
            return _Seen((), (), revision)
        hosts = fleet.hosts(connection, wanted)
        if len(hosts) < len(wanted):
            return None
        return _Seen(self._read_views(connection, tuple(hosts.values())), (), revision)

    def _read_all(self, connection: Connection) -> _Seen:
        """Every host that was changed since the newest look at all hosts, by whomever."""
        moment = changed_hosts.moment(connection)
        counts = fleet.hosts_of(connection)
        revision = fleet_events.newest(connection)
        zones = tuple(ZoneView(zone, counts.get(uuid, 0)) for uuid, zone in sorted(fleet.zones(connection).items()))
        before, known = self._moment, self._views.keys()
        some: list[str] | None = None
        if (
            before is not None and before.is_before(moment) and zones == self._zones
        ):  # a zone's policy is its hosts' too
            named = sorted(changed_hosts.since(connection, before))
            some = named if len(named) < _MANY else None
        hosts = fleet.hosts(connection, some) if some is None or some else {}
        removed = known - hosts.keys() if some is None else known & some - hosts.keys()
        if len(known) + len(hosts.keys() - known) - len(removed) != moment.hosts:
            removed = known - fleet.host_uuids(connection)
        views = self._read_views(connection, tuple(hosts.values())) if hosts else ()
        return _Seen(views, tuple(removed), revision, moment, zones)


def _rest(took: float, cost: float) -> float:
    """Seconds until the next look may be, after one that took so long, and so many seconds of a processor here."""
    most = _SHARE_NAMED - 1
    return max(APART_SECONDS, min(REST_SECONDS, took * most), cost * most)


def _costed(work: Work[T]) -> Work[tuple[T, float]]:
    """The work's answer, and the seconds of a processor that its thread took for it."""

    def run(connection: Connection) -> tuple[T, float]:
        before = time.thread_time()
        answer = work(connection)
        return answer, time.thread_time() - before

    return run


def _members(event: Event) -> tuple[Instance, ...]:
    """The members that an event tells of."""
    of_group = event.group.instances if event.group is not None else ()
    return of_group if event.instance is None else (*of_group, event.instance)
