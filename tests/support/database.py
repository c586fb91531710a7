"""A store driven from ordinary threads, with small fleets to put into it; the fixtures run a test on each database."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Concatenate, ParamSpec, TypeVar

import pytest
from sqlalchemy import Connection

from service.domain.fleet import MEMORY, VCPU, HostState
from service.domain.groups import Seat
from service.store import fleet
from service.store.engine import Store
from service.store.migrations import upgrade
from tests.support.builders import entry, host, seat, zone
from tests.support.postgres import Postgres

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

GIB = 1 << 30


class Database:
    """One store of a migrated database on a loop of its own; `write` and `read` may be called from any thread."""

    def __init__(self, url: str, *, migrate: bool = False) -> None:
        self.url = url
        self.store = Store(url)
        if migrate:
            upgrade(self.store.engine)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="store-loop", daemon=True)
        self._thread.start()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let everything go."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        self.store.close()

    def write(self, work: Callable[Concatenate[Connection, P], T], *arguments: P.args, **named: P.kwargs) -> T:
        """See Store.write. The work gets the connection, and then the arguments."""
        done = self.store.write(lambda connection: work(connection, *arguments, **named))
        return asyncio.run_coroutine_threadsafe(done, self._loop).result(60)

    def read(self, work: Callable[Concatenate[Connection, P], T], *arguments: P.args, **named: P.kwargs) -> T:
        """See Store.read. The work gets the connection, and then the arguments."""
        done = self.store.read(lambda connection: work(connection, *arguments, **named))
        return asyncio.run_coroutine_threadsafe(done, self._loop).result(60)

    def fill(self, hosts: int = 2, *, vcpu: int = 8, memory: int = 64 * GIB) -> tuple[str, ...]:
        """A zone, a catalogue entry and that many connected hosts of this size; returns the hosts' uuids."""

        def rows(connection: Connection) -> tuple[str, ...]:
            fleet.put_zone(connection, zone())
            fleet.put_model_service(connection, entry())
            made = [host(number) for number in range(1, hosts + 1)]
            for one in made:
                fleet.put_host(connection, one)
                set_size(connection, one.uuid, vcpu=vcpu, memory=memory)
            return tuple(h.uuid for h in made)

        return self.write(rows)

    def used(self, resource: str = VCPU) -> Mapping[str, int]:
        """Claimed amount by host uuid."""
        return {uuid: h.used.get(resource, 0) for uuid, h in self.read(fleet.hosts).items()}


def set_size(
    connection: Connection, uuid: str, *, vcpu: int, memory: int = 64 * GIB, foreign: Mapping[str, int] | None = None
) -> None:
    """What a probe of the host says, without overcommit."""
    fleet.set_facts(
        connection,
        uuid,
        boot_id="boot-1",
        virt_type="simulated",
        total={VCPU: vcpu, MEMORY: memory},
        foreign=foreign or {},
    )


def close_host(connection: Connection, uuid: str) -> None:
    """Take the host out of placement."""
    fleet.set_state(connection, fleet.host(connection, uuid), HostState.DISABLED, 1)


def member(number: int, host_uuid: str, *, vcpu: int = 1, attempt: int = 1) -> Seat:
    """A claim of some vCPUs and 1 GiB."""
    return seat(f"{number:032x}", host_uuid, {VCPU: vcpu, MEMORY: GIB}, attempt=attempt)


def together(work: Sequence[Callable[[], R]]) -> list[R | Exception]:
    """Run all of it at the same time, released by one barrier; results or exceptions, in order."""
    barrier = threading.Barrier(len(work))

    def run(job: Callable[[], R]) -> R | Exception:
        barrier.wait()
        try:
            return job()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(run, work))


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied."""
    path = tmp_path_factory.mktemp("template") / "corral.db"
    _migrate(f"sqlite:///{path}")
    return path


# What a test that changed more than rows leaves differs from what migrations make.
_SHAPE = """
SELECT relname, relkind, relnatts, relchecks, relhasindex, relhastriggers, relhasrules FROM pg_class
WHERE relnamespace = 'public'::regnamespace ORDER BY relname
"""


class InTurn:
    """A migrated database of a server, for one user after the other: each finds the rows that migrations left, alone.

    To copy a database and drop the copy takes a third of a second of a processor, for the files of three hundred tables
    and indexes; to put the rows back takes a tenth of that.
    """

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self.name = server.create_database()
        _migrate(server.url(self.name))
        self._shape = server.query(_SHAPE, self.name)
        tables = server.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", self.name)
        self._restore = "\n".join(
            (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid();",
                "BEGIN;",
                "SET LOCAL session_replication_role = replica;",  # rows go in any order
                *(f'DELETE FROM public."{table}";' for (table,) in tables),
                server.rows(self.name),
                "COMMIT;",
            )
        )

    def give_back(self) -> None:
        """Make it ready for the next user. Raises RuntimeError where its tables are others than they were."""
        if self._server.query(_SHAPE, self.name) != self._shape:
            raise RuntimeError("a test changed the schema: it needs a database of its own")
        self._server.run(self._restore, self.name)


@pytest.fixture(scope="session")
def postgres_in_turn(postgres: Postgres) -> InTurn:
    """A migrated database that tests use one after the other."""
    return InTurn(postgres)


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database with the newest schema, of one kind and then of the other."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "corral.db")
        with Database(f"sqlite:///{tmp_path}/corral.db") as opened:
            yield opened
        return
    server: Postgres = request.getfixturevalue("postgres")
    shared: InTurn = request.getfixturevalue("postgres_in_turn")
    try:
        with Database(server.url(shared.name)) as opened:
            yield opened
    finally:
        shared.give_back()


def _migrate(url: str) -> None:
    store = Store(url)
    upgrade(store.engine)
    store.close()
