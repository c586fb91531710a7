"""The guest's supervisor as a process in a plain directory, with a stand-in for the engine, in the shells of guests."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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


@dataclass
class Guest:
    """One supervisor that runs."""

    directory: Path
    shell: list[str]
    facts: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self, command: str, channel: str = "/dev/null", **facts: str) -> None:
        self.facts = {
            "CORRAL_GROUP_UUID": "a" * 32,
            "CORRAL_GROUP_EPOCH": "4",
            "CORRAL_NODE_RANK": "0",
            "CORRAL_NODE_ADDRESS": "127.0.0.1/8",
            "CORRAL_SUPERVISOR_PORT": str(free_port()),
            "CORRAL_READINESS": "process",
            "CORRAL_ENGINE_COMMAND": command,
            **facts,
        }
        told = self.directory / "facts"
        told.mkdir()
        (told / "env").write_text("".join(f"{name}={value}\n" for name, value in self.facts.items()))
        (told / "hosts").write_text("10.0.0.1 node-0\n")
        self.hosts.write_text("127.0.0.1 localhost\n127.0.1.1 node-0\n# corral begin\nold\n# corral end\n")
        own = {"CORRAL_RUN": str(self.run), "CORRAL_FACTS": str(told), "CORRAL_HOSTS_FILE": str(self.hosts)}
        with (self.directory / "stderr").open("wb") as errors:
            self.process = subprocess.Popen(
                [*self.shell, str(PROGRAM)],
                env={"PATH": os.environ["PATH"], **own, "CORRAL_CHANNEL": channel},
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


def test_an_engine_that_ends_is_started_again_and_its_last_words_are_told(guest: Guest) -> None:
    began = guest.directory / "began"
    guest.start(f"echo once >> {began}; echo 'no \"model\" here'; exit 3")
    report = guest.at("degraded", 'ended with status 3: no "model" here')
    assert (report["v"], report["epoch"], report["rank"], report["address"]) == (1, 4, 0, "127.0.0.1")
    until(lambda: len(began.read_text().split()) >= 2, "a second start")
    until(lambda: guest.report()["restarts"] >= 1, "the restart is counted")


def test_it_is_ready_while_the_model_answers_rightly_and_starts_the_engine_again_when_it_does_not(guest: Guest) -> None:
    port = free_port()
    guest.start(
        engine(guest.directory, port, '{"content":"wrong"}'),
        CORRAL_READINESS="http",
        CORRAL_READINESS_PORT=str(port),
        CORRAL_READINESS_PATH="/health",
        CORRAL_CANARY_PATH="/completion",
        CORRAL_CANARY_BODY='{"prompt":"abc","n_predict":4}',
        CORRAL_CANARY_EXPECT='"content":"defg',
        CORRAL_CANARY_INTERVAL_SECONDS="1",
        CORRAL_CANARY_PATIENCE_SECONDS="3",
    )
    report = guest.at("joining", 'a wrong answer: {"content":"wrong"}')
    assert report["answered"] == -1, "its health is fine, and it does not serve"
    answer = guest.directory / "answer"
    answer.write_text('{"content":"defghi"}')
    assert guest.at("ready")["answered"] >= 0
    for text in ("hang", '{"content":"else"}'):
        before = guest.report()["restarts"]
        answer.write_text(text)
        guest.restarted(before)
        answer.write_text('{"content":"defghi"}')
        guest.at("ready")


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
    port = free_port()
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


def test_it_waits_at_the_gate_for_the_engines_of_its_own_start(guest: Guest, peer: Peer) -> None:
    peer.says(3, "rank=1 stage=ready run= follows= own=0 listens=true")
    began = guest.directory / "began"
    guest.start(f"echo >> {began}; sleep 1000", **peer.facts(CORRAL_GATE="workers"))
    guest.at("gate", "waiting for the engine of 127.0.0.2")
    looks_again(guest)
    peer.says(4, "rank=1 stage=engine run= follows= own=0 listens=false")
    looks_again(guest)
    assert not began.exists()
    peer.says(4, "rank=1 stage=ready run= follows= own=0 listens=true")
    guest.at("ready")
    assert began.exists()


def test_a_workers_engine_is_started_again_with_its_leaders(guest: Guest, peer: Peer) -> None:
    began = guest.directory / "began"
    peer.says(4, "rank=0 stage=gate run=first follows= own=0 listens=false")
    facts = peer.facts(CORRAL_SCOPE="group", CORRAL_LEADER_ADDRESS="127.0.0.2", CORRAL_NODE_RANK="1")
    guest.start(f"echo >> {began}; exec sleep 1000", **facts)
    guest.at("ready")
    told = guest.run / "www/status"
    until(lambda: "follows=first " in told.read_text(), "it is for the leader's first run")
    looks_again(guest)
    assert lines(began) == 1, "its engine has served nobody yet"
    peer.says(4, "rank=0 stage=gate run=second follows= own=0 listens=false")
    until(lambda: lines(began) == 2, "another engine")
    until(lambda: "follows=second " in told.read_text(), "it is for the leader's second run")
    assert guest.report()["restarts"] == 0, "that was no fault of its own"


def test_the_leader_waits_for_engines_of_its_own_run_and_starts_again_when_one_was(guest: Guest, peer: Peer) -> None:
    began = guest.directory / "began"
    facts = peer.facts(CORRAL_SCOPE="group", CORRAL_LEADER_ADDRESS="127.0.0.1", CORRAL_GATE="workers")
    peer.says(4, "rank=1 stage=ready run= follows=before own=0 listens=true")
    guest.start(f"echo >> {began}; exec sleep 1000", **facts)
    guest.at("gate")
    looks_again(guest)
    assert not began.exists(), "that engine has a connection to a run before this one"
    told = guest.run / "www/status"

    def run() -> str:
        return next(word for word in told.read_text().split() if word.startswith("run="))[4:]

    first = run()
    peer.says(4, f"rank=1 stage=ready run= follows={first} own=0 listens=true")
    guest.at("ready")
    looks_again(guest)
    assert (lines(began), run()) == (1, first)
    until(lambda: guest.report()["count"] > 20, "it has looked at its worker")
    peer.says(4, f"rank=1 stage=ready run= follows={first} own=1 listens=true")
    until(lambda: run() != first, "another run")
    peer.says(4, f"rank=1 stage=ready run= follows={run()} own=1 listens=true")
    until(lambda: lines(began) == 2, "another engine")


def order(guest: Guest, epoch: int, **changes: str) -> bytes:
    """What Corral says down the channel when the group starts anew."""
    facts = {**guest.facts, "CORRAL_GROUP_EPOCH": str(epoch), **changes}
    env = "".join(f"{name}={value}\n" for name, value in facts.items())
    return orders.restart(epoch, {"env": env, "hosts": "10.0.0.9 node-0\n"}).encode()


def test_a_new_start_that_it_is_told_of_is_taken_over_and_acknowledged(guest: Guest) -> None:
    host, channel = port()
    try:
        seen = guest.directory / "seen"
        guest.start(f"echo $CORRAL_GROUP_EPOCH $TOLD >> {seen}; exec sleep 1000", channel=channel)
        guest.at("ready")
        for noise in (b"\x00\xff{", b'{"v":1,"do":"restart","epoch":9,"env":"', b"x" * 3000):
            os.write(host, noise + b"\n")
        os.write(host, order(guest, 8, CORRAL_GROUP_UUID="b" * 32))
        os.write(host, order(guest, 3))
        os.write(host, order(guest, 5, TOLD="$(touch /nowhere)"))
        until(lambda: guest.report()["epoch"] == 5, "it acknowledges")
        guest.at("ready")
        until(lambda: lines(seen) == 2, "another engine")
        assert seen.read_text().splitlines() == ["4", "5 $(touch /nowhere)"]
        assert "10.0.0.9 node-0" in guest.hosts.read_text()
        assert guest.report()["restarts"] == 0
    finally:
        guest.stop()
        os.close(host)


def test_one_that_the_group_has_passed_by_serves_nobody_until_it_is_told(guest: Guest, peer: Peer) -> None:
    host, channel = port()
    try:
        began = guest.directory / "began"
        facts = peer.facts(CORRAL_SCOPE="group", CORRAL_LEADER_ADDRESS="127.0.0.2", CORRAL_NODE_RANK="1")
        peer.says(4, "rank=0 stage=ready run=first follows= own=0 listens=true")
        guest.start(f"echo $$ >> {began}; exec sleep 1000", channel=channel, **facts)
        guest.at("ready")
        peer.says(5, "rank=0 stage=ready run=other follows= own=0 listens=true")
        guest.at("degraded", "the group is at start 5")
        engine_process = Path(f"/proc/{began.read_text().strip()}")
        until(lambda: not engine_process.exists(), "its engine ends")
        os.write(host, order(guest, 5))
        guest.at("ready")
        assert (guest.report()["epoch"], lines(began)) == (5, 2)
    finally:
        guest.stop()
        os.close(host)


def test_peers_are_told_that_the_engine_listens_and_nobody_connects_to_it(guest: Guest) -> None:
    port = free_port()
    listen = f"import socket,time; s=socket.create_server(('127.0.0.1',{port})); s.settimeout(3600); print(s.accept())"
    code = guest.directory / "listen.py"
    code.write_text(listen)
    guest.start(
        f"exec {sys.executable} {code}",
        CORRAL_READINESS="listening",
        CORRAL_READINESS_PORT=str(port),
        CORRAL_LISTEN_PORT=str(port),
    )
    guest.at("ready")
    told = until(lambda: (guest.run / "www/status").read_text().endswith("listens=true\n"), "it is told")
    count = guest.report()["count"]
    until(lambda: guest.report()["count"] > count + 4, "it looks again and again")
    assert told
    assert (guest.run / "engine.log").read_text() == "", "the engine took no connection"


def test_it_ends_with_all_that_the_engine_started(guest: Guest) -> None:
    pids = guest.directory / "pids"
    guest.start(f"(trap '' TERM; echo $$ > {pids}; sleep 1000) & echo $! >> {pids}; wait")
    guest.at("ready")
    started = [int(pid) for pid in until(lambda: pids.exists() and pids.read_text().split(), "pids")]
    guest.stop()
    assert guest.process is not None
    assert guest.process.returncode == 0
    assert guest.report()["stage"] == "stopping"
    until(lambda: not any(Path(f"/proc/{pid}/status").exists() for pid in started), "nothing of it is left")


def test_variables_are_the_engines_alone_and_hosts_are_the_groups(guest: Guest) -> None:
    seen = guest.directory / "seen"
    guest.start(f"env > {seen}; exec sleep 1000", STAGE="$(touch /nowhere)", RUN="/elsewhere", GLOO_SOCKET_IFNAME="x")
    guest.at("ready")
    found = dict(line.split("=", 1) for line in seen.read_text().splitlines() if "=" in line)
    assert (found["STAGE"], found["RUN"]) == ("$(touch /nowhere)", "/elsewhere")
    assert found["GLOO_SOCKET_IFNAME"] == found["NCCL_SOCKET_IFNAME"] == "lo"
    assert guest.hosts.read_text() == "127.0.0.1 localhost\n# corral begin\n10.0.0.1 node-0\n# corral end\n"


def test_one_that_hangs_falls_silent(guest: Guest) -> None:
    host, channel = port()
    os.set_blocking(host, False)
    try:
        guest.start("exec sleep 1000", channel=channel)
        guest.at("ready")
        assert guest.process is not None

        def heard() -> bytes:
            try:
                return os.read(host, 65_536)
            except BlockingIOError:
                return b""

        until(lambda: b'"stage":"ready"' in heard(), "reports come")
        guest.process.send_signal(signal.SIGSTOP)
        last = until(lambda: guest.report() if guest.report()["count"] else None, "a last report")
        # What was under way still comes; then nothing, while the reporter itself lives.
        until(lambda: not heard() and guest.report() == last and not any(heard() for _ in range(20)), "silence")
    finally:
        guest.stop()
        os.close(host)
