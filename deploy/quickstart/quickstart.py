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
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import FrameType

import libvirt

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
VAR = ROOT / "var"
MADE = VAR / "quickstart.json"
LOG = VAR / "service.log"
DATABASE = VAR / "corral.db"
CONFIG = HERE / "corral.toml"
LIBVIRT_SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")
NETWORK = "corral"
# The tag that Corral's driver writes into each machine; a domain without it is never touched.
TAG = "urn:corral:machine:1"
ZONE = "7a007a391d483c9f843bf1df4b7e5d8f"
READY_SECONDS = 180


class Problem(Exception):
    """Something that stops the quickstart; the message is for people and says what to do."""


@dataclass
class Made:
    """What earlier runs made and `down` may remove. Pids are 0 where we started nothing."""

    service: int = 0
    libvirtd: int = 0
    virtlogd: int = 0
    units: list[str] = field(default_factory=list)
    network: bool = False

    @classmethod
    def read(cls) -> Made:
        """The record, or an empty one."""
        if not MADE.is_file():
            return cls()
        told = json.loads(MADE.read_text())
        return cls(**{each.name: told[each.name] for each in fields(cls) if each.name in told})

    def write(self) -> None:
        """Keep it, whole or not at all."""
        VAR.mkdir(exist_ok=True)
        temporary = MADE.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(MADE)


def say(text: str) -> None:
    """One line of what is going on."""
    print(f"==> {text}", flush=True)


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll until the condition holds; whether it did."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def runs(pid: int, name: str) -> bool:
    """Whether `pid` is a process whose command line has `name`; pids are used again."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes() if pid > 0 else b""
    except (FileNotFoundError, ProcessLookupError):
        return False
    return name.encode() in command


def end_process(pid: int, name: str, seconds: float = 20) -> None:
    """SIGTERM, and SIGKILL where that was not enough."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not runs(pid, name):
            return
        os.kill(pid, number)
        if wait_for(lambda: not runs(pid, name), seconds):
            return


# ---------------------------------------------------------------------------------------------- libvirt


def answers(path: str) -> bool:
    """Whether somebody listens on the unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def libvirt_answers() -> bool:
    """Whether libvirt's system instance can be reached."""
    return any(answers(path) for path in LIBVIRT_SOCKETS)


def start_libvirt(made: Made) -> None:
    """Start libvirt where it does not run: by systemd where that is process 1, else by hand. Raises Problem."""
    if libvirt_answers():
        return
    if Path("/run/systemd/system").is_dir():
        say("starting libvirtd by systemd")
        started = subprocess.run(["systemctl", "start", "libvirtd"], capture_output=True, text=True, check=False)
        if started.returncode != 0:
            raise Problem(f"systemctl could not start libvirtd: {started.stderr.strip()}; see journalctl -u libvirtd")
        made.units.append("libvirtd")
        made.write()
    else:
        say("starting virtlogd and libvirtd (no systemd here)")
        # libvirt locks a guest's channels there; without it no guest can report that it is ready.
        Path("/run/lock").mkdir(mode=0o1777, exist_ok=True)
        for name in ("virtlogd", "libvirtd"):
            program = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
            if program is None:
                raise Problem(f"{name} is not installed: apt-get install --no-install-recommends libvirt-daemon-system")
            pid_file = Path(f"/run/corral-{name}.pid")
            pid_file.unlink(missing_ok=True)
            done = subprocess.run([program, "-d", "-p", str(pid_file)], capture_output=True, text=True, check=False)
            # A virtlogd that runs already is as good.
            if done.returncode != 0 and name == "libvirtd":
                raise Problem(f"libvirtd did not start: {done.stderr.strip()}")
            if done.returncode == 0 and wait_for(pid_file.is_file, 5):
                setattr(made, name, int(pid_file.read_text()))
                made.write()
    if not wait_for(libvirt_answers, 30):
        raise Problem("libvirtd was started and does not answer; see /var/log/libvirt and journalctl -u libvirtd")


def open_libvirt() -> libvirt.virConnect:
    """A connection to the system instance. Raises Problem."""
    libvirt.registerErrorHandler(lambda context, error: None, None)
    try:
        return libvirt.open("qemu:///system")
    except libvirt.libvirtError as error:
        raise Problem(f"libvirt's system instance can not be used: {error}") from error


def start_network(made: Made, connection: libvirt.virConnect) -> None:
    """Define and start the quickstart's network where it is missing. Raises Problem."""
    names = {network.name(): network for network in connection.listAllNetworks()}
    network = names.get(NETWORK)
    try:
        if network is None:
            say(f"making libvirt network {NETWORK!r}")
            network = connection.networkDefineXML((HERE / "network.xml").read_text())
            made.network = True
            made.write()
        if not network.isActive():
            network.create()
    except libvirt.libvirtError as error:
        raise Problem(
            f"libvirt network {NETWORK!r} can not be started: {error}; "
            f"another network may use its addresses (change network.xml and corral.toml in {HERE})"
        ) from error


def guests(connection: libvirt.virConnect) -> list[libvirt.virDomain]:
    """All domains with Corral's tag that can run: not the inert markers that forbid a late definition."""
    return [domain for domain in tagged(connection) if 'kind="tombstone"' not in domain.XMLDesc(0)]


def tagged(connection: libvirt.virConnect) -> list[libvirt.virDomain]:
    """All domains with Corral's tag."""
    found = []
    for domain in connection.listAllDomains():
        try:
            if TAG in domain.XMLDesc(0):
                found.append(domain)
        except libvirt.libvirtError:
            continue  # it has gone in the meantime
    return found


# ---------------------------------------------------------------------------------------------- service


@dataclass(frozen=True)
class Addresses:
    """Where the configuration makes the service listen."""

    grpc: str
    http: str

    @classmethod
    def read(cls) -> Addresses:
        """From the quickstart's configuration, with the service's own defaults."""
        server = tomllib.loads(CONFIG.read_text()).get("server", {})
        return cls(server.get("grpc", "127.0.0.1:50051"), server.get("http", "127.0.0.1:8080"))

    def require_free(self) -> None:
        """Raises Problem where somebody listens on one of them."""
        for address in (self.grpc, self.http):
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
        raise Problem(f"the groups can not be listed: {told.stderr.strip()}")
    found = [json.loads(line) for line in told.stdout.splitlines()]
    return [group["uuid"] for group in found if group.get("status") not in ("Failed", "Deleted")]


# ------------------------------------------------------------------------------------------------- run


def deploy(addresses: Addresses, name: str) -> None:
    """Deploy one of the request files and show its stream. Raises Problem."""
    say(f"corral deploy -f deploy/quickstart/{name}")
    if corral(addresses, "deploy", "-f", str(HERE / name)).returncode != 0:
        raise Problem(f"the group of {name} did not become Running; the service's log: {LOG.relative_to(ROOT)}")


def deploy_all(addresses: Addresses) -> None:
    """The seed's request, or a smaller one where it does not fit; then a leader and two workers."""
    planned = corral(addresses, "plan", "-f", str(HERE / "seed-request.json"), quiet=True)
    if planned.returncode == 0:
        deploy(addresses, "seed-request.json")
    else:
        say("this machine has too little room for one node of 8 vCPUs and 16 GiB; the planner says:")
        print(planned.stderr.rstrip())
        say("deploying a smaller group instead")
        deploy(addresses, "small-request.json")
    deploy(addresses, "leader-and-workers.json")


def tell_what_next(addresses: Addresses) -> None:
    """What to type now, ready to copy."""
    grpcurl = "grpcurl" if shutil.which("grpcurl") else ".venv/bin/grpcurl"
    call = f"{grpcurl} -plaintext"
    service = "corral.v1.DistributedModelService"
    body = json.loads((HERE / "small-request.json").read_text()) | {"name": "third"}
    print(
        f"""
Try next, in another terminal:

  {call} {addresses.grpc} list
  {call} {addresses.grpc} describe {service}.DeployDistributedModelService
  {call} {addresses.grpc} {service}/ListInstanceGroups
  {call} -d '{json.dumps(body)}' {addresses.grpc} {service}/DeployDistributedModelService
  {call} -d '{{}}' {addresses.grpc} {service}/WatchInstanceGroups
  .venv/bin/corral list

Metrics: http://{addresses.http}/metrics   Health: http://{addresses.http}/healthz   Log: {LOG.relative_to(ROOT)}
""",
        flush=True,
    )


def run(once: bool) -> int:
    """Everything; the exit code. Raises Problem."""
    made = Made.read()
    if runs(made.service, "service"):
        raise Problem(f"Corral runs here already (process {made.service}): `make down` ends it")
    addresses = Addresses.read()
    addresses.require_free()
    start_libvirt(made)
    connection = open_libvirt()
    start_network(made, connection)
    say(f"starting the service (gRPC {addresses.grpc}, HTTP {addresses.http})")
    service = start_service(made, addresses)
    try:
        say(f"ready after {time.time() - float(os.environ.get('CORRAL_STARTED', time.time())):.1f} s")
        deploy_all(addresses)
        say(f"all running after {time.time() - float(os.environ.get('CORRAL_STARTED', time.time())):.1f} s")
        tell_what_next(addresses)
        if once:
            delete_groups(addresses, connection)
            return 0
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
    if not wait_for(lambda: not guests(connection), 30):
        names = ", ".join(domain.name() for domain in guests(connection))
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
            sweep(connection)
            remove_network(made, connection)
        finally:
            connection.close()
    stop_service(made)
    for unit in made.units:
        say(f"stopping {unit}")
        sockets = [f"{unit}{kind}" for kind in (".socket", "-ro.socket", "-admin.socket")]
        subprocess.run(["systemctl", "stop", unit, *sockets], check=False)
    for name in ("libvirtd", "virtlogd"):
        if getattr(made, name):
            say(f"stopping {name}")
            end_process(getattr(made, name), name)
            Path(f"/run/corral-{name}.pid").unlink(missing_ok=True)
    for path in (*VAR.glob(f"{DATABASE.name}*"), LOG, MADE):
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


def sweep(connection: libvirt.virConnect) -> None:
    """Remove tagged domains and Corral's volumes that are still there, and its storage pools."""
    for domain in tagged(connection):
        say(f"removing {domain.name()}")
        try:
            if domain.isActive():
                domain.destroy()
            if domain.isPersistent():
                domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
        except libvirt.libvirtError as error:
            say(f"{domain.name()}: {error}")
    for pool in connection.listAllStoragePools():
        if pool.name().startswith("corral"):
            say(f"removing storage pool {pool.name()}")
            if not pool.isActive():
                pool.create()
            for volume in pool.listAllVolumes():
                volume.delete()
            pool.destroy()
            pool.delete()
            pool.undefine()


def remove_network(made: Made, connection: libvirt.virConnect) -> None:
    """Remove the network, if a run made it."""
    names = {network.name(): network for network in connection.listAllNetworks()}
    if made.network and NETWORK in names:
        say(f"removing libvirt network {NETWORK!r}")
        if names[NETWORK].isActive():
            names[NETWORK].destroy()
        names[NETWORK].undefine()
        made.network = False
        made.write()


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
