"""A fresh Debian 12 in a directory, and scripts for the package that is installed there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

SIMULATED = """
[[hosts]]
name = "pretend"
zone = "zone-1"
driver = "simulated"
options = { cpu = "8", memory = "32GiB", boot_ms = "10" }
[[images]]
name = "guest"
kernel = "/boot/none"
[[model_services]]
uuid = "f1e135835fee363c9f57ed8232023886"
name = "default"
image = "guest"
"""
AS_CORRAL = "setpriv --reuid=corral --regid=corral --init-groups"
SERVE = f"{AS_CORRAL} /opt/corral/bin/python -m service serve --config /etc/corral/corral.toml"
REQUEST = json.dumps(
    {
        "name": "first",
        "serviceCreationStrategy": "parallel",
        "modelServices": [
            {
                "uuid": "f1e135835fee363c9f57ed8232023886",
                "zoneUuid": "7a007a391d483c9f843bf1df4b7e5d8f",
                "cpuNum": 1,
                "memorySize": 1 << 28,
            }
        ],
    }
)
FIRST_RUNNING = f"""set -eu
install -d -o corral -g corral /run/corral
cd /var/lib/corral
{SERVE} >/tmp/corral.log 2>&1 &
service=$!
trap 'kill $service; wait $service' EXIT
for _ in $(seq 600); do [ ! -S /run/corral/grpc.sock ] || break; sleep 0.1; done
printf %s '{REQUEST}' >/tmp/request.json
CORRAL_SERVER=unix:/run/corral/grpc.sock corral VERB || {{ cat /tmp/corral.log; exit 1; }}
"""


UNDER_SYSTEMD = f"""
until systemctl is-active --quiet corral; do sleep 0.2; done
printf %s '{REQUEST.replace("first", "second")}' >/root/second.json
corral deploy -f /root/second.json
systemctl reload corral
until journalctl -u corral --no-pager | grep 'was read again'; do sleep 0.2; done
echo "after the reload: $(systemctl is-active corral)"
systemctl stop corral
"""


class Root:
    """A fresh Debian 12 in a directory. Commands run in it in their own process and mount namespaces."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        sources = Path("/etc/apt/sources.list.d/debian.sources")
        mirror = [str(sources)] if sources.exists() else []
        run("mmdebstrap", "--quiet", "--variant=apt", "bookworm", directory, *mirror, seconds=900)
        (directory / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
        (directory / "usr/sbin/policy-rc.d").chmod(0o755)
        # As a booted system has it: processes of the service share memory there.
        (directory / "dev/shm").mkdir(exist_ok=True)
        (directory / "dev/shm").chmod(0o1777)

    def run(self, script: str, seconds: int = 600) -> str:
        """What a shell in it tells. Raises AssertionError where it fails."""
        space = ("unshare", "--mount", "--pid", "--fork", "--kill-child", f"--root={self.directory}", "--mount-proc")
        clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
        return run(*space, "sh", "-euc", script, seconds=seconds, env=clean)

    def booted(self, script: str) -> str:
        """What a shell tells while the root's own systemd runs, with the unit as it is installed. Without a network."""
        nspawn = (
            "systemd-nspawn",
            "--quiet",
            "--register=no",
            "--keep-unit",
            "--private-network",
            "--boot",
            "--console=pipe",
        )
        system = subprocess.Popen(
            [*nspawn, "-D", str(self.directory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            inside = ("nsenter", "--all", "--target", init_of(system))
            return run(*inside, "sh", "-euc", script, seconds=300)
        finally:
            system.terminate()  # which powers it off in order
            system.wait(60)

    def files(self) -> set[str]:
        """Every path that has Corral's name in it, and all that lies below such."""
        told = self.run(
            "find / -xdev -name '*corral*' -not -path '/proc/*' -not -path '/tmp/*' -not -path '/var/lib/dpkg/*'"
        )
        return {line for line in told.splitlines() if not line.startswith("/var/log")}


def newer(package: Path, directory: Path) -> Path:
    """The same package under a higher version, with another default configuration."""
    content = directory / "content"
    run("dpkg-deb", "-R", package, content)
    control = content / "DEBIAN/control"
    control.write_text(re.sub(r"^Version: .*$", "Version: 99.0", control.read_text(), flags=re.MULTILINE))
    shipped = content / "etc/corral/corral.toml"
    shipped.write_text(shipped.read_text() + "# newer\n")
    run("dpkg-deb", "-Znone", "-b", content, directory / "corral_99.0.deb", seconds=300)
    shutil.rmtree(content)
    return directory / "corral_99.0.deb"


def init_of(nspawn: subprocess.Popen[bytes]) -> str:
    """The process id of the systemd that it boots, once that runs: children that it has before end again."""
    children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children")
    deadline = time.monotonic() + 120
    while True:
        for child in children.read_text().split():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    return child
        assert time.monotonic() < deadline, "it does not boot"
        time.sleep(0.05)


def needed(*programs: str) -> None:
    """Skip where these programs or root's rights are not to be had."""
    absent = [name for name in programs if shutil.which(name) is None]
    if absent or os.getuid() != 0:
        pytest.skip(f"needs root and {', '.join(absent) or 'nothing else'}")


def run(*command: str | Path, seconds: int = 120, **more: Any) -> str:
    """Its output. Raises AssertionError with it where it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
        **more,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-4000:]}"
    return str(done.stdout)
