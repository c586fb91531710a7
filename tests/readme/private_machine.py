"""Namespaces in which this machine looks as it did before anyone used libvirt on it; nothing done inside is left.

Own network (loopback only), own processes, and empty file systems over every directory that libvirt or a run writes to.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

from tests.lab.namespaces import Namespace
from tests.support import ROOT

# A reader's shell is not within a make: its ARGS are for the tests, not for `make run`.
_NO_MAKE = [part for name in ("ARGS", "MAKEFLAGS", "MFLAGS", "MAKELEVEL") for part in ("-u", name)]
# Directories that a package made are kept, empty; files of /etc/libvirt too, but for what someone defined since: the
# machine that runs the tests may have guests, networks and pools of its own, a quickstart's among them.
_SETUP = """
checkout=$1
ip link set lo up
keep=$(mktemp -d)
mount -t tmpfs none "$keep"
cp -a /etc/libvirt "$keep/etc"
find "$keep/etc" -name '*.xml' ! -path '*/nwfilter/*' ! -path '*/networks/default.xml' -delete
for name in lib log cache; do
    mkdir "$keep/$name"
    cd "/var/$name/libvirt"
    find . -xdev -name 'corral*' -prune -o -type d -print0 |
        tar --null --no-recursion -T - -cf - | tar -xf - -C "$keep/$name"
done
for path in /run /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt "$checkout/var"; do
    mount -t tmpfs -o mode=755 none "$path"
done
cp -a "$keep/etc/." /etc/libvirt/
for name in lib log cache; do cp -a "$keep/$name/." "/var/$name/libvirt/"; done
cd /
mkdir -m 1777 /run/lock
umount "$keep"
rmdir "$keep"
"""


class PrivateMachine:
    """A machine of its own for one test; a context manager."""

    def __enter__(self) -> PrivateMachine:
        self._started: list[subprocess.Popen[str]] = []
        self._had_var = (ROOT / "var").is_dir()
        (ROOT / "var").mkdir(exist_ok=True)
        flags = ("--mount", "--net", "--pid", "--uts", "--ipc", "--propagation", "private")
        self.namespace = Namespace(flags, _SETUP, (str(ROOT),))
        return self

    def __exit__(self, *_: object) -> None:
        self.namespace.close()
        for process in self._started:
            process.communicate(timeout=60)
        if not self._had_var:
            (ROOT / "var").rmdir()

    def run(
        self, command: str, *, timeout: float, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command in the checkout, as a reader would type it."""
        assigned = [*_NO_MAKE, *(f"{name}={value}" for name, value in (environment or {}).items())]
        try:
            return subprocess.run(
                [*self.namespace.command("env", *assigned, "bash", "-c", f"cd {ROOT} && {command}")],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            told = (late.stdout or b"") + (late.stderr or b"")
            log = self.namespace.run("tail", "-n", "40", str(ROOT / "var/service.log"))
            raise AssertionError(f"{command}: no end after {timeout:g} s\n{told.decode()}\n{log}") from late

    def popen(self, command: str) -> subprocess.Popen[str]:
        """Start a shell command in the checkout; its output is one pipe. It ends with the machine."""
        process = subprocess.Popen(
            self.namespace.command("env", *_NO_MAKE, "bash", "-c", f"cd {ROOT} && exec {command}"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._started.append(process)
        return process
