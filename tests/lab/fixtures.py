"""pytest fixtures of the lab. A test module or conftest imports what it uses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.fleet import Lab
from tests.lab.requirements import why_not
from tests.support import ROOT

GUEST_BUILD = ROOT / "deploy/guest/build.py"
HYPERVISORS = 2


@pytest.fixture(scope="session")
def lab(pytestconfig: pytest.Config) -> Iterator[Lab]:
    """Two hypervisors for the whole session; tests clean up their own domains. Skips where it cannot run."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with Lab(HYPERVISORS, capability_cache(pytestconfig)) as made:
        yield made


def capability_cache(config: pytest.Config) -> Path | None:
    """Where QEMU's capabilities are kept from one run to the next: pytest's own cache directory."""
    cache = getattr(config, "cache", None)
    return None if cache is None else Path(cache.mkdir("corral-lab")) / "capabilities"


@dataclass(frozen=True)
class GuestImage:
    """The built default guest: files on this machine."""

    kernel: Path
    initramfs: Path
    manifest: Path


@pytest.fixture(scope="session")
def guest_image(pytestconfig: pytest.Config) -> GuestImage:
    """The default guest, built once and kept in pytest's cache. Skips where its packages are missing."""
    cache = getattr(pytestconfig, "cache", None)  # none with `-p no:cacheprovider`
    out = ROOT / "build/guest" if cache is None else Path(cache.mkdir("corral-guest"))
    done = subprocess.run([sys.executable, str(GUEST_BUILD), str(out)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(done.stderr.strip())
    return GuestImage(out / "vmlinuz", out / "initramfs.img", out / "guest.json")
