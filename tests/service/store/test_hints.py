"""Hints reach other replicas with the commit; losing all of them loses nothing but time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import Connection

from service.domain.events import EventKind
from service.store import events, groups, hints
from service.store.engine import Store
from service.store.events import Draft
from service.store.hints import Listener
from service.store.migrations import upgrade
from tests.support.builders import group
from tests.support.postgres import Postgres


async def _wait(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # what is waited for is told by callbacks of many kinds
            await asyncio.sleep(0.01)


@pytest.mark.asyncio
async def test_commits_of_one_replica_are_heard_by_another(postgres: Postgres, database: str) -> None:
    store = Store(postgres.url(database))
    upgrade(store.engine)
    news: list[int] = []
    due: list[str] = []
    listener = asyncio.create_task(Listener(store.url, lambda: news.append(1), due.append).run())
    made = group(1)

    def due_and_fail(connection: Connection) -> None:
        groups.due(connection, made.uuid, 1)
        raise ZeroDivisionError

    try:
        await _wait(lambda: due == [""])
        await store.write(lambda c: groups.create(c, made, due_at=0))
        await _wait(lambda: due == ["", made.uuid])
        before = len(news)
        await store.write(lambda c: events.append(c, made, [Draft(EventKind.GROUP, 1, made)], 1))
        await _wait(lambda: len(news) > before)
        with pytest.raises(ZeroDivisionError):
            await store.write(due_and_fail)
        await store.write(lambda c: groups.due(c, "f" * 32, 1))
        await _wait(lambda: len(due) == 3)
        assert due[2] == "f" * 32  # what was rolled back was never told
    finally:
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)
        store.close()


@pytest.mark.asyncio
async def test_a_listener_whose_connection_is_lost_connects_again_and_says_that_it_may_have_missed_something(
    postgres: Postgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hints, "RECONNECT_SECONDS", 0.01)
    store = Store(postgres.url(database))
    upgrade(store.engine)
    due: list[str] = []
    listener = asyncio.create_task(Listener(store.url, lambda: None, due.append).run())
    try:
        await _wait(lambda: due == [""])
        listening = f"datname = '{database}' AND query LIKE 'LISTEN%'"
        postgres.query(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {listening}")
        await _wait(lambda: due == ["", ""])
        await store.write(lambda c: groups.due(c, "e" * 32, 1))
        await _wait(lambda: due[-1] == "e" * 32)
    finally:
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)
        store.close()


def test_on_sqlite_there_is_nobody_to_tell() -> None:
    store = Store("sqlite://", inline=True)
    upgrade(store.engine)
    made = replace(group(1), created_at=1)
    asyncio.run(store.write(lambda c: groups.create(c, made, due_at=0)))
    asyncio.run(store.write(lambda c: groups.due(c, made.uuid, 5)))
    store.close()
