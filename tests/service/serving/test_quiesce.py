"""A head whose address is handed on: whoever it answers hears the end, or hears at once that there is none; whoever
calls meanwhile is neither refused nor lost, and is answered by the next one at the address."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.serving import orders
from tests.lab.namespaces import Namespace
from tests.lab.requirements import program
from tests.service.serving.guest import SHELLS, Guest, port, until
from tests.service.serving.test_address_clash import machine, switch

__all__ = ["switch"]

ADDRESS, CALLER = "10.66.0.7", "10.66.0.9"
MACS = ("52:54:0a:42:00:07", "52:54:0a:42:00:08", "52:54:0a:42:00:09")
GROUP = "a" * 32
PORT = 8080
WAIT_SECONDS = 120
# Answers a line by itself and its own name, and `slow` once the file is there. What it has got is in a file.
SERVER = """
import pathlib, socket, sys, threading, time
name, may, got = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
def answer(line):
    word = line.recv(100).decode()
    with got.open("a") as told:
        told.write(word + "\\n")
    while word == "slow" and not may.exists():
        time.sleep(0.05)
    line.sendall(f"{word} {name}".encode())
    line.close()
server = socket.create_server(("", 8080))
while True:
    line, _ = server.accept()
    threading.Thread(target=answer, args=(line,), daemon=True).start()
"""


def call(caller: Namespace, word: str) -> Future[str]:
    """What is answered to the word, or the error's name, as it comes."""
    said: Future[str] = Future()

    def ask() -> None:
        try:
            with caller.connect(ADDRESS, PORT, timeout=WAIT_SECONDS) as line:
                line.settimeout(WAIT_SECONDS)
                line.sendall(word.encode())
                said.set_result(line.recv(100).decode() or "closed")
        except OSError as error:
            said.set_result(type(error).__name__)

    threading.Thread(target=ask, daemon=True).start()
    return said


@dataclass
class Head:
    """A head with a server as its engine, and a caller that it knows well."""

    guest: Guest
    network: Namespace
    caller: Namespace
    channel: int
    may: Path
    got: Path

    def has_got(self, word: str) -> bool:
        return self.got.exists() and word in self.got.read_text().split()

    def quiesce(self, seconds: int, group: str = GROUP) -> None:
        os.write(self.channel, orders.quiesce(group, seconds).encode())

    def backlog(self) -> int:
        """How many may wait to be connected; below 0 nobody is."""
        return int(self.network.run(program("cat"), "/proc/sys/net/ipv4/tcp_max_syn_backlog"))

    def drops(self) -> int:
        """How many were not let in, by the kernel's count of what listeners dropped."""
        names, counts = [
            line.split()
            for line in self.network.run(program("cat"), "/proc/net/netstat").splitlines()
            if line.startswith("TcpExt:")
        ]
        return int(counts[names.index("ListenDrops")])


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def head(switch: Namespace, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Head]:
    network, caller = machine(switch, ADDRESS, MACS[0], 1), machine(switch, CALLER, MACS[2], 3)
    if request.param[0] == "busybox":  # whose `ip` forgets no callers: its guest's process 1 keeps none
        network.run("/bin/sh", "-c", "echo 1 > /proc/sys/net/ipv4/tcp_no_metrics_save")
    server = tmp_path / "server.py"
    server.write_text(SERVER)
    host, channel = port()
    guest = Guest(tmp_path, [program("nsenter"), f"--net=/proc/{network.pid}/ns/net", "--", *request.param])
    may, got = tmp_path / "may", tmp_path / "got"
    made = Head(guest, network, caller, host, may, got)
    try:
        guest.start(
            f"exec {sys.executable} {server} old {may} {got}",
            channel=channel,
            CORRAL_NODE_ADDRESS=f"{ADDRESS}/24",
            CORRAL_SERVICE_PORT=str(PORT),
            CORRAL_READINESS="listening",
            CORRAL_READINESS_PORT=str(PORT),
        )
        guest.at("ready")
        assert call(caller, "first").result(WAIT_SECONDS) == "first old"
        yield made
    finally:
        guest.stop()
        os.close(host)
        for one in (network, caller):
            one.close()


def test_what_is_being_answered_is_answered_and_who_calls_meanwhile_is_answered_by_the_next(
    head: Head, switch: Namespace, tmp_path: Path
) -> None:
    slow = call(head.caller, "slow")
    until(lambda: head.has_got("slow"), "it is being answered")
    head.quiesce(WAIT_SECONDS, group="b" * 32)  # another group's
    assert call(head.caller, "second").result(WAIT_SECONDS) == "second old"
    head.quiesce(WAIT_SECONDS)
    until(lambda: head.backlog() < 0, "it takes nobody any more")
    late = call(head.caller, "late")
    until(lambda: head.drops() > 0, "somebody has called")
    assert not head.has_got("late")
    assert not slow.done()
    head.may.touch()
    assert slow.result(WAIT_SECONDS) == "slow old"
    head.guest.at("stopping")
    switch.run(program("ip"), "link", "set", "port1", "down")  # its machine is gone, and another one has the address
    new = machine(switch, ADDRESS, MACS[1], 2)
    server = [sys.executable, str(tmp_path / "server.py"), "new", str(head.may), str(head.got)]
    with subprocess.Popen([program("nsenter"), f"--net=/proc/{new.pid}/ns/net", "--", *server]) as next_head:
        try:
            until(lambda: listens(new), "the next one listens")
            head.caller.run(program("ip"), "neigh", "flush", "dev", "eth0")
            assert late.result(WAIT_SECONDS) == "late new"
        finally:
            next_head.kill()
            new.close()


def listens(network: Namespace) -> bool:
    """Whether somebody listens at the port, by the kernel's table."""
    return f":{PORT:04X} 00000000:0000 0A" in network.run(program("cat"), "/proc/net/tcp")


def test_who_is_not_answered_in_time_hears_so_at_once(head: Head) -> None:
    slow = call(head.caller, "slow")
    until(lambda: head.has_got("slow"), "it is being answered")
    head.quiesce(1)
    assert slow.result(WAIT_SECONDS) in ("closed", "ConnectionResetError")
    head.guest.at("stopping")
    # Whoever calls now is not refused either: the machine says nothing any more.
    assert "state DOWN" in head.network.run(program("ip"), "link", "show", "eth0")
