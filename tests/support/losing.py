"""A world in which the program never sees one key or field, for the tools that ask whether the tests of a table's row
would notice."""

from __future__ import annotations

import contextlib
import importlib
import io
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from tests.support import ROOT
from tests.support.process import ENVIRONMENT

_VARIABLE = "CORRAL_TEST_LOSES"
LONGEST_SECONDS = 120
"""How long a test may take; each takes a few seconds otherwise."""


@contextlib.contextmanager
def losing(module: str, words: str) -> Iterator[None]:
    """From now on what `install(words)` of the module takes away is lost, in this process and in services that it
    starts; for those it ends with this. In this process it stays: leave it to one that ends."""
    with tempfile.TemporaryDirectory() as directory:
        start = f"import os\nimport {module} as it\nit.install(os.environ[{_VARIABLE!r}])\n"
        (Path(directory) / "sitecustomize.py").write_text(start)
        path = {"PYTHONPATH": os.pathsep.join([directory, ENVIRONMENT["PYTHONPATH"]])}
        with patch.dict(os.environ, {_VARIABLE: words}), patch.dict(ENVIRONMENT, path):
            importlib.import_module(module).install(words)
            yield


def notices(module: str, words: str, test: str) -> bool:
    """Whether the test fails in that world, or never ends: a listing whose pages do not go on has no last one.

    Raises RuntimeError where it could not be run.
    """
    run = multiprocessing.get_context("fork").Process(target=_run, args=(module, words, test))
    run.start()
    run.join(LONGEST_SECONDS)
    if run.is_alive():
        run.kill()
        run.join()
        return True
    if run.exitcode not in (0, 1):
        raise RuntimeError(f"{test} could not be run: it ended with {run.exitcode}")
    return bool(run.exitcode)


def _run(module: str, words: str, test: str) -> None:
    """End this process with pytest's exit code; what it said is told where that is neither passed nor failed."""
    import pytest

    said = io.StringIO()
    with losing(module, words), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", str(ROOT / "tests" / test)]))
    if code not in (0, 1):
        print(said.getvalue(), file=sys.stderr)
    sys.exit(code)
