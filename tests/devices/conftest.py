"""The machine with devices, once for all tests here; each leaves it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.devices.machine import Machine, why_not
from tests.devices.service import probe_guest, sweep


@pytest.fixture(scope="session")
def booted() -> Iterator[Machine]:
    """Skips where it cannot be had."""
    if reason := why_not():
        pytest.skip(reason)
    with Machine() as machine:
        machine.warm()
        yield machine


@pytest.fixture
def machine(booted: Machine) -> Iterator[Machine]:
    """It, and nothing of this test there afterwards."""
    yield booted
    sweep(booted)


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest that computes."""
    return probe_guest(tmp_path_factory.mktemp("probe"))
