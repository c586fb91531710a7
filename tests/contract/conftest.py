"""One service on simulated hosts for all clients, and a line about each at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.own_clients import ARCHIVE, pack
from tests.service.http.zstack.lab import configuration
from tests.support.process import ServiceProcess

LINES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    directory = tmp_path_factory.mktemp("contract")
    file = directory / "corral.toml"
    file.write_text(configuration(directory, database="corral.db"))
    with ServiceProcess(file) as made:
        yield made


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of the definitions."""
    return pack(tmp_path_factory.mktemp("archive") / ARCHIVE)


@pytest.fixture
def passed(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Tell in a line which client did what."""
    lines = request.config.stash.setdefault(LINES, [])
    return lines.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The lines of the clients that passed."""
    for line in config.stash.get(LINES, []):
        terminalreporter.write_line(f"PASS {line}")
