"""python -m tests.lab up [N] | down | status: a lab for people, until `down` or until its keeper is killed."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.lab.fleet import Lab
from tests.lab.namespaces import wait_until
from tests.lab.requirements import why_not
from tests.support import ROOT

STATE = Path(tempfile.gettempdir()) / f"corral-lab-of-{os.getuid()}.json"


def keep(count: int) -> None:
    """Holds a lab until SIGTERM. The lock on the state file says that this process is the keeper."""
    with STATE.open("a+") as state:
        fcntl.flock(state, fcntl.LOCK_EX)
        state.truncate(0)  # what a killed keeper may have left
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            with Lab(count) as lab:
                lines = [{"name": h.name, "uri": h.uri, "tcp": h.tcp_uri, "pid": h.namespace.pid} for h in lab]
                json.dump({"keeper": os.getpid(), "switch": lab.switch.pid, "hypervisors": lines}, state)
                state.flush()
                while True:
                    signal.pause()
        finally:
            STATE.unlink(missing_ok=True)


def running() -> dict[str, object] | None:
    """The state of the lab that is up, empty while it starts; None where nobody holds the state file's lock."""
    with contextlib.suppress(FileNotFoundError), STATE.open("r+") as state:
        try:
            fcntl.flock(state, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = state.read()
            return dict(json.loads(text)) if text else {}
    return None


def up(count: int) -> int:
    """Starts a keeper in the background and shows how to reach the hypervisors."""
    if running() is not None:
        print("a lab is up already: python -m tests.lab down", file=sys.stderr)
        return 1
    keeper = subprocess.Popen(
        [sys.executable, "-m", "tests.lab", "keep", str(count)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: bool(running()) or keeper.poll() is not None, 60, "the lab")
    if keeper.poll() is not None:
        print(keeper.communicate()[1].strip(), file=sys.stderr)
        return 1
    return status()


def status() -> int:
    """One line a hypervisor."""
    state = running()
    if not state:
        print("no lab is up")
        return 1
    hypervisors = state["hypervisors"]
    assert isinstance(hypervisors, list)
    for one in hypervisors:
        print(f"{one['name']}  {one['uri']}  {one['tcp']}  pid {one['pid']}")
    print(f"network of the lab: nsenter --target {state['switch']} --net COMMAND")
    return 0


def down() -> int:
    """Ends the keeper, which takes everything with it."""
    state = running()
    if not state:
        print("no lab is up")
        return 0
    os.kill(int(str(state["keeper"])), signal.SIGTERM)
    wait_until(lambda: running() is None, 60, "the lab to end")
    return 0


def main() -> int:
    """Exit code 0, or 1 with a reason."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("up", "keep"):
        commands.add_parser(name).add_argument("count", type=int, nargs="?", default=2, metavar="N")
    commands.add_parser("down")
    commands.add_parser("status")
    options = parser.parse_args()
    reason = why_not()
    if reason:
        print(reason, file=sys.stderr)
        return 1
    if options.command == "keep":
        keep(options.count)
        return 0
    return up(options.count) if options.command == "up" else down() if options.command == "down" else status()


if __name__ == "__main__":
    sys.exit(main())
