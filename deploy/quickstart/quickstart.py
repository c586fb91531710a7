"""Corral on this machine's own libvirt: start it, deploy two groups, serve until Ctrl-C; and take all of it away again.

    quickstart.py [--once]     run; with --once delete the groups afterwards and stop
    quickstart.py down         remove groups, service, network, storage and daemons that a run made

run.sh installs what this needs. What a run makes is written to var/quickstart.json, and only that is removed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import libvirt
from local_machine import (
    HERE,
    MADE,
    ROOT,
    VAR,
    Made,
    Own,
    Problem,
    end_process,
    guests,
    open_libvirt,
    remove_network,
    runs,
    say,
    start_libvirt,
    start_network,
    stop_daemons,
    sweep,
    wait_for,
)

LOG = VAR / "service.log"
DATABASE = VAR / "corral.db"
TOKEN = VAR / "token"
CONFIG = HERE / "corral.toml"
READY_SECONDS = 180

# ---------------------------------------------------------------------------------------------- service


@dataclass(frozen=True)
class Addresses:
    """Where the configuration makes the service listen, and which callers that show nothing it lets in."""

    grpc: str
    http: str
    anonymous: str

    @classmethod
    def read(cls) -> Addresses:
        """From the quickstart's configuration, with the service's own defaults."""
        read = tomllib.loads(CONFIG.read_text())
        server, identity = read.get("server", {}), read.get("identity", {})
        return cls(
            server.get("grpc", "127.0.0.1:50051"),
            server.get("http", "127.0.0.1:8080"),
            str(identity.get("anonymous", "unix")),
        )

    @property
    def sockets(self) -> list[Path]:
        """The unix sockets among them."""
        return [Path(a.removeprefix("unix:")) for a in (self.grpc, self.http) if a.startswith("unix:")]

    def require_free(self) -> None:
        """Raises Problem where somebody listens on one of them."""
        for address in (self.grpc, self.http):
            if address.startswith("unix:"):
                with socket.socket(socket.AF_UNIX) as probe:
                    if probe.connect_ex(address.removeprefix("unix:")) == 0:
                        raise Problem(
                            f"{address} is taken by another process: stop it (ss -lxp shows it), "
                            f"or choose other addresses in {CONFIG.relative_to(ROOT)}: [server] grpc = …, http = …"
                        )
                continue
            host, _, port = address.rpartition(":")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, int(port)))
                except OSError as error:
                    raise Problem(
                        f"{address} is taken by another process ({error.strerror}): stop it (ss -ltnp shows it), "
                        f"or choose other addresses in {CONFIG.relative_to(ROOT)}: [server] grpc = …, http = …"
                    ) from error


def environment() -> dict[str, str]:
    """For our own programs: they run from this checkout."""
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}", "PYTHONUNBUFFERED": "1"}


def start_service(made: Made, addresses: Addresses) -> subprocess.Popen[bytes]:
    """Start the service in the background and wait until its host is connected. Raises Problem."""
    addresses.require_free()
    VAR.mkdir(exist_ok=True)
    make_token()
    for path in addresses.sockets:
        path.parent.mkdir(mode=0o755, exist_ok=True)
    with LOG.open("wb") as log:
        service = subprocess.Popen(
            [sys.executable, "-m", "service", "serve", "--config", str(CONFIG)],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    made.service = service.pid
    made.write()

    def ready_or_ended() -> bool:
        return service.poll() is not None or host_connected(addresses)

    if wait_for(ready_or_ended, READY_SECONDS) and service.poll() is None:
        return service
    stop_service(made)
    tail = "\n".join(LOG.read_text(errors="replace").splitlines()[-15:])
    what = (
        f"ended with {service.returncode}"
        if service.returncode is not None
        else f"is not ready after {READY_SECONDS} s"
    )
    raise Problem(f"the service {what}; its log ({LOG.relative_to(ROOT)}) ends with:\n{tail}")


def make_token() -> None:
    """The token of HTTP's callers and of the page: a new one at each run, for its owner alone."""
    VAR.mkdir(exist_ok=True)
    TOKEN.unlink(missing_ok=True)
    with os.fdopen(os.open(TOKEN, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(f"{secrets.token_urlsafe(24)}\n")


def hand_over(addresses: Addresses) -> str:
    """Give the unix sockets and the token to who called sudo; the names of those who may use them."""
    user = int(os.environ.get("SUDO_UID", "0"))
    for path in (*addresses.sockets, TOKEN):
        os.chown(path, user, -1)
    return "root" if user == 0 else f"root and {pwd.getpwuid(user).pw_name}"


def host_connected(addresses: Addresses) -> bool:
    """Whether the service is healthy and has looked at its host."""
    try:
        with urllib.request.urlopen(f"http://{addresses.http}/healthz", timeout=5) as answer:
            answer.read()
        with urllib.request.urlopen(f"http://{addresses.http}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, OSError):
        return False
    return re.search(r'^corral_hosts\{[^}]*status="Connected"[^}]*\} [1-9]', text, re.MULTILINE) is not None


def stop_service(made: Made) -> None:
    """End the service in order."""
    if made.service:
        end_process(made.service, "service", 30)
        made.service = 0
        made.write()


def corral(addresses: Addresses, *arguments: str, quiet: bool = False) -> subprocess.CompletedProcess[str]:
    """Run the `corral` command; with `quiet` its output is in the result instead of on the screen."""
    return subprocess.run(
        [sys.executable, "-m", "service.cli", "--server", addresses.grpc, *arguments],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=quiet,
        text=True,
        check=False,
    )


def groups(addresses: Addresses) -> list[str]:
    """Uuids of all groups that may hold machines."""
    told = corral(addresses, "list", "--json", quiet=True)
    if told.returncode != 0:
        raise Problem(f"the groups cannot be listed: {told.stderr.strip()}")
    found = [json.loads(line) for line in told.stdout.splitlines()]
    return [group["uuid"] for group in found if group.get("status") not in ("Failed", "Deleted")]


# ------------------------------------------------------------------------------------------------- run


def deploy(addresses: Addresses, name: str) -> None:
    """Deploy one of the request files and show its stream. Raises Problem."""
    say(f"corral deploy -f deploy/quickstart/{name}")
    if corral(addresses, "deploy", "-f", str(HERE / name)).returncode != 0:
        raise Problem(f"the group of {name} did not become Running; the service's log: {LOG.relative_to(ROOT)}")


def deploy_all(addresses: Addresses) -> None:
    """ZStack's documented request, or a smaller one where it does not fit; then a leader and two workers."""
    planned = corral(addresses, "plan", "-f", str(HERE / "documented-request.json"), quiet=True)
    if planned.returncode == 0:
        deploy(addresses, "documented-request.json")
    else:
        say("this machine has too little room for one node of 8 vCPUs and 16 GiB; the planner says:")
        print(planned.stderr.rstrip())
        say("deploying a smaller group instead")
        deploy(addresses, "small-request.json")
    deploy(addresses, "leader-and-workers.json")


def tell_what_next(addresses: Addresses) -> None:
    """What to type now, ready to copy."""
    grpcurl = "grpcurl" if shutil.which("grpcurl") else ".venv/bin/grpcurl"
    call, grpc = f"{grpcurl} -plaintext", addresses.grpc
    if grpc.startswith("unix:"):
        call, grpc = f"{call} -unix", grpc.removeprefix("unix:")
    service = "corral.v1.DistributedModelService"
    body = json.loads((HERE / "small-request.json").read_text()) | {"name": "third"}
    print(
        f"""
Try next, in another terminal:

  {call} {grpc} list
  {call} {grpc} describe {service}.DeployDistributedModelService
  {call} {grpc} {service}/ListInstanceGroups
  {call} -d '{json.dumps(body)}' {grpc} {service}/DeployDistributedModelService
  {call} -d '{{}}' {grpc} {service}/WatchInstanceGroups
  .venv/bin/corral list

Page: http://{addresses.http}/   Metrics: http://{addresses.http}/metrics   Health: http://{addresses.http}/healthz
Token: {TOKEN.relative_to(ROOT)}   Log: {LOG.relative_to(ROOT)}
""",
        flush=True,
    )


def run(once: bool) -> int:
    """The whole of `make run`; returns the exit code. Raises Problem."""
    made = Made.read()
    if runs(made.service, "service"):
        raise Problem(f"Corral runs here already (process {made.service}): `make down` ends it")
    addresses = Addresses.read()
    addresses.require_free()
    start_libvirt(made)
    connection = open_libvirt()
    start_network(made, connection)
    say(f"starting the service (gRPC {addresses.grpc}, HTTP {addresses.http})")
    if addresses.anonymous == "loopback":
        say(f"every program of this machine may do everything there: identity.anonymous in {CONFIG.relative_to(ROOT)}")
    service = start_service(made, addresses)
    try:
        if addresses.sockets and addresses.anonymous == "unix":
            told = (
                f"by the socket, and by HTTP with the token in {TOKEN.relative_to(ROOT)}; nobody else may do anything"
            )
            say(f"{hand_over(addresses)} may do everything {told}")
        say(f"ready after {time.time() - float(os.environ.get('CORRAL_STARTED', time.time())):.1f} s")
        deploy_all(addresses)
        say(f"all running after {time.time() - float(os.environ.get('CORRAL_STARTED', time.time())):.1f} s")
        if once:
            delete_groups(addresses, connection)
            return 0
        tell_what_next(addresses)
        say("serving; Ctrl-C stops the service, the groups go on; `make down` removes everything")
        code = service.wait()
        raise Problem(f"the service ended by itself with {code}; its log: {LOG.relative_to(ROOT)}")
    except KeyboardInterrupt:
        say("stopping the service; the groups go on and are found again by the next `make run`")
        return 0
    finally:
        stop_service(made)
        service.wait()
        connection.close()


def delete_groups(addresses: Addresses, connection: libvirt.virConnect) -> None:
    """Delete every group and see that no guest is left. Raises Problem."""
    uuids = groups(addresses)
    if uuids:
        say(f"corral delete ({len(uuids)} groups)")
        if corral(addresses, "delete", *uuids).returncode != 0:
            raise Problem("not every group could be deleted")
    own = Own.read(DATABASE)
    if own is not None and not wait_for(lambda: not guests(connection, own), 30):
        names = ", ".join(domain.name() for domain in guests(connection, own))
        raise Problem(f"these guests are left: {names}")


# ------------------------------------------------------------------------------------------------ down


def down() -> int:
    """Remove what runs made: groups first, by the service itself; then what is left, and the daemons last."""
    made = Made.read()
    if DATABASE.exists() or made.network:
        start_libvirt(made)
        connection = open_libvirt()
        try:
            if DATABASE.exists():
                delete_by_service(made, connection)
            own = Own.read(DATABASE)
            if own is not None:
                sweep(connection, own)
            remove_network(made, connection)
        finally:
            connection.close()
    stop_service(made)
    stop_daemons(made)
    for directory in {path.parent for path in Addresses.read().sockets}:
        with contextlib.suppress(OSError):  # it is not there, or another's sockets are
            directory.rmdir()
    for path in (*VAR.glob(f"{DATABASE.name}*"), LOG, MADE, TOKEN):
        path.unlink(missing_ok=True)
    if VAR.is_dir() and not any(VAR.iterdir()):
        # It may be a mount point.
        with contextlib.suppress(OSError):
            VAR.rmdir()
    say("all that was made is gone; packages, .venv and .cache stay")
    return 0


def delete_by_service(made: Made, connection: libvirt.virConnect) -> None:
    """Delete the groups in order, by a service that is started for it where none runs."""
    addresses = Addresses.read()
    try:
        if not runs(made.service, "service"):
            start_network(made, connection)
            start_service(made, addresses)
        delete_groups(addresses, connection)
    except Problem as problem:
        # What the service could not remove, the sweep does.
        say(f"groups could not be deleted in order: {problem}")
    finally:
        stop_service(made)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # A terminal and a wrapping shell may both send it: the first one counts, the rest must not disturb the way out.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 1 with a message that says what to do, 130 interrupted."""
    parser = argparse.ArgumentParser(description="Corral on this machine's own libvirt.")
    parser.add_argument("what", nargs="?", choices=["run", "down"], default="run")
    parser.add_argument("--once", action="store_true", help="delete the groups after they ran, and stop")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    # A shell that starts this in the background makes it ignore interrupts.
    signal.signal(signal.SIGINT, _interrupt)
    try:
        return down() if options.what == "down" else run(options.once)
    except Problem as problem:
        print(f"corral: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
