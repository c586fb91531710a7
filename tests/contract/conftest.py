"""One service on simulated hosts for all clients, and a line about each at the end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.own_clients import ARCHIVE, pack
from tests.contract.zstack_sdks import RECORDED
from tests.service.http.zstack.lab import configuration
from tests.support import ROOT
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
    """The lines of the clients that passed, and where all that a request may say and all recorded calls stand."""
    lines = config.stash.get(LINES, [])
    for line in lines:
        terminalreporter.write_line(f"PASS {line}")
    for line in tables() if lines else ():
        terminalreporter.write_line(line)


def tables() -> Iterator[str]:
    """How many fields have a row with their effect and test, and how many calls of ZStack's SDKs are said again."""
    for table, what in (
        ("protos/EFFECTS.md", "fields of requests"),
        ("protos/ZSTACK.md", "parameters of ZStack's calls"),
        ("deploy/CONFIGURATION.md", "keys of the configuration"),
    ):
        rows = re.findall(r"^\| `[^|]+\|.*::\w+` \|$", (ROOT / table).read_text(), re.MULTILINE)
        yield f"ROWS {table}: {len(rows)} {what}, each with its effect and a test that shows it"
    for recorded in sorted(RECORDED.glob("*.json")):
        calls = json.loads(recorded.read_text())
        yield f"ROWS ZStack's {recorded.stem} SDK: {len(calls)} recorded calls, said again by test_recorded.py"
