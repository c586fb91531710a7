"""Servers for a guide: Debian 12 with its own systemd, name and address each, on one network of their own."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.deploy.debian_root import Root, init_of
from tests.lab.namespaces import Namespace

_BOOTED = "until systemctl is-active --quiet multi-user.target; do sleep 0.1; done"


def base(directory: Path, installed: Sequence[str], fetched: Sequence[str]) -> Root:
    """The root that all servers begin with: packages that are installed, and others whose files apt has at hand."""
    made = Root(directory)
    wanted = ("systemd", "systemd-sysv", "iproute2", "openssh-server", "openssh-client", "openssl", *installed)
    made.run(f"apt-get update -q && apt-get install -q -y --no-install-recommends {' '.join(wanted)}", seconds=1200)
    made.run(f"apt-get install -q -y --download-only {' '.join(fetched)}", seconds=600)
    made.run(
        "install -d -m 0700 /root/.ssh; ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519;"
        "cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys;"
        "echo 'StrictHostKeyChecking accept-new' >/root/.ssh/config"
    )
    (directory / "etc/hostname").unlink(missing_ok=True)  # each has its own
    (directory / "usr/sbin/policy-rc.d").unlink()  # from here on what is installed is started, as on any server
    return made


class Server:
    """One of them, running. What is done on it is gone with it."""

    def __init__(self, name: str, pid: str) -> None:
        self.name = name
        self._pid = pid

    def run(self, script: str, *, given: str = "", seconds: float = 600, **environment: str) -> str:
        """What root's shell tells, in /root. `given`: what is typed. Raises AssertionError where it fails."""
        words = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "DEBIAN_FRONTEND": "noninteractive",
            "LC_ALL": "C.UTF-8",
            "HOME": "/root",
            **environment,
        }
        done = subprocess.run(
            ["nsenter", "--all", "--target", self._pid, "sh", "-euc", f"cd /root\n{script}"],
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
            env=words,
            start_new_session=True,  # without a terminal: what is asked for is read from the input
        )
        assert done.returncode == 0, f"{self.name}: {script}: {done.stdout[-4000:]}"
        return done.stdout

    def put(self, name: str, content: bytes) -> None:
        """A file in /root."""
        command = ["nsenter", "--all", "--target", self._pid, "sh", "-c", 'cat >"/root/$1"', "sh", name]
        subprocess.run(command, input=content, check=True, timeout=60)


@contextmanager
def servers(root: Root, addresses: Mapping[str, str]) -> Iterator[dict[str, Server]]:
    """Servers by name, booted; `addresses`: of each name its own, of one /24. None reaches anything else."""
    names = "".join(f"{address} {name}\n" for name, address in addresses.items())
    (root.directory / "etc/hosts").write_text(f"127.0.0.1 localhost\n{names}")
    with ExitStack() as stack:
        switch = stack.enter_context(_network("ip link add switch type bridge; ip link set switch up"))
        booted = {}
        for number, (name, address) in enumerate(addresses.items()):
            own = stack.enter_context(_network("ip link set lo up"))
            port = f"port{number}"
            switch.run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(own.pid))
            switch.run("ip", "link", "set", port, "master", "switch", "up")
            own.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
            own.run("ip", "link", "set", "eth0", "up")
            booted[name] = stack.enter_context(_booted(root.directory, name, own))
        for server in booted.values():
            server.run(_BOOTED, seconds=180)
        yield booted


@contextmanager
def _network(setup: str) -> Iterator[Namespace]:
    with contextlib.closing(Namespace(("--net",), setup)) as made:
        yield made


@contextmanager
def _booted(directory: Path, name: str, network: Namespace) -> Iterator[Server]:
    """Debian's systemd on a copy in memory of the root."""
    system = subprocess.Popen(
        [
            "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", "--console=pipe", "--read-only",
            "--volatile=overlay", "--resolv-conf=off", "--timezone=off", f"--machine={name}", f"--hostname={name}",
            f"--network-namespace-path=/proc/{network.pid}/ns/net", "-D", str(directory),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield Server(name, init_of(system))
    finally:
        system.terminate()  # which powers it off in order
        try:
            system.wait(90)
        except subprocess.TimeoutExpired:
            system.kill()
            system.wait()
