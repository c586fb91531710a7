"""One service for all tests of this directory that do it no harm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.security.service import Client, process
from tests.support.process import CorralProcess


@pytest.fixture(scope="session")
def corral(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CorralProcess]:
    service = process(tmp_path_factory.mktemp("security"))
    service.start()
    yield service
    service.stop()
    log = service.log.read_text()
    assert "Traceback" not in log
    assert "a handler failed" not in log
    assert "an API failed" not in log


@pytest.fixture(scope="session")
def client(corral: CorralProcess) -> Iterator[Client]:
    made = Client(corral)
    yield made
    made.close()
