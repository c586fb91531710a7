"""A private PostgreSQL for tests: Debian's server as an unprivileged user, in a temporary directory, on a unix socket.

It ends with the process that made it, however that ends, and leaves nothing behind.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest

from tests.lab.namespaces import process_state, wait_until

PACKAGE = "postgresql"
USER = "corral"
_PORT = 5432  # names the socket's file; nothing listens on TCP
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "fsync": "off",  # a killed server loses nothing by it, only a machine without power does
    "log_min_messages": "fatal",
    "autovacuum_naptime": "10s",
}


def binaries() -> Path | None:
    """The directory of the newest installed server, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


def why_not() -> str:
    """Why no server can be started here, or an empty text."""
    if binaries() is None:
        return f"PostgreSQL is not installed: apt-get install {PACKAGE}"
    return ""


class Postgres:
    """One server. Use as a context manager, or call `close`. `directory`: where its files are to be, made and removed
    by it; `settings`: more of PostgreSQL's own."""

    def __init__(self, directory: Path | None = None, **settings: str) -> None:
        reason = why_not()
        if reason:
            raise RuntimeError(reason)
        found = binaries()
        assert found is not None
        self._bin = found
        self._account = _unprivileged()
        if directory is not None:
            directory.mkdir(mode=0o700)
        self.directory = directory or Path(tempfile.mkdtemp(prefix="corral-pg-"))
        self._settings = {**_SETTINGS, **settings}
        if self._account is not None:
            os.chown(self.directory, self._account.pw_uid, self._account.pw_gid)
        self._janitor = _janitor(self.directory)
        self._server: subprocess.Popen[bytes] | None = None
        try:
            self._run("initdb", "-D", self._data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def _data(self) -> str:
        return str(self.directory / "data")

    @property
    def pid(self) -> int:
        """The postmaster's. Raises RuntimeError where it does not run."""
        if self._server is None:
            raise RuntimeError("the server does not run")
        return self._server.pid

    def url(self, database: str = "postgres") -> str:
        """SQLAlchemy's address of a database."""
        return f"postgresql+psycopg://{USER}@/{database}?host={self.directory}&port={_PORT}"

    def create_database(self, template: str = "template0") -> str:
        """A new database's name: empty, or a copy of another that nobody is connected to."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.query(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    def drop_database(self, name: str) -> None:
        """Remove the database with everybody's connections to it."""
        self.query(f'DROP DATABASE "{name}" WITH (FORCE)')

    def query(self, sql: str, database: str = "postgres") -> list[list[str]]:
        """Rows of plain SQL, by psql: nothing of the service's own code is in between. Raises RuntimeError."""
        command = ("psql", "-X", "-A", "-t", "-q", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-c", sql)
        return [line.split("\t") for line in self.tool(*command, database=database).splitlines()]

    def run(self, script: str, database: str) -> None:
        """Run a script of SQL. Raises RuntimeError."""
        self.tool("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-", database=database, script=script)

    def rows(self, database: str) -> str:
        """The script that puts all rows of a database into its empty tables, and its sequences where they stand."""
        dumped = self.tool("pg_dump", "--data-only", "--inserts", database=database)
        return "\n".join(line for line in dumped.splitlines() if not line.startswith("\\"))  # psql's own words

    def tool(self, program: str, *arguments: str, database: str, script: str = "") -> str:
        """What one of PostgreSQL's own programs prints, connected to a database. Raises RuntimeError."""
        reached = ("-h", str(self.directory), "-p", str(_PORT), "-U", USER, "-d", database)
        done = subprocess.run(
            [str(self._bin / program), *reached, *arguments],
            input=script,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip())
        return done.stdout

    def start(self) -> None:
        """Start the server, crash recovery included, and wait until it answers."""
        settings = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        command = [*self._command("postgres"), "-D", self._data, "-k", str(self.directory), *settings]
        self._server = self._popen(command)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.query("SELECT 1")
                return
            except RuntimeError as error:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start: {error}") from error
            if self._server.poll() is not None:  # memory of a server that was killed may be in use for a moment
                self._server = self._popen(command)
            time.sleep(0.05)

    @property
    def ended(self) -> bool:
        """Whether the postmaster is gone by itself."""
        return self._server is not None and self._server.poll() is not None

    def stop(self) -> None:
        """An orderly, fast end; clients are disconnected."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """kill -9 of the postmaster and of every process of the server."""
        _signal(self.pid, signal.SIGSTOP)  # it must not start another one meanwhile
        everyone = self.processes()
        for pid in everyone:
            _signal(pid, signal.SIGKILL)
        self._end(signal.SIGKILL)
        wait_until(lambda: all(process_state(pid) in ("", "Z") for pid in everyone), 60, "PostgreSQL to end")

    def pause(self) -> None:
        """SIGSTOP of every process of the server."""
        for pid in self.processes():
            _signal(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT of every process of the server."""
        for pid in self.processes():
            _signal(pid, signal.SIGCONT)

    def processes(self) -> list[int]:
        """The postmaster and its children."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *(int(pid) for pid in children)]

    def close(self) -> None:
        """End the server and remove its files. A second call does nothing."""
        if self._server is not None:
            if self._server.poll() is None:
                self.resume()
            self._end(signal.SIGQUIT)
        self._janitor.communicate(timeout=120)

    def __enter__(self) -> Postgres:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end(self, number: signal.Signals) -> None:
        if self._server is not None:
            self._server.send_signal(number)
            self._server.wait(timeout=120)
            self._server = None

    def _run(self, program: str, *arguments: str) -> None:
        done = self._popen(self._command(program, *arguments), output=subprocess.PIPE)
        _, errors = done.communicate(timeout=120)
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {errors.decode().strip()}")

    def _command(self, program: str, *arguments: str) -> list[str]:
        """The program under its account, to end with this process. Not by options of Popen, which would make it fork:
        gRPC's fork handlers then run in the child, and at times end it."""
        account = self._account
        become = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"] if account else []
        return ["setpriv", "--pdeathsig=QUIT", *become, "--", str(self._bin / program), *arguments]

    def _popen(self, command: list[str], output: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        )


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for the session of tests; each makes its own database. Skips where none can start; in CI it fails."""
    reason = why_not()
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    with Postgres() as server:
        yield server


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """The name of an empty database of `postgres`."""
    name = postgres.create_database()
    yield name
    postgres.drop_database(name)


def _unprivileged() -> pwd.struct_passwd | None:
    """Who runs the server: PostgreSQL refuses to run as root. None: this process's own user."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _janitor(directory: Path) -> subprocess.Popen[bytes]:
    """Waits for this process to end, and then removes the directory."""
    script = 'cat > /dev/null; n=0; until rm -rf "$1" || [ $n -ge 50 ]; do n=$((n+1)); sleep 0.1; done'
    return subprocess.Popen(
        ["sh", "-c", script, "sh", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # a backend that has ended in the meantime
