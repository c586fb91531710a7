"""Whether each row of `deploy/CONFIGURATION.md` names a test that fails where its key has no effect.

    python -m tests.service.config.dropped [KEY …]

Each row's test runs once more in a world in which the file's reader loses that one key, in this process and in services
that the test starts; it must fail there, as it would where nothing looked at the key any more. Prints the rows whose
tests do not notice, and ends with their number.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from service.config import file
from tests.support import ROOT

_VARIABLE = "CORRAL_TEST_LOSES"
_checked = file._checked


def lose(raw: dict[str, Any], path: list[str]) -> None:
    """Take a key out of a file's tables, wherever it stands in a list of them."""
    head, *rest = path
    if not rest:
        raw.pop(head, None)
        return
    inner = raw.get(head)
    for table in inner if isinstance(inner, list) else [inner]:
        if isinstance(table, dict):
            lose(table, rest)


def install(key: str) -> None:
    """From now on the reader of configuration files does not see the key."""

    def losing(raw: dict[str, Any], *rest: Any) -> Any:
        lose(raw, key.split("."))
        return _checked(raw, *rest)

    setattr(file, "_checked", losing)  # noqa: B010  # of another shape for the type checker


@contextlib.contextmanager
def without(key: str) -> Iterator[None]:
    """While this lasts nobody's reader of configuration files sees the key."""
    from tests.support.process import ENVIRONMENT

    with tempfile.TemporaryDirectory() as directory:
        start = f"import os\nfrom tests.service.config import dropped\ndropped.install(os.environ[{_VARIABLE!r}])\n"
        (Path(directory) / "sitecustomize.py").write_text(start)
        path = {"PYTHONPATH": os.pathsep.join([directory, ENVIRONMENT["PYTHONPATH"]])}
        with patch.dict(os.environ, {_VARIABLE: key}), patch.dict(ENVIRONMENT, path):
            install(key)
            try:
                yield
            finally:
                file._checked = _checked


def notices(key: str, test: str) -> bool:
    """Whether the test fails without the key."""
    import pytest

    said = io.StringIO()
    with without(key), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", str(ROOT / "tests" / test)])
    return code == pytest.ExitCode.TESTS_FAILED


def main(keys: list[str]) -> int:
    """Try the rows of these keys, without any all."""
    from tests.service.config.test_effects import ROWS

    blind = 0
    for key, _, test in ROWS:
        if keys and key not in keys:
            continue
        if not notices(key, test):
            blind += 1
            print(f"{key}: {test} passes without it", flush=True)
    print(f"{blind} rows name a test that does not notice", flush=True)
    return min(blind, 100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
