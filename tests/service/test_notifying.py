"""What systemd hears: readiness, each reload, that the process lives, and its end; nothing where nobody asks."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from service.notifying import Notifier
from tests.support.process import CONFIGURATION, CorralProcess


class Systemd:
    """The socket of a unit. It is read all the time, as systemd does: the kernel keeps ten messages, and who sends the
    eleventh waits."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._heard = queue.SimpleQueue[str]()
        self._reader = threading.Thread(target=self._read, name="systemd")
        self._reader.start()

    def until(self, word: str) -> list[str]:
        """All messages up to the first that begins with the word."""
        heard = [self._heard.get(timeout=60)]
        while not heard[-1].startswith(word):
            heard.append(self._heard.get(timeout=60))
        return heard

    def _read(self) -> None:
        while message := self._socket.recv(4096):
            self._heard.put(message.decode())

    def __enter__(self) -> Systemd:
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", str(self.path))
        self._reader.join()
        self._socket.close()


def test_a_unit_hears_readiness_life_reloads_and_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Systemd(tmp_path / "notify") as systemd:
        monkeypatch.setenv("NOTIFY_SOCKET", str(systemd.path))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        directory = tmp_path / "run"
        directory.mkdir()
        with CorralProcess(directory, CONFIGURATION) as service:
            ready = systemd.until("READY=1")[-1]
            assert f"STATUS=serving gRPC at {service.grpc}" in ready
            systemd.until("WATCHDOG=1")
            os.kill(service.pid, signal.SIGHUP)
            assert "MONOTONIC_USEC=" in systemd.until("RELOADING=1")[-1]
            systemd.until("READY=1")
        assert systemd.until("STOPPING=1")


def test_another_process_s_watchdog_is_not_ours_and_names_are_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/at/all")
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    notifier = Notifier()
    assert notifier.beat_seconds == 0
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)
    notifier.ready("serving")  # nobody is there: that is no trouble


def test_without_a_unit_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    notifier = Notifier()
    started = time.monotonic()
    notifier.ready("serving")
    asyncio.run(notifier.beat())
    assert time.monotonic() - started < 30


def test_an_abstract_socket_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        name = f"corral-test-{os.getpid()}"
        listening.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        Notifier().stopping()
        assert listening.recv(100).startswith(b"STOPPING=1")
