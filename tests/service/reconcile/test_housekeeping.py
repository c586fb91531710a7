"""Old events and request ids go; what is young enough stays, and watches are told where the log begins."""

from __future__ import annotations

import asyncio

import pytest

from service.domain.events import EventKind
from service.reconcile import housekeeping
from service.reconcile.housekeeping import KEEP_MS, Housekeeping
from service.store import clock, events, groups, requests
from service.store.connection import Connection
from service.store.engine import Store
from service.store.events import Draft
from tests.support.builders import group
from tests.support.schema import migrated


def test_what_is_old_is_forgotten_in_steps_and_what_is_young_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "STEP", 3)
    now = clock.wall_clock()

    def fill(connection: Connection) -> tuple[int, int]:
        made = group(1)
        groups.create(connection, made, due_at=0)
        old = [Draft(EventKind.GROUP, n, made) for n in range(1, 11)]
        young = [Draft(EventKind.GROUP, n, made) for n in range(11, 16)]
        last = events.append(connection, made, old, now - KEEP_MS - 60_000)
        requests.remember(connection, "p", "Deploy", "old", "hash", made.uuid, 0, now - KEEP_MS - 60_000)
        requests.remember(connection, "p", "Deploy", "young", "hash", made.uuid, 0, now)
        return last, events.append(connection, made, young, now)

    async def scenario() -> None:
        store = Store("sqlite://", inline=True)
        migrated(store.engine)
        last_old, newest = await store.write(fill)
        assert await Housekeeping(store).once() == 10
        assert await store.read(events.head) == (last_old, newest)
        kept = await store.read(lambda c: events.after(c, 0, 100))
        assert [event.revision for event in kept] == list(range(last_old + 1, newest + 1))
        assert await store.read(lambda c: requests.find(c, "p", "Deploy", "old", "hash")) is None
        assert await store.read(lambda c: requests.find(c, "p", "Deploy", "young", "hash")) is not None
        assert await Housekeeping(store).once() == 0
        store.close()

    asyncio.run(scenario())
