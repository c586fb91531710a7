"""One hypervisor of the lab: its directories, its daemon, and the harm that tests do to it."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import uuid
from pathlib import Path

from tests.lab.namespaces import Namespace, process_state, wait_until
from tests.lab.requirements import program

# run/lock: libvirt locks a guest's channel by a path that is the same on every hypervisor.
DIRECTORIES = ("etc/libvirt", "run/libvirt", "run/lock", "var/lib/libvirt", "var/log/libvirt", "var/cache/libvirt")
_LOG = "var/log/libvirt/libvirtd.log"
_VOLATILE = ("run/libvirt", "run/lock")

# The machine's own D-Bus is out of sight: systemd-machined knows nothing of a pid namespace's processes.
_MOUNTS = """
directory=$1
hostname "$2"
shift 2
if [ -d /run/dbus ]; then mount -t tmpfs none /run/dbus; fi
for path in "$@"; do mkdir -p "/$path"; mount --bind "$directory/$path" "/$path"; done
ip link set lo up
"""

_DAEMON_CONFIGURATION = """\
listen_tls = 0
listen_tcp = 1
listen_addr = "{address}"
auth_tcp = "none"
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_rw_perms = "0700"
host_uuid = "{uuid}"
log_outputs = "3:file:/{log}"
keepalive_interval = 5
keepalive_count = 3
max_clients = 5000
max_workers = 20
"""

# One user, no confinement and no cgroups: the namespaces around the daemon take that place.
_QEMU_CONFIGURATION = """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""


POOL = "/var/lib/libvirt/corral"
# Over the directory comes a file system of the size that its files have.
_FILL_POOL = """
mkdir -p "$1" /run/filled
mount -t tmpfs none /run/filled
cp -a "$1/." /run/filled/
dd if=/dev/zero of=/run/filled/ballast bs=64k count=1 2> /dev/null
mount -o remount,size=$(du -sk /run/filled | cut -f1)k /run/filled
dd if=/dev/zero of=/run/filled/ballast oflag=append conv=notrunc bs=4k 2> /dev/null || true
mount --move /run/filled "$1"
"""
_FREE_POOL = """
ls -A "$1" > /run/left
umount -l "$1"
ls -A "$1" | while read -r name; do grep -qxF -e "$name" /run/left || rm -f "$1/$name"; done
"""


class Hypervisor:
    """A libvirtd with a bridge `br0`. `directory` holds all its files; `address` is its own in the lab's network."""

    def __init__(self, index: int, directory: Path, network: str, switch: Namespace, capabilities: Path | None) -> None:
        self.index = index
        self.name = f"hv{index}"
        self.directory = directory / self.name
        self.address = f"{network}.0.{10 + index}"
        self.uuid = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{directory}/{self.name}"))
        self.socket = self.directory / "run/libvirt/libvirt-sock"
        self._switch = switch
        self._capabilities = capabilities
        for path in DIRECTORIES:
            (self.directory / path).mkdir(parents=True)
        etc = self.directory / "etc/libvirt"
        (etc / "libvirtd.conf").write_text(_DAEMON_CONFIGURATION.format(address=self.address, uuid=self.uuid, log=_LOG))
        (etc / "qemu.conf").write_text(_QEMU_CONFIGURATION)
        self._share_capabilities()
        self.namespace = self._power_on()

    @property
    def uri(self) -> str:
        """libvirt URI that works from every network namespace."""
        return f"qemu+unix:///system?socket={self.socket}"

    @property
    def tcp_uri(self) -> str:
        """libvirt URI over TCP, from inside the lab's network only."""
        return f"qemu+tcp://{self.address}/system"

    def _share_capabilities(self) -> None:
        # Asking a QEMU what it can do takes a second, and the answer is the same for all hypervisors here.
        if self._capabilities is not None and self._capabilities.is_dir():
            target = self.directory / "var/cache/libvirt/qemu/capabilities"
            shutil.copytree(self._capabilities, target, dirs_exist_ok=True)

    def _power_on(self) -> Namespace:
        flags = ("--mount", "--net", "--pid", "--uts", "--ipc", "--propagation", "private")
        namespace = Namespace(flags, _MOUNTS, (str(self.directory), self.name, *DIRECTORIES))
        ip = program("ip")
        link = f"port{self.index}"
        self._switch.run(ip, "link", "add", link, "type", "veth", "peer", "name", "uplink", "netns", str(namespace.pid))
        self._switch.run(ip, "link", "set", link, "master", "lab0", "up")
        namespace.run(ip, "link", "add", "br0", "type", "bridge", "forward_delay", "0")
        namespace.run(ip, "link", "set", "uplink", "master", "br0", "up")
        namespace.run(ip, "link", "set", "br0", "up")
        namespace.run(ip, "address", "add", f"{self.address}/16", "dev", "br0")
        return namespace

    def start_daemon(self) -> None:
        """Starts libvirtd and waits until its drivers serve. It must not run. RuntimeError when it ends instead."""
        pid_file = self.directory / "run/libvirt/libvirtd.pid"
        pid_file.unlink(missing_ok=True)
        self.namespace.run(
            program("libvirtd"), "-d", "--listen", "-f", "/etc/libvirt/libvirtd.conf", "-p", "/run/libvirt/libvirtd.pid"
        )
        wait_until(self._accepts, 120, f"libvirtd of {self.name}")
        try:  # the socket is open before the drivers are ready, and libvirtd ends when one of them cannot be
            self.namespace.run(program("virsh"), "-c", "qemu:///system", "uri", timeout=300)
        except RuntimeError as error:
            raise RuntimeError(f"{error}; its log ends with:\n{self.log_tail()}") from error

    def log_tail(self, lines: int = 5) -> str:
        """The last lines of libvirtd's log."""
        try:
            return "\n".join((self.directory / _LOG).read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(no log)"

    def _accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(self.socket))
            except OSError:
                return False
        return True

    def daemon_pid(self) -> int:
        """Host pid of libvirtd. Raises ProcessLookupError when it does not run."""
        for pid, command in self.namespace.processes().items():
            if command == "libvirtd":
                return pid
        raise ProcessLookupError(f"no libvirtd on {self.name}")

    def signal_daemon(self, number: signal.Signals) -> None:
        """SIGKILL, SIGSTOP, SIGCONT, … to libvirtd; waits for its end where the signal ends it."""
        self._signal(self.daemon_pid(), number)

    def kill_daemon(self) -> None:
        """kill -9 of libvirtd. Guests go on."""
        self.signal_daemon(signal.SIGKILL)

    def restart_daemon(self) -> None:
        """Ends libvirtd if it runs and starts it again."""
        with contextlib.suppress(ProcessLookupError):  # a test may have ended it already
            self.kill_daemon()
        self.start_daemon()

    def guests(self) -> dict[str, int]:
        """Domain name -> host pid of every QEMU process, as the process table says, whatever libvirtd says."""
        found: dict[str, int] = {}
        for pid, command in self.namespace.processes().items():
            if command.startswith("qemu-system"):
                try:
                    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                except (FileNotFoundError, ProcessLookupError):
                    continue  # it has ended in the meantime
                named = next((a for a in arguments if a.startswith(b"guest=")), None)
                if named is not None:
                    found[named.decode().removeprefix("guest=").partition(",")[0]] = pid
        return found

    def signal_guest(self, name: str, number: signal.Signals) -> None:
        """A signal to the QEMU of the domain `name`. Raises KeyError when there is none."""
        self._signal(self.guests()[name], number)

    def _signal(self, pid: int, number: signal.Signals) -> None:
        # The first thread may be a zombie while others still hold the process's files and locks: the pidfd knows.
        handle = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(handle, number)
            ended = select.poll()  # select() takes no handle above 1023
            ended.register(handle, select.POLLIN)
            if number in (signal.SIGKILL, signal.SIGTERM) and not ended.poll(60_000):
                raise TimeoutError(f"waited 60 s for process {pid} to end")
        finally:
            os.close(handle)
        if number is signal.SIGSTOP:
            wait_until(lambda: process_state(pid) in ("T", "t", ""), 60, f"process {pid} to stop")

    def fill_pool(self) -> None:
        """The directory of the default storage pool is on a file system without room, with what there was in it."""
        self.namespace.run("sh", "-ec", _FILL_POOL, "sh", POOL)

    def free_pool(self) -> None:
        """There is room again. What was removed meanwhile is gone."""
        self.namespace.run("sh", "-ec", _FREE_POOL, "sh", POOL)

    def cut_off(self) -> None:
        """Its network cable is pulled: nobody reaches it any more, and what runs there goes on."""
        self._switch.run(program("ip"), "link", "set", f"port{self.index}", "down")

    def plug_in(self) -> None:
        """After `cut_off`."""
        self._switch.run(program("ip"), "link", "set", f"port{self.index}", "up")

    def power_off(self) -> None:
        """The machine loses its power: every process and everything volatile is gone at once."""
        # The kernel takes a dead namespace's links away some time later; the port must be free at once.
        with contextlib.suppress(RuntimeError):
            self._switch.run(program("ip"), "link", "delete", f"port{self.index}")
        self.namespace.close()

    def reboot(self) -> None:
        """Power off and on."""
        self.power_off()
        self.power_on()

    def power_on(self) -> None:
        """After `power_off`: what stood on disk is there again, what stood under /run is not."""
        for path in _VOLATILE:
            shutil.rmtree(self.directory / path)
            (self.directory / path).mkdir()
        self.namespace = self._power_on()
        self.start_daemon()
