"""A supervisor as a process in a plain directory, in the shells of guests, and a peer that says what a test wants."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from service.serving import orders, supervisor
from tests.support.ports import own_port

PROGRAM = Path(supervisor.__file__).with_name("supervisor.sh")
ENGINE = Path(__file__).with_name("engine.py")
SHELLS = [[name, *more] for name, *more in (["dash"], ["busybox", "sh"]) if shutil.which(name)]
WAIT_SECONDS = 60


def until(seen: Callable[[], Any], what: str) -> Any:
    """The first true value."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        found = seen()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {WAIT_SECONDS} s: {what}")


def port() -> tuple[int, str]:
    """A progress port as a guest has it: the host's end, and the path of the guest's."""
    host, guest = os.openpty()
    tty.setraw(guest)
    path = os.ttyname(guest)
    os.close(guest)
    return host, path


class Quiet(SimpleHTTPRequestHandler):
    """Serves a directory and logs nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def free_port() -> int:
    """One for what listens as long as a test."""
    return own_port()


@dataclass
class Guest:
    """One supervisor that runs."""

    directory: Path
    shell: list[str]
    facts: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    documents: dict[str, str] = field(default_factory=dict)

    def start(self, command: str, channel: str = "/dev/null", **facts: str) -> None:
        self.facts = {
            "CORRAL_GROUP_UUID": "a" * 32,
            "CORRAL_GROUP_EPOCH": "4",
            "CORRAL_NODE_RANK": "0",
            "CORRAL_NODE_ADDRESS": "127.0.0.1/8",
            "CORRAL_SUPERVISOR_PORT": str(own_port()),
            "CORRAL_READINESS": "process",
            "CORRAL_ENGINE_COMMAND": command,
            **facts,
        }
        told = self.directory / "facts"
        told.mkdir()
        (told / "env").write_text("".join(f"{name}={value}\n" for name, value in self.facts.items()))
        (told / "hosts").write_text("10.0.0.1 node-0\n")
        for name, text in self.documents.items():
            (told / name).write_text(text)
        self.hosts.write_text("127.0.0.1 localhost\n127.0.1.1 node-0\n# corral begin\nold\n# corral end\n")
        self.again(channel)

    def again(self, channel: str = "/dev/null") -> None:
        """Starts a supervisor with the documents and the state that are there."""
        told = self.directory / "facts"
        own = {"CORRAL_RUN": str(self.run), "CORRAL_DOCUMENTS": str(told), "CORRAL_HOSTS_FILE": str(self.hosts)}
        with (self.directory / "stderr").open("ab") as errors:
            self.process = subprocess.Popen(
                [*self.shell, str(PROGRAM)],
                env={"PATH": os.environ["PATH"], **own, "CORRAL_CHANNEL": channel, **self.environment},
                stderr=errors,
                start_new_session=True,
            )

    @property
    def run(self) -> Path:
        return self.directory / "run"

    @property
    def hosts(self) -> Path:
        return self.directory / "hosts"

    def report(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.run / "report").read_text())
        except FileNotFoundError:
            return {"stage": ""}
        return found

    def at(self, stage: str, detail: str = "") -> dict[str, Any]:
        """The first report of this stage whose detail has the text."""

        def seen() -> dict[str, Any] | None:
            report = self.report()
            return report if report["stage"] == stage and detail in report["detail"] else None

        found: dict[str, Any] = until(seen, f"{stage} {detail}, the last was {self.report()}")
        return found

    def restarted(self, before: int) -> None:
        """Waits until the engine was started again more often than `before`."""
        until(lambda: self.report()["restarts"] > before, "it is started again")

    def stop(self) -> None:
        """By the signal that a service manager sends; it and its engine end by themselves, or are ended."""
        if self.process is None:
            return
        try:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGCONT)
                self.process.terminate()
                self.process.wait(WAIT_SECONDS)
            until(lambda: not self._left(), "what it started has ended")
        finally:
            for pid in self._left():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()

    def killed(self, but: int) -> int:
        """As where something has killed it and its helpers; the process `but` and what it has started go on. How many
        processes were ended."""
        spared = {but}
        for pid in sorted(left := self._left()):
            with contextlib.suppress(OSError):
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
                spared |= {pid} if parent in spared else set()
        gone = [pid for pid in left if pid not in spared]
        for pid in gone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
        return len(gone)

    def _left(self) -> list[int]:
        """The processes that have this supervisor's environment: itself and all that it started, in any session."""
        mark = f"CORRAL_RUN={self.run}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def guest(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Guest]:
    made = Guest(tmp_path, request.param)
    yield made
    made.stop()


def engine(directory: Path, port: int, answer: str) -> str:
    (directory / "answer").write_text(answer)
    return f"exec {sys.executable} {ENGINE} {port} {directory / 'answer'}"


def answering(port: int, expect: str, *, patience: int, **more: str) -> dict[str, str]:
    """The facts of a guest whose engine at the port is ready by its health and by an answer, asked for each second.
    `patience`: seconds that an answer may take."""
    return {
        "CORRAL_READINESS": "http",
        "CORRAL_READINESS_PORT": str(port),
        "CORRAL_READINESS_PATH": "/health",
        "CORRAL_CANARY_PATH": "/completion",
        "CORRAL_CANARY_EXPECT": expect,
        "CORRAL_CANARY_INTERVAL_SECONDS": "1",
        "CORRAL_CANARY_PATIENCE_SECONDS": str(patience),
        **more,
    }


@dataclass
class Peer:
    """A supervisor at 127.0.0.2 as others see it: what it says of itself."""

    status: Path
    port: int

    def says(self, epoch: int, rest: str) -> None:
        new = self.status.with_suffix(".new")
        new.write_text(f"group={'a' * 32} epoch={epoch} {rest}\n")
        new.replace(self.status)

    def facts(self, **more: str) -> dict[str, str]:
        """Of a guest whose only peer it is."""
        return {"CORRAL_PEERS": "127.0.0.1 127.0.0.2", "CORRAL_SUPERVISOR_PORT": str(self.port), **more}


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    directory = tmp_path / "peer"
    directory.mkdir()
    port = own_port()
    server = ThreadingHTTPServer(("127.0.0.2", port), partial(Quiet, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Peer(directory / "status", port)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def looks_again(guest: Guest) -> None:
    first = guest.report()["count"]
    until(lambda: guest.report()["count"] > first + 2, "it looks again")


def lines(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


def order(guest: Guest, epoch: int, **changes: str) -> bytes:
    """What Corral says down the channel when the group starts anew."""
    facts = {**guest.facts, "CORRAL_GROUP_EPOCH": str(epoch), **changes}
    env = "".join(f"{name}={value}\n" for name, value in facts.items())
    return orders.restart(epoch, {"env": env, "hosts": "10.0.0.9 node-0\n"}).encode()
