"""What the quickstart does to this machine: libvirt's daemons, one network, and the record of all that was made."""

from __future__ import annotations

import grp
import json
import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import libvirt

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
VAR = ROOT / "var"
MADE = VAR / "quickstart.json"
LIBVIRT_SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")
NETWORK = "corral"
# A transient network that does nothing: by its uuid Corral's driver tells one boot of the host from the next.
BOOT_MARKER = "corral-boot-id"
KVM = Path("/dev/kvm")
# The namespace of what Corral's driver writes into each machine's metadata; a domain without it is never touched.
TAG = "urn:corral:machine:1"


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
    kvm_group: int | None = None
    """The group that owned /dev/kvm before."""

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
        lend_kvm(made)
        for name in ("virtlogd", "libvirtd"):
            start_daemon(made, name)
    if not wait_for(libvirt_answers, 30):
        log = "journalctl -u libvirtd" if made.units else str(VAR / "libvirtd.log")
        raise Problem(f"libvirtd was started and does not answer; see /var/log/libvirt and {log}")


def lend_kvm(made: Made) -> None:
    """Give /dev/kvm to the group of QEMU's user, as udev does where it runs.

    Otherwise libvirtd sees that QEMU finds KVM and that its user may not use it, takes what it knows of QEMU for
    outdated, and asks QEMU anew at each step of each create: 10 s instead of 0.5.
    """
    try:
        group, device = grp.getgrnam("kvm").gr_gid, KVM.stat()
    except (KeyError, FileNotFoundError):
        return
    if device.st_gid == group or stat.S_IMODE(device.st_mode) & 0o006 == 0o006:
        return
    say(f"giving {KVM} to group kvm, as udev would")
    made.kvm_group = device.st_gid
    made.write()
    os.chown(KVM, -1, group)


def start_daemon(made: Made, name: str) -> None:
    """Start one of libvirt's daemons and keep the pid of its keeper. Raises Problem.

    It runs under keep.sh, which starts it again when it crashes; guests do not notice. keep.sh runs under tini, which
    adopts the QEMUs that lose their parent and reaps them: libvirt waits until they are reaped, and where process 1 is
    a container's program instead of an init, nobody else might do it.
    """
    program = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        raise Problem(f"{name} is not installed: apt-get install --no-install-recommends libvirt-daemon-system")
    pid_file = Path(f"/run/corral-{name}.pid")
    pid_file.unlink(missing_ok=True)
    VAR.mkdir(exist_ok=True)
    log = VAR / f"{name}.log"
    reaper = ["tini", "-s", "--"] if shutil.which("tini") else []
    with log.open("ab") as output:
        started = subprocess.Popen(
            [*reaper, str(HERE / "keep.sh"), program, "-p", str(pid_file)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    wait_for(lambda: pid_file.is_file() or started.poll() is not None, 5)
    if started.poll() is None and pid_file.is_file():
        setattr(made, name, started.pid)
        made.write()
    elif name == "libvirtd":  # a virtlogd that runs already is as good
        raise Problem(f"libvirtd did not start; see {log}")


def open_libvirt() -> libvirt.virConnect:
    """A connection to the system instance. Raises Problem."""
    libvirt.registerErrorHandler(lambda context, error: None, None)
    try:
        return libvirt.open("qemu:///system")
    except libvirt.libvirtError as error:
        raise Problem(f"libvirt's system instance cannot be used: {error}") from error


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
            f"libvirt network {NETWORK!r} cannot be started: {error}; "
            f"where another network uses its addresses, change network.xml and corral.toml in {HERE}"
        ) from error


@dataclass(frozen=True)
class Own:
    """Which database is this checkout's, and the cluster id that its machines bear: nothing else may be removed."""

    database: str
    cluster: str

    @classmethod
    def read(cls, path: Path) -> Own | None:
        """From the service's database; None where there is none, or none that was ever started."""
        if not path.is_file():
            return None
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
                row = connection.execute("SELECT database, cluster FROM installation").fetchone()
        except sqlite3.Error:
            return None
        return cls(*row) if row and all(row) else None


def guests(connection: libvirt.virConnect, own: Own) -> list[libvirt.virDomain]:
    """The installation's domains that can run: not the inert ones that hold a uuid or say whose the host is."""
    return [domain for domain, kind in _owned(connection, own) if kind not in ("tombstone", "owner")]


def _owned(connection: libvirt.virConnect, own: Own) -> list[tuple[libvirt.virDomain, str]]:
    """The installation's domains, each with the kind that its tag tells."""
    found = []
    for domain in connection.listAllDomains():
        try:
            metadata = ElementTree.fromstring(domain.XMLDesc(0)).find("metadata")
        except libvirt.libvirtError:
            continue  # it has gone in the meantime
        if metadata is None:
            continue
        machine, owner = metadata.find(f"{{{TAG}}}machine"), metadata.find(f"{{{TAG}}}owner")
        if machine is not None and machine.get("cluster") == own.cluster:
            found.append((domain, machine.get("kind", "")))
        elif owner is not None and owner.get("database") == own.database:
            found.append((domain, "owner"))
    return found


def _others(connection: libvirt.virConnect) -> bool:
    """Whether other installations have something here: then what all of them share stays."""
    return any(TAG in domain.XMLDesc(0) for domain in connection.listAllDomains())


def sweep(connection: libvirt.virConnect, own: Own) -> None:
    """Remove the installation's domains and volumes that are still there, and storage pools that hold nothing more."""
    for domain, _ in _owned(connection, own):
        say(f"removing {domain.name()}")
        try:
            if domain.isActive():
                domain.destroy()
            if domain.isPersistent():
                domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
        except libvirt.libvirtError as error:
            say(f"{domain.name()}: {error}")
    shared = _others(connection)
    for pool in connection.listAllStoragePools():
        if not pool.name().startswith("corral"):
            continue
        if not pool.isActive():
            pool.create()
        for volume in pool.listAllVolumes():
            mine = volume.name().startswith(f"corral.{own.cluster}.")
            if mine or (not shared and volume.name().startswith("corral-base.")):
                volume.delete()
        if pool.listAllVolumes():
            say(f"storage pool {pool.name()} stays: others have volumes in it")
            continue
        say(f"removing storage pool {pool.name()}")
        pool.destroy()
        pool.delete()
        pool.undefine()


def remove_network(made: Made, connection: libvirt.virConnect) -> None:
    """Remove the network, if a run made it, and the driver's boot marker."""
    names = {network.name(): network for network in connection.listAllNetworks()}
    if BOOT_MARKER in names:
        say(f"removing libvirt network {BOOT_MARKER!r}")
        names[BOOT_MARKER].destroy()
    if made.network and NETWORK in names:
        say(f"removing libvirt network {NETWORK!r}")
        if names[NETWORK].isActive():
            names[NETWORK].destroy()
        names[NETWORK].undefine()
        made.network = False
        made.write()


def stop_daemons(made: Made) -> None:
    """Stop the daemons that a run started."""
    for unit in made.units:
        say(f"stopping {unit}")
        sockets = [f"{unit}{kind}" for kind in (".socket", "-ro.socket", "-admin.socket")]
        subprocess.run(["systemctl", "stop", unit, *sockets], check=False)
    for name in ("libvirtd", "virtlogd"):
        if getattr(made, name):
            say(f"stopping {name}")
            end_process(getattr(made, name), name)
            Path(f"/run/corral-{name}.pid").unlink(missing_ok=True)
            (VAR / f"{name}.log").unlink(missing_ok=True)
    if made.kvm_group is not None and KVM.exists():
        say(f"giving {KVM} back to its group")
        os.chown(KVM, -1, made.kvm_group)
