"""ZStack's own SDKs for Java and Go, unmodified, do everything that they have types for.

They are no part of this project: where their sources are not here, what they said before is said again by
`tests/service/http/zstack/test_recorded.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.zstack_sdks import SDKS, Absent, rows
from tests.service.http.zstack.lab import recorded
from tests.support.process import ServiceProcess


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[ServiceProcess]:
    """A service of its own: what the drivers list is what they made."""
    file = tmp_path / "corral.toml"
    file.write_text(recorded(tmp_path, database="corral.db"))
    with ServiceProcess(file) as made:
        yield made


@pytest.mark.parametrize("language", SDKS)
def test_the_sdk_reads_everything_by_its_own_types(
    language: str, request: pytest.FixtureRequest, tmp_path: Path, passed: Callable[[str], None]
) -> None:
    directory = tmp_path / "sdk"
    directory.mkdir()
    try:
        drive = SDKS[language](directory)
    except Absent as error:
        pytest.skip(str(error))
    service: ServiceProcess = request.getfixturevalue("fresh")
    count = rows(drive(service.http.removeprefix("http://")))
    assert count >= 18
    passed(f"ZStack's {language} SDK, unmodified: {count} rows, every list read by its own types")
