"""Sub-commands that work on the service's own database, and not over gRPC: they need the server part installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from service.cli import errors

RECOVER_HELP = "write a lost or old database again from its hosts; see `corral recover --help`"
_NEEDS = ("service.recovering", "sqlalchemy")
_MISSING = (
    "the server part of Corral is not installed here: run this on the service's machine, "
    "or install the package `corral` there with its requirements (deploy/requirements/runtime.txt)"
)


def recover(arguments: Sequence[str]) -> int:
    """`python -m service recover` with these arguments; answers its exit code."""
    if any(find_spec(name) is None for name in _NEEDS):
        print(_MISSING, file=sys.stderr)
        return errors.USAGE
    return subprocess.call([sys.executable, "-m", "service", "recover", *arguments])
