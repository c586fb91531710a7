"""Namespaces that live exactly as long as the process that made them.

Each is held by a process that waits for the end of its standard input. The kernel closes that pipe when the owner
ends, however it ends; a pid namespace then takes every process in it along, and mounts, links and addresses go with the
last one.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tests.lab.requirements import program

Result = TypeVar("Result")

_CLONE_NEWNET = 0x40000000
# Daemons that lose their parent become children of this process; ignoring SIGCHLD lets the kernel reap them at once.
# A zombie QEMU would look alive to libvirtd.
_HOLD = "echo ready; exec env --ignore-signal=CHLD cat > /dev/null"


class Namespace:
    """A set of new namespaces. `flags` are unshare's. `setup` is a shell script that runs in them first."""

    def __init__(self, flags: Sequence[str], setup: str = "", arguments: Sequence[str] = ()) -> None:
        with_pids = "--pid" in flags
        command = [program("unshare"), *flags, *(["--kill-child", "--mount-proc"] if with_pids else []), "--fork", "--"]
        self._process = subprocess.Popen(
            [*command, "sh", "-ec", f"{setup}\n{_HOLD}", "sh", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            _, errors = self._process.communicate(timeout=60)
            raise RuntimeError(f"namespace was not made: {errors.strip()}")
        self.pid = self._child()

    def _child(self) -> int:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0])

    def run(self, *command: str, timeout: float = 120) -> str:
        """Runs a program inside and returns what it printed. Raises RuntimeError with its stderr."""
        done = subprocess.run(
            self.command(*command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def command(self, *command: str) -> list[str]:
        """The command line that runs `command` inside."""
        return [program("nsenter"), "--target", str(self.pid), "--all", "--wd=/", "--", *command]

    def call(self, function: Callable[[], Result]) -> Result:
        """Calls a function in a thread that has entered the network namespace: sockets that it makes stay there."""
        outcome: list[Result] = []
        problem: list[BaseException] = []

        def enter_and_call() -> None:
            try:
                with open(f"/proc/{self.pid}/ns/net", "rb") as handle:
                    if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), _CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                outcome.append(function())
            except BaseException as error:
                problem.append(error)

        thread = threading.Thread(target=enter_and_call, name="inside-namespace")
        thread.start()
        thread.join()
        if problem:
            raise problem[0]
        return outcome[0]

    def connect(self, address: str, port: int, timeout: float = 60) -> socket.socket:
        """A TCP connection made from inside, usable anywhere in this process."""
        return self.call(lambda: socket.create_connection((address, port), timeout=timeout))

    def processes(self) -> dict[int, str]:
        """Host pid -> command name of every process in the pid namespace, without the holder and without zombies; none
        where it has ended."""
        try:
            mine = os.readlink(f"/proc/{self.pid}/ns/pid")
        except FileNotFoundError:
            return {}
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == self.pid:
                continue
            try:
                if os.readlink(entry / "ns/pid") == mine and process_state(int(entry.name)) != "Z":
                    found[int(entry.name)] = (entry / "comm").read_text().strip()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it has ended in the meantime
        return found

    def close(self) -> None:
        """Ends everything inside and waits until it is gone. A second call does nothing."""
        if self._process.poll() is None:
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        self._process.wait()
        wait_until(lambda: process_state(self.pid) in ("", "Z"), 60, f"process {self.pid} of the namespace to end")


def process_state(pid: int) -> str:
    """One letter as in proc(5), or empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Polls until the condition holds. Raises TimeoutError that names `what`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.01)
