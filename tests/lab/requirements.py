"""Says whether a lab can run here, and if not what is missing."""

from __future__ import annotations

import os
import shutil

PROGRAMS = {
    "libvirtd": "libvirt-daemon-system",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "ip": "iproute2",
}
SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/bin", "/bin"))


def program(name: str) -> str:
    """Absolute path of one of PROGRAMS. Raises FileNotFoundError."""
    found = shutil.which(name, path=SEARCH_PATH)
    if found is None:
        raise FileNotFoundError(f"{name} (Debian package {PROGRAMS[name]})")
    return found


def why_not() -> str:
    """Empty when a lab can run, otherwise the reason in one line."""
    if os.geteuid() != 0:
        return "the hypervisor lab needs root (namespaces, bridges)"
    missing = sorted({package for name, package in PROGRAMS.items() if shutil.which(name, path=SEARCH_PATH) is None})
    if missing:
        return f"the hypervisor lab needs packages: apt-get install --no-install-recommends {' '.join(missing)}"
    return ""
