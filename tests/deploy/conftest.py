"""The package that the slow tests of this folder install."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.deploy.debian_root import needed, run
from tests.support import ROOT


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of this checkout; CORRAL_DEB names one that is built already."""
    if built := os.environ.get("CORRAL_DEB"):
        return Path(built)
    needed("dpkg-buildpackage", "dh")
    out = tmp_path_factory.mktemp("deb")
    run(ROOT / "deploy/debian/build.sh", out, seconds=1800)
    (found,) = out.glob("corral_*.deb")
    return found
