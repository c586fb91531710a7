"""Databases that a run may harm: SQLite's file and a private PostgreSQL, each on a disk of its own that can be full.

Backups are taken and put back as the operator's guide says.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from tests.faults.disk import SmallDisk
from tests.support import ROOT
from tests.support.postgres import Postgres

# The clock of PostgreSQL as its clients see it: found before the built-in one, and moved by a row.
_CLOCK = """
CREATE TABLE faked_clock (seconds double precision NOT NULL);
INSERT INTO faked_clock VALUES (0);
CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
$$ SELECT pg_catalog.clock_timestamp() + (SELECT seconds FROM public.faked_clock) * interval '1 second' $$;
ALTER DATABASE "{name}" SET search_path = public, pg_catalog;
"""


class Store(Protocol):
    """What a run asks of a database. `name`: of the one that is served from now on; `url`: as SQLAlchemy has it."""

    kind: str
    name: str

    @property
    def url(self) -> str: ...

    def query(self, sql: str, database: str = "") -> list[list[str]]:
        """Rows of plain SQL; nothing of the service's own code is in between. Raises RuntimeError, TimeoutError."""

    def backup(self, service: Path) -> Path:
        """A backup of what is served, taken while it is. `service`: its configuration file."""

    def put_back(self, backup: Path) -> None:
        """Serve a backup from the next start on; no process of the service runs."""

    def lose(self) -> str:
        """Serve an empty database from the next start on; returns the name of the one that was lost."""

    def step_clock(self, seconds: float) -> None:
        """Set the database's own clock, where it has one, `seconds` ahead of the real time."""

    def fill(self) -> None:
        """Leave no room on its disk."""

    def free(self) -> None:
        """Give the room back, and bring up again what ended for want of it."""

    def close(self) -> None:
        """End it and take its files away."""


class Sqlite:
    """A file. `name` is empty: there is one place."""

    kind = "sqlite"
    runs = False

    def __init__(self, megabytes: int = 48) -> None:
        self.name = ""
        self._disk = SmallDisk(megabytes)
        self._aside = Path(tempfile.mkdtemp(prefix="corral-aside-"))
        self._taken = 0

    @property
    def _file(self) -> Path:
        return self._disk.directory / "corral.db"

    @property
    def url(self) -> str:
        """See Store."""
        return f"sqlite:///{self._file}"

    def query(self, sql: str, database: str = "") -> list[list[str]]:
        """See Store."""
        try:
            with closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True, timeout=10)) as connection:
                return [["" if v is None else str(v) for v in row] for row in connection.execute(sql)]
        except sqlite3.Error as error:
            raise RuntimeError(str(error)) from error

    def backup(self, service: Path) -> Path:
        """See Store."""
        self._taken += 1
        target = self._aside / f"backup-{self._taken}.db"
        command(service, "backup", str(target))
        return target

    def put_back(self, backup: Path) -> None:
        """See Store."""
        self.lose()
        shutil.copy(backup, self._file)

    def lose(self) -> str:
        """See Store."""
        for path in self._disk.directory.glob("corral.db*"):
            path.unlink()
        return ""

    def step_clock(self, seconds: float) -> None:
        """Does nothing: its clock is that of the service's process."""

    def fill(self) -> None:
        """See Store."""
        self._disk.fill()

    def free(self) -> None:
        """See Store."""
        self._disk.free()

    def close(self) -> None:
        """See Store."""
        self._disk.close()
        shutil.rmtree(self._aside)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PostgreSql:
    """A private server. Each database that is lost or put back has another name."""

    kind = "postgresql"
    runs = True

    def __init__(self, megabytes: int = 400) -> None:
        self._disk = SmallDisk(megabytes)
        self._aside = Path(tempfile.mkdtemp(prefix="corral-aside-"))
        self._taken = 0
        self.server = Postgres(self._disk.directory / "postgres", max_wal_size="64MB", min_wal_size="32MB")
        self._seconds = 0.0
        self.name = self._new()

    def _new(self) -> str:
        name = self.server.create_database()
        self.server.query(_CLOCK.format(name=name), name)
        self.step_clock_of(name, self._seconds)
        return name

    @property
    def url(self) -> str:
        """See Store."""
        return self.server.url(self.name)

    def query(self, sql: str, database: str = "") -> list[list[str]]:
        """See Store."""
        try:
            return self.server.query(sql, database or self.name)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(str(error)) from error

    def backup(self, service: Path) -> Path:
        """See Store."""
        self._taken += 1
        target = self._aside / f"backup-{self._taken}.dump"
        self.server.tool("pg_dump", "--format=custom", "--file", str(target), database=self.name)
        return target

    def put_back(self, backup: Path) -> None:
        """See Store."""
        before, self.name = self.name, self.server.create_database()
        self.server.query(f'ALTER DATABASE "{self.name}" SET search_path = public, pg_catalog')
        self.server.tool("pg_restore", "--exit-on-error", str(backup), database=self.name)
        self.server.drop_database(before)

    def lose(self) -> str:
        """See Store."""
        before, self.name = self.name, self._new()
        self.server.drop_database(before)
        return before

    def step_clock(self, seconds: float) -> None:
        """See Store."""
        self._seconds = seconds
        self.step_clock_of(self.name, seconds)

    def step_clock_of(self, name: str, seconds: float) -> None:
        """Set the clock of one database."""
        self.server.query(f"UPDATE faked_clock SET seconds = {seconds}", name)

    def fill(self) -> None:
        """See Store."""
        self._disk.fill()

    def free(self) -> None:
        """See Store."""
        self._disk.free()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.server.ended:
                self.server.start()
            try:
                self.query("CREATE TEMPORARY TABLE room (x int); INSERT INTO room SELECT generate_series(1, 1000)")
                return
            except RuntimeError:
                time.sleep(0.5)  # it recovers
        raise TimeoutError("PostgreSQL does not write although there is room again")

    def close(self) -> None:
        """See Store."""
        self.server.close()
        self._disk.close()
        shutil.rmtree(self._aside)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_store(kind: str) -> Sqlite | PostgreSql:
    """`sqlite` or `postgresql`."""
    return Sqlite() if kind == "sqlite" else PostgreSql()


def command(configuration: Path, *words: str, prefix: Sequence[str] = (), good: Sequence[int] = (0,)) -> str:
    """What a command of the service's own prints. Raises RuntimeError where it ends otherwise."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "service", words[0], "--config", str(configuration), *words[1:]],
        cwd=ROOT,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": "protos:."},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode not in good:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout
