"""Namespaces in which this machine looks as it did before anyone used libvirt on it; nothing done inside is left.

Own network (loopback only), own processes, and empty file systems over every directory that libvirt or a run writes to.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.lab.namespaces import Namespace

ROOT = Path(__file__).resolve().parents[2]
_SETUP = """
checkout=$1
ip link set lo up
keep=$(mktemp -d)
mount -t tmpfs none "$keep"
cp -a /etc/libvirt "$keep/etc"
for path in /run /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt "$checkout/var"; do
    mount -t tmpfs none "$path"
done
cp -a "$keep/etc/." /etc/libvirt/
umount "$keep"
rmdir "$keep"
"""


class PrivateMachine:
    """A machine of its own for one test; a context manager."""

    def __enter__(self) -> PrivateMachine:
        self._had_var = (ROOT / "var").is_dir()
        (ROOT / "var").mkdir(exist_ok=True)
        flags = ("--mount", "--net", "--pid", "--uts", "--ipc", "--propagation", "private")
        self.namespace = Namespace(flags, _SETUP, (str(ROOT),))
        return self

    def __exit__(self, *_: object) -> None:
        self.namespace.close()
        if not self._had_var:
            (ROOT / "var").rmdir()

    def run(
        self, command: str, *, timeout: float, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command in the checkout, as a reader would type it."""
        assigned = [f"{name}={value}" for name, value in (environment or {}).items()]
        return subprocess.run(
            [*self.namespace.command("env", *assigned, "bash", "-c", f"cd {ROOT} && {command}")],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def popen(self, command: str) -> subprocess.Popen[str]:
        """Start a shell command in the checkout; its output is one pipe."""
        return subprocess.Popen(
            self.namespace.command("bash", "-c", f"cd {ROOT} && exec {command}"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
