"""One process owns a SQLite file; a PostgreSQL that is gone or hangs costs a bounded time and comes back by itself."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from service.errors import Unavailable
from service.store import engine, events
from service.store.claims import take
from service.store.engine import Store
from service.store.migrations import upgrade
from service.store.sqlite_file import DatabaseLocked
from tests.support import ROOT
from tests.support.database import Database, member
from tests.support.postgres import Postgres, why_not

_CONFIGURATION = """
[server]
grpc = "127.0.0.1:0"
http = "127.0.0.1:0"
[identity]
anonymous = "loopback"
[store]
url = "sqlite:///corral.db"
[[zones]]
uuid = "7a007a391d483c9f843bf1df4b7e5d8f"
name = "zone-1"
"""


@pytest.fixture
def own_server() -> Iterator[Postgres]:
    """A server that the test may stop and kill."""
    if why_not():
        pytest.skip(why_not())
    with Postgres() as server:
        yield server


@pytest.mark.parametrize("before", [None, 0o644])
def test_the_file_and_what_sqlite_keeps_beside_it_are_its_owners_alone(tmp_path: Path, before: int | None) -> None:
    path = tmp_path / "corral.db"
    if before is not None:
        path.touch(before)
    old = os.umask(0)
    try:
        store = Store(f"sqlite:///{path}")
        try:
            upgrade(store.engine)
            modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()}
        finally:
            store.close()
    finally:
        os.umask(old)
    assert set(modes) == {"corral.db", "corral.db-wal", "corral.db-shm", "corral.db.lock"}
    assert set(modes.values()) == {0o600}


def test_a_file_that_cannot_be_made_is_told_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "corral.db").mkdir()
    with pytest.raises(Unavailable, match=r"corral\.db"):
        Store(f"sqlite:///{tmp_path}/corral.db")


def test_a_second_process_on_the_same_file_is_refused_and_told_why(tmp_path: Path) -> None:
    (tmp_path / "corral.toml").write_text(_CONFIGURATION)
    store = Store(f"sqlite:///{tmp_path}/corral.db")
    try:
        with pytest.raises(DatabaseLocked, match="in use by another corral process"):
            Store(f"sqlite:///{tmp_path}/corral.db")
        command = [sys.executable, "-m", "service", "serve", "--config", str(tmp_path / "corral.toml")]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT, env={"PYTHONPATH": ".:protos"}
        )
        assert done.returncode == 1
        assert "corral.db is in use by another corral process" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        store.close()
    Store(f"sqlite:///{tmp_path}/corral.db").close()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = f"""
import sys
from service.store.engine import Store
store = Store("sqlite:///{tmp_path}/corral.db")
print("open", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    with pytest.raises(DatabaseLocked):
        Store(f"sqlite:///{tmp_path}/corral.db")
    process.kill()
    process.communicate()
    Store(f"sqlite:///{tmp_path}/corral.db").close()


def test_sqlite_commits_survive_the_machine(db: Database) -> None:
    if not db.store.sqlite:
        pytest.skip("about SQLite")
    assert db.write(lambda c: c.scalar(text("PRAGMA synchronous"))) == 2  # FULL
    assert db.write(lambda c: c.scalar(text("PRAGMA journal_mode"))) == "wal"


def test_reads_are_of_one_moment(db: Database) -> None:
    """Two statements of one read must not see two states of a group, whatever commits between them."""

    def value(connection: Connection) -> int:
        return int(connection.scalar(text("SELECT value FROM counters WHERE name = 'revision'")) or 0)

    def twice(connection: Connection) -> tuple[int, int]:
        first = value(connection)
        asyncio.run(other.write(lambda c: c.execute(text("UPDATE counters SET value = value + 1"))))
        return first, value(connection)

    # On SQLite the file is this process's, so the same store's writer is the other one there.
    other = db.store if db.store.sqlite else Store(db.url)
    try:
        first, second = db.read(twice)
        assert first == second
        assert db.read(value) == first + 1
    finally:
        if other is not db.store:
            other.close()


def test_a_reader_can_not_write(db: Database) -> None:
    if db.store.sqlite:
        pytest.skip("SQLite's readers are kept apart by its one writer thread")
    with pytest.raises(Unavailable):
        db.read(lambda c: c.execute(text("UPDATE counters SET value = 0")))


@pytest.mark.asyncio
async def test_a_server_that_is_gone_is_unavailable_at_once_and_back_by_itself(own_server: Postgres) -> None:
    store = Store(own_server.url())
    upgrade(store.engine)
    try:
        assert await store.read(events.head) == (0, 0)
        own_server.kill()
        for _ in range(2):
            with pytest.raises(Unavailable):
                await store.write(events.head)
        own_server.start()
        assert await store.write(events.head) == (0, 0)
        own_server.stop()
        own_server.start()  # every pooled connection is dead now, and nobody is told
        assert await store.read(events.head) == (0, 0)
    finally:
        store.close()


@pytest.mark.asyncio
async def test_a_server_that_hangs_is_given_up_in_bounded_time(
    own_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "CALL_SECONDS", 1.0)
    store = Store(own_server.url())
    upgrade(store.engine)
    try:
        own_server.pause()
        calls = [store.read(events.head) for _ in range(4)] + [store.write(events.head) for _ in range(8)]
        async with asyncio.timeout(engine.CALL_SECONDS + 20):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes), outcomes
        own_server.resume()
        monkeypatch.setattr(engine, "CALL_SECONDS", 15.0)
        assert await store.write(events.head) == (0, 0)
        assert await store.read(events.head) == (0, 0)
    finally:
        own_server.resume()
        store.close()


@pytest.mark.asyncio
async def test_a_start_without_a_server_says_so(own_server: Postgres) -> None:
    own_server.stop()
    store = Store(own_server.url())
    try:
        with pytest.raises(Unavailable, match="cannot be reached"):
            upgrade(store.engine)
    finally:
        store.close()
        own_server.start()


@pytest.mark.asyncio
async def test_texts_are_texts_in_a_database_of_any_encoding(own_server: Postgres) -> None:
    own_server.query("CREATE DATABASE bare TEMPLATE template0 ENCODING 'SQL_ASCII'")
    store = Store(own_server.url("bare"))
    try:
        upgrade(store.engine)
        assert await store.write(lambda c: c.scalar(text("SELECT 'größer'"))) == "größer"
    finally:
        store.close()


@pytest.mark.asyncio
async def test_a_commit_whose_answer_was_lost_is_not_repeated(own_server: Postgres) -> None:
    store = Store(own_server.url())
    upgrade(store.engine)
    runs = 0

    def add(connection: Connection) -> None:
        nonlocal runs
        runs += 1
        connection.execute(text("UPDATE counters SET value = value + 1 WHERE name = 'revision'"))
        # The server is gone when the commit is sent.
        own_server.kill()

    try:
        with pytest.raises(Unavailable):
            await store.write(add)
        assert runs == 1
        own_server.start()
        assert (await store.read(events.head))[1] in (0, 1)
    finally:
        store.close()


def test_whoever_has_the_fleet_to_itself_claims_and_the_others_wait(db: Database) -> None:
    (host,) = db.fill(1)

    async def scenario(store: Store, other: Store) -> list[str]:
        order: list[str] = []

        async def ordinary() -> None:
            async with other.claiming():
                await other.write(lambda c: take(c, "d" * 32, [member(2, host)]))
            order.append("ordinary")

        async with store.claiming(alone=True):
            waiting = asyncio.create_task(ordinary())
            await asyncio.sleep(0.2)
            await store.write(lambda c: take(c, "c" * 32, [member(1, host)], alone=True))
            order.append("alone")
        await waiting
        return order

    other = db.store if db.store.sqlite else Store(db.url)
    try:
        assert asyncio.run(scenario(db.store, other)) == ["alone", "ordinary"]
        assert db.used() == {host: 2}
    finally:
        if other is not db.store:
            other.close()


def test_a_turn_that_is_never_ended_is_taken_away(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that freezes inside its turn must not keep the others from claiming."""
    if db.store.sqlite:
        pytest.skip("one process: nobody else waits")
    (host,) = db.fill(1)
    monkeypatch.setattr(engine, "ALONE_MS", 300)
    frozen = Store(db.url)

    async def scenario() -> None:
        async with frozen.claiming(alone=True):
            await asyncio.to_thread(db.write, lambda c: take(c, "d" * 32, [member(1, host)]))

    try:
        asyncio.run(scenario())
        assert db.used() == {host: 1}
    finally:
        frozen.close()
