"""`make run` and `make down` on a private copy of this machine: real libvirt, real guests, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.namespaces import wait_until
from tests.lab.requirements import why_not
from tests.readme.private_machine import PrivateMachine
from tests.support import ROOT

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(1200)]
LEFT_BY_LIBVIRT = {
    "etc/libvirt/qemu/networks/corral.xml",
    "etc/libvirt/storage/corral.xml",
    "run/libvirt/network/corral-boot-id.xml",
    "var/lib/libvirt/corral",
}


@pytest.fixture
def machine() -> Iterator[PrivateMachine]:
    reason = why_not() or _not_prepared()
    if reason:
        pytest.skip(reason)
    with PrivateMachine() as made:
        yield made


def _not_prepared() -> str:
    # Inside there is no network to install from.
    if Path(sys.prefix) != ROOT / ".venv" or not (ROOT / ".venv/.stamp-runtime").exists():
        return "the quickstart is not installed: make dev"
    return "" if shutil.which("dnsmasq", path="/usr/sbin:/usr/bin") else "dnsmasq-base is not installed: make dev"


def positions(text: str, *patterns: str) -> list[int]:
    """Where each pattern is first found, in a text that has all of them."""
    found = [re.search(pattern, text) for pattern in patterns]
    assert all(found), f"not found: {[p for p, f in zip(patterns, found, strict=True) if f is None]}\n{text}"
    return [each.start() for each in found if each is not None]


def assert_nothing_is_left(machine: PrivateMachine) -> None:
    # What libvirt ended last may still be on its way out.
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: machine.namespace.processes() == {}, 60, "the last processes to end")
    assert machine.namespace.processes() == {}
    left = machine.run(
        f"ls -d {' '.join('/' + path for path in sorted(LEFT_BY_LIBVIRT))} 2>/dev/null; ls var", timeout=120
    )
    assert left.stdout == ""


def test_run_once_brings_up_the_documented_request_and_leaves_no_guest_and_down_removes_the_rest(
    machine: PrivateMachine,
) -> None:
    done = machine.run("make run ARGS=--once", timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    in_order = positions(
        done.stdout,
        r"accepted  distributed-model-service",
        r"member    0 model-service: Running on local at 192\.168\.231\.\d+",
        r"final     distributed-model-service: Running",
        r"member    0 leader: Running",
        r"member    1 worker-1: Booting",
        r"member    1 worker-1: Running",
        r"member    2 worker-2: Booting",
        r"final     leader-and-workers: Running",
        r"final     distributed-model-service: Deleted",
    )
    assert in_order == sorted(in_order)
    running = machine.namespace.processes().values()
    assert not [name for name in running if name.startswith(("qemu", "python"))]
    checked = machine.run(
        ".venv/bin/python -m service check-config --config deploy/quickstart/corral.toml", timeout=120
    )
    assert checked.returncode == 0, checked.stderr
    down = machine.run("make down", timeout=240)
    assert down.returncode == 0, down.stdout + down.stderr
    assert_nothing_is_left(machine)
    again = machine.run("make down", timeout=240)
    assert again.returncode == 0, again.stdout + again.stderr


def test_on_a_small_machine_it_says_so_serves_until_interrupted_and_down_deletes_what_runs(
    machine: PrivateMachine, tmp_path: Path
) -> None:
    small = (ROOT / "deploy/quickstart/corral.toml").read_text()
    small = small.replace('driver = "libvirt"', 'driver = "libvirt"\ncapacity = { memory = "2GiB" }')
    (tmp_path / "corral.toml").write_text(small)
    machine.namespace.run("mount", "--bind", str(tmp_path / "corral.toml"), str(ROOT / "deploy/quickstart/corral.toml"))
    serving = machine.popen("make run")
    assert serving.stdout is not None
    told = ""
    for line in serving.stdout:
        told += line
        if "serving; Ctrl-C" in line:
            break
    positions(
        told,
        r"root may do everything by the socket, and by HTTP with the token in var/token; nobody else may do anything",
        r"too little room for one node of 8 vCPUs and 16 GiB",
        r"memory",
        r"final     leader-and-workers: Running",
        r"grpcurl -plaintext -unix /run/corral/grpc\.sock",
        r"http://127\.0\.0\.1:8080/metrics",
    )
    second = machine.run("make run", timeout=240)
    assert second.returncode != 0
    assert "runs here already" in second.stderr
    _kill_libvirtd(machine)
    _interrupt_all(machine)
    rest, _ = serving.communicate(timeout=240)
    # make itself ends by the signal, once what it started has ended in order.
    assert serving.returncode == -signal.SIGINT, rest
    assert "the groups go on" in rest
    guests = [name for name in machine.namespace.processes().values() if name.startswith("qemu")]
    assert len(guests) == 4
    down = machine.run("make down", timeout=240)
    assert down.returncode == 0, down.stdout + down.stderr
    assert "could not be deleted" not in down.stdout
    assert_nothing_is_left(machine)


def test_a_taken_socket_is_said_before_anything_is_started(machine: PrivateMachine) -> None:
    # It ends with its standard input.
    listen = "import os, socket, sys; os.mkdir('/run/corral'); taken = socket.socket(socket.AF_UNIX)"
    listen += "; taken.bind('/run/corral/grpc.sock'); taken.listen()"
    listener = f"{listen}; print('ready', flush=True); sys.stdin.read()"
    command = machine.namespace.command(sys.executable, "-c", listener)
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        done = machine.run("make run ARGS=--once", timeout=240)
    finally:
        other.communicate(timeout=120)
    assert done.returncode != 0
    assert "unix:/run/corral/grpc.sock is taken by another process" in done.stderr
    assert "[server] grpc" in done.stderr
    assert_nothing_is_left(machine)


def _kill_libvirtd(machine: PrivateMachine) -> None:
    """As a crash of it would end it; returns once another has taken its place."""

    def pid() -> str:
        return machine.run("cat /run/corral-libvirtd.pid", timeout=120).stdout.strip()

    before = pid()
    machine.namespace.run("kill", "-KILL", before)
    wait_until(lambda: pid() not in ("", before), 60, "libvirtd to be started again")


def _interrupt_all(machine: PrivateMachine) -> None:
    """What Ctrl-C does: make, the shell and the quickstart get the signal, sessions of their own do not."""
    for pid in machine.namespace.processes():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended in the meantime
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if any(part.endswith((b"quickstart.py", b"run.sh")) for part in command) or command[0] == b"make":
                os.kill(pid, signal.SIGINT)
    wait_until(lambda: "make" not in machine.namespace.processes().values(), 240, "make to end")
