"""`python -m tests.faults.armed FILE serve --config …`: the service, with a place at which it kills itself by -9.

FILE names the point (see `service.failpoints`); it is read again at every SIGUSR1. An empty file disarms.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

from service import failpoints


class Trap:
    """Ends the process at the armed point, on whatever thread passes it, and leaves word that it was this."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._armed = ""
        self.read()

    def read(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Take the point from the file; a missing file disarms."""
        self._armed = self._file.read_text().strip() if self._file.exists() else ""

    def passed(self, name: str) -> None:
        """Called at every failpoint."""
        if name == self._armed:
            self._file.unlink(missing_ok=True)
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    """The service's own exit code."""
    from service.__main__ import main as serve

    trap = Trap(Path(sys.argv[1]))
    signal.signal(signal.SIGUSR1, trap.read)
    failpoints.install(trap.passed)
    return serve(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
